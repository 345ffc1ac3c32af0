"""The algorithm: with scripted predictions and grades it is plain what a step must skip, cut, audit and train
on."""

import itertools
import random
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import bpe, logged, rows_of, sampled, train
from transformers import PreTrainedTokenizerFast

import masa
from gating import Audit
from grpo import NotFinite, group_advantages
from lab.flags import Config
from lab.reading import Reader
from masa import (
    Batch,
    clone_experts,
    meta_scores,
    predict_first,
    sample_dynamically,
    solve_all,
)
from rewards import MetaPrediction, format_meta, parse_meta
from rollout import Group, Rollouts, Sampler, generate, pad_rows
from tasks import toy_model
from tasks.problems import Problem
from tasks.prompts import common_notions

EASY, HARD, OPEN = "easy", "hard", "open"
HONEST = {EASY: (8, 8), HARD: (0, 8), OPEN: (4, 8)}


class Words:
    """A tokenizer for the little that is asked of it here."""
    all_special_tokens, added_tokens_decoder = ["<end>"], {}

    def batch_decode(self, rows, **_):
        return [" ".join(map(str, row)) for row in rows]


def rollouts_of(lengths, texts):
    finished = torch.tensor([text != "cut" for text in texts])
    return Rollouts(*pad_rows([[1, 2]] * len(texts), left=True), *pad_rows([[7] * n for n in lengths]),
                    finished, texts)


class Script(Sampler):
    """A policy that predicts what `says` has for a kind of problem, and solves a problem as its kind says."""

    def __init__(self, says, solved):
        super().__init__(None, Words(), 20, 10, grade=lambda text, problem: text == "right")
        self.says, self.solved = says, solved

    def complete(self, chats, budgets):
        kinds = [chat[-1]["content"].partition("\n\n")[0] for chat in chats]
        if chats[0][0]["role"] == "system":
            said = [self.says[kind] for kind in kinds]
            said = [one if isinstance(one, tuple) else one[row % 3] for row, one in enumerate(said)]
            return rollouts_of([5] * len(chats), [
                f'{{"math_notion": ["right"], "pass_rate": {rate}, "solution_length": {length}}}' for rate,
                length in said])
        self.solved.append([chat[0]["content"] for chat in chats])
        right = {EASY: (True, True), HARD: (False, False), OPEN: (True, False)}
        return rollouts_of([min(8, budget) for budget in budgets], [
            ("right" if right[kind][row % 2] else "wrong") if budget >= 8 else "cut"
            for row, (kind, budget) in enumerate(zip(kinds, budgets))])

    def states(self, groups):
        return torch.tensor([[float(group.problem.text == kind) for kind in (EASY, HARD, OPEN)]
                             for group in groups])

    def number_mass(self, group):
        return {EASY: 1.0, HARD: 0.95, OPEN: 2 / 9}[group.problem.text]


