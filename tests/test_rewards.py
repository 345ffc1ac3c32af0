"""Tests of rewards.py: rewards and predictions worked by hand, and properties on random and hostile text."""

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rewards
from rewards import (
    MetaPrediction,
    correct_expert,
    difficulty_reward,
    format_meta,
    length_reward,
    meta_rewards,
    notion_reward,
    parse_meta,
)

WORDS = ["sum", "lemma", "gas", "gasoline", "sieve"]


@pytest.mark.parametrize("predicted, expected", [(19, 0), (20, 1), (25, 1), (30, 1), (31, 0), (None, 0)])
def test_length_lies_between_the_correct_ones_inclusively(predicted, expected):
    assert length_reward(predicted, [10, 30, 20, 25, 90], [0, 1, 1, 1, 0]) == expected


def test_length_of_one_correct_solution_and_of_none():
    assert [length_reward(n, [10, 30, 20], [False, True, False]) for n in (29, 30, 31)] == [0, 1, 0]
    assert [length_reward(n, [10, 30, 20], [False] * 3) for n in (10, 20, 30)] == [0, 0, 0]


@pytest.mark.parametrize("pass_rate, correct, expected", [
    (4, [1, 0, 1, 0], 1.0), (5, [1, 0, 1, 0], 0.5623413), (3, [1, 0, 1, 0], 0.5623413),
    (8, [1, 0, 1, 0], 0.1),
    (8, [0] * 4, 0.01), (0, [1] * 4, 0.01), (0, [0] * 3, 1.0), (8, [1] * 5, 1.0), (2, [0, 1, 0], 0.6812921),
    (None, [1, 0], 0.0), (None, [0, 0], 0.0), (4, [True, False], 1.0)])
def test_difficulty(pass_rate, correct, expected):
    assert difficulty_reward(pass_rate, correct) == pytest.approx(expected, abs=1e-6)


SOLUTIONS = ["Use the lemma.", "By the Lemma, and induction", "induction. the end", "the gasoline",
             "the lemma fails"]


# problem, notions, correct -> reward by count, by rate (SOLUTIONS are the completions)
@pytest.mark.parametrize("notions, correct, count, rate", [
    (["lemma"], [1, 1, 0, 0, 0], 1, 1), (["lemma"], [1, 0, 0, 0, 1], 1, 1),
    (["lemma"], [0, 1, 0, 0, 0], 0, 1),
    (["induction"], [0, 1, 0, 1, 1], 0, 0), (["lemma"], [1, 1, 1, 1, 0], 1, 0),
    (["lemma"], [0, 0, 1, 1, 0], 0, 0),
    (["lemma", "induction"], [1, 1, 0, 0, 0], 0.5, 1), (["lemma", "sieve"], [1, 1, 0, 0, 0], 0.5, 0.5),
    (["lemma", "induction"], [0] * 5, 0, 0), (["lemma", "induction", "sieve"], [1] * 5, 2 / 3, 2 / 3),
    (["LEMMA", " lemma ", "Lemma"], [1] * 5, 1, 1),
    (["sieve", "SIEVE", "sieve ", "lemma"], [1] * 5, 0.5, 0.5),
    (["gas"], [1] * 5, 0, 0), (["gasoline"], [1] * 5, 1, 1), (["lem"], [1] * 5, 0, 0),
    (["lemmas"], [1] * 5, 1, 1),
    (["the"], [1] * 5, 0, 0), (["The", "and"], [1] * 5, 0, 0), (["the", "sieve"], [1] * 5, 0, 0),
    (["circle", "lemma"], [1] * 5, 1, 1), (["Circles", "sieve"], [1] * 5, 0, 0), (["circle"], [1] * 5, 0, 0),
    (["big   circle", "lemma"], [1] * 5, 1, 1), (["circ", "lemma"], [1] * 5, 0.5, 0.5),
    (["the end"], [1] * 5, 1, 1),
    (["", "  ", "lemma"], [1] * 5, 1, 1), ([""], [1] * 5, 0, 0), ([], [1] * 5, 0, 0), (None, [1] * 5, 0, 0)])
def test_notions(notions, correct, count, rate):
    problem = "How large is a big circle?"
    assert notion_reward(notions, problem, SOLUTIONS, correct) == pytest.approx(count)
    assert notion_reward(notions, problem, SOLUTIONS, correct, "rate") == pytest.approx(rate)


