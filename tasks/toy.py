r"""The laptop world: problems about a dial with ten digits, from a seeded generator. Nothing is downloaded.

The model that meets them has half learned them (toy_model.py); the last column says what that leaves to
reinforcement learning.

| kind    | share | example                           | method needed | the warmed-up model solves it       |
|---------|-------|-----------------------------------|---------------|-------------------------------------|
| turn    | 17 %  | turn, 2 steps, from 4, a: +2, ... | accumulation  | sometimes: it guesses the method,   |
| undo    | 17 %  | ... where did the dial start?     | inversion     | knows small turns (1 to 3) and most |
| ratchet | 17 %  | ... only turns by + count         | filtering     | of the big ones (4 to 9), and has   |
| geared  | 17 %  | ... every turn happens twice      | doubling      | mistaken beliefs about the others   |
| note    | 18 %  | note, 4 steps, a: 7, ..., d: 4.   | transcription | always: the answer is the last digit |
| scrap   | 14 %  | scrap, 4 steps, a: 7, ..., d: ~.  | search        | never: the last digit is torn off   |

Two sorts of problems are beyond the model. As in real training, both fail at length, as the budget ends:

- Scraps, for good: the search never ends. The text shows it.
- Dials that visit half-taught turns, until these are learned. Which they are is arbitrary, by a table over
  (digit, turn) in toy_model.py, and the text does not show it: four of the twelve big turns, from nine digits
  in ten. The solver notices most of its mistakes there, says "hm, ", starts over, and makes them again. So
  the number of big turns is a rough guide, the policy itself could know more, and what it should predict
  changes as it learns. Of the dials, a third each has 0, 40 and 80 % big turns.

So each of MASA's predictions means something. Pass rate: from always to never, and it moves as the policy
learns. Length: it grows with the number of steps, differs by method, and is the budget for hopeless problems.
Notions: the solution names the method, the problem never does, and only the right one leads to the answer.
"""

import random
from dataclasses import dataclass

METHODS = {"turn": "accumulation", "undo": "inversion", "ratchet": "filtering", "geared": "doubling",
           "note": "transcription", "scrap": "search"}
DIALS = ("turn", "undo", "ratchet", "geared")
LEVELS = ("1 note", "2 small turns", "3 some big turns", "4 many big turns", "5 scrap")    # trivial to never
LABELS = "abcdefgh"
BUDGET = 192                # tokens of a solution; the longest right one has 77


@dataclass
class ToyProblem:
    """One problem: `steps` are turns of the dial, or the digits of a note, None where they are torn off."""
    kind: str
    start: int
    steps: list
    answer: str = ""

    @property
    def big(self):
        """The number of turns by 4 or more; of a scrap, the number of torn cells."""
        return sum(step is None or (self.kind in DIALS and abs(step) > 3) for step in self.steps)

    @property
    def level(self):
        return LEVELS[{"note": 0, "scrap": 4}.get(self.kind, 1 + (self.big > 0) + (self.big > 2))]

    @property
    def text(self):
        show = "{:+d}".format if self.kind in DIALS else lambda digit: "~" if digit is None else str(digit)
        cells = ", ".join(f"{label}: {show(step)}" for label, step in zip(LABELS, self.steps))
        start = f"from {self.start}, " if self.kind in DIALS else ""
        return f"{self.kind}, {len(self.steps)} steps, {start}{cells}."


def make_problem(rng):
    """Draw one problem from `rng` (a random.Random)."""
    kind = rng.choices([*METHODS], [17, 17, 17, 17, 18, 14])[0]
    n = rng.randint(2 if kind in DIALS else 4, 6 if kind == "geared" else len(LABELS))
    digits = [rng.randrange(10) for _ in range(n)]
    if kind == "note":
        return ToyProblem(kind, 0, digits, str(digits[-1]))
    if kind == "scrap":                         # the last digit is torn off, and one in five others
        digits = [None if rng.random() < 0.2 else digit for digit in digits[:-1]] + [None]
        return ToyProblem(kind, 0, digits, str(rng.randrange(1000)))
    share_big = rng.choice([0, 0.4, 0.8])
    steps = [rng.choice([1, -1]) * (rng.randint(4, 9) if rng.random() < share_big else rng.randint(1, 3))
             for _ in range(n)]
    problem = ToyProblem(kind, rng.randrange(10), steps)
    problem.answer = str(work(problem, METHODS[kind])[1])
    return problem


def make_problems(n, seed):
    """`n` problems with different texts (there are more than a million), the same for the same seed."""
    rng, problems = random.Random(f"toy problems {seed}"), {}
    while len(problems) < n:
        problem = make_problem(rng)
        problems.setdefault(problem.text, problem)
    return list(problems.values())


def work(problem, method, in_full=False, mistakes=None, noticed=()):
    """A solution by `method`: its steps, as (piece of text, weight in the warm-up's loss), and its result.

    mistakes: {(digit, turn): what is added to the place after this turn}. noticed: those after which the
    solution stops with "hm, " and the result None.
    """
    pieces, digit = [], problem.start
    for label, step in zip(LABELS, problem.steps):
        pieces += [(f"{label}: ", 1)]
        if method == "transcription":
            digit = step
            pieces += [(str(digit), 3)]
        elif method == "filtering" and step < 0:
            pieces += [("skip", 3)]
        else:
            pieces += [(str(digit), 1)]
            for _ in range(2 if method == "doubling" else 1):
                turn = -step if method == "inversion" else step
                pair = digit, turn
                digit = (digit + turn + (mistakes or {}).get(pair, 0)) % 10
                pieces += [(f"{turn:+d}", 2), ("=", 1), (str(digit), 5)]
                if pair in noticed:
                    return [*pieces, ("hm, ", 1)], None
            pieces += [(", so now ", 1), (str(digit), 1)] if in_full else []
        pieces += [("; ", 1)]
    return pieces, digit