class World:
    """Stands for a Run: problems whose kind is their text, 2 solutions and 3 predictions of each.

    An easy one is always solved, a hard one never, an open one every other time. A solution takes 8 tokens.
    Gating is the paper's, from the first step on, and the cutoff is trusted blindly.
    """
    policy = optimizer = cloner = None
    device, dtype = "cpu", torch.float32

    def __init__(self, kinds, says, monkeypatch, **flags):
        flags = dict(algo="masa-efficient", problems_per_step=4, max_new_tokens=20, cutoff_min=1,
                     gate_start=0,
                     gate_by="said", cutoff_trust=0.0, meta_group_size=3) | flags
        self.config = Config(group_size=2, **flags)
        self.order = itertools.cycle([Problem(str(i), kind, "1") for i, kind in enumerate(kinds)])
        self.stream, self.tokenizer, self.rng, self.solved = self, Words(), random.Random(0), []
        self.gate_audit, self.cutoff_audit, self.experts = Audit(), Audit(), []
        self.sampler, self.reader, self.state = Script(says, self.solved), Reader(2), {"step": 0}
        self.kept, self.updates, self.skipped = [], [], []
        monkeypatch.setattr(masa, "Run", lambda config, evaluate: self)
        monkeypatch.setattr(masa, "update", self.update)
        monkeypatch.setitem(masa.FEATURES, "state", lambda sampler, groups: sampler.states(groups))
        monkeypatch.setattr(masa, "mass_of_numbers", lambda sampler, group: sampler.number_mass(group))

    def draw(self, n):
        return list(itertools.islice(self.order, n))

    def update(self, policy, optimizer, rollouts, advantages, **settings):
        self.updates.append((rollouts, advantages, settings))
        if advantages.isnan().any():
            raise NotFinite([1])
        return {"loss": 0.0}

    def predict_first(self):
        batch = predict_first(self.sampler, self)
        self.state["step"] += 1
        return batch

    # What `train` asks of a Run

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def steps(self):
        yield from range(self.config.steps)

    @contextmanager
    def sampling(self):
        yield

    def update_settings(self):
        return {"epochs": 1}

    def skip_update(self, batch, rows):
        self.skipped.append(rows)
        return {"grad_norm": float("nan")}

    def keep(self, batch, metrics):
        self.state["step"] += 1
        self.kept.append((batch, metrics))


def trusting(world):
    world.gate_audit.add([True] * 64, 0)
    return world


def ids(batch):
    return [group.problem.id for group in batch.groups]


def flat(batch, name):
    return [value for group in batch.groups for value in getattr(group, name)]


# --- MASA-efficient: gate and cut -------------------------------------------------------------------------

def test_trivial_and_impossible_problems_are_skipped_and_replaced(monkeypatch):
    world = World([EASY, OPEN, HARD, OPEN, OPEN, EASY, OPEN, HARD], HONEST, monkeypatch, audit_fraction=1e-9)
    batch = trusting(world).predict_first()
    assert ids(batch) == ["1", "3", "4", "6"] and len(world.solved) == 1 and len(world.solved[0]) == 8
    assert all(len(group.metas) == 3 and len(group.solutions) == 2 for group in batch.groups)
    assert flat(batch, "correct") == [True, False] * 4
    assert batch.wasted == 2 * 3 * 5 + 3 * 5 and batch.metrics["problems_drawn"] == 7
    assert batch.metrics["gate/share"] == pytest.approx(3 / 7) and batch.metrics["problems_kept"] == 4


def test_without_refill_the_batch_is_short(monkeypatch):
    world = World([EASY, OPEN, HARD, OPEN], HONEST, monkeypatch, audit_fraction=1e-9, refill=False)
    assert ids(trusting(world).predict_first()) == ["1", "3"]


def test_draws_are_bounded_and_something_is_always_solved(monkeypatch):
    monkeypatch.setattr(masa, "MAX_ROUNDS", 3)
    batch = trusting(World([EASY, HARD], HONEST, monkeypatch, audit_fraction=1e-9)).predict_first()
    assert batch.metrics["problems_drawn"] == 12 and len(batch.groups) == 4
    batch = trusting(World([EASY, HARD], HONEST, monkeypatch, gate=False)).predict_first()
    assert batch.metrics["problems_drawn"] == 4


def test_no_valid_prediction_never_gates_and_never_cuts(monkeypatch):
    world = World([EASY, HARD], {EASY: (9, 0), HARD: ("true", "1.5")}, monkeypatch)
    batch = trusting(world).predict_first()
    assert len(batch.groups) == 4 == batch.metrics["problems_drawn"] and not any(flat(batch, "cut"))
    assert batch.metrics["cutoff/mean_budget"] == 20


def test_the_gate_goes_by_the_flags_of_the_run(monkeypatch):
    says = {OPEN: [(7, 8), (7, 8), (6, 8)]}                 # mean 0.83, std 0.07
    assert trusting(World([OPEN], says, monkeypatch)).predict_first().metrics["problems_drawn"] == 4
    drawn = [trusting(World([OPEN], says, monkeypatch, gate_margin=0.2,
                            gate_std=std)).predict_first().metrics[
        "problems_drawn"] for std in (0.1, 0.05)]
    assert drawn == [16, 4]