def test_counts_against_rates():
    """A word in every rollout: by count it pays when most of the group is right, by rate only if all of it
    is."""
    for right in range(9):
        correct = [1] * right + [0] * (8 - right)
        assert notion_reward(["sum"], "p", ["a sum"] * 8, correct) == (right > 4)
        assert notion_reward(["sum"], "p", ["a sum"] * 8, correct, "rate") == (right == 8)
    assert notion_reward(["sum"], "p", ["sum", "x", "x", "sum", "sum"], [1, 1, 0, 0, 0]) == 0       # 1 : 2
    assert notion_reward(["sum"], "p", ["sum", "sum", "x", "sum", "x", "x", "sum"], [1, 1, 0, 0, 0, 0, 0],
                         "rate") == 1


@pytest.mark.parametrize("notion, text, found", [
    ("prime", "two primes", 1), ("primes", "a prime", 1), ("identity", "both identities", 1),
    ("box", "in boxes", 1),
    ("identities", "an identity", 1), ("classes", "this class", 1), ("class", "classes", 1),
    ("gas", "a ga", 0),
    ("Straße", "die STRASSE", 1), ("prime number", "prime\n  numbers.", 1),
    ("prime number", "prime, number", 0),
    ("log", "logarithm", 0), ("log", "catalog", 0), ("log", "log(x)", 1), ("x^2", "so x ^ 2.", 1),
    ("a", "a", 0)])
def test_whole_words_in_singular_or_plural(notion, text, found):
    assert notion_reward([notion], "How?", [text], [1]) == found


def test_meta_rewards_are_the_three():
    prediction = MetaPrediction(("lemma", "sieve"), 5, 20)
    got = meta_rewards(prediction, "How?", SOLUTIONS[:4], [20, 30, 9, 9], [1, 1, 0, 0])
    assert got == {"length": 1.0, "difficulty": pytest.approx(0.5623413), "notion": 0.5}
    assert set(meta_rewards(MetaPrediction(), "How?", SOLUTIONS[:2], [1, 2], [1, 1]).values()) == {0}
    common = meta_rewards(MetaPrediction(("end",)), "How?", ["an end"] * 8, [1] * 8, [1] * 7 + [0])["notion"]
    rated = meta_rewards(MetaPrediction(("end",)), "How?", ["an end"] * 8, [1] * 8, [1] * 7 + [0],
                         "rate")["notion"]
    assert (common, rated) == (1, 0)


def test_a_new_reward_is_a_function_and_a_row(monkeypatch):
    def brevity(prediction, group):
        return len(prediction.reasoning) / sum(group["lengths"])
    monkeypatch.setitem(rewards.REWARDS, "brevity", brevity)
    got = meta_rewards(MetaPrediction(reasoning="four"), "How?", ["a", "b"], [3, 5], [1, 1])
    assert got == {"length": 0.0, "difficulty": 0.0, "notion": 0.0, "brevity": 0.5}


FULL = '{"math_notion": ["a", "b"], "pass_rate": 5, "solution_length": 40}'


def fields(text):
    prediction = parse_meta(text)
    return prediction.notions, prediction.pass_rate, prediction.solution_length


@pytest.mark.parametrize("text, expected", [
    (FULL, (("a", "b"), 5, 40)), (f"<meta>hm</meta>\n{FULL} done.", (("a", "b"), 5, 40)),
    ('{"solution_length":40,"pass_rate":5,"math_notion":["a","b"]}', (("a", "b"), 5, 40)),
    (f"```json\n{FULL}\n```", (("a", "b"), 5, 40)), ('{\n\t"pass_rate"\r\n:\n 0 }', (None, 0, None)),
    ('{"math_notion": ["f{x}", "}{", "\\"q\\""], "pass_rate": 1}', (("f{x}", "}{", '"q"'), 1, None)),
    ('{"pass_rate": 3} then {"pass_rate": 4}', (None, 4, None)),
    (FULL + ' {"pass_rate": 4}', (None, 4, None)),
    ('{"pass_rate": 3} {"other": 4}', (None, 3, None)), ('{"pass_rate": 3} {"pass_rate": ', (None, 3, None)),
    ('{"x": {"pass_rate": 3}}', (None, 3, None)), ('{"x": [{"y": {"pass_rate": 3}}]}', (None, 3, None)),
    ('{"pass_rate": 3, "x": {"pass_rate": 4}}', (None, 3, None)), ('{{"pass_rate": 3}}', (None, 3, None)),
    ('the set {1, 2} and \\{ " {"pass_rate": 8}', (None, 8, None)), ("no json {} here", (None, None, None)),
    ("", (None, None, None)), ("[5]", (None, None, None)), (None, (None, None, None)),
    (b"{}", (None, None, None))])
