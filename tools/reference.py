"""Write docs/flags.md and docs/metrics.md from the code.

    python tools/reference.py               write them
    python tools/reference.py --check       only name those that are stale, and exit with 1 if there are any
"""

import sys
import typing
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from lab.flags import GROUPS, PRESETS, EvalConfig
from lab.metrics import METRICS

NOTE = "<!-- Written by tools/reference.py from the code: do not edit. -->\n"
FLAGS = """
The defaults are those of the toy world. Any other model gets `--preset gpu`, unless another one is named; it
changes what its column shows. `--preset paper` is `gpu` with {paper}.
A flag on the command line always wins.
"""
HOW_TO_READ = """
`metrics.jsonl` in the folder of a run has a line for each step; evaluations use the same names. `meta/NAME`
is NAME of the predictions; `eval/NAME` is NAME on the held-out problems, every `--eval-every` steps. What is
not defined, such as a correlation with a constant, is null, and `-` on the screen. Lengths are in tokens,
with the terminating EOS; shares are in [0, 1].
"""


def shown(value):
    """A default or a bound as a cell of a table."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def allowed(group, field):
    """What a flag accepts, as a cell: its choices, or its bounds."""
    kind = typing.get_type_hints(group)[field.name]
    choices = [choice for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is typing.Literal
               for choice in typing.get_args(part)]
    ends = zip((">=", ">", "<="), field.metadata["help"].bounds)
    return ", ".join(choices or [f"{sign} {shown(end)}" for sign, end in ends if end is not None])


def table(group, preset=None):
    """The flags of a dataclass, a row for each; with a preset, also what it changes."""
    rows = [["flag", "default", *(["gpu"] if preset else []), "allowed", "meaning"]]
    rows += [["---"] * len(rows[0])]
    for field in fields(group):
        name, text = field.name.replace("_", "-"), field.metadata["help"].replace("%%", "%")
        default = "off" if isinstance(field.default, bool) else shown(field.default)
        if field.default is True:                               # such a flag is there to be switched off
            name, text = f"no-{name}", f"do not {text}"
        change = preset.get(field.name) if preset else None
        change = [shown(None if change == field.default else change)] if preset else []
        rows.append([f"`--{name}`", default, *change, allowed(group, field), text])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def documents():
    """{name: text} of the files that are written."""
    gpu, paper = PRESETS["gpu"], PRESETS["paper"]
    more = [f"`--{name.replace('_', '-')} {paper[name]}`" for name in paper if paper[name] != gpu.get(name)]
    flags = f"# Flags\n\n{NOTE}\n## masa.py\n{FLAGS.format(paper=', '.join(more))}"
    for group in GROUPS:
        flags += f"\n### {group._argument_group_name.capitalize()}\n\n{table(group, gpu)}"
    rows = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in METRICS.items())
    return {"flags.md": f"{flags}\n## eval.py\n\n{table(EvalConfig)}",
            "metrics.md": f"# Metrics\n\n{NOTE}{HOW_TO_READ}\n| metric | meaning |\n|---|---|\n{rows}"}


if __name__ == "__main__":
    stale = {ROOT / "docs" / name: text for name, text in documents().items()
             if not (ROOT / "docs" / name).exists() or (ROOT / "docs" / name).read_text() != text}
    if stale and "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(path.name for path in stale)}. Run python tools/reference.py")
    for path, text in stale.items():
        path.write_text(text)