@pytest.mark.parametrize("length", [8, 2])
def test_a_constant_predictor_is_not_trusted(monkeypatch, length):
    """The collapse that the paper's figures show: "0 of 8" for everything. Nothing may be thrown away for it,
    also if it predicts such short solutions that the cutoff would make all of them wrong."""
    constant = dict.fromkeys((EASY, HARD, OPEN), (0, length))
    world = World([OPEN, OPEN, EASY, OPEN], constant, monkeypatch)
    for _ in range(30):
        batch = world.predict_first()
        assert len(batch.groups) == 4 == batch.metrics["problems_drawn"]
    figures = world.gate_audit.figures()
    assert figures["precision"] == pytest.approx(0.25) and figures["recall"] == 1
    blind = World([OPEN, OPEN, EASY, OPEN], constant, monkeypatch, gate_trust=0.0, audit_fraction=1e-9)
    assert blind.predict_first().metrics["problems_drawn"] == 16        # what it would have done


def test_nothing_is_skipped_or_cut_before_its_start_and_trust_is_earned_until_then(monkeypatch):
    world = World([EASY, OPEN, HARD, OPEN], HONEST | {OPEN: (4, 2)}, monkeypatch, audit_fraction=1e-9,
                  gate_start=10)
    for _ in range(10):
        batch = world.predict_first()
        assert batch.wasted == 0 and ids(batch) == ["0", "1", "2", "3"] and not any(flat(batch, "cut"))
    figures = world.gate_audit.figures()
    assert world.gate_audit.trusted(0.7) and figures["precision"] == 1 == figures["recall"]
    assert {f"gate/{name}": value for name, value in figures.items()}.items() <= batch.metrics.items()
    assert batch.metrics["gate/share"] == batch.metrics["cutoff/share"] == 0
    batch = world.predict_first()
    assert batch.metrics["gate/share"] > 0 and any(flat(batch, "cut"))


def test_trust_is_lost_by_the_audit(monkeypatch):
    """It was right for long, and then the problems that it skips turn out to have variance."""
    world = trusting(World([OPEN, EASY], HONEST | {OPEN: (8, 8)}, monkeypatch, audit_fraction=0.5))
    for _ in range(60):
        world.predict_first()
    assert not world.gate_audit.trusted(0.7)


def test_a_share_of_flagged_problems_is_let_through_for_the_audit(monkeypatch):
    world = trusting(World([EASY, OPEN], HONEST, monkeypatch, audit_fraction=0.25))
    flagged = world.gate_audit.flagged
    let_through = skipped = 0
    for _ in range(100):
        batch = world.predict_first()
        through = sum(group.flagged for group in batch.groups)
        let_through += through
        skipped += batch.metrics["problems_drawn"] - 4
        assert all(group.correct == [True, True] for group in batch.groups if group.flagged)
    assert let_through / (let_through + skipped) == pytest.approx(0.25, abs=0.08)
    assert world.gate_audit.trusted(0.7)
    assert world.gate_audit.flagged - flagged > 2 * let_through         # most looks stand for four cases


def test_cut_solutions_are_wrong(monkeypatch):
    says = {OPEN: (4, 3), EASY: (4, 8), HARD: (4, 2)}
    world = World([OPEN, EASY, HARD, OPEN], says, monkeypatch, audit_fraction=1e-9)
    batch = world.predict_first()
    assert [n for group in batch.groups for n in group.solutions.lengths] == [6, 6, 8, 8, 4, 4, 6, 6]
    assert batch.metrics["cutoff/mean_budget"] == 8 and batch.metrics["cutoff/share"] == 6 / 8
    assert flat(batch, "cut") == [True, True, False, False, True, True, True, True]
    assert sum(flat(batch, "correct")) == 2 and batch.wasted == 0
    world = World([OPEN], {OPEN: (4, 3)}, monkeypatch, cutoff=False)
    assert not any(flat(world.predict_first(), "cut"))


