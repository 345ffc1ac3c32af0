"""What a step learns from: with scripted predictions and grades it is plain what must be skipped, cut and audited."""

import itertools
import random

import pytest
import torch

import collect
from collect import Collector, common_notions
from lab.flags import Config
from tasks.problems import Problem
from gating import Audit
from rewards import MetaPrediction
from rollout import as_rollouts

EASY, HARD, OPEN = "easy", "hard", "open"


class Words:
    """A tokenizer for the little that is asked of it here."""
    all_special_tokens, added_tokens_decoder = ["<end>"], {}

    def batch_decode(self, rows, **_):
        return [" ".join(map(str, row)) for row in rows]


class World(Collector):
    """Problems whose kind is their text; `says` is what is predicted for a kind, as (pass rate, length)."""

    def __init__(self, kinds, says, monkeypatch, **flags):
        problems = [Problem(str(i), kind, "1") for i, kind in enumerate(kinds)]
        order = itertools.cycle(problems)
        config = Config(problems_per_step=4, group_size=2, meta_group_size=3, max_new_tokens=20, cutoff_min=1, **flags)
        super().__init__(None, Words(), config, lambda n: list(itertools.islice(order, n)), random.Random(0))
        self.says, self.solved = says, []
        monkeypatch.setattr(collect, "grade", lambda text, answer: text == "right")
        monkeypatch.setattr(collect, "generate", self.go_on)

    def predict(self, problems):
        texts = [f'{{"pass_rate": {self.says[p.text][0]}, "solution_length": {self.says[p.text][1]}}}'
                 for p in problems for _ in range(3)]
        return self.rollouts([5] * len(texts), texts)

    def solve(self, problems, budgets=None, hints=None):
        """Easy ones are right, hard ones wrong, of open ones every other; a solution takes 8 tokens."""
        self.solved.append([p.text for p in problems])
        lengths, texts = [], []
        for p, budget in zip(problems, budgets or [20] * len(problems)):
            for text in {EASY: ("right", "right"), HARD: ("wrong", "wrong"), OPEN: ("right", "wrong")}[p.text]:
                lengths.append(min(8, budget))
                texts.append(text if budget >= 8 else "cut")
        rollouts = self.rollouts(lengths, texts)
        rollouts.finished = torch.tensor([text != "cut" for text in texts])
        return rollouts, [text == "right" for text in texts]

    def rollouts(self, lengths, texts):
        made = as_rollouts([[1, 2]] * len(texts), [[7] * n for n in lengths], "cpu")
        made.texts = texts
        return made

    def go_on(self, policy, tokenizer, prompts, budgets, *_, **__):
        self.continued = list(zip(map(len, prompts), budgets))
        return self.rollouts(budgets, [""] * len(prompts))


HONEST = {EASY: (8, 8), HARD: (0, 8), OPEN: (4, 8)}


def trusting():
    audit = Audit()
    audit.add([True] * 64, 0)
    return audit


def test_trivial_and_impossible_problems_are_skipped_and_replaced(monkeypatch):
    world = World([EASY, OPEN, HARD, OPEN, OPEN, EASY, OPEN, HARD], HONEST, monkeypatch, audit_fraction=1e-9)
    batch = world.predict_first(trusting(), Audit())
    assert [p.id for p in batch.problems] == ["1", "3", "4", "6"] and world.solved == [[OPEN] * 4]
    assert len(batch.metas) == 12 and len(batch.solutions) == 8 and batch.correct == [True, False] * 4
    assert batch.wasted == 2 * 3 * 5 + 3 * 5 and batch.metrics["problems_drawn"] == 7
    assert batch.metrics["gate/share"] == pytest.approx(3 / 7)


def test_without_refill_the_batch_is_short(monkeypatch):
    world = World([EASY, OPEN, HARD, OPEN], HONEST, monkeypatch, audit_fraction=1e-9, refill=False)
    assert [p.id for p in world.predict_first(trusting(), Audit()).problems] == ["1", "3"]


def test_draws_are_bounded_and_something_is_always_solved(monkeypatch):
    world = World([EASY, HARD], HONEST, monkeypatch, audit_fraction=1e-9, max_draws=3)
    batch = world.predict_first(trusting(), Audit())
    assert batch.metrics["problems_drawn"] == 12 and len(batch.problems) == 4
    world = World([EASY, HARD], HONEST, monkeypatch, gate=False)
    assert world.predict_first(trusting(), Audit()).metrics["problems_drawn"] == 4


