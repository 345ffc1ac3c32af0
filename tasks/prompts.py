"""Prompts: what the policy is asked, as messages and as token ids.

The same policy answers two prompts about every problem. The *solution* prompt asks for reasoning and a boxed
answer; the *meta* prompt asks it to predict, before solving, how its own solutions will go.
"""

import re
from collections import Counter
from collections.abc import Iterable

from jinja2 import TemplateError

SOLUTION = "Reason step by step, and put the final answer in \\boxed{}."
META_SYSTEM = "Predict how your own attempts at a problem will go. Do not solve it."
META = (
    "Reason briefly between <meta> and </meta>: what does it take, where do you slip? Then write a JSON "
    'object with three keys. "math_notion": a list of concepts that you will use and the problem does not '
    'mention. "pass_rate": how many of 8 attempts will be right, 0 to 8. '
    '"solution_length": tokens of one attempt, 1 to {budget}.')
HINT = "These concepts may help: {notions}."
# Solved examples, for a cold start: each names in words what it uses, so that there is a notion to predict.
EXAMPLES = (
    ("A rectangle is 14 units long and 6 units wide. What is its area?",
     "By multiplication, 14 * 6 = 84. The answer is \\boxed{84}."),
    ("What is 62 - 27?", "By subtraction, 62 - 27 = 35. The answer is \\boxed{35}."),
    ("What is 47 + 38?", "By addition, 47 + 38 = 85. The answer is \\boxed{85}."))
# The fixed parts of all prompts; the toy world's tokenizer has a token for each.
PHRASES = [part for template in (SOLUTION, META_SYSTEM, META, HINT)
           for part in re.split("{budget}|{notions}", template) if part.strip(".")]


def solution_messages(problem: str, notions: Iterable[str] = (), instruction: str | None = None) -> list:
    """The chat that asks for a solution of a problem, with predicted notions if there are any."""
    hints = [HINT.replace("{notions}", ", ".join(notions))] if notions else []
    return [{"role": "user", "content": "\n\n".join([problem, *hints, instruction or SOLUTION])}]


def example_messages(problem: str, plain: bool = False) -> list[dict]:
    """The chat that asks for a solution after the EXAMPLES have been solved as its earlier turns.

    plain: for a base model, whose prompts are plain text, with a line above each turn that says what it is.
    """
    chat = [turn for example, solution in EXAMPLES
            for turn in (*solution_messages(example), {"role": "assistant", "content": solution})]
    chat += solution_messages(problem)
    if plain:
        titles = [{"role": turn["role"], "content": "Problem:" if turn["role"] == "user" else "Solution:"}
                  for turn in chat]
        chat = [part for pair in zip(titles, chat) for part in pair]
        chat.append({"role": "user", "content": "Solution:"})
    return chat


def meta_messages(problem: str, budget: int) -> list[dict]:
    """The chat that asks for a meta prediction; `budget` is the most tokens that a *solution* may take."""
    return [{"role": "system", "content": META_SYSTEM},
            {"role": "user", "content": f"{problem}\n\n{META.replace('{budget}', str(budget))}"}]


def encode(tokenizer, messages: list[dict], thinking: bool = False) -> list[int]:
    """The token ids of a chat, ready to be completed.

    `thinking` sets the switch of chat templates that have one (Qwen3's `enable_thinking`). A base model
    without a chat template gets the texts separated by blank lines.
    """
    if tokenizer.chat_template is None:
        ids = tokenizer("\n\n".join(message["content"] for message in messages) + "\n\n")["input_ids"]
        return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids    # what goes on has not ended

    def fill(messages):
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)

    try:
        text = fill(messages)
    except TemplateError:               # some templates refuse a system message
        text = fill([{"role": "user", "content": "\n\n".join(message["content"] for message in messages)}])
    return tokenizer(text, add_special_tokens=False)["input_ids"]       # the template has written them


def control_tokens(tokenizer) -> set[str]:
    """The texts that become control tokens: those with a role (eos), and others (Llama's headers)."""
    return {*tokenizer.all_special_tokens,
            *(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)}


def hintable(notions: Iterable[str] | None, tokenizer) -> list[str]:
    """Predicted notions as they may stand in a prompt: short, on one line, without control tokens."""
    control = control_tokens(tokenizer)
    lines = [" ".join(notion.casefold().split()) for notion in notions or ()]
    return [line for line in lines if 0 < len(line) <= 100 and not any(token in line for token in control)]


def common_notions(predictions, tokenizer, most: int = 3) -> list[str]:
    """The up to `most` notions that the predictions of a problem name most often, the commonest first."""
    count = Counter(notion for p in predictions for notion in dict.fromkeys(hintable(p.notions, tokenizer)))
    return [notion for notion, _ in count.most_common(most)]