def test_the_cutoff_by_reading(monkeypatch):
    """Right solutions take 8 tokens, which a step must have seen; a limit of 6 stops them all."""
    flags = dict(gate_by="state", gate=False, cutoff_factor=0.75, audit_fraction=1e-9)
    world = World([OPEN], HONEST, monkeypatch, meta_group_size=0, **flags)
    first, second = world.predict_first(), world.predict_first()
    assert first.metrics["cutoff/mean_budget"] == 20 and not any(flat(first, "cut"))
    assert second.metrics["cutoff/mean_budget"] == 6 and all(flat(second, "cut"))
    world = World([OPEN], {OPEN: (4, 12)}, monkeypatch, cutoff_by="said", **flags)
    assert [world.predict_first().metrics["cutoff/mean_budget"] for _ in range(2)] == [9, 9]


def test_a_share_of_solutions_goes_on_for_the_audit_of_the_cutoff(monkeypatch):
    """With all of them let through, precision by hand: over its limit is one right and one wrong solution of
    each open problem, and both wrong ones of the hard one."""
    says = {OPEN: (4, 3), EASY: (4, 8), HARD: (4, 2)}
    world = World([OPEN, EASY, HARD, OPEN], says, monkeypatch, audit_fraction=1.0)
    batch = world.predict_first()
    assert [n for group in batch.groups for n in group.solutions.lengths] == [8] * 8
    assert not any(flat(batch, "cut"))
    figures = world.cutoff_audit.figures()
    assert figures["precision"] == pytest.approx(4 / 6) and figures["recall"] == 1
    world = World([HARD], {HARD: (4, 2)}, monkeypatch, audit_fraction=0.25, cutoff_trust=0.9)
    cuts = [sum(flat(world.predict_first(), "cut")) for _ in range(100)]
    # first trust has to be earned
    assert cuts[0] == 0 and sum(cuts[50:]) / 400 == pytest.approx(0.75, abs=0.1)


def test_a_solution_that_is_right_when_it_is_stopped_is_not_cut(monkeypatch):
    world = World([OPEN], {OPEN: (4, 3)}, monkeypatch, audit_fraction=1e-9)
    world.sampler.grade = lambda text, problem: text == "cut"
    batch = world.predict_first()
    assert all(flat(batch, "correct")) and not any(flat(batch, "cut")) and batch.metrics["cutoff/share"] == 0


def test_gating_by_the_probabilities_of_the_number(monkeypatch):
    flags = dict(gate_by="number", audit_fraction=1e-9)
    world = trusting(World([EASY, OPEN, HARD, OPEN, OPEN, OPEN], dict.fromkeys(HONEST, (4, 8)),
                           monkeypatch, **flags))
    assert ids(world.predict_first()) == ["1", "3", "4", "5"]
    world = trusting(World([EASY, OPEN, HARD, OPEN, OPEN, OPEN], HONEST, monkeypatch, gate_mass=0.97,
                           **flags))
    assert ids(world.predict_first()) == ["1", "2", "3", "4"]           # the mass of the hard one is 0.95


def test_a_pilot_looks_at_two_solutions_first(monkeypatch):
    world = World([EASY, OPEN, HARD, OPEN, OPEN, OPEN], HONEST, monkeypatch, gate_by="pilot",
                  audit_fraction=1e-9)
    world.config.group_size = 6
    batch = trusting(world).predict_first()
    assert ids(batch) == ["1", "3", "4", "5"] and batch.wasted == 2 * 2 * 8
    assert all(len(group.solutions) == len(group.correct) == len(group.cut) == 6 for group in batch.groups)
    assert [len(prompts) for prompts in world.solved] == [2 * 4, 2 * 2, 4 * 4]
    assert all(len(group.predictions) == 3 for group in batch.groups)


