"""Gating, cutoff and the arithmetic of their audit, against hand-worked examples, numpy and simulation."""

import random

import numpy as np
import pytest

from gating import Audit, length_budget, lower_bound, precision_recall, should_skip


@pytest.mark.parametrize("eighths, skip", [
    ([8] * 8, True), ([0] * 8, True), ([4] * 8, False),             # agreement is not enough
    ([8, 8, 8, 7], True),                                           # mean 31/32, std 1/16
    ([8, 7, 8, 7], False),                                          # mean 15/16 is not above 15/16
    ([0, 1, 0, 0, 0, 0, 0, 0], True),
    ([8, 8, 8, 8, 8, 8, 8, 4], False),                              # mean 15/16, std 0.18
    ([8] * 15 + [6], True), ([8] * 31 + [2], False),                # mean 0.98, std 0.13: no agreement
    ([8], False), ([], False),                                      # too few to agree
])
def test_should_skip(eighths, skip):
    rates = [n / 8 for n in eighths]
    assert should_skip(rates) is skip
    if len(rates) > 1:
        assert skip == bool(np.std(rates, ddof=1) < 0.1 and (np.mean(rates) < 1 / 16 or np.mean(rates) > 15 / 16))


def test_bounds_of_gating_are_flags():
    assert not should_skip([0.9] * 4) and should_skip([0.9] * 4, margin=0.2)
    assert not should_skip([1, 0.8] * 4, margin=0.2) and should_skip([1, 0.8] * 4, std=0.2, margin=0.2)
    assert not should_skip([1.0] * 8, std=0.0)                      # no spread is below 0: gating is off


@pytest.mark.parametrize("lengths, budget", [
    ([30, 50], 80), ([60], 96), ([], 96), ([1], 16), ([2**31 - 1] * 8, 96), ([10, 11], 21)])
def test_length_budget(lengths, budget):
    assert length_budget(lengths, cap=96, minimum=16) == budget
    assert type(length_budget(lengths, cap=96)) is int


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


def test_gating_can_be_copied_alone(run_alone):
    assert run_alone("gating.py", "import gating; print(gating.should_skip([1, 1]), gating.length_budget([4], 9))") == "True 8"
