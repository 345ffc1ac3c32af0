"""The figures of an evaluation, against enumeration and hand-worked examples."""

from itertools import combinations

import numpy as np
import pytest
import torch

from lab.metrics import (
    averages,
    awareness,
    bootstrap,
    calibration,
    correlation,
    intervals,
    paired,
    pass_at_k,
    path_metrics,
    summarise,
)
from masa import Batch
from rewards import MetaPrediction
from rollout import Group, Rollouts, pad_rows
from tasks.problems import Problem


def record(level, correct, lengths, predictions, name="p", hinted=None):
    """predictions: pairs of pass_rate and solution_length."""
    completions = [{"text": "", "length": n, "finished": n < 9, "correct": c} for c,
                   n in zip(correct, lengths)]
    rewards = {"length": 1.0, "difficulty": 0.5, "notion": 0.0}
    row = {"id": name, "level": level, "problem": "", "answer": "", "completions": completions,
           "predictions": [{"text": "", "length": 4, "notions": None, "pass_rate": rate,
                            "solution_length": length,
                            "rewards": rewards} for rate, length in predictions]}
    return row if hinted is None else row | {"hinted": [{"length": 5, "correct": c} for c in hinted]}


RECORDS = [record("easy", [True, True], [3, 5], [(8, 4), (6, None)], "a"),
           record("hard", [False, True], [9, 7], [(None, 7), (2, 9)], "b"),
           record("hard", [False, False], [9, 9], [(0, 9), (None, None)], "c")]


# --- pass@k -----------------------------------------------------------------------------------------------

def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one():
    for n in range(1, 9):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = [any(i < c for i in drawn) for drawn in combinations(range(n), k)]
                assert pass_at_k(n, c, k) == pytest.approx(sum(draws) / len(draws), abs=1e-12)


def test_pass_at_k_is_unbiased():
    """Its expectation over Binomial(n, p) is 1 - (1 - p)^k, for any n >= k."""
    from math import comb
    for p in (0.05, 0.3, 0.9):
        mean = sum(comb(10, c) * p**c * (1 - p)**(10 - c) * pass_at_k(10, c, 4) for c in range(11))
        assert mean == pytest.approx(1 - (1 - p)**4)


