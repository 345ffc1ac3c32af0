"""The house: what lies where, who may import whom, and what `import masa` does not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LEAVES = ["rewards.py", "grpo.py", "gating.py"]
SIX = sorted([*LEAVES, "masa.py", "rollout.py", "eval.py"])
FILES = sorted(path.relative_to(ROOT) for pattern in ("*.py", "tasks/*.py", "lab/*.py")
               for path in ROOT.glob(pattern))
OURS = {"lab", "tasks", "tests", "tools", "examples", *(name.removesuffix(".py") for name in SIX)}


def imported(path):
    """The modules of ours that a file imports, also inside of functions; of a room its name alone."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(Path(path).parts[0] if node.level else node.module)
    return {name.partition(".")[0] for name in names} & OURS


def loaded(code):
    """The names of the modules that are loaded after `code` in a python of its own."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sorted(sys.modules))"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_six_files_are_what_one_sees_on_entering():
    assert sorted(path.name for path in ROOT.glob("*.py")) == SIX


@pytest.mark.parametrize("path", FILES, ids=str)
def test_arrows_go_down(path):
    names = imported(path)
    assert not names & {"tests", "tools", "examples", "masa"}
    if str(path) in LEAVES:
        assert not names                                    # a leaf can be copied alone
    if path.parts[0] == "tasks":
        assert not names & {"lab", "eval"}
    if path.parts[0] == "lab":
        assert "eval" not in names


def test_the_parts_of_the_grader_need_nothing_else_of_ours():
    assert imported("tasks/grader.py") <= {"tasks"}
    if (ROOT / "tasks/latex.py").exists():
        assert not imported("tasks/latex.py")


def test_who_trains_loads_no_sandbox_no_benchmarks_no_pictures_and_no_toy_world():
    names = loaded("import masa")
    assert {"masa", "eval", "rollout", "rewards", "grpo", "gating", "lab.run", "tasks.problems"} <= names
    unwanted = {"tasks.sandbox", "tasks.benchmarks", "tasks.livecodebench", "lab.pictures", "matplotlib",
                "datasets",
                "tasks.toy", "tasks.toy_model", "pandas", "wandb"}
    assert not names & unwanted


def test_who_evaluates_loads_no_training_and_no_pictures():
    names = loaded("import eval")
    assert not names & {"masa", "lab.run", "matplotlib", "lab.pictures", "tasks.sandbox"}


def test_the_commands_run_from_another_folder(tmp_path):
    for name in ("masa.py", "eval.py"):
        done = subprocess.run([sys.executable, ROOT / name, "--help"], cwd=tmp_path, capture_output=True,
                              text=True,
                              timeout=120)
        assert done.returncode == 0 and "--model" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_the_leaves_work_together_where_nothing_else_of_ours_is(run_alone):
    assert run_alone("rewards.py grpo.py gating.py", """
import torch
from gating import length_budget, should_skip
from grpo import group_advantages
from rewards import meta_rewards, parse_meta
texts = ['{"math_notion": ["sum"], "pass_rate": %s, "solution_length": %s}' % said
         for said in ((4, 9), (4, 1999999999), ("null", 9), (4, 9))]
predictions = [parse_meta(text) for text in texts]
rates, lengths = [p.pass_rate for p in predictions], [p.solution_length for p in predictions]
print(should_skip(rates), length_budget(lengths, 96))
terms = [meta_rewards(p, "How?", ["a sum", "no"], [9, 5], [True, False]) for p in predictions]
rewards = [sum(term.values()) / 3 for term in terms]
print(rewards[0], (group_advantages(torch.tensor(rewards), 4) > 0).tolist())
""").splitlines() == ["False 62", "1.0 [True, False, False, True]"]