def test_the_oracle_skips_what_is_never_or_always_solved(monkeypatch):
    world = World([EASY, OPEN, HARD, OPEN, OPEN, OPEN], HONEST, monkeypatch, gate_by="oracle",
                  audit_fraction=1e-9, meta_group_size=0)
    batch = trusting(world).predict_first()
    assert ids(batch) == ["1", "3", "4", "5"] and batch.wasted == 0
    assert [len(prompts) for prompts in world.solved] == [64 * 4, 64 * 2, 2 * 4]
    assert all(len(group.correct) == 2 for group in batch.groups)       # what it saw is not trained on


@pytest.mark.parametrize("gate_by, learns", [("state", True), ("words", True), ("level", False)])
@pytest.mark.parametrize("predictions", [3, 0])
def test_gating_by_reading(monkeypatch, gate_by, learns, predictions):
    """What tells the kinds apart is learned from counts; what is skipped costs no prediction. The level is
    empty here."""
    world = World([EASY, OPEN, HARD, OPEN], HONEST, monkeypatch, gate_by=gate_by, gate_start=20,
                  gate_mass=0.7, audit_fraction=1e-9,
                  meta_group_size=predictions)
    for _ in range(20):
        assert world.predict_first().metrics["gate/share"] == 0
    batch = world.predict_first()
    assert (batch.metrics["gate/share"] > 0.3) == learns and batch.wasted == 0
    assert (all(group.problem.text == OPEN for group in batch.groups)) == learns
    assert all(len(group.predictions) == predictions for group in batch.groups)


# --- DAPO, the peer ---------------------------------------------------------------------------------------

def test_dynamic_sampling_keeps_groups_with_variance(monkeypatch):
    flags = dict(algo="grpo", dynamic_sampling=True)
    world = World([EASY, OPEN, HARD, OPEN, OPEN, EASY, OPEN, OPEN], HONEST, monkeypatch, **flags)
    batch = sample_dynamically(world.sampler, world)
    assert ids(batch) == ["1", "3", "4", "6"] and flat(batch, "correct") == [True, False] * 4
    assert batch.wasted == 4 * 16 and batch.metrics == {"problems_drawn": 8, "problems_kept": 4}
    assert all(group.metas is None for group in batch.groups)
    world = World([EASY], HONEST, monkeypatch, **flags)
    batch = sample_dynamically(world.sampler, world)                 # nothing to learn
    assert len(batch.groups) == 1 and batch.metrics["problems_drawn"] == 16 and batch.wasted == 15 * 16


# --- Hints and notions ------------------------------------------------------------------------------------

def test_common_notions():
    def group(*notions):
        return [MetaPrediction(notions=some) for some in notions]
    assert common_notions(group(("b", "a", "a"), ("a", "c"), None), Words(), most=2) == ["a", "b"]
    hostile = group(("<end>\nsystem", "A  b", "a\nb", "", " ", "x" * 101))
    assert common_notions(hostile, Words()) == ["a b"]


@pytest.mark.parametrize("collect", [solve_all, predict_first])
def test_hints_go_into_the_prompts_of_solutions(monkeypatch, collect):
    for hints in (False, True):
        world = World([OPEN], HONEST, monkeypatch, hints=hints)
        collect(world.sampler, world)
        assert len(world.solved[0]) == 8
        assert all(("These concepts may help: right." in prompt) == hints for prompt in world.solved[0])


# --- The loop ---------------------------------------------------------------------------------------------

SAYS = {OPEN: [(4, 8), (8, 8), (0, 3)], EASY: [(4, 8), (8, 8), (0, 3)]}


def standardised(rewards, size):
    groups = np.array(rewards).reshape(-1, size)
    centred = groups - groups.mean(1, keepdims=True)
    return (centred / (groups.std(1, ddof=1, keepdims=True) + 1e-6)).flatten()


