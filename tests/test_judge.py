"""tools/judge.py: what it prints of a finished run, and of one that has no gate."""

import re
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, save_chat_model, train

from tools.judge import allocation, judge


@pytest.fixture
def run(tmp_path, problems, sometimes_right):
    def run(algo, *flags):
        train("--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 2,
              "--algo", algo, *flags, "--output", tmp_path / "run")
        return tmp_path / "run"
    return run


@pytest.mark.parametrize("flags", [("--gate-by", "state"), ("--gate-by", "said"),
                                   ("--gate-by", "state", "--meta-group-size", 0)])
def test_fresh_problems_judge_gate_and_cutoff(run, capsys, flags):
    folder = run("masa-efficient", *flags)
    before = (folder / "metrics.jsonl").read_text()
    capsys.readouterr()
    judge(folder, problems=5, samples=4)
    said = capsys.readouterr().out
    flagged, others = (int(n) for n in re.findall(r"^(\d+) (?:flagged|other) problems", said, re.M))
    assert flagged + others == 5 and len(re.findall("^gate against .*base_rate [01]", said, re.M)) == 2
    assert re.search(r"^cutoff: stops \d+\.\d% of solutions; (\d+) of these (\d+) are right$", said, re.M)
    assert (folder / "metrics.jsonl").read_text() == before            # it changes nothing


def test_allocation_by_hand():
    """A prior of 1/2 for none, 1/2 for 2 of 4. Two wrong pilots: 1/2 against 1/2 * C(2, 2)/C(4, 2) = 1/12, a
    mass of 6/7."""
    reader = SimpleNamespace(probabilities=lambda _: torch.tensor([[0.5, 0, 0.5, 0, 0]]))
    groups = [SimpleNamespace(features=None, correct=[bool(int(c)) for c in right],
                              solutions=SimpleNamespace(lengths=[10] * len(right)))
              for right in ("00000011", "0101000")]             # a part of a group is none
    # 3 groups, 2 mixed, 60 tokens for each; ended after two wrong ones, the last alone is kept, for 80.
    assert allocation(reader, groups, 4, 0.8) == pytest.approx(80 / 60)
    assert allocation(reader, groups, 4, 0.9) == 1.0
    assert allocation(reader, groups[:1], 4, 0.8) != allocation(reader, groups[:1], 4, 0.8)     # nan


def test_other_runs_have_nothing_to_judge(run):
    with pytest.raises(ValueError, match="is a run of grpo, which skips and stops nothing"):
        judge(run("grpo"), 5, 4)
