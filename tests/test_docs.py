"""The docs are fresh, name no file, flag or heading that is not there, and describe whatever is logged."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest
from conftest import ROOT, SMALL, save_chat_model, train

from lab.flags import Config, EvalConfig
from lab.metrics import METRICS, summarise

PAGES = {str(path.relative_to(ROOT)): path.read_text()
         for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}


def test_flags_and_metrics_are_as_in_the_code():
    command = [sys.executable, "tools/reference.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def headings(text):
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_whatever_is_linked_is_there(page):
    for target, _, anchor in re.findall(r"\]\(((?!https?:)[^)#]*)(#([^)]+))?\)", PAGES[page]):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in headings(path.read_text()), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_tools_and_examples_that_are_named_are_there(page):
    for name in re.findall(r"(?:python|launch) ((?:tools|examples|tests)/\w+\.py)", PAGES[page]):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page):
    """Every command line of masa.py and eval.py that stands in a block of its own."""
    for command, arguments in re.findall(r"^    .*?python (masa|eval)\.py(.*)$", PAGES[page], re.M):
        given = shlex.split(arguments, comments=True)
        (Config if command == "masa" else EvalConfig).parse(given)


@pytest.mark.parametrize("page", PAGES)
def test_flags_that_are_named_exist(page):
    names = {field.name.replace("_", "-") for group in (Config, EvalConfig) for field in fields(group)}
    for flag in re.findall(r"`--([a-z][\w-]*)", PAGES[page]):
        assert flag.removeprefix("no-") in names, flag


def row_of(name):
    """The row of METRICS that describes a logged name: its own, or that of the name without eval/, meta/."""
    for short in (name, name.removeprefix("eval/"), re.sub("^(eval/)?(meta/)?", "", name)):
        for row in METRICS:
            if re.fullmatch(re.sub(r"\b(LEVEL|K)\b", ".+", re.escape(row)), short):
                return row


def test_every_metric_is_described_and_none_is_made_up(tmp_path, problems, sometimes_right, monkeypatch):
    """Two small runs and an evaluation with hints log between them whatever can be logged."""
    monkeypatch.setattr("masa.CLONE_SIZE", 1)
    monkeypatch.setattr("masa.correct_expert", lambda predictions, *_: predictions[0])
    model = save_chat_model(tmp_path / "model")
    for name, flags in (("a", "--algo masa-efficient --clone --beta 0.1"),
                        ("b", "--algo grpo --dynamic-sampling")):
        train("--model", model, "--data", problems, *SMALL, "--steps", 2, "--eval-every", 1, *flags.split(),
              "--output", tmp_path / name)
    files = tmp_path.glob("*/metrics.jsonl")
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    done = [{"correct": True, "length": 3, "finished": True, "boxed": True, "right_unboxed": False}]
    rows.append(summarise([{"level": "", "completions": done, "predictions": [], "hinted": done}]))
    names = {name for row in rows for name in row}
    assert not [name for name in names if row_of(name) is None]
    assert METRICS.keys() - set(map(row_of, names)) == set()


def test_the_memory_table_is_arithmetic():
    # layers, key-value heads, size of a head; hidden size, of all heads, of the feed-forward layers
    shapes = {"SmolLM2-135M": (30, 3, 64, 576, 576, 1536), "Qwen3-0.6B": (28, 8, 128, 1024, 2048, 3072),
              "Qwen3-1.7B": (28, 8, 128, 2048, 2048, 6144), "Qwen3-4B": (36, 8, 128, 2560, 4096, 9728),
              "Qwen3-8B-Base": (36, 8, 128, 4096, 4096, 12_288)}
    rows = re.findall(r"^\| ([\w.-]+) \|((?:[^|\n]+\|){9})$", PAGES["docs/hardware.md"], re.M)
    table = {name: [float(cell.replace(",", "")) for cell in cells.split("|")[:-1]]
             for name, cells in rows if name in shapes}
    assert table.keys() == shapes.keys()
    for name, (billions, *stated) in table.items():
        layers, heads, size, hidden, query, inner = shapes[name]
        cached = 2 * layers * heads * size
        # q and o; k and v; the feed-forward layers
        ends = 2 * (hidden + query) + 2 * (hidden + heads * size) + 3 * (hidden + inner)
        adapter = 32 * layers * ends / 1e9
        truth = [1000 * adapter, 16 * billions, 18 * billions, 4 * billions + 16 * adapter,
                 2 * billions + 18 * adapter, cached, 4 * cached * 65_536 / 1e9, 2 * cached * 65_536 / 1e9]
        assert all(abs(a - b) <= 0.051 for a, b in zip(stated, truth)), name
