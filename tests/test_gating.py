"""Gating, cutoff and the arithmetic of their audit, against hand-worked examples, numpy and simulation."""

import math
import random

import numpy as np
import pytest
import torch

from gating import (
    Audit,
    fit_counts,
    fit_lengths,
    length_budget,
    lower_bound,
    number_mass,
    should_skip,
    silent_mass,
)
from lab.metrics import precision_recall
from lab.reading import Reader
from rewards import parse_meta


@pytest.mark.parametrize("rates, skip", [
    ([8] * 8, True), ([0] * 8, True), ([4] * 8, False),             # agreement is not enough
    ([4, 4, 4, 4], False), ([1, 1], False), ([7, 7], False),        # counts out of 8: 1 of 8 is no share of 1
    ([8, 8, 8, 7], True),                                           # mean 31/32, std 1/16
    ([8, 7, 8, 7], False),                                          # mean 15/16 is not above 15/16
    ([0, 1, 0, 0, 0, 0, 0, 0], True),
    ([8, 8, 8, 8, 8, 8, 8, 4], False),                              # mean 15/16, std 0.18
    ([8] * 15 + [6], True), ([8] * 31 + [2], False),                # mean 0.98, std 0.13: no agreement
    ([8], False), ([], False),                                      # too few to agree
])
def test_should_skip(rates, skip):
    assert should_skip(rates) is skip
    for kind in (tuple, iter, lambda rates: np.array(rates, dtype=int)):
        assert should_skip(kind(rates)) is skip
    if len(rates) > 1:
        p = np.array(rates) / 8
        assert skip == bool(np.std(p, ddof=1) < 0.1 and (np.mean(p) < 1 / 16 or np.mean(p) > 15 / 16))


def test_an_invalid_prediction_is_left_out():
    for rates in ([8, 8], [0, 0, 0], [4, 4], [8, 0], [8], []):
        assert should_skip([None, *rates, None]) is should_skip(rates)
    assert not should_skip([None, None])


@pytest.mark.parametrize("wrong", [0.5, 1.0, 8.0, -1, 9, "8", math.nan, [8]])
def test_what_is_no_count_out_of_8_is_refused(wrong):
    """Shares of 1 passed for counts would be skipped as hopeless; a mistake of scale must not go
    unnoticed."""
    with pytest.raises(ValueError, match="counts of right attempts out of 8"):
        should_skip([8, wrong, None, 8])


def test_bounds_of_gating_are_arguments():
    assert not should_skip([7] * 4) and should_skip([7] * 4, margin=0.2)
    assert not should_skip([8, 6] * 4, margin=0.2) and should_skip([8, 6] * 4, std=0.2, margin=0.2)
    assert not should_skip([8] * 8, std=0.0)                        # no spread is below 0: gating is off


@pytest.mark.parametrize("lengths, budget", [
    ([30, 50], 80), ([60], 96), ([], 96), ([1], 16), ([2**31 - 1] * 8, 96), ([10, 11], 21),
    ([None, None], 96), ([30, None, 50], 80), ([None, 1], 16),
    ([4] * 7 + [1_999_999_999], 31), ([4] * 7 + [10**400], 31)])    # 2 * (7 * 4 + 96) / 8
def test_length_budget(lengths, budget):
    assert length_budget(lengths, cap=96, minimum=16) == budget
    assert type(length_budget(lengths, cap=96)) is int


def test_the_leaves_fit_together_as_the_readme_shows():
    """Predictions are parsed without a budget, and go into both rules as they are."""
    said = ((4, 30), (4, 1_999_999_999), ("null", 40), (4, '"long"'))
    says = [f'{{"pass_rate": {rate}, "solution_length": {length}}}' for rate, length in said]
    predictions = [parse_meta(text) for text in [*says, "no prediction"]]
    assert [p.pass_rate for p in predictions] == [4, 4, None, 4, None]
    assert should_skip([p.pass_rate for p in predictions]) is False
    budget = length_budget([p.solution_length for p in predictions], cap=96)
    assert budget == 96 and length_budget([p.solution_length for p in predictions], cap=50) == 50
    assert length_budget([p.solution_length for p in predictions], cap=1000, factor=0.1) == 36


def test_silent_mass_by_hand():
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert silent_mass(probabilities).tolist() == [0.75, 0,
                                                   1] and silent_mass(probabilities[0]).item() == 0.75


def test_the_mass_of_a_number_by_hand():
    """Two predictions; of the tokens 10 to 18, which name 0 to 8, the first has 0 and 8 with a half each."""
    logits = torch.full((2, 20), 5.0)
    logits[0, 11:18], logits[1, 10:19] = -100.0, torch.arange(9).float().log()
    assert number_mass(logits, torch.arange(10, 19).repeat(2, 1)).item() == pytest.approx((1 + 8 / 36) / 2)