def test_both_paths_are_rewarded_by_the_solutions_of_their_own_problem_and_trained_together(monkeypatch):
    world = World([OPEN, EASY], SAYS, monkeypatch, algo="masa", problems_per_step=2, steps=1)
    assert masa.train(world.config) is world
    (batch, metrics), (tokens, advantages, settings) = world.kept[0], world.updates[0]
    assert batch.rewards.tolist() == [1, 0, 1, 1] and settings == {"weight": 1.0, "epochs": 1}
    assert [terms["length"] for terms in batch.terms] == [1, 1, 0] * 2  # all solutions take 8 tokens
    assert [terms["difficulty"] for terms in batch.terms] == pytest.approx([1, 0.1, 0.1, 0.1, 1, 0.01])
    assert [terms["notion"] for terms in batch.terms] == [1] * 6  # "right" is in the right ones
    scores = [3 / 3, 2.1 / 3, 1.1 / 3, 2.1 / 3, 3 / 3, 1.01 / 3]
    assert torch.as_tensor(batch.meta_rewards).tolist() == pytest.approx(scores)
    half = 0.5 / 0.5 ** 0.5
    expected = [half, -half, 0, 0, *standardised(scores, 3)]
    assert advantages.tolist() == pytest.approx(expected, abs=1e-4) and metrics == {"loss": 0.0}
    assert batch.metrics == {}
    assert rows_of(tokens[2], tokens[3]) == [[7] * 8] * 4 + [[7] * 5] * 6  # solutions first, then predictions
    world = World([OPEN, EASY], SAYS, monkeypatch, algo="masa", problems_per_step=2, steps=1, meta_weight=0.3)
    masa.train(world.config)
    weighted = expected[:4] + [0.3 * advantage for advantage in expected[4:]]
    assert world.updates[0][1].tolist() == pytest.approx(weighted, abs=1e-4)


def test_grpo_is_the_same_without_predictions(monkeypatch):
    world = World([OPEN, EASY], SAYS, monkeypatch, algo="grpo", problems_per_step=2, steps=1)
    masa.train(world.config)
    (batch, _), (tokens, advantages, _) = world.kept[0], world.updates[0]
    assert not batch.terms and not batch.meta_rewards and all(group.metas is None for group in batch.groups)
    assert advantages.tolist() == pytest.approx([0.5 ** 0.5, -0.5 ** 0.5, 0, 0],
                                                abs=1e-4) and len(tokens[0]) == 4
    assert batch.metrics == {}


def test_a_short_batch_weighs_as_if_the_skipped_problems_were_in_it(monkeypatch):
    world = trusting(World([EASY, OPEN], HONEST, monkeypatch, refill=False, audit_fraction=1e-9, steps=1,
                           clone=False))
    masa.train(world.config)
    assert len(world.kept[0][0].groups) == 2 and world.updates[0][2]["weight"] == 2.0


@pytest.mark.parametrize("mask_cut", [False, True])
def test_cut_solutions_count_as_wrong_or_not_at_all(monkeypatch, mask_cut):
    world = World([OPEN], {OPEN: (4, 8)}, monkeypatch, algo="grpo", problems_per_step=1, mask_cut=mask_cut,
                  steps=1)

    def scripted(sampler, run):
        group = Group(Problem("a", OPEN, "1"), [20],
                      solutions=rollouts_of([8, 8, 4], ["right", "wrong", "cut"]))
        group.correct, group.cut, world.config.group_size = [True, False, False], [False, False, True], 3
        return Batch([group])
    monkeypatch.setattr(masa, "solve_all", scripted)
    masa.train(world.config)
    expected = [0.5 ** 0.5, -0.5 ** 0.5] if mask_cut else standardised([1, 0, 0], 3)
    assert world.updates[0][1].tolist() == pytest.approx(list(expected), abs=1e-4)
    assert world.updates[0][0][3].sum(1).tolist() == [8, 8] + [4] * (not mask_cut)


