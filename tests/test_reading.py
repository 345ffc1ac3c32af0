"""What gating reads instead of asking, against the model on each row alone."""

import pytest
import torch
from conftest import checkpointed, save_chat_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import rollout
from lab.reading import FEATURES, mass_by_solving, mass_of_numbers, states, word_features
from rollout import Group, Sampler, pad_rows
from tasks.problems import Problem
from tasks.prompts import encode, solution_messages


def test_states_are_those_of_the_last_token_of_each_prompt_alone(tiny_policy):
    model, tokenizer = tiny_policy()
    checkpointed(model).train()
    groups = [Group(Problem(str(i), text, "1"), [3]) for i, text in enumerate(("w5 w6 w7", "w8"))]
    sampler = Sampler(model, tokenizer, 3, 3)
    got = states(sampler, groups)
    assert model.training and got.dtype == torch.float32 and not got.requires_grad
    model.eval()
    read = 0
    for group, state in zip(groups, got):
        prompt = encode(tokenizer, solution_messages(group.problem.text))
        layers = model.model(torch.tensor([prompt]), output_hidden_states=True).hidden_states  # of two layers
        torch.testing.assert_close(state, torch.cat([layer[0, -1] for layer in layers]).detach(), atol=1e-5,
                                   rtol=1e-4)
        read += len(prompt)
    assert sampler.prefilled == read


def test_the_mass_of_the_number_is_that_of_the_softmax_over_the_nine_where_it_is_named(tmp_path):
    folder = save_chat_model(tmp_path / "model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    said = ['<meta>x</meta>{"pass_rate": 5, "solution_length": 9}', '{"pass_rate":7}', '{"pass_rate":0}',
            "nothing",
            '{"pass_rate": 9}']
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]
    prompts = [[5, 6, 7], [8], [9, 10], [11], [12]]
    group = Group(Problem("a", "p", "1"), [9])
    group.metas = rollout.Rollouts(*pad_rows(prompts, left=True), *pad_rows(rows), torch.ones(5).bool(), said)
    got = mass_of_numbers(Sampler(model, tokenizer, 9, 9), group)
    digits = [tokenizer(str(k), add_special_tokens=False)["input_ids"] for k in range(9)]
    expected = []
    for prompt, row in zip(prompts, rows):
        place = next((i for i in range(len(row)) if tokenizer.decode(row[:i + 1]).endswith(
            tuple(f'"pass_rate":{gap}{k}' for gap in ("", " ") for k in range(9)))), None)
        if place is not None:
            logits = model(torch.tensor([prompt + row])).logits[0, len(prompt) + place - 1]
            expected.append(logits[[token for token, in digits]].softmax(-1).detach())
    assert len(expected) == 3                               # 9 and nothing are left out
    assert got == pytest.approx(sum((p[0] + p[8]).item() for p in expected) / 3, rel=1e-4)
    group.metas = group.metas.select([3, 4])
    assert mass_of_numbers(Sampler(model, tokenizer, 9, 9), group) == 0.0


def test_the_mass_by_solving_is_that_of_the_share_of_right_solutions(monkeypatch):
    """1 of 4 right: in groups of 3 none is with (3/4) ** 3, all are with (1/4) ** 3. Nothing is counted."""
    def solve(groups, tries):
        sampler.prefilled += 100
        for group in groups:
            group.correct = [group.problem.text == "easy" or i == 0 for i in range(tries)]

    sampler = Sampler(None, None, 9, 9)
    groups = [Group(Problem("a", text, "1"), [9]) for text in ("easy", "x")]
    monkeypatch.setattr(sampler, "solve", solve)
    assert mass_by_solving(sampler, groups, 3, 4) == pytest.approx([1.0, (27 + 1) / 64])
    assert sampler.prefilled == 0 and not groups[0].correct and groups[0].solutions is None


def test_words_and_levels_are_controls():
    groups = [Group(Problem("a", "two words", "1", "5 hard"), [3]),
              Group(Problem("b", "Words two", "1", "easy"), [3])]
    words, levels = (FEATURES[name](None, groups) for name in ("words", "level"))
    assert torch.equal(words[0], words[1]) and words[0].sum() == 2
    assert not torch.equal(levels[0], levels[1]) and levels.sum(1).tolist() == [1, 1]


def test_word_features_count_words():
    features = word_features(["Two two words", "words", "", "\ud800"])
    assert features.shape == (4, 256) and features.sum(1).tolist() == [3, 1, 0, 1]
    assert sorted(features[0][features[0] > 0].tolist()) == [1, 2]
    assert torch.equal(features[0] * features[1] > 0, features[1] > 0)
    assert torch.equal(word_features(["words"])[0], features[1])
