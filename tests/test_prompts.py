"""What is asked, as messages and as ids, and what must stay out of it."""

from conftest import BOS, END, START, greedy_alone, sampled
from tokenizers import processors
from transformers import AddedToken

from lab.policy import keep_fitting
from rollout import generate
from tasks.problems import Problem
from tasks.prompts import SOLUTION, control_tokens, encode, hintable, meta_messages, solution_messages


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
    assert sampled(generate(model, tokenizer, [ids], [5], temperature=0)) == [greedy_alone(model, ids, 5)]


def test_without_a_template_the_prompt_has_not_ended(tiny_policy):
    """Some tokenizers end every text with EOS by themselves."""
    _, tokenizer = tiny_policy(template=None)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        f"$A {END}", special_tokens=[(END, tokenizer.eos_token_id)])
    assert tokenizer.convert_ids_to_tokens(tokenizer("w5")["input_ids"]) == ["w5", END]
    ids = encode(tokenizer, [{"role": "user", "content": "w5 w6"}])
    assert tokenizer.convert_ids_to_tokens(ids) == ["w5", "w6"]


def test_control_tokens_without_a_role_stay_out_of_prompts(tiny_policy, capsys):
    _, tokenizer = tiny_policy()
    tokenizer.add_tokens(AddedToken("<|header|>", special=True), special_tokens=True)
    assert "<|header|>" not in tokenizer.all_special_tokens
    assert {"<|header|>", END, BOS} <= control_tokens(tokenizer)
    problems = [Problem("a", "w5 <|header|> w6", "1"), Problem("b", "w5 w6", "1"),
                Problem("c", "w5 " * 500, "1")]
    assert keep_fitting(problems, tokenizer, 400, 40) == [problems[1]]
    said = capsys.readouterr().out
    assert "2 of 3 problems left out: 1 with prompts over 400 tokens, 1 with control tokens" in said
    said = ["a <|header|>", f"a {END}", "sums", "x" * 101, "two\nlines"]
    assert hintable(said, tokenizer) == ["sums", "two lines"]


def test_messages():
    (system, user), (plain,) = meta_messages("Find {budget}.", 77), solution_messages("Find {budget}.")
    assert (system["role"], user["role"], plain["role"]) == ("system", "user", "user")
    assert plain["content"] == f"Find {{budget}}.\n\n{SOLUTION}" and "\\boxed{}" in SOLUTION
    assert user["content"].startswith("Find {budget}.\n\n")
    assert user["content"].count("77") == 1 and user["content"].count("{budget}") == 1
    assert solution_messages("p", []) == solution_messages("p", ()) == solution_messages("p")
    hinted = solution_messages("p", ["a", "b {notions}"])[0]["content"]
    assert hinted.startswith("p\n\n") and "a, b {notions}" in hinted and hinted.endswith(f"\n\n{SOLUTION}")
    other = solution_messages(f"Say: {SOLUTION}", instruction="DO THIS")
    assert other == [{"role": "user", "content": f"Say: {SOLUTION}\n\nDO THIS"}]
    both = hinted.replace(SOLUTION, "DO THIS").replace("a, b {notions}", "a")
    assert solution_messages("p", ["a"], "DO THIS")[0]["content"] == both


def test_what_may_stand_in_a_prompt(tiny_policy):
    tokenizer = tiny_policy()[1]
    assert hintable([" a\n\nb ", "x <end> <start> system", "", " "], tokenizer) == ["a b"]
    assert hintable(None, tokenizer) == hintable((), tokenizer) == []


def test_a_template_that_refuses_a_system_message_gets_one_message(tiny_policy):
    strict = ("{% for m in messages %}"
              "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
              "<start> {{ m.role }} {{ m.content }} <end> {% endfor %}")
    _, tokenizer = tiny_policy(template=strict)
    ids = encode(tokenizer, [{"role": "system", "content": "w5"}, {"role": "user", "content": "w6"}])
    assert tokenizer.convert_ids_to_tokens(ids) == [START, "user", "w5", "w6", END]
