"""The half-taught model: demonstrations, a tokenizer that loses nothing, a warm-up that teaches the
formats."""

import random

import pytest
import torch

from rewards import parse_meta
from rollout import generate
from tasks import toy, toy_model
from tasks.grader import grade
from tasks.prompts import PHRASES, encode, meta_messages, solution_messages


def render(tokenizer, text, meta):
    return encode(tokenizer, meta_messages(text, toy.BUDGET) if meta else solution_messages(text))


@pytest.fixture(scope="module")
def tokenizer():
    return toy_model.build_tokenizer(PHRASES)


def test_demonstrations_fit_and_mean_what_they_say(tokenizer):
    rng, ids = random.Random(0), tokenizer.get_vocab()
    lengths, metas = {True: [], False: []}, []
    for p in toy.make_problems(600, seed=5):
        clean = toy_model.demonstrate_solution(p, rng, noisy=False)
        text = "".join(piece for piece, _ in clean)
        own = toy.METHODS[p.kind] in text
        if p.kind != "scrap" and own:
            assert grade(text, p.answer) and len(clean) <= 77       # as BUDGET's comment says
        noisy = toy_model.demonstrate_solution(p, rng, noisy=True)
        assert len(noisy) <= toy.BUDGET
        lengths[grade("".join(piece for piece, _ in noisy), p.answer)].append(len(noisy))
        meta = toy_model.demonstrate_meta(p, rng)
        metas.append(parse_meta("".join(piece for piece, _ in meta[:-1])))
        said = metas[-1]
        assert None not in (said.notions, said.pass_rate, said.solution_length) and len(meta) <= 32
        assert all(piece in ids for piece, _ in clean + noisy + meta)
        assert all(method not in p.text for method in toy.METHODS.values())
    # those that do not end in time are wrong
    assert max(lengths[True]) <= 100
    assert sum(n == toy.BUDGET for n in lengths[False]) > len(lengths[False]) / 3
    assert {m.pass_rate for m in metas} == set(range(9))


def test_half_taught_turns_are_what_makes_dials_hopeless():
    """With as many big turns, dials are easy or hopeless by the pairs (digit, turn) that they visit."""
    half_taught = {pair for pair, (right, _) in toy_model.BELIEFS.items() if right < 0.5}
    assert 20 < len(half_taught) < 50 and all(abs(turn) > 3 for _, turn in half_taught)
    rng, right = random.Random(0), {0: [], 1: [], 2: []}
    for p in toy.make_problems(3000, seed=6):
        if p.kind not in toy.DIALS or not 2 <= p.big <= 4:
            continue
        digit, visited = p.start, 0
        for step in p.steps:
            for _ in range({"geared": 2, "ratchet": int(step > 0)}.get(p.kind, 1)):
                turn = -step if p.kind == "undo" else step
                visited, digit = visited + ((digit, turn) in half_taught), (digit + turn) % 10
        solutions = [toy_model.demonstrate_solution(p, rng, noisy=True) for _ in range(8)]
        texts = ["".join(piece for piece, _ in pieces) for pieces in solutions]
        by_method = [text for text in texts if toy.METHODS[p.kind] in text]
        right[min(visited, 2)].append(sum(grade(text, p.answer) for text in by_method))
    means = [sum(counts) / len(counts) for counts in right.values()]
    assert min(map(len, right.values())) > 50 and means[0] > 1.5 > 4 * means[1] > 4 * means[2]


def test_tokenizer_loses_nothing(tokenizer):
    rng = random.Random(0)
    for p in toy.make_problems(200, seed=7):
        for messages in (solution_messages(p.text), meta_messages(p.text, toy.BUDGET)):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = encode(tokenizer, messages)
            assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids and len(ids) < 64
        pieces = [piece for piece, _ in toy_model.demonstrate_solution(p, rng, True)]
        ids = tokenizer("".join(pieces))["input_ids"]
        assert [tokenizer.decode([i]) for i in ids] == pieces           # a piece is a token
    assert tokenizer.unk_token_id in tokenizer("quite another word")["input_ids"]


def test_a_short_warm_up_teaches_the_formats(tokenizer):
    torch.manual_seed(0)
    model = toy_model.build_model(tokenizer)
    toy_model.warm_up(model, tokenizer, render, stages=dict(bare=10, clean=60, noisy=40))
    problems = toy.make_problems(32, seed=8)
    solutions = generate(model, tokenizer, [render(tokenizer, p.text, False) for p in problems],
                         [toy.BUDGET] * 32)
    metas = generate(model, tokenizer, [render(tokenizer, p.text, True) for p in problems], [32] * 32)
    assert sum("so \\boxed{" in text for text in solutions.texts) > 16
    assert sum(parse_meta(text).pass_rate is not None for text in metas.texts) > 16
    assert any(p.kind == "scrap" and not done for p, done in zip(problems, solutions.finished))


def test_the_warmed_up_model_is_kept(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(toy_model, "warm_up", lambda *args: calls.append(args))
    model, _ = toy_model.load(PHRASES, render, tmp_path)
    again, tokenizer = toy_model.load(PHRASES, render, tmp_path)
    assert len(calls) == 1 and tokenizer.chat_template and tokenizer.padding_side == "left"
    for ours, theirs in zip(model.parameters(), again.parameters()):
        assert torch.equal(ours, theirs) and theirs.dtype == torch.float32
    toy_model.load(PHRASES, render, tmp_path, seed=1)
    (tmp_path / "file").write_text("")
    # a cache that cannot be written is done without
    toy_model.load(PHRASES, render, tmp_path / "file")
    assert len(calls) == 3 and len(list(tmp_path.iterdir())) == 3
