"""Expert cloning: an expert that is imitated perfectly earns full length and difficulty reward."""

import math

import pytest
import torch
from hypothesis import given, strategies

from cloning import correct_expert, expert_ids
from lab.flags import Config
from rewards import MetaPrediction, meta_rewards, parse_meta
from rollout import as_rollouts
from update import imitate


@given(strategies.lists(strategies.tuples(strategies.integers(1, 500), strategies.booleans()), min_size=8, max_size=8),
       strategies.text(), strategies.lists(strategies.text(min_size=1), max_size=4))
def test_the_round_trip_of_an_expert(solutions, reasoning, notions):
    """Written, read again and rewarded: full length reward always, full difficulty reward for 8 solutions."""
    lengths, correct = zip(*solutions)
    prediction = MetaPrediction(tuple(notions), pass_rate=3, solution_length=77, reasoning=reasoning.replace("{", ""))
    expert = correct_expert([MetaPrediction(), prediction], [0.0, 0.5], lengths, correct)
    if not any(correct):
        assert expert is None
        return
    from rewards import format_meta
    rewards = meta_rewards(parse_meta(format_meta(expert)), "", [""] * 8, lengths, correct)
    assert rewards["length"] == 1.0 and rewards["difficulty"] == 1.0


def test_selection():
    a, b = MetaPrediction(("a",), 1, 5), MetaPrediction(("b",), 2, 6)
    lengths, correct = [10, 20, 31, 99], [True, True, True, False]
    assert correct_expert([a, b], [0.3, 0.5], lengths, correct) == MetaPrediction(("b",), 6, 20)
    assert correct_expert([a, b], [0.1, 0.19], lengths, correct) is None
    assert correct_expert([a, b], [0.2, 0.0], lengths, correct).notions == ("a",)


def test_imitation_ends_in_the_expert(tiny_policy):
    """After enough updates the policy says what it was shown, EOS included, and padding teaches nothing."""
    model, tokenizer = tiny_policy()
    prompts, completions = [[5, 6, 7], [8]], [[10, 11, 3], [12, 13, 14, 15, 3]]
    rollouts = as_rollouts(prompts, completions, "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=9.0)
    with torch.no_grad():
        by_hand = [model(torch.tensor([p + c])).logits[0, len(p) - 1:-1].log_softmax(-1)[range(len(c)), c]
                   for p, c in zip(prompts, completions)]
    first = imitate(model, optimizer, rollouts, 1, 0.01, Config(micro_batch_tokens=8))
    assert first == pytest.approx(-sum(x.sum().item() for x in by_hand) / 8, rel=1e-5) and first > 1
    assert imitate(model, optimizer, rollouts, 60, 0.01, Config()) < 0.05
    last = model.get_output_embeddings().weight
    with torch.no_grad():
        last[0, 0] = float("nan")
    before = last.clone()
    assert math.isnan(imitate(model, optimizer, rollouts, 2, 0.01, Config()))
    torch.testing.assert_close(last, before, equal_nan=True, rtol=0, atol=0)


def test_expert_ids_are_what_is_read_again(tiny_policy):
    from test_masa import bpe
    from transformers import PreTrainedTokenizerFast
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe(), eos_token="<|im_end|>")
    expert = MetaPrediction(("caf\u00e9 {x}", "b"), 5, 40, "<meta>why</meta>\n")
    ids = expert_ids(tokenizer, expert)
    assert ids[-1] == tokenizer.eos_token_id and parse_meta(tokenizer.decode(ids[:-1])) == expert
