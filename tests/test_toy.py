"""The laptop world: right answers, levels, a tokenizer that loses nothing, a warm-up that teaches the formats."""

import random
import re
from collections import Counter

import pytest
import torch

import toy
from grader import grade
from rewards import parse_meta
from rollout import PHRASES, encode, generate, meta_messages, solution_messages


def render(tokenizer, text, meta):
    return encode(tokenizer, meta_messages(text, toy.BUDGET) if meta else solution_messages(text))


@pytest.fixture(scope="module")
def tokenizer():
    return toy.build_tokenizer(PHRASES)


def solve(text):
    """The answer to a problem's text, by turning the dial one digit at a time."""
    kind, cells = text.split(",")[0], [cell.split(": ")[1] for cell in re.findall(r"[a-h]: [^,.]+", text)]
    if kind == "note":
        return cells[-1]
    digit = int(re.search(r"from (\d)", text)[1])
    for cell in cells:
        turn = int(cell)
        for _ in range({"geared": 2}.get(kind, 1) * abs(turn) if turn > 0 or kind != "ratchet" else 0):
            digit += (1 if turn > 0 else -1) * (-1 if kind == "undo" else 1)
    return str(digit % 10)


def test_answers():
    problems = toy.make_problems(3000, seed="test")
    assert all(solve(p.text) == p.answer for p in problems if p.kind != "scrap")
    assert {p.kind for p in problems} == set(toy.METHODS)
    # The number that a scrap asks for is nowhere in it, and hard to guess.
    scraps = [p for p in problems if p.kind == "scrap"]
    assert max(Counter(p.answer for p in scraps).values()) < 0.02 * len(scraps)


def test_levels_are_all_common():
    count = Counter(p.level for p in toy.make_problems(3000, seed=1))
    assert set(count) == set(toy.LEVELS) and min(count.values()) > 300
    assert toy.ToyProblem("turn", 4, [2, -8]).level == "3 some big turns"
    assert toy.ToyProblem("undo", 4, [9, -8, 4]).level == "4 many big turns"
    assert toy.ToyProblem("geared", 0, [3]).level == "2 small turns" and toy.ToyProblem("note", 0, [9]).level == "1 note"


def test_the_same_seed_makes_the_same_problems():
    assert toy.make_problems(50, 3) == toy.make_problems(50, 3) != toy.make_problems(50, 4)


def test_only_the_right_method_is_reliable():
    right = Counter()
    problems = [p for p in toy.make_problems(2000, seed=2) if p.kind in toy.DIALS and len(p.steps) > 2]
    for p in problems:
        for method in ("accumulation", "inversion", "filtering", "doubling"):
            right[method == toy.METHODS[p.kind]] += str(toy.work(p, method)[1]) == p.answer
    assert right[True] == len(problems) and right[False] < 0.2 * 3 * len(problems)


def test_demonstrations_fit_and_mean_what_they_say(tokenizer):
    rng, ids = random.Random(0), tokenizer.get_vocab()
    lengths, metas = {True: [], False: []}, []
    for p in toy.make_problems(600, seed=5):
        clean = toy.demonstrate_solution(p, rng, noisy=False)
        text = "".join(piece for piece, _ in clean)
        own = toy.METHODS[p.kind] in text
        if p.kind != "scrap" and own:
            assert grade(text, p.answer) and len(clean) <= 77       # as BUDGET's comment says
        noisy = toy.demonstrate_solution(p, rng, noisy=True)
        assert len(noisy) <= toy.BUDGET
        lengths[grade("".join(piece for piece, _ in noisy), p.answer)].append(len(noisy))
        meta = toy.demonstrate_meta(p, rng)
        metas.append(parse_meta("".join(piece for piece, _ in meta[:-1])))
        assert None not in (metas[-1].notions, metas[-1].pass_rate, metas[-1].solution_length) and len(meta) <= 32
        assert all(piece in ids for piece, _ in clean + noisy + meta)
        assert all(method not in p.text for method in toy.METHODS.values())
    assert max(lengths[True]) <= 80 and sum(n > 80 for n in lengths[False]) > 60       # the over-long ones are wrong
    assert {m.pass_rate for m in metas} == set(range(9))


def test_tokenizer_loses_nothing(tokenizer):
    rng = random.Random(0)
    for p in toy.make_problems(200, seed=7):
        for messages in (solution_messages(p.text), meta_messages(p.text, toy.BUDGET)):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = encode(tokenizer, messages)
            assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids and len(ids) < 64
        pieces = [piece for piece, _ in toy.demonstrate_solution(p, rng, True)]
        ids = tokenizer("".join(pieces))["input_ids"]
        assert [tokenizer.decode([i]) for i in ids] == pieces           # a piece is a token
    assert tokenizer.unk_token_id in tokenizer("quite another word")["input_ids"]


def test_a_short_warm_up_teaches_the_formats(tokenizer):
    torch.manual_seed(0)
    model = toy.build_model(tokenizer)
    skill = toy.warm_up(model, tokenizer, render, enough=0.3, noisy_updates=60, max_updates=75)
    assert 0 < skill <= 1
    problems = toy.make_problems(32, seed=8)
    solutions = generate(model, tokenizer, [render(tokenizer, p.text, False) for p in problems], toy.BUDGET)
    metas = generate(model, tokenizer, [render(tokenizer, p.text, True) for p in problems], 32)
    assert sum("so \\boxed{" in text for text in solutions.texts) > 16
    assert sum(parse_meta(text).pass_rate is not None for text in metas.texts) > 16
    assert any(p.kind == "scrap" and not done for p, done in zip(problems, solutions.finished))


def test_the_warmed_up_model_is_kept(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(toy, "warm_up", lambda *args: calls.append(args))
    model, _ = toy.load(PHRASES, render, tmp_path)
    again, tokenizer = toy.load(PHRASES, render, tmp_path)
    assert len(calls) == 1 and tokenizer.chat_template and tokenizer.padding_side == "left"
    for ours, theirs in zip(model.parameters(), again.parameters()):
        assert torch.equal(ours, theirs) and theirs.dtype == torch.float32
    toy.load(PHRASES, render, tmp_path, seed=1)
    (tmp_path / "file").write_text("")
    toy.load(PHRASES, render, tmp_path / "file")            # a cache that cannot be written is done without
    assert len(calls) == 3 and len(list(tmp_path.iterdir())) == 3
