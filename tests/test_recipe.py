"""examples/recipe.py: its problems, its order of runs, and its table; the runs themselves are masa.py's."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import recipe

from lab.flags import Config
from tasks.problems import Problem


def test_problems_are_all_different_and_right(tmp_path):
    recipe.write_problems(tmp_path)
    rows = [json.loads(line) for name in recipe.SIZES for line in (tmp_path / f"{name}.jsonl").open()]
    assert len({row["problem"] for row in rows}) == len(rows) == 3 * (60 + 120 + 16)
    for row in rows:
        assert eval(row["problem"].removeprefix("What is ").removesuffix("?")) == int(row["answer"])
        assert row["level"] in recipe.LEVELS


@pytest.fixture
def started(monkeypatch):
    """The flags of the runs that are started; each writes the evaluations that a real one would."""
    runs = []

    def main(arguments):
        config = Config.parse(arguments)
        runs.append(config)
        folder = Path(config.output)
        folder.mkdir(parents=True, exist_ok=True)
        done = [{"correct": i < 2 + config.seed, "length": 9, "finished": True, "boxed": True,
                 "right_unboxed": False} for i in range(4)]
        record = {"id": "a", "level": "", "problem": "?", "answer": "1", "completions": done,
                  "predictions": []}
        (folder / "metrics.jsonl").write_text("{}\n" * config.steps)
        (folder / "config.json").write_text(json.dumps(asdict(config)))
        for when in ("before", "after" if config.steps else "started"):
            (folder / f"{when}.json").write_text(json.dumps([record]))
    monkeypatch.setattr("recipe.masa.main", main)
    monkeypatch.setattr("recipe.judge_gates", lambda *_: None)
    monkeypatch.setitem(recipe.ROWS, "notion reward", "accuracy")           # no predictions here
    for row in ("predictions with a pass rate", "r of pass rate", "r of length"):
        monkeypatch.delitem(recipe.ROWS, row)
    return runs


def test_each_seed_starts_once_and_what_is_done_is_not_done_again(started, tmp_path, capsys):
    command = ["--model", "some", "--output", str(tmp_path), "--seeds", "0", "1", "--bf16", "True"]
    recipe.main(command)
    assert [(Path(run.output).name, run.steps, run.algo) for run in started] == [
        ("start-0", 0, "masa"), ("masa-0", 40, "masa"), ("grpo-0", 40, "grpo"),
        ("start-1", 0, "masa"), ("masa-1", 40, "masa"), ("grpo-1", 40, "grpo")]
    assert all(run.bf16 and run.eval_data == str(tmp_path / "held-out.jsonl") for run in started)
    assert [run.model for run in started[:2]] == ["some", str(tmp_path / "start-0/checkpoint")]
    assert not {run.data for run in started if run.cold_start} & {run.data for run in started if run.steps}
    assert "| accuracy | **0.62** (0.50, 0.75) |" in capsys.readouterr().out
    for when in ("before", "after"):        # killed in the first evaluation: there is a run to go on with
        (tmp_path / f"grpo-1/{when}.json").unlink()
    recipe.main(command)
    assert len(started) == 7 and started[-1].resume and started[-1].algo == "grpo"


def test_what_gates_foretell(monkeypatch, tmp_path):
    """Every third problem is never solved, which its states say and its words do not."""
    def solve(groups, size):
        for group in groups:
            group.correct = [int(group.problem.id) % 3 > 0 and i % 2 > 0 for i in range(size)]
            group.solutions = SimpleNamespace(lengths=[5] * size)
    sampler = SimpleNamespace(solve=solve, budget=8, progress=None)
    problems = [Problem(str(i), "", "") for i in range(240)]
    states = torch.tensor([[i % 3 == 0, i % 7] for i in range(240)]).float() * 9
    monkeypatch.setitem(recipe.FEATURES, "state", lambda _, groups: states)
    monkeypatch.setitem(recipe.FEATURES, "words", lambda _, groups: states[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        found = recipe.foretell(sampler, problems, 0)
    assert found["silent"] == pytest.approx(1 / 3) and found["state"]["AUC"] == 1.0
    assert found["state"]["right"] == 1.0 and 0 < found["state"]["flagged"] <= 1 / 3 + 1e-9
    low, high = found["words"]["interval"]
    assert 0.3 < low < found["words"]["AUC"] < high < 0.6 and found["words"]["right"] is None
    monkeypatch.setattr("recipe.load_policy", lambda name, device: (None, None))
    monkeypatch.setattr("recipe.Sampler", lambda *_, **__: sampler)
    again = [recipe.judge_gates(tmp_path / "gate.json", "model", problems, ["--device", "cpu"]) for _ in "ab"]
    assert again[0] == again[1] == found


def test_more_steps_go_on_and_other_flags_are_no_runs_of_ours(started, tmp_path):
    command = ["--model", "some", "--output", str(tmp_path), "--seeds", "0", "--arms", "grpo", "--steps"]
    recipe.main([*command, "2"])
    recipe.main([*command, "4"])
    assert [(run.steps, run.resume) for run in started] == [(0, False), (2, False), (4, True)]
    for flags, said in ((["3"], "has 4 steps already: choose another --output, or --steps 4"),
                        (["4", "--learning-rate", "3e-5"], "learning.rate"),
                        (["4", "--cold-start", "30"], "cold.start")):
        with pytest.raises(ValueError, match=said):
            recipe.main([*command, *flags])
    assert len(started) == 3