def test_pass_at_k_of_large_numbers_is_exact():
    from fractions import Fraction
    from math import comb
    for n, c, k in ((100_000, 3, 50_000), (4096, 1, 1), (2048, 40, 1024), (5000, 4999, 2)):
        exact = 1 - Fraction(comb(n - c, k), comb(n, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("n, c, k", [(4, 1, 5), (4, 5, 1), (4, -1, 1), (4, 1, 0), (0, 0, 1)])
def test_pass_at_k_refuses_what_is_not_defined(n, c, k):
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(n, c, k)


# --- Intervals --------------------------------------------------------------------------------------------

def test_bootstrap_finds_the_standard_error():
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = bootstrap(values)
    error = values.std() / 20
    assert (values.mean() - low) / error == pytest.approx(1.96, abs=0.15)
    assert (high - values.mean()) / error == pytest.approx(1.96, abs=0.15)
    assert bootstrap(values) == (low, high)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = [low <= 0.3 <= high for low, high in (bootstrap(rng.random(60) < 0.3, resamples=300)
                                                 for _ in range(300))]
    assert 0.90 < np.mean(hits) < 0.98


def test_bootstrap_of_little():
    assert bootstrap([]) is None and bootstrap([1.0]) is None and bootstrap([2.0, 2.0]) == (2.0, 2.0)
    assert bootstrap([(1, 1), (1, 2)], statistic=correlation) is None      # not defined in any resample
    low, high = bootstrap([(1, 1), (2, 2), (3, 2)], statistic=correlation)              # and here in some
    assert 0 < low <= high <= 1.0000001


# --- Meta-awareness ---------------------------------------------------------------------------------------

def test_awareness_by_hand():
    rates, lengths = awareness(RECORDS)
    assert rates == [(0.875, 1.0), (0.25, 0.5), (0.0, 0.0)]
    assert lengths == [(4.0, 4.0), (8.0, 7.0)]              # nothing is right in the third


def test_calibration_by_hand():
    cells, error = calibration(RECORDS)
    assert cells == [(0, 0, 1), (0.25, 0.5, 1), (0.75, 1, 1), (1, 1, 1)] and error == pytest.approx(0.5 / 4)
    merged = [record("", [True], [1], [(4, 1)]), record("", [False], [1], [(4, 1), (4, 1)])]
    assert calibration(merged) == ([(0.5, pytest.approx(1 / 3), 3)], pytest.approx(1 / 6))
    assert calibration([record("", [True], [1], [(None, 1)])]) == ([], None)


def test_correlation_of_a_constant_is_none():
    for pairs in ([(0.5, 0.1), (0.5, 0.9)], [], [(1, 1)]):
        assert correlation(pairs) is None


# --- Summaries --------------------------------------------------------------------------------------------

def test_many_levels_are_not_told_one_by_one():
    for count in (8, 9):
        figures = summarise([record(f"level {i}", [True, False], [3, 4], []) for i in range(count)])
        assert sum(name.startswith("accuracy/") for name in figures) == (count if count < 9 else 0)


def test_summary_by_hand():
    figures = summarise(RECORDS)
    assert figures["accuracy"] == 0.5 and figures["accuracy/easy"] == 1 and figures["accuracy/hard"] == 0.25
    assert figures["pass@1"] == 0.5 and figures["pass@2"] == pytest.approx(2 / 3) and "pass@4" not in figures
    assert figures["completions/mean_length"] == 7 and figures["completions/clipped_ratio"] == 0.5
    assert figures["frac_always_right"] == pytest.approx(1 / 3) == figures["frac_never_right"]
    assert figures["frac_reward_zero_std"] == pytest.approx(2 / 3)
    assert figures["meta/reward/length"] == 1 and figures["meta/reward"] == 0.5
    assert figures["meta/completions/mean_length"] == 4
    assert figures["meta/correlation/length"] == pytest.approx(1)
    x, y = np.array([0.875, 0.25, 0.0]), np.array([1, 0.5, 0])
    assert figures["meta/correlation/pass_rate"] == pytest.approx(
        ((x - x.mean()) * (y - y.mean())).sum()
        / np.sqrt(((x - x.mean()) ** 2).sum() * ((y - y.mean()) ** 2).sum()))
    assert figures["meta/error/pass_rate"] == pytest.approx((0.125 + 0.25 + 0) / 3)
    assert figures["meta/error/length"] == 0.5
    assert [figures[f"meta/valid/{name}"] for name in ("notions", "pass_rate", "solution_length")] == [
        0, pytest.approx(2 / 3), pytest.approx(2 / 3)]


def test_gating_by_hand():
    """Gated: unanimous 8, and unanimous 0. Without variance: the first and the third."""
    records = [record("", correct, [3, 3], [(rate, 3) for rate in rates]) for correct, rates in (
        ([True, True], [8, 8]), ([True, False], [0, 0]), ([False, False], [0, 8]), ([True, False], [4, 4]))]
    figures = summarise(records)
    assert all(figures[f"meta/gating/{name}"] == 0.5 for name in ("precision", "recall", "f1", "base_rate"))
    assert summarise(records[3:])["meta/gating/precision"] is None


def test_the_gate_is_judged_with_the_settings_of_the_run():
    """Predicted 7 and 6 of 8: std 0.09, mean 0.81. With a margin of 0.2 that is flagged, with a std of 0.05
    it is not."""
    records = [record("", [True, True], [3, 3], [(7, 3), (6, 3)])]
    assert summarise(records)["meta/gating/recall"] == 0
    assert summarise(records, gate_margin=0.2)["meta/gating/recall"] == 1
    assert summarise(records, 0.05, 0.2)["meta/gating/recall"] == 0


def test_hints_are_paired():
    records = [record("", [True, False], [3, 3], [(8, 3)], str(i), hinted=[True, i > 0]) for i in range(3)]
    figures = summarise(records)
    assert figures["hints/accuracy"] == pytest.approx(5 / 6) and figures["hints/gain"] == pytest.approx(1 / 3)
    assert figures["hints/mean_length"] == 5 and intervals(records)["hints/gain"] == (0, 0.5)
    assert "hints/gain" not in summarise(RECORDS)


def test_intervals_of_the_summary():
    ends, figures = intervals(RECORDS), summarise(RECORDS)
    assert set(ends) <= set(figures) and {"accuracy", "pass@2", "meta/correlation/pass_rate"} <= set(ends)
    assert all(low - 1e-9 <= figures[name] <= high + 1e-9 for name, (low, high) in ends.items())


def test_differences_are_paired_by_id():
    """One evaluation is better by exactly 1/2 on each problem: certain, however unequal the problems are."""
    before = [record("", [i % 2 == 0, False], [3, 3], [], str(i)) for i in range(20)]
    after = [record("", [i % 2 == 0, True], [3, 4], [], str(i)) for i in reversed(range(20))]
    gained = paired(before, after)
    assert gained["accuracy"].tolist() == [0.5] * 20 == gained["completions/mean_length"].tolist()
    assert bootstrap(gained["accuracy"]) == (0.5, 0.5)
    low, high = intervals(before)["accuracy"]
    assert high - low > 0.1                                 # unpaired it would drown
    assert paired(after, before)["accuracy"].mean() == -0.5
    assert paired(before, before[:10] + after[:10])["accuracy"].tolist() == [0] * 10 + [0.5] * 10


@pytest.mark.parametrize("change, message", [
    (lambda rows: rows[1:], "1 are only in the first and 0 only in the second"),
    (lambda rows: [rows[0] | {"problem": "other"}, rows[1]], "1 are only in the first and 1 only in the"),
    (lambda rows: [rows[0], rows[0]], "same id")])
def test_other_problems_have_no_differences(change, message):
    rows = [record("", [True], [3], [], str(i)) for i in range(2)]
    with pytest.raises(ValueError, match=message):
        paired(rows, change(rows))


# --- The metrics of a training step -----------------------------------------------------------------------

def path(lengths, finished):
    return Rollouts(*pad_rows([[1]] * len(lengths), left=True), *pad_rows([[7] * n for n in lengths]),
                    torch.tensor(finished), [""] * len(lengths))


def test_both_paths_of_a_step_by_hand():
    groups = [Group(Problem("a", "p", "1"), [9]), Group(Problem("b", "p", "1"), [9])]
    groups[0].solutions, groups[1].solutions = path([3, 5], [True, True]), path([9, 7], [False, True])
    groups[1].solutions.texts = ["no box", r"so \boxed{1}"]
    batch = Batch(groups, rewards=torch.tensor([1.0, 0, 1, 1]))
    assert path_metrics(batch) == {
        "reward": 0.75, "frac_reward_zero_std": 0.5, "completions/mean_length": 6,
        "completions/max_length": 9, "completions/boxed": 0.25,
        "completions/clipped_ratio": 0.25, "tokens": 24}
    groups[0].metas, groups[1].metas = path([4, 4, 4], [True] * 3), path([2, 2, 1], [True, False, False])
    batch.terms = [{"length": 1.0, "difficulty": i / 10, "notion": 0.5} for i in range(6)]
    groups[0].predictions = [MetaPrediction((), 0, None), MetaPrediction(("a",), None, None),
                             MetaPrediction()]
    groups[1].predictions = [MetaPrediction(("a",), 8, 3)] + [MetaPrediction()] * 2
    batch.meta_rewards = torch.tensor([0.5, 0.5, 0.5, 0.25, 0.5, 0.75])
    metrics = path_metrics(batch)
    assert metrics["tokens"] == 24 and metrics["meta/tokens"] == 17 and metrics["meta/reward"] == 0.5
    assert metrics["meta/frac_reward_zero_std"] == 0.5 and metrics["meta/completions/max_length"] == 4
    assert metrics["meta/completions/clipped_ratio"] == pytest.approx(1 / 3)
    assert [metrics[f"meta/valid/{name}"] for name in ("notions", "pass_rate", "solution_length")] == [
        3 / 6, 2 / 6, 1 / 6]
    assert [metrics[f"meta/reward/{name}"] for name in ("length", "difficulty",
                                                        "notion")] == pytest.approx([1, 0.25, 0.5])


# --- Several sets, and what was lost to the format --------------------------------------------------------

def test_the_interval_of_a_mean_over_sets_draws_each_set_by_itself():
    """Of independent sets the variances of the means add up: sqrt(0.04 / 400 + 1 / 100) / 2."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(0, 0.2, 400), rng.normal(0, 1, 100)
    low, high = bootstrap(first, second)
    error = (first.var() / 400 + second.var() / 100) ** 0.5 / 2
    assert (high - low) / 2 / error == pytest.approx(1.96, abs=0.15)
    low, high = bootstrap(second, second)                   # the same numbers are not the same draws
    assert (high - low) / 2 / (second.std() / 10) == pytest.approx(1.96 / 2 ** 0.5, abs=0.15)
    assert bootstrap(first, [1.0]) is None


def test_averages_count_sets_alike():
    sets = {"x": np.array([0.0, 1, 1, 1]), "y": np.array([0.0, 0]), "z": np.array([1.0, 1])}
    rows = averages(sets, {"x": "logic", "y": "code", "z": "logic"}.get)
    assert {name: mean for name, (mean, _) in rows.items()} == {
        "x": 0.75, "y": 0, "z": 1, "logic (2 sets)": 0.875, "code (1 set)": 0,
        "all (3 sets)": pytest.approx(1.75 / 3)}
    assert rows["code (1 set)"][1] == (0, 0) and rows["x"][1] == bootstrap(sets["x"])
    low, high = rows["logic (2 sets)"][1]
    assert low < 0.875 < high <= 1 and low >= 0.5           # z never varies


def test_what_was_lost_to_the_format_is_shown_where_it_is_known():
    def told(row, boxed, unboxed):
        parts = zip(row["completions"], boxed, unboxed)
        return row | {"completions": [c | {"boxed": b, "right_unboxed": u} for c, b, u in parts]}
    rows = [told(RECORDS[0], [True, True], [False, False]), told(RECORDS[1], [False, True], [True, False])]
    figures = summarise(rows)
    assert figures["completions/boxed"] == 0.75 and figures["completions/right_unboxed"] == 0.25
    assert intervals(rows)["completions/right_unboxed"] == (0, 0.5)
    assert not {"completions/boxed", "completions/right_unboxed"} & set(summarise([*rows, RECORDS[2]]))