def test_a_fit_is_where_the_gradient_vanishes():
    """X' diag(w) (P - Y) + 2 ridge W = 0, without a ridge for the constant, in float64 by numpy."""
    rng = np.random.default_rng(3)
    inputs = np.column_stack([rng.normal(size=(40, 3)), np.ones(40)])
    counts, weight = rng.integers(0, 5, 40), rng.random(40)
    start = torch.zeros(4, 5, dtype=torch.float64)
    given = map(torch.tensor, (inputs, counts, weight))
    fitted = fit_counts(*given, start, ridge=0.7, iterations=500).numpy()
    odds = np.exp(inputs @ fitted)
    errors = weight[:, None] * (odds / odds.sum(1, keepdims=True) - np.eye(5)[counts])
    prior = np.vstack([2 * 0.7 * fitted[:-1], np.zeros(5)])
    assert not start.any() and np.abs(inputs.T @ errors + prior).max() < 1e-3


@pytest.mark.parametrize("features", [3, 60])                # fewer and more than problems
def test_lengths_are_fitted_where_the_gradient_vanishes(features):
    """X' diag(w) (X v - y) + ridge (v without its last) = 0, in float64 by numpy."""
    rng = np.random.default_rng(4)
    inputs = np.column_stack([rng.normal(size=(20, features)), np.ones(20)])
    lengths, weight = rng.uniform(10, 90, 20), rng.uniform(0.1, 1, 20)
    fitted = fit_lengths(*map(torch.tensor, (inputs, lengths, weight)), ridge=0.7).numpy()
    gradient = inputs.T @ (weight * (inputs @ fitted - lengths))
    gradient[:-1] += 0.7 * fitted[:-1]
    assert np.abs(gradient).max() < 1e-9
    one = torch.ones(1)
    assert fit_lengths(torch.tensor([[2.0, 1.0]]), 30 * one, one, 1.0).tolist() == [0, 30]


def simulated(rng, count):
    """Features that tell the pass rate of a problem (0.02, 0.5 or 0.98), how many of 4 solutions are right,
    and the length of these: 20, 40 or 60."""
    kinds = rng.integers(0, 3, count)
    features = torch.eye(3)[kinds] * 7 + torch.tensor(rng.normal(size=(count, 3)), dtype=torch.float32)
    counts = rng.binomial(4, np.array([0.02, 0.5, 0.98])[kinds]).tolist()
    return kinds, features, counts, [20.0 * kind + 20 if k else math.nan for kind, k in zip(kinds, counts)]


def test_a_reader_learns_how_many_solutions_will_be_right_and_how_long():
    rng, reader = np.random.default_rng(0), Reader(4)
    assert reader.probabilities(torch.zeros(1, 3)) is None and reader.lengths(torch.zeros(2, 3)) == [None] * 2
    for _ in range(40):
        reader.add(*simulated(rng, 16)[1:])
        reader.fit()
    kinds, features, *_ = simulated(rng, 600)
    probabilities = reader.probabilities(features)
    assert probabilities.shape == (600, 5) and not probabilities.requires_grad
    torch.testing.assert_close(probabilities.sum(1), torch.ones(600))
    mass = silent_mass(probabilities).numpy()
    for kind, rate in enumerate((0.02, 0.5, 0.98)):
        assert mass[kinds == kind].mean() == pytest.approx(rate ** 4 + (1 - rate) ** 4, abs=0.08)
    lengths = np.array(reader.lengths(features))
    for kind, length in ((1, 40), (2, 60)):             # the other is seldom right, so that labels are few
        assert lengths[kinds == kind].mean() == pytest.approx(length, abs=4)


def test_where_nothing_was_right_no_length_is_foretold():
    reader = Reader(4)
    reader.add(torch.eye(2), [0, 0], [math.nan] * 2)
    reader.fit()
    assert reader.lengths(torch.eye(2)) == [None, None]
    reader.add(torch.eye(2), [0, 1], [math.nan, 30.0])
    reader.fit()
    assert reader.lengths(torch.eye(2)) == [30.0, 30.0]
    reader.add(torch.tensor([[9.0, 0.0]]), [1], [1.0])
    reader.fit()
    assert reader.lengths(torch.tensor([[99.0, 0.0], [1.0, 0.0]]))[0] is None       # far out: below 0
    reader.add(torch.full((2, 2), math.nan), [1, 1], [30.0, 30.0])      # a policy that is broken
    reader.fit()
    assert reader.lengths(torch.eye(2)) == [None, None]


def test_a_reader_forgets_what_is_old():
    """The problems turn round: what was always right becomes wrong. The newest steps count most."""
    reader, features = Reader(4, window=6, decay=0.5), torch.eye(2).repeat(4, 1)
    for counts in ([4, 0], [0, 4]):
        for _ in range(6):
            reader.add(features, counts * 4, [9.0] * 8)
            reader.fit()
        assert len(reader.steps) == 6
        assert reader.probabilities(torch.eye(2)).argmax(1).tolist() == counts
    reader.add(features, [2, 2] * 4, [9.0] * 8)
    reader.add(features, [2, 2] * 4, [9.0] * 8)
    reader.fit()
    assert reader.probabilities(torch.eye(2)).argmax(1).tolist() == [2, 2]


