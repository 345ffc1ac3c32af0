"""The laptop world: right answers, levels, methods."""

import re
from collections import Counter

from tasks import toy


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
    # The number that a scrap asks for is torn off, and hard to guess; some of its digits are left.
    scraps = [p for p in problems if p.kind == "scrap"]
    assert max(Counter(p.answer for p in scraps).values()) < 0.02 * len(scraps)
    assert all(p.text.endswith(": ~.") for p in scraps)
    assert sum(bool(re.search(r": \d", p.text)) for p in scraps) > 0.9 * len(scraps)


def test_training_and_held_out_problems_have_the_same_mix():
    """Also without near-duplicates and what occurs in both, which training removes: no kind may vanish."""
    def key(text):
        return " ".join(text.casefold().split())

    train, test = toy.make_problems(4096, "train 0"), toy.make_problems(1024, "test 0")
    held_out = {key(p.text) for p in test}
    kept = {key(p.text): p for p in train if key(p.text) not in held_out}
    assert len(kept) > 0.97 * len(train) and len({key(p.text) for p in train}) == len(train)
    before, after, other = (Counter(p.level for p in part) for part in (train, kept.values(), test))
    for level in toy.LEVELS:
        share, error = other[level] / len(test), (0.25 / len(test) + 0.25 / len(kept)) ** 0.5
        assert abs(after[level] / len(kept) - share) < 3 * error and after[level] > 0.94 * before[level]


def test_levels_are_all_common():
    count = Counter(p.level for p in toy.make_problems(3000, seed=1))
    assert set(count) == set(toy.LEVELS) and min(count.values()) > 300
    assert toy.ToyProblem("turn", 4, [2, -8]).level == "3 some big turns"
    assert toy.ToyProblem("undo", 4, [9, -8, 4]).level == "4 many big turns"
    assert toy.ToyProblem("geared", 0, [3]).level == "2 small turns"
    assert toy.ToyProblem("note", 0, [9]).level == "1 note"


def test_the_same_seed_makes_the_same_problems():
    assert toy.make_problems(50, 3) == toy.make_problems(50, 3) != toy.make_problems(50, 4)


def test_only_the_right_method_is_reliable():
    right = Counter()
    problems = [p for p in toy.make_problems(2000, seed=2) if p.kind in toy.DIALS and len(p.steps) > 2]
    for p in problems:
        for method in ("accumulation", "inversion", "filtering", "doubling"):
            right[method == toy.METHODS[p.kind]] += str(toy.work(p, method)[1]) == p.answer
    assert right[True] == len(problems) and right[False] < 0.2 * 3 * len(problems)
