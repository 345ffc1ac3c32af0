"""Records of an evaluation, and the figures that are made from them, on hand-worked examples."""

import json

import numpy as np
import pytest
import torch

from data import Problem
from eval import awareness, correlation, evaluate, summarise
from report import one_of_each, plot_awareness, plot_curves, print_table, smooth


def record(level, correct, lengths, predictions):
    completions = [{"text": "", "length": n, "finished": n < 9, "correct": c} for c, n in zip(correct, lengths)]
    rewards = {"length": 1.0, "difficulty": 0.5, "notion": 0.0}
    return {"id": "p", "level": level, "problem": "", "answer": "", "completions": completions,
            "predictions": [{"text": "", "length": 4, "notions": None, "pass_rate": rate, "solution_length": length,
                             "rewards": rewards} for rate, length in predictions]}


RECORDS = [record("easy", [True, True], [3, 5], [(8, 4), (6, None)]),
           record("hard", [False, True], [9, 7], [(None, 7), (2, 9)]),
           record("hard", [False, False], [9, 9], [(0, 9), (None, None)])]


def test_awareness_by_hand():
    rates, lengths = awareness(RECORDS)
    assert rates == [(0.875, 1.0), (0.25, 0.5), (0.0, 0.0)]
    assert lengths == [(4.0, 4.0), (8.0, 7.0)]              # nothing is right in the third


def test_summary_by_hand():
    figures = summarise(RECORDS)
    assert figures["accuracy"] == 0.5 and figures["accuracy/easy"] == 1 and figures["accuracy/hard"] == 0.25
    assert figures["completions/mean_length"] == 7 and figures["completions/clipped_ratio"] == 0.5
    assert figures["frac_always_right"] == pytest.approx(1 / 3) == figures["frac_never_right"]
    assert figures["meta/reward/length"] == 1 and figures["meta/reward"] == 0.5
    assert figures["meta/completions/mean_length"] == 4 and figures["meta/correlation/length"] == pytest.approx(1)
    x, y = np.array([0.875, 0.25, 0.0]), np.array([1, 0.5, 0])
    assert figures["meta/correlation/pass_rate"] == pytest.approx(
        ((x - x.mean()) * (y - y.mean())).sum() / np.sqrt(((x - x.mean()) ** 2).sum() * ((y - y.mean()) ** 2).sum()))


def test_correlation_of_a_constant_is_none():
    assert correlation([(0.5, 0.1), (0.5, 0.9)]) is None and correlation([]) is None and correlation([(1, 1)]) is None


def test_evaluate(tiny_policy):
    model, tokenizer = tiny_policy()
    problems = [Problem(f"p{i}", f"w{i} w{i + 1}", "1", "") for i in range(5)]
    torch.manual_seed(0)
    records = evaluate(model, tokenizer, problems, samples=3, metas=2, budget=6, meta_budget=4, max_tokens=300)
    assert [r["id"] for r in records] == [p.id for p in problems]
    assert all(len(r["completions"]) == 3 and len(r["predictions"]) == 2 for r in records)
    assert all(1 <= c["length"] <= 6 for r in records for c in r["completions"])
    assert all(1 <= p["length"] <= 4 for r in records for p in r["predictions"])
    assert json.loads(json.dumps(records))[0]["answer"] == "1" and summarise(records)["accuracy"] == 0
    torch.manual_seed(0)
    assert records == evaluate(model, tokenizer, problems, 3, 2, 6, 4, max_tokens=300)
    alone = evaluate(model, tokenizer, problems[:1], samples=2, metas=0, budget=3)
    assert alone[0]["predictions"] == [] and "meta/reward" not in summarise(alone)


# --- What is shown ----------------------------------------------------------------------------------------

def test_table(capsys):
    print_table({"before": RECORDS, "after": RECORDS[:1]})
    rows = {line.rsplit(None, 2)[0]: line.rsplit(None, 2)[1:] for line in capsys.readouterr().out.strip().splitlines()}
    assert rows["accuracy"] == ["0.50", "1.00"] and rows["accuracy/hard"] == ["0.25", "-"]
    assert rows["meta/correlation/length"] == ["1.00", "-"]


def test_pictures(tmp_path):
    rows = [{"step": i, "reward": i / 9, "eval/accuracy": 0.5 if i == 5 else None} for i in range(10)]
    plot_curves(rows, tmp_path / "curves.png", "title")
    plot_curves([], tmp_path / "empty.png")
    plot_awareness({"before": [], "after": RECORDS}, tmp_path / "awareness.png")
    for name in ("curves.png", "empty.png", "awareness.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert smooth([0, 3, np.nan, 6], 3) == [1.5, 1.5, 4.5, 6.0]


def test_one_of_each(tiny_policy):
    from rollout import generate
    model, tokenizer = tiny_policy()
    solutions = generate(model, tokenizer, [[5, 6]] * 4, 3)
    row = one_of_each([Problem("a", "w1", "1"), Problem("b", "w2", "2")], solutions, [True, False, False, False], None, [])
    assert row["pass_rate"] == 0.5 and row["solution_reward"] == 1.0 and "meta" not in row
