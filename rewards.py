r"""Meta predictions: from text to numbers and back, and how well they agree with the policy's own rollouts.

A meta rollout ends in a JSON object with three predictions about the solutions of the same problem:

    <meta>two turns to undo, one of them big</meta>
    {"math_notion": ["inversion"], "pass_rate": 5, "solution_length": 40}

Each is rewarded for agreeing with the G solutions, of lengths l_i (tokens) and correctness c_i (0 or 1):

    r_length     = 1  if  min(l_i | c_i = 1) <= solution_length <= max(l_i | c_i = 1),  else 0
    r_difficulty = 0.01 ** |pass_rate / 8 - mean(c)|
    r_notion     = share of predicted notions that occur in more correct than incorrect rollouts
    r_meta       = (r_length + r_difficulty + r_notion) / 3

(MASA, arXiv 2510.03259, eq. 1 to 4.) No external data is involved: the policy is aligned with itself.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

ATTEMPTS = 8                    # pass_rate counts right attempts out of 8, whatever the group size
MAX_NOTIONS = 32                # a longer list is no prediction
MAX_CHARACTERS = 200_000        # of a completion that are searched for notions
TAIL = 20_000                   # characters at the end, some 5,000 tokens, that are searched for the object
KEYS = ("math_notion", "pass_rate", "solution_length")

# Words without content; matched against solutions they would be right for free. So would the answer's format.
FUNCTION_WORDS = frozenset("""
    boxed a about after all also an and any are as at be because been both but by can could do does each
    finally first for from get give given has have hence here how i if in into is it its let may more must n
    next no not now of on one only or other our over same should since so some such than that the their them
    then there therefore these they this those thus to up us use was we were what when where which will with
    would x y you""".split())


@dataclass(frozen=True)
class MetaPrediction:
    """What a meta rollout predicts; None stands for a field that is missing or invalid."""
    notions: tuple | None = None                # of strings
    pass_rate: int | None = None                # right attempts out of 8
    solution_length: int | None = None          # tokens of one solution
    reasoning: str = ""                         # the text before the JSON object


def parse_meta(text: str, max_length: int = 2**31 - 1) -> MetaPrediction:
    """The prediction of a meta rollout: the last JSON object in `text` that has one of the three keys.

    Key order, spacing, line breaks, code fences and braces inside strings do not matter. An invalid or
    missing field costs only itself: integers only, pass_rate in 0..8, solution_length in 1..max_length
    (tokens; the budget of a solution, so that no absurd number spoils a mean). Only the last 20,000
    characters are searched, so that hostile nesting takes a second at most. Never raises.
    """
    if not isinstance(text, str):
        return MetaPrediction()
    offset = max(0, len(text) - TAIL)
    tail, found, start = text[offset:], None, 0
    decoder = json.JSONDecoder(strict=False, parse_int=lambda text: int(text) if len(text) < 20 else None)
    while (start := tail.find("{", start)) >= 0:
        next_start = start + 1                      # another object may hold the one in question
        with suppress(ValueError, RecursionError):
            value, end = decoder.raw_decode(tail, start)
            if any(key in value for key in KEYS):
                found, next_start = (value, start), end
        start = next_start
    if found is None:
        return MetaPrediction()
    value, start = found
    notions, pass_rate, length = (value.get(key) for key in KEYS)
    listed = isinstance(notions, list) and len(notions) <= MAX_NOTIONS
    return MetaPrediction(      # without lone surrogates, which JSON can spell but no tokenizer or file takes
        tuple(n.encode(errors="ignore").decode() for n in notions if isinstance(n, str)) if listed else None,
        pass_rate=pass_rate if type(pass_rate) is int and 0 <= pass_rate <= ATTEMPTS else None,
        solution_length=length if type(length) is int and 1 <= length <= max_length else None,
        reasoning=text[:offset + start])


def format_meta(prediction: MetaPrediction) -> str:
    """The inverse of `parse_meta`: the text of a meta rollout that makes `prediction` (None becomes null)."""
    values = prediction.notions, prediction.pass_rate, prediction.solution_length
    return prediction.reasoning + json.dumps(dict(zip(KEYS, values)), ensure_ascii=False)


def length_reward(solution_length: int | None, lengths: list[int], correct: list[bool]) -> float:
    """1.0 if the predicted length lies between the shortest and the longest correct solution, both inclusive.

    solution_length: tokens, or None. lengths: G token counts. correct: G booleans. 0.0 if none is correct.
    (Eq. 1. The released code compares strictly, so that one correct rollout could never be predicted.)
    """
    right = [length for length, c in zip(lengths, correct) if c]
    return float(solution_length is not None and bool(right) and min(right) <= solution_length <= max(right))


def difficulty_reward(pass_rate: int | None, correct: list[bool]) -> float:
    """0.01 ** |pass_rate / 8 - mean(correct)| for a pass_rate in 0..8, 0.0 for None (eq. 2)."""
    if pass_rate is None:
        return 0.0
    return 0.01 ** abs(pass_rate / ATTEMPTS - sum(map(bool, correct)) / len(correct))


def notion_reward(notions: Iterable[str] | None, problem: str, completions: list[str], correct: list[bool],
                  variant: str = "count") -> float:
    """The share of predicted notions that occur in more correct than incorrect solutions (eq. 3).

    notions: strings, or None. problem: the statement, without the instructions around it. completions: G
    texts. variant "rate" asks for a larger share of the correct than of the incorrect solutions. Notions are
    compared without regard to case, white space and repetition; those that the problem mentions, that are
    mere function words, or that have no letter, count neither for nor against. 0.0 if nothing is left.
    """
    problem = plain(problem)
    left = [notion for notion in dict.fromkeys(map(plain, notions or ()))
            if re.search(r"[^\W\d_]", notion) and not set(re.findall(r"\w+", notion)) <= FUNCTION_WORDS
            and not mentions(problem, notion)]
    right = [plain(text) for text, c in zip(completions, correct) if c]
    wrong = [plain(text) for text, c in zip(completions, correct) if not c]

    def uses(texts, notion):        # how many of them have it, or what share
        return sum(mentions(text, notion) for text in texts) / (len(texts) or 1 if variant == "rate" else 1)

    return sum(uses(right, notion) > uses(wrong, notion) for notion in left) / max(len(left), 1)


# A new reward is a function and a row here. p: a MetaPrediction; g: the other arguments of `meta_rewards`.
REWARDS = {
    "length": lambda p, g: length_reward(p.solution_length, g["lengths"], g["correct"]),
    "difficulty": lambda p, g: difficulty_reward(p.pass_rate, g["correct"]),
    "notion": lambda p, g: notion_reward(p.notions, g["problem"], g["completions"], g["correct"],
                                         g["variant"])}


def meta_rewards(prediction: MetaPrediction, problem: str, completions: list[str], lengths: list[int],
                 correct: list[bool], variant: str = "count") -> dict[str, float]:
    """All REWARDS of one prediction against G solutions. Their mean is r_meta (eq. 4).

    It is never added to the reward of a solution.
    """
    group = dict(problem=problem, completions=completions, lengths=lengths, correct=correct, variant=variant)
    return {name: reward(prediction, group) for name, reward in REWARDS.items()}


def correct_expert(predictions: list[MetaPrediction], notion_rewards: list[float], lengths: list[int],
                   correct: list[bool], least: float = 0.2) -> MetaPrediction | None:
    """The prediction of a problem with the best notion reward, its numbers replaced by what really happened.

    An expert of MASA's behaviour cloning: the policy is trained on `format_meta` of it, which earns the
    length reward, and the difficulty reward as far as a count out of 8 can. predictions, notion_rewards: M.
    lengths, correct: tokens and grades of the G solutions. The length is the mean of the right solutions, or
    of all if none is right. None if no list of notions is readable, or if some solutions are right and no
    notion reward is at least `least`. (Published cloning has no experts of "0 of 8": where none is right.)
    """
    readable = [i for i, prediction in enumerate(predictions) if prediction.notions is not None]
    best = max(readable, key=lambda i: notion_rewards[i], default=None)
    right = [length for length, c in zip(lengths, correct) if c]
    if best is None or (right and notion_rewards[best] < least):
        return None
    told = right or lengths
    return replace(predictions[best], pass_rate=round(ATTEMPTS * len(right) / len(correct)),
                   solution_length=round(sum(told) / len(told)))


@lru_cache(maxsize=64)
def plain(text):
    """`text` as words and signs with one space around each, to find whole words as substrings."""
    return " " + " ".join(re.findall(r"\w+|[^\w\s]", text[:MAX_CHARACTERS].casefold())) + " "


def mentions(text, notion):
    """Does `notion`, singular or regular plural, occur in `text` as whole words? Both are `plain`."""
    notion = notion.strip()
    if notion[-1:] == "s" and len(notion) > 3 and notion[-2] not in "sui":      # not gas, class, locus, axis
        stem = notion[:-3] + "y" if notion.endswith("ies") else notion[:-1]
        forms = {notion, stem, notion[:-2] if re.search("(s|x|z|ch|sh)es$", notion) else stem}
    else:
        plural = notion[:-1] + "ies" if re.search("[^aeiou]y$", notion) else notion + "s"
        forms = {notion, plural, notion + "es" if re.search("(s|x|z|ch|sh)$", notion) else plural}
    return any(f" {form} " in text for form in forms)