def test_the_flags_choose_how_a_batch_is_collected(monkeypatch):
    flags = {"grpo": {}, "masa": {}, "dapo": {"algo": "grpo", "dynamic_sampling": True},
             "masa-efficient": {"gate_trust": 0.0, "clone": False, "audit_fraction": 1e-9}}
    drawn = {}
    for name, more in flags.items():
        world = World([EASY, OPEN], HONEST, monkeypatch, steps=1, **({"algo": name} | more))
        masa.train(world.config)
        drawn[name] = ids(world.kept[0][0]), world.kept[0][0].metrics.get("problems_drawn")
    assert drawn == {"grpo": (["0", "1", "0", "1"], None), "masa": (["0", "1", "0", "1"], None),
                     "dapo": (["1"] * 4, 8), "masa-efficient": (["1"] * 4, 8)}


def test_masa_efficient_without_predictions(monkeypatch):
    world = World([EASY, OPEN], HONEST, monkeypatch, steps=2, gate_by="state", meta_group_size=0,
                  clone=True)
    masa.train(world.config)
    (batch, _), (tokens, advantages, _) = world.kept[0], world.updates[0]
    assert not batch.terms and len(tokens[0]) == len(advantages) == 8 and world.experts == []


def test_an_update_that_is_not_finite_is_skipped(monkeypatch):
    world = World([OPEN], HONEST, monkeypatch, algo="grpo", steps=2)
    calls = []

    def poisoned(rewards, *arguments):
        calls.append(1)
        return group_advantages(rewards, *arguments) * (float("nan") if len(calls) == 1 else 1.0)
    monkeypatch.setattr(masa, "group_advantages", poisoned)
    masa.train(world.config)
    assert world.skipped == [[1]] and [set(metrics) for _, metrics in world.kept] == [{"grad_norm"}, {"loss"}]