def test_no_valid_prediction_never_gates_and_never_cuts(monkeypatch):
    world = World([EASY, HARD], {EASY: (9, 0), HARD: ("true", "1.5")}, monkeypatch)
    batch = world.predict_first(trusting(), Audit())
    assert len(batch.problems) == 4 == batch.metrics["problems_drawn"] and not batch.cut.any()
    assert batch.metrics["cutoff/mean_budget"] == 20


@pytest.mark.parametrize("length", [8, 2])
def test_a_constant_predictor_is_not_trusted(monkeypatch, length):
    """The collapse that the paper's figures show: "0 of 8" for everything. Nothing may be thrown away for it, also if
    it predicts such short solutions that the cutoff would make all of them wrong."""
    constant, audit = {kind: (0, length) for kind in (EASY, HARD, OPEN)}, Audit()
    world = World([OPEN, OPEN, EASY, OPEN], constant, monkeypatch)
    for _ in range(30):
        batch = world.predict_first(audit, Audit())
        assert len(batch.problems) == 4 == batch.metrics["problems_drawn"]
    assert audit.figures()["precision"] == pytest.approx(0.25) and audit.figures()["recall"] == 1
    blind = World([OPEN, OPEN, EASY, OPEN], constant, monkeypatch, gate_trust=0.0)
    assert blind.predict_first(Audit(), Audit()).metrics["problems_drawn"] == 16        # what it would have done


def test_trust_is_earned_while_everything_is_solved(monkeypatch):
    world, audit = World([EASY, OPEN, HARD, OPEN], HONEST, monkeypatch, audit_fraction=1e-9), Audit()
    for _ in range(10):
        world.solve_all(audit)
    assert audit.trusted(0.7) and audit.figures()["precision"] == 1 == audit.figures()["recall"]
    assert world.predict_first(audit, Audit()).metrics["gate/share"] > 0


def test_trust_is_lost_by_the_audit(monkeypatch):
    """It was right for long, and then the problems that it skips turn out to have variance."""
    world, audit = World([OPEN, EASY], HONEST | {OPEN: (8, 8)}, monkeypatch, audit_fraction=1.0), trusting()
    world.predict_first(audit, Audit())
    for _ in range(9):
        world.predict_first(audit, Audit())
    assert not audit.trusted(0.7)


def test_cut_solutions_are_wrong_and_audited(monkeypatch):
    world = World([OPEN, EASY, HARD, OPEN], {OPEN: (4, 3), EASY: (4, 8), HARD: (4, 2)}, monkeypatch, audit_fraction=1.0)
    audit = Audit()
    batch = world.predict_first(Audit(), audit)
    assert batch.solutions.lengths == [6, 6, 8, 8, 4, 4, 6, 6] and batch.metrics["cutoff/mean_budget"] == 8
    assert batch.cut.tolist() == [True, True, False, False, True, True, True, True] and sum(batch.correct) == 2
    assert world.continued == [(2 + n, 20 - n) for n in (6, 6, 4, 4, 6, 6)]
    assert audit.figures()["precision"] == 1.0                       # scripted: what goes on is still no answer
    assert batch.metrics["audit/tokens"] == 4 * 14 + 2 * 16 and batch.wasted == 0
    world = World([OPEN], {OPEN: (4, 3)}, monkeypatch, cutoff=False)
    assert not world.predict_first(Audit(), Audit()).cut.any()


def test_dynamic_sampling_keeps_groups_with_variance(monkeypatch):
    world = World([EASY, OPEN, HARD, OPEN, OPEN, EASY, OPEN, OPEN], HONEST, monkeypatch)
    batch = world.sample_dynamically()
    assert [p.id for p in batch.problems] == ["1", "3", "4", "6"] and batch.correct == [True, False] * 4
    assert batch.wasted == 4 * 16 and batch.metas is None and batch.metrics["problems_drawn"] == 8
    assert len(World([EASY], HONEST, monkeypatch, max_draws=2).sample_dynamically().problems) == 1


def test_common_notions():
    said = [MetaPrediction(notions=("b", "a", "a")), MetaPrediction(notions=("a", "c")), MetaPrediction()]
    assert common_notions(said, Words(), most=2) == ["a", "b"]
    hostile = [MetaPrediction(notions=("<end>\nsystem", "A  b", "a\nb", "", " ", "x" * 101))]
    assert common_notions(hostile, Words()) == ["a b"]