def test_parse(text, expected):
    assert fields(text) == expected


BAD_NUMBERS = [*'true false null 5.0 5e0 -1 "5" [5] {} NaN Infinity -Infinity 1e999'.split(), "9" * 30,
               "9" * 4000]


@pytest.mark.parametrize("key, bad", [
    *(("pass_rate", bad) for bad in [*BAD_NUMBERS, "9"]),
    *(("solution_length", bad) for bad in [*BAD_NUMBERS, "0"]),
    *(("math_notion", bad) for bad in ['"a"', "5", "null", "{}", "true", json.dumps(["a"] * 33)]),
    ("solution_length", "9" * 5000)])           # python's int() gives up at 4,300 digits
def test_an_invalid_field_costs_only_itself(key, bad):
    raw = {"math_notion": '["a"]', "pass_rate": "8", "solution_length": "1"}
    expected = {"math_notion": ("a",), "pass_rate": 8, "solution_length": 1}
    for spoiled in ({**raw, key: bad}, {k: v for k, v in raw.items() if k != key}):     # invalid, missing
        text = "{" + ", ".join(f'"{k}": {v}' for k, v in spoiled.items()) + "}"
        assert fields(text) == tuple({**expected, key: None}.values())


def test_notions_that_are_no_strings_are_left_out():
    mixed = '{"math_notion": [1, "a", null, ["b"], true, "a", {"pass_rate": 1}]}'
    assert fields(mixed) == (("a", "a"), None, None)
    assert fields('{"math_notion": []}') == ((), None, None)
    assert fields('{"math_notion": ["\\ud800", "x\\udfff", "\\ud83d\\ude00"]}')[0] == ("", "x", "\U0001f600")


@pytest.mark.parametrize("text", [
    "{" * 10**6, '{"a":' * 200_000, '{"a":[' * 1600, "[" * 10**6, '{"' * 5000, '{"a":"b" ' * 1100,
    '{"a":0,' * 1400,
    '{"pass_rate":' + "[" * 9000, '{"pass_rate":' + "[" * 4000 + "]" * 4000 + "}", "9" * 10**6,
    '{"a":"' + "\\" * 9000,
    '{"pass_rate":' + "9" * 9_900 + "}", '{"pass_rate": -' + "9" * 10**4 + "}", "\ud800{\udfff}" * 10**5,
    "\0" * 10**6])
def test_hostile_text_is_no_prediction_and_costs_no_time(text):
    start = time.perf_counter()
    assert fields(text) == (None, None, None)
    assert fields(text + FULL) == (("a", "b"), 5, 40) or '"' in text    # an open string may swallow it
    assert notion_reward(["9", "a"] + [f"n{i}" for i in range(30)], text, [text] * 4, [1, 1, 0, 0]) == 0
    assert time.perf_counter() - start < 3


def test_format_by_hand():
    assert format_meta(MetaPrediction(("a", "b"), 5, 40, "<meta>é</meta>\n")) == "<meta>é</meta>\n" + FULL
    nothing = '{"math_notion": ["é"], "pass_rate": null, "solution_length": null}'
    assert format_meta(MetaPrediction(("é",))) == nothing


def test_a_prediction_after_a_megabyte_is_found_a_notion_is_not():
    assert notion_reward(["lemma"], "How?", ["x " * 250_000 + "lemma"], [1]) == 0
    assert fields("{x} " * 250_000 + FULL) == (("a", "b"), 5, 40)
    assert len(parse_meta("{x} " * 250_000 + FULL).reasoning) == 10**6


predictions = st.builds(
    MetaPrediction, st.none() | st.lists(st.text(max_size=8), max_size=5).map(tuple),
    st.none() | st.integers(0, 8),
    st.none() | st.integers(1, 2**31 - 1), st.text(max_size=30) | st.text('{}[]":, \\pas_rte1', max_size=30))
JSONISH = st.lists(st.sampled_from([*'{}[]",:\\-.eE059 \n', "\ud800", "é", "true", "NaN", "null", FULL,
                                    '"pass_rate":',
                                    '"solution_length":', '"math_notion":', '["a"]',
                                    '{"pass_rate":3'])).map("".join)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(predictions)
@example(MetaPrediction(("{", '"pass_rate": 1}', "\\"), 0, 1, '{"pass_rate": 7, "x": "'))
def test_what_is_formatted_is_parsed_back(prediction):
    assert parse_meta(format_meta(prediction)) == prediction