def test_the_controls_of_the_meta_reward():
    rng = np.random.default_rng(0)
    terms = [dict(zip(("length", "difficulty", "notion"), row)) for row in rng.random((12, 3)).tolist()]
    mean = [sum(row.values()) / 3 for row in terms]

    def scores(control):
        return torch.as_tensor(meta_scores(terms, Config(meta_reward=control, meta_group_size=4))).tolist()
    assert scores("aligned") == pytest.approx(mean)
    for name in ("length", "difficulty", "notion"):
        assert scores(name) == pytest.approx([row[name] for row in terms])
    torch.manual_seed(0)
    shuffled = [scores("shuffled") for _ in range(300)]
    for one in shuffled:  # the same rewards in each group, elsewhere
        for i in range(0, 12, 4):
            assert sorted(one[i:i + 4]) == pytest.approx(sorted(mean[i:i + 4]))
    for place in range(12):                                         # each member as often as the others
        drawn = [sum(abs(one[place] - mean[i]) < 1e-6 for one in shuffled)
                 for i in range(place // 4 * 4, place // 4 * 4 + 4)]
        assert sum(drawn) == 300 and min(drawn) > 40


# --- MASA-efficient: expert cloning -----------------------------------------------------------------------

def expert_batch(notions=(1.0, 0.0, 0.0)):
    """Two problems, the second without a right solution; the first prediction has the best notions."""
    groups = []
    for correct in ([True, False], [False, False]):
        group = Group(Problem("a", OPEN, "1"), [20], correct=correct)
        group.solutions, group.metas = rollouts_of([8, 6], ["right", "wrong"]), rollouts_of([5] * 3, [""] * 3)
        best = MetaPrediction(("caf\u00e9 {x}", "b"), 1, 1, "<meta>why</meta>\n")
        group.predictions = [best, MetaPrediction(), MetaPrediction()]
        groups.append(group)
    return Batch(groups, terms=[{"notion": notion} for notion in notions] * 2)


@pytest.fixture
def cloning(monkeypatch):
    """A World with a tokenizer, and the calls of `imitate` in it."""
    world, calls = World([OPEN], HONEST, monkeypatch), []
    world.tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe(), eos_token="<|im_end|>")
    world.cloner = "cloner"
    monkeypatch.setattr(masa, "imitate", lambda *arguments: calls.append(arguments) or 0.25)
    monkeypatch.setattr(masa, "CLONE_SIZE", 5)
    return world, calls


def test_experts_are_collected_until_there_are_enough(cloning):
    world, calls = cloning
    assert clone_experts(expert_batch(), world) == clone_experts(expert_batch((0.1, 0.0, 0.0)), world) == {}
    assert len(world.experts) == 3 and calls == []          # of poor notions only where nothing was right
    assert clone_experts(expert_batch(), world) == {"clone/loss": 0.25} and world.experts == []
    (_, cloner, examples, updates, _, dtype), = calls
    assert (cloner, updates, dtype) == ("cloner", masa.CLONE_UPDATES, world.dtype)
    assert rows_of(*examples[:2]) == [[1, 2]] * 5


def test_what_is_imitated_is_what_is_read_again(cloning):
    """The completion is the corrected prediction, token for token, with the EOS that ends it."""
    world, _ = cloning
    clone_experts(expert_batch(), world)
    for (prompt, completion), rate, length in zip(world.experts, (4, 0), (8, 7), strict=True):
        expert = MetaPrediction(("caf\u00e9 {x}", "b"), rate, length, "<meta>why</meta>\n")
        assert prompt == [1, 2] and completion[-1] == world.tokenizer.eos_token_id
        text = world.tokenizer.decode(completion[:-1])
        assert text == format_meta(expert) and parse_meta(text) == expert


def test_imitating_experts_trains_the_policy(tiny_policy, monkeypatch):
    world = World([OPEN], HONEST, monkeypatch)
    world.policy, world.tokenizer = tiny_policy()
    world.cloner = torch.optim.AdamW(world.policy.parameters(), lr=0.01)
    prompt = [10, 11]
    monkeypatch.setattr(masa, "CLONE_SIZE", 2)
    losses = []
    for _ in range(12):
        world.experts = [(prompt, [20, 21, 3])] * 2
        losses.append(clone_experts(Batch([]), world)["clone/loss"])
    assert losses[-1] < 0.01 < 0.1 < losses[0]              # each is the loss before the last of five steps
    assert sampled(generate(world.policy, world.tokenizer, [prompt], [9], temperature=0)) == [[20, 21, 3]]


# --- The toy world ----------------------------------------------------------------------------------------

def test_the_default_run_shows_what_it_does(tmp_path, monkeypatch, capsys):
    whole = toy_model.warm_up
    monkeypatch.setattr(toy_model, "warm_up", lambda *args: whole(
        *args, stages=dict(bare=5, clean=10, noisy=20)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for algo in ("masa", "grpo"):
        train("--output", tmp_path / algo, "--algo", algo, "--steps", 3, "--eval-every", 2, "--eval-problems",
              8, "--problems-per-step", 4)
        said = capsys.readouterr().out
        for part in ("before     after", "accuracy/5 scrap", "meta/correlation/pass_rate", "problem     ",
                     "solution    ",
                     "mixed groups", "A step takes about", f"in {tmp_path / algo}/"):
            assert part in said
        assert ("prediction  " in said) == (algo == "masa")
        metrics = logged(tmp_path / algo)
        assert [row["step"] for row in metrics] == [0, 1, 2] and "eval/accuracy" in metrics[1]
        assert ("meta/reward/notion" in metrics[0]) == (algo == "masa")
        assert metrics[2]["tokens_total"] == sum(row["tokens"] + row.get("meta/tokens", 0) for row in metrics)


def test_what_is_solved_for_want_of_others_is_no_evidence(monkeypatch):
    """Every problem is flagged and none let through: the first ones are solved, the audit learns nothing."""
    config = Config(algo="masa-efficient", problems_per_step=2, gate_by="level")
    stream = SimpleNamespace(draw=lambda n: [Problem(str(i), "p", "1") for i in range(n)])
    run = SimpleNamespace(config=config, rng=SimpleNamespace(random=lambda: 1.0), stream=stream)
    monkeypatch.setattr(masa, "flag", lambda _, groups, run: [setattr(g, "flagged", True) for g in groups])
    kept, skipped = masa.gate(None, run, True)
    assert len(kept) == 2 and len(skipped) == 6 and all(group.flagged is None for group in kept)
