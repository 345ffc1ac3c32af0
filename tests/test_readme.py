"""The README is short, and what it shows of the code is the code: the loop, snippets, lengths of files."""

import inspect
import re
import textwrap

import pytest
from conftest import ROOT

import masa

README = (ROOT / "README.md").read_text()


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)[1]


def python_blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def test_it_is_read_in_five_minutes():
    assert len(README.splitlines()) <= 230


def test_the_six_files_are_listed_with_their_lengths():
    stated = dict(re.findall(r"^\| \[(\w+\.py)\]\(\1\) \| (\d+) \|", section("Reading order"), re.M))
    lengths = {path.name: len(path.read_text().splitlines()) for path in ROOT.glob("*.py")}
    assert stated.keys() == lengths.keys()
    wrong = {name: length for name, length in lengths.items() if abs(length - int(stated[name])) > 10}
    assert not wrong, f"lines now: {wrong}"


def test_the_loop_is_that_of_the_code():
    [excerpt] = python_blocks(section("The loop"))
    source = inspect.getsource(masa.train)
    assert textwrap.indent(excerpt, 8 * " ", bool) in source.replace("\n\n", "\n        \n")
    marks = [line.strip() for line in source.splitlines() if "# MASA" in line or ". MASA" in line]
    assert len(marks) >= 5 and all(mark in excerpt for mark in marks)


@pytest.mark.parametrize("form", ["texts", "chats"])
def test_the_snippets_work_in_another_code_base(run_alone, form):
    """Copied flat, as the README says, with the completions that TRL hands over: plain strings, or chats."""
    text = section("Copy one file")
    files = dict.fromkeys(re.findall(r"\]\(([\w/]+\.py)\)", text))
    assert {"rewards.py", "grpo.py", "gating.py", "tasks/grader.py"} <= {*files}
    calls = r"""
form = str if FORM == "texts" else lambda text: [{"role": "assistant", "content": text}]
says = [form(text) for text in [r"so \boxed{\frac{1}{2}}", r"\boxed{3}", "nothing", ""]]
assert solved(completions=says, answer=["0.5", "4", "1", "1"], prompts=["?"] * 4) == [1.0, 0.0, 0.0, 0.0]
assert [compute_score("math", r"so \boxed{2}", gold, extra_info={}) for gold in ("2", "3")] == [1.0, 0.0]

def prediction(rate, length):
    return form('{"math_notion": ["doubling"], "pass_rate": %s, "solution_length": %s}' % (rate, length))

group = ["by doubling: 4", "by guessing: 5"], [30, 90], [True, False]
assert aligned(prediction(4, 30), "What is 2 + 2?", *group, 96) == 1.0
assert aligned(prediction(4, 31), "What is 2 + 2?", *group, 96) == 2 / 3
assert aligned(form("no JSON"), "What is 2 + 2?", *group, 96) == 0.0
assert limit_of([prediction(4, 20), prediction(4, 30)], 96) == 50               # the scale of parse_meta
assert limit_of([prediction(8, 20)] * 3 + [prediction(7, 20)], 96) is None
assert limit_of([prediction(0, 20), prediction(0, 90)], 96) is None
assert limit_of([form("no JSON"), prediction('"8"', 1999999999)], 96) == 96     # hostile: no length, no crash
print("works")
"""
    code = "\n".join(python_blocks(text)) + f"\nFORM = {form!r}\n" + calls
    assert run_alone(" ".join(files), code) == "works"