def test_features_that_are_there_twice_say_no_more():
    """With a ridge that grows with D each copy carries half of the weight, and every probability stays."""
    rng, found = np.random.default_rng(2), []
    features = torch.tensor(rng.normal(size=(60, 600)), dtype=torch.float32)
    counts = (2 + 2 * features[:, 0]).round().clamp(0, 4).long().tolist()
    for copies in (1, 2):
        reader = Reader(4)
        reader.add(features[:50].repeat(1, copies), counts[:50], [9.0] * 50)
        reader.fit(500)
        found.append(reader.probabilities(features.repeat(1, copies)))
    torch.testing.assert_close(*found, rtol=0, atol=0.01)


def test_a_reader_goes_on_after_a_restart(tmp_path):
    rng, reader, again = np.random.default_rng(1), Reader(4), Reader(4)
    again.load_state_dict(reader.state_dict())              # nothing yet
    assert again.probabilities(torch.zeros(1, 3)) is None
    steps = [simulated(rng, 8)[1:] for _ in range(4)]
    for step in steps[:3]:
        reader.add(*step)
        reader.fit()
    torch.save(reader.state_dict(), tmp_path / "state")
    again.load_state_dict(torch.load(tmp_path / "state"))
    for one in (reader, again):
        one.add(*steps[3])
        one.fit()
    assert torch.equal(reader.probabilities(steps[0][0]), again.probabilities(steps[0][0]))


def test_lower_bound_covers():
    """Wilson's bound is below the true share in about 95 % of samples, and is what the textbook formula
    says."""
    rng = np.random.default_rng(0)
    for share in (0.5, 0.9):
        hits = rng.binomial(64, share, 4000)
        assert 0.92 < np.mean([lower_bound(h, 64) < share for h in hits]) < 0.98
    z, n, p = 1.645, 10, 0.8
    assert lower_bound(8, 10) == pytest.approx(
        (p + z**2 / (2 * n) - z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))) / (1 + z**2 / n))
    assert lower_bound(0, 0) == 0 == lower_bound(0, 5)


def test_audit_by_hand():
    audit = Audit()
    assert audit.figures() == {"precision": None, "recall": None, "f1": None, "precision_lower": 0.0}
    audit.add([True, True, False], missed=2)                        # everything is seen: 3 flagged, 2 rightly
    assert audit.figures() | {"precision_lower": 0} == pytest.approx(
        {"precision": 2 / 3, "recall": 0.5, "f1": 4 / 7, "precision_lower": 0})
    audit.add([True], missed=1, share=0.1)                          # one look stands for ten
    assert audit.figures()["precision"] == pytest.approx(12 / 13)
    assert audit.figures()["recall"] == pytest.approx(12 / 15)


def test_audit_estimates_what_it_cannot_see():
    """A tenth of the flagged cases is enough to find the true precision and recall of a simulated rule."""
    rng, audit = random.Random(0), Audit()
    cases = [(rng.random() < 0.4, rng.random()) for _ in range(40_000)]
    cases = [(actual, (u < 0.7) if actual else (u < 0.2)) for actual, u in cases]
    for start in range(0, len(cases), 16):
        step = cases[start:start + 16]
        audit.add([actual for actual, flag in step if flag and rng.random() < 0.1],
                  sum(actual and not flag for actual, flag in step), share=0.1)
    truth = precision_recall([flag for _, flag in cases], [actual for actual, _ in cases])
    for name in ("precision", "recall", "f1"):
        assert audit.figures()[name] == pytest.approx(truth[name], abs=0.02)
    assert truth["base_rate"] == pytest.approx(0.4, abs=0.01)


def test_trust_rests_on_the_newest_looks():
    audit = Audit(window=20)
    assert not audit.trusted(0.7) and audit.trusted(0)
    audit.add([True] * 20, 0)
    assert audit.trusted(0.7)
    audit.add([False] * 10, 0)
    assert not audit.trusted(0.7) and audit.trusted(0.3)
    audit.add([True] * 20, 0)
    assert audit.trusted(0.7)


def test_audit_goes_on_after_a_restart():
    audit, again = Audit(), Audit()
    audit.add([True, False], 3, 0.5)
    again.load_state_dict(audit.state_dict())
    for one in (audit, again):
        one.add([True], 1)
    assert again.figures() == audit.figures() and again.state_dict() == audit.state_dict()


def test_precision_recall_undefined():
    assert precision_recall([], []) == {"precision": None, "recall": None, "f1": None, "base_rate": None}
    assert precision_recall([False], [False]) == {"precision": None, "recall": None, "f1": None,
                                                  "base_rate": 0.0}
    assert precision_recall([True], [False]) == {"precision": 0.0, "recall": None, "f1": 0.0,
                                                 "base_rate": 0.0}


def test_copyable_alone(run_alone):
    code = "import gating; print(gating.should_skip([8, 8]), gating.length_budget([4], 9))"
    assert run_alone("gating.py", code) == "True 8"
