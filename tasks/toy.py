r"""The laptop world: problems about a dial with ten digits, from a seeded generator. Nothing is downloaded.

The model that meets them has half learned them (toy_model.py). The table says what that leaves to reinforcement
learning:

| kind    | share | example                               | method needed | what the warmed-up model makes of it       |
|---------|-------|---------------------------------------|---------------|--------------------------------------------|
| turn    | 17 %  | turn, 2 steps, from 4, a: +2, b: -8.  | accumulation  | It guesses the method: 40 % are right.     |
| undo    | 17 %  | ... where did the dial start?         | inversion     | Small turns (1 to 3) it knows, and of the  |
| ratchet | 17 %  | ... only turns by + count             | filtering     | big ones (4 to 9) one half; the other half |
| geared  | 17 %  | ... every turn happens twice          | doubling      | it mostly misremembers.                    |
| note    | 18 %  | note, 4 steps, a: 7, b: 3, c: 0, d: 4.| transcription | always right: read the last digit          |
| scrap   | 14 %  | scrap, 4 steps, a: 7, b: ~, c: 3, d: ~| search        | never: the last number is torn off, and    |
|         |       |                                       |               | the search runs until the budget ends      |

One third of the dials has small turns only, one third 30 % big ones, one third 90 %. Two sorts of problems are beyond
the model, and both fail at length, as in real training:

- Scraps, for good. A "~" in the last place tells.
- Dials that visit half-taught turns, until they are learned. Which turns these are says an arbitrary table over
  (digit, turn) in toy_model.py, not the text: six of the twelve big turns, from nine digits in ten (the other six from
  one in ten). A solver whose check finds such a mistake says "hm, ", starts over, and misremembers it again, up to the
  end of its budget. One half-taught turn leaves a chance, three leave none: the number of big turns says only
  roughly how many there are, the policy itself could know, and what it should say changes as it learns.

So each of MASA's predictions means something. Pass rate: from always to never, and it moves as the policy learns.
Length: it grows with the number of steps, differs by method, and is the budget for the hopeless. Notions: the method
is named in the solution, never in the problem, and only the right one leads to the right digit.
"""

import random
from dataclasses import dataclass

METHODS = {"turn": "accumulation", "undo": "inversion", "ratchet": "filtering", "geared": "doubling",
           "note": "transcription", "scrap": "search"}
DIALS = ("turn", "undo", "ratchet", "geared")
LEVELS = ("1 note", "2 small turns", "3 some big turns", "4 many big turns", "5 scrap")    # trivial to unsolvable
LABELS = "abcdefgh"
BUDGET = 192                # tokens of a solution; the longest right one has 77


@dataclass
class ToyProblem:
    """One problem: `steps` are turns of the dial, or the digits of a note (from 0 to 9), torn off where None."""
    kind: str
    start: int
    steps: list
    answer: str = ""

    @property
    def big(self):
        """The number of turns by 4 or more; of a scrap, the number of torn cells."""
        return sum(step is None or self.kind in DIALS and abs(step) > 3 for step in self.steps)

    @property
    def level(self):
        return LEVELS[1 + (self.big > 0) + (self.big > 2) if self.kind in DIALS else 0 if self.kind == "note" else 4]

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
    if kind == "note":
        steps = [rng.randrange(10) for _ in range(n)]
        return ToyProblem(kind, 0, steps, str(steps[-1]))
    if kind == "scrap":
        steps = [rng.randrange(10) if rng.random() < 0.8 else None for _ in range(n - 1)]
        return ToyProblem(kind, 0, [*steps, None], str(rng.randrange(1000)))
    share_big = rng.choice([0, 0.3, 0.9])
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


def turned(digit, turn):
    """Where the dial stands after a turn."""
    return (digit + turn) % 10


def work(problem, method, in_full=False, turned=turned, doubted=()):
    """A solution by `method`: its steps, as (piece of text, weight in the warm-up's loss), and its result.

    turned(digit, turn): what it takes for the dial's place after a turn. doubted: the pairs (digit, turn) after
    which the solver says "hm, " and gives up, with None for a result.
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
                before, digit = digit, turned(digit, turn)
                pieces += [(f"{turn:+d}", 2), ("=", 1), (str(digit), 5)]
                if (before, turn) in doubted:
                    return [*pieces, ("hm, ", 1)], None
            pieces += [(", so now ", 1), (str(digit), 1)] if in_full else []
        pieces += [("; ", 1)]
    return pieces, digit
