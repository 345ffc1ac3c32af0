"""Gating, cutoff and the arithmetic of their audit, against hand-worked examples, numpy and simulation."""

import math
import random

import numpy as np
import pytest

from gating import Audit, length_budget, lower_bound, precision_recall, should_skip
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
    assert should_skip(tuple(rates)) is should_skip(iter(rates)) is should_skip(np.array(rates, dtype=int)) is skip
    if len(rates) > 1:
        p = np.array(rates) / 8
        assert skip == bool(np.std(p, ddof=1) < 0.1 and (np.mean(p) < 1 / 16 or np.mean(p) > 15 / 16))


def test_an_invalid_prediction_is_left_out():
    for rates in ([8, 8], [0, 0, 0], [4, 4], [8, 0], [8], []):
        assert should_skip([None, *rates, None]) is should_skip(rates)
    assert not should_skip([None, None])


@pytest.mark.parametrize("wrong", [0.5, 1.0, 8.0, -1, 9, "8", math.nan, [8]])
def test_what_is_no_count_out_of_8_is_refused(wrong):
    """Shares of 1 passed for counts would be skipped as hopeless; a mistake of scale must not go unnoticed."""
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
    says = ['{"pass_rate": %s, "solution_length": %s}' % said
            for said in ((4, 30), (4, 1_999_999_999), ("null", 40), (4, '"long"'))]
    predictions = [parse_meta(text) for text in [*says, "no prediction"]]
    assert [p.pass_rate for p in predictions] == [4, 4, None, 4, None]
    assert should_skip([p.pass_rate for p in predictions]) is False
    budget = length_budget([p.solution_length for p in predictions], cap=96)
    assert budget == 96 and length_budget([p.solution_length for p in predictions], cap=50) == 50
    assert length_budget([p.solution_length for p in predictions], cap=1000, factor=0.1) == 36


def test_lower_bound_covers():
    """Wilson's bound is below the true share in about 95 % of samples, and is what the textbook formula says."""
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
    assert precision_recall([False], [False]) == {"precision": None, "recall": None, "f1": None, "base_rate": 0.0}
    assert precision_recall([True], [False]) == {"precision": 0.0, "recall": None, "f1": 0.0, "base_rate": 0.0}


def test_copyable_alone(run_alone):
    assert run_alone("gating.py", "import gating as g; print(g.should_skip([8, 8]), g.length_budget([4], 9))") == "True 8"