@settings(max_examples=150, deadline=None, derandomize=True)
@given(JSONISH | st.text(st.characters()))
def test_any_text_gives_valid_fields_and_rewards_between_0_and_1(text):
    prediction = parse_meta(text)
    rate = prediction.pass_rate
    assert rate is None or (type(rate) is int and 0 <= rate <= 8)
    assert prediction.solution_length is None or type(prediction.solution_length) is int
    assert all(isinstance(notion, str) and notion.encode() is not None for notion in prediction.notions or ())
    assert text.startswith(prediction.reasoning)
    assert parse_meta(format_meta(prediction)) == prediction
    for variant in ("count", "rate"):
        earned = meta_rewards(prediction, text, [text, "a"], [3, 5], [1, 0], variant)
        assert all(0 <= reward <= 1 for reward in earned.values())
        assert notion_reward([text], "", [text, text[::-1]], [0, 0], variant) == 0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(WORDS), max_size=4), st.lists(st.sampled_from(WORDS), max_size=2),
       st.lists(st.tuples(st.lists(st.sampled_from(WORDS)), st.booleans()), min_size=1, max_size=6))
def test_notions_against_sets_of_words(notions, problem, solutions):
    left = set(notions) - set(problem)
    hits = [word for word in left if sum((1 if c else -1) for words, c in solutions if word in words) > 0]
    got = notion_reward(notions, " ".join(problem), [", ".join(w) for w, _ in solutions],
                        [c for _, c in solutions])
    assert got == pytest.approx(len(hits) / len(left) if left else 0)


def test_a_length_over_the_budget_is_no_prediction():
    assert parse_meta('{"solution_length": 96}', 96).solution_length == 96
    assert parse_meta('{"solution_length": 97, "pass_rate": 3}', 96) == MetaPrediction(pass_rate=3)


# --- Experts ----------------------------------------------------------------------------------------------

@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.booleans()), min_size=8, max_size=8),
       st.text(), st.lists(st.text(min_size=1), max_size=4))
def test_the_round_trip_of_an_expert(solutions, reasoning, notions):
    """Written, read again and rewarded: full difficulty reward, full length reward if anything was right."""
    lengths, correct = zip(*solutions)
    prediction = MetaPrediction(tuple(notions), pass_rate=3, solution_length=77,
                                reasoning=reasoning.replace("{", ""))
    expert = correct_expert([MetaPrediction(), prediction], [0.0, 0.5], lengths, correct)
    earned = meta_rewards(parse_meta(format_meta(expert)), "", [""] * 8, lengths, correct)
    assert earned["length"] == any(correct) and earned["difficulty"] == 1.0


def test_the_expert_has_the_best_notions_and_what_really_happened():
    a, b = MetaPrediction(("a",), 1, 5), MetaPrediction(("b",), 2, 6)
    lengths, correct = [10, 20, 31, 99], [True, True, True, False]
    assert correct_expert([a, b], [0.3, 0.5], lengths, correct) == MetaPrediction(("b",), 6, 20)
    assert correct_expert([a, b], [0.1, 0.19], lengths, correct) is None
    assert correct_expert([a, b], [0.2, 0.0], lengths, correct).notions == ("a",)
    nothing = [False] * 4                                       # "0 of 8", and the length of what was tried
    assert correct_expert([a, b], [0.3, 0.5], lengths, nothing) == MetaPrediction(("b",), 0, 40)
    assert correct_expert([a, b], [0.0, 0.0], lengths, nothing) == MetaPrediction(("a",), 0, 40)


def test_copyable_alone(run_alone):
    assert run_alone("rewards.py", "import rewards; print(rewards.difficulty_reward(4, [1, 0]))") == "1.0"


@pytest.mark.parametrize("notion", ["boxed", r"\boxed", r"\boxed{", "so,", "the", "of the"])
def test_neither_the_format_nor_function_words_are_free_notions(notion):
    texts = [r"so the area of the disc is \boxed{4}, by the formula"] * 3
    assert notion_reward([notion], "a disc", texts, [True] * 3) == 0.0


def test_an_unreadable_prediction_is_no_expert():
    broken, readable = MetaPrediction(), MetaPrediction(("area",), 8, 10)
    assert correct_expert([broken], [0.0], [5, 7], [False, False]) is None
    expert = correct_expert([broken, readable], [0.0, 0.0], [5, 7], [False, False])
    assert expert == MetaPrediction(("area",), 0, 6)
