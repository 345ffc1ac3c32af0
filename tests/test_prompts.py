"""Tests of prompts.py: what is asked, as ids, and what must stay out of it."""

from transformers import AddedToken

from conftest import BOS, END, START, greedy_alone, sampled
from tasks.problems import Problem
from prompts import (control_tokens, encode, hint_messages, hintable, keep_fitting, meta_messages,
                     solution_messages)
from rollout import generate


def test_encode_with_a_chat_template_and_without(tiny_policy):
    chat = [{"role": "system", "content": "w5"}, {"role": "user", "content": "w6 w7"}]
    _, tokenizer = tiny_policy()
    chat_tokens = f"{BOS} {START} system w5 {END} {START} user w6 w7 {END} {START} assistant".split()
    for thinking, last in [(False, "quiet"), (True, "think")]:
        assert tokenizer.convert_ids_to_tokens(encode(tokenizer, chat, thinking)) == [*chat_tokens, last]
    assert encode(tokenizer, chat) == encode(tokenizer, chat, False)
    model, tokenizer = tiny_policy(template=None)
    ids = encode(tokenizer, chat)
    assert tokenizer.convert_ids_to_tokens(ids) == [BOS, "w5", "w6", "w7"]
    assert sampled(generate(model, tokenizer, [ids], 5, temperature=0)) == [greedy_alone(model, ids, 5)]


def test_control_tokens_without_a_role_stay_out_of_prompts(tiny_policy, capsys):
    _, tokenizer = tiny_policy()
    tokenizer.add_tokens(AddedToken("<|header|>", special=True), special_tokens=True)
    assert "<|header|>" not in tokenizer.all_special_tokens and {"<|header|>", END, BOS} <= control_tokens(tokenizer)
    problems = [Problem("a", "w5 <|header|> w6", "1"), Problem("b", "w5 w6", "1"), Problem("c", "w5 " * 500, "1")]
    assert keep_fitting(problems, tokenizer, 400, 40) == [problems[1]]
    assert "2 of 3 problems left out: 1 with prompts over 400 tokens, 1 with control tokens" in capsys.readouterr().out
    assert hintable(["a <|header|>", f"a {END}", "sums", "x" * 101, "two\nlines"], tokenizer) == ["sums", "two lines"]


def test_messages():
    (_, user), instruction = meta_messages("Find {budget}.", 77), solution_messages("Find {budget}.")[0]["content"]
    instruction = instruction.removeprefix("Find {budget}.\n\n")
    assert "\\boxed{}" in instruction and user["content"].startswith("Find {budget}.\n\n")
    assert user["content"].count("77") == 1 and user["content"].count("{budget}") == 1
    assert hint_messages("p", []) == solution_messages("p")
    hinted = hint_messages("p", ["a", "b"], 40)[0]["content"]
    assert hinted.startswith("p\n\n") and "a, b" in hinted and "40" in hinted and hinted.endswith(instruction)


def test_copyable_alone(run_alone):
    assert run_alone("prompts.py", "import prompts; print(len(prompts.meta_messages('p', 5)))") == "2"
