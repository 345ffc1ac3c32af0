"""The README names every flag, every metric that a run logs, every file, and no file that is not there."""

import ast
import re
from dataclasses import fields
from pathlib import Path

from lab.flags import Config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_flag_is_in_the_table():
    for field in fields(Config):
        name = field.name.replace("_", "-")
        assert f"| `--{'no-' * (field.default is True)}{name}` |" in README, name


def test_every_file_is_in_the_reading_order_and_has_its_length():
    for path in ROOT.glob("*.py"):
        lines = len(path.read_text().splitlines())
        stated = re.search(rf"\[{path.name}\]\({path.name}\) \| (\d+) \|", README)
        assert stated and abs(int(stated[1]) - lines) <= 5, f"{path.name} has {lines} lines"
    for name in re.findall(r"\]\(([\w./]+)\)", README):
        assert (ROOT / name).exists(), name


def test_every_metric_is_in_the_table():
    """Names are taken from the code: keys of dicts that reach metrics.jsonl, without those of the meta path."""
    named = set()
    for name in ("masa.py", "update.py", "collect.py"):
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            keys = node.keys if isinstance(node, ast.Dict) else []
            named |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    inner = {"step", "position", "tokens", "audit_tokens", "seconds", "optimizer", "state", "experts", "gate_audit",
             "cutoff_audit", "before", "after", "broken", "not_finite", "use_reentrant"}
    assert len(named - inner) > 15
    for name in named - inner:
        assert f"`{name}`" in README, name
