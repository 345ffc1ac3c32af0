"""Prompts: what the policy is asked on both paths, as messages, as token ids, and whether it fits.

The same policy answers two prompts about every problem. The *solution* prompt asks for reasoning and a boxed
answer; the *meta* prompt asks it to predict, before solving, how its own solutions will go.
"""

from jinja2 import TemplateError

SOLUTION = "Reason step by step, and put the final answer in \\boxed{}."
META_SYSTEM = "You predict how your own attempts at a problem will go. You do not solve it."
META = (
    "Before anyone solves this problem, predict how your own solutions of it will go. First reason briefly "
    "between <meta> and </meta>: what does it take, and where do you slip? Then write one JSON object with three "
    'keys. "math_notion": a list of concepts that your solution will use and the problem does not mention. '
    '"pass_rate": of 8 attempts of yours, how many will be right, an integer from 0 to 8. "solution_length": '
    "how many tokens one attempt will take, an integer from 1 to {budget}.")
HINT = "These concepts may help: {notions}."
HINT_LENGTH = "About {length} tokens should be enough."

# The fixed parts of all prompts; the toy world's tokenizer has a token for each.
PHRASES = [part for template in (SOLUTION, META_SYSTEM, META, HINT, HINT_LENGTH)
           for part in template.replace("{notions}", "{budget}").replace("{length}", "{budget}").split("{budget}")
           if part.strip(".")]


def solution_messages(problem):
    """The chat that asks for a solution of `problem` (a text)."""
    return [{"role": "user", "content": f"{problem}\n\n{SOLUTION}"}]


def meta_messages(problem, budget):
    """The chat that asks for a meta prediction; `budget` is the most tokens that a *solution* may take."""
    return [{"role": "system", "content": META_SYSTEM},
            {"role": "user", "content": f"{problem}\n\n{META.replace('{budget}', str(budget))}"}]


def hint_messages(problem, notions, length=None):
    """The chat that asks for a solution and passes on predicted notions (strings) and a length in tokens."""
    hints = [HINT.replace("{notions}", ", ".join(notions))] if notions else []
    hints += [HINT_LENGTH.replace("{length}", str(length))] if length else []
    return solution_messages("\n\n".join([problem, *hints]))


def hintable(notions, tokenizer):
    """Predicted notions as they may stand in a prompt: short, on one line, without the tokenizer's control tokens."""
    lines, control = [" ".join(notion.casefold().split()) for notion in notions or []], control_tokens(tokenizer)
    return [line for line in lines if line and len(line) <= 100 and not any(token in line for token in control)]


def control_tokens(tokenizer):
    """The texts that become control tokens: those with a role, such as eos, and others, such as Llama's headers."""
    return {*tokenizer.all_special_tokens,
            *(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)}


def keep_fitting(problems, tokenizer, longest, budget, thinking=False):
    """The problems without control tokens whose meta prompts (they name the budget of a solution, in tokens, and are
    the longest) take at most `longest` tokens; says how many are left out."""
    control, overhead = control_tokens(tokenizer), len(encode(tokenizer, meta_messages("", budget), thinking))
    clean = [problem for problem in problems if not any(token in problem.text for token in control)]
    kept = [problem for problem in clean
            if overhead + len(problem.text.encode()) <= longest             # a token is a byte or more
            or len(encode(tokenizer, meta_messages(problem.text, budget), thinking)) <= longest]
    if len(kept) < len(problems):
        print(f"{len(problems) - len(kept)} of {len(problems)} problems left out: {len(clean) - len(kept)} with "
              f"prompts over {longest} tokens, {len(problems) - len(clean)} with control tokens in them")
    return kept


def encode(tokenizer, messages, thinking=False):
    """The token ids of a chat, ready to be completed.

    `thinking` sets the switch of chat templates that have one (Qwen3's `enable_thinking`). A base model without
    a chat template gets the texts separated by blank lines.
    """
    if tokenizer.chat_template is None:
        text = "\n\n".join(message["content"] for message in messages) + "\n\n"
        return tokenizer(text)["input_ids"]
    def fill(messages):
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)

    try:
        text = fill(messages)
    except TemplateError:               # some templates refuse a system message
        text = fill([{"role": "user", "content": "\n\n".join(message["content"] for message in messages)}])
    return tokenizer(text, add_special_tokens=False)["input_ids"]       # the template has written them
