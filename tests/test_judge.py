"""tools/judge.py: what it prints of a finished run, and of one that has no gate."""

import re

import pytest
from conftest import SMALL, save_chat_model, train

from tools.judge import judge


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


def test_other_runs_have_nothing_to_judge(run):
    with pytest.raises(ValueError, match="is a run of grpo, which skips and stops nothing"):
        judge(run("grpo"), 5, 4)
