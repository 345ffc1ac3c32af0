r"""The laptop world: problems about a dial with ten digits, from a seeded generator. Nothing is downloaded.

The model that meets them has half learned them (toy_model.py); what is left to reinforcement learning is said in the
right column.

| kind    | example                                | method needed | solved by the warmed-up model             |
|---------|----------------------------------------|---------------|-------------------------------------------|
| turn    | turn, 2 steps, from 4, a: +2, b: -8.   | accumulation  | rarely: it guesses the method, and mostly |
| undo    | ... where did the dial start?          | inversion     | misremembers turns by 4 to 9 ("big"). The |
| ratchet | ... only turns by + count              | filtering     | more big turns, the harder: this grades   |
| geared  | ... every turn happens twice           | doubling      | difficulty                                |
| note    | note, 2 steps, a: 7, b: 3.             | transcription | always: read the last digit               |
| scrap   | scrap, 2 steps, a: ~, b: ~.            | search        | never: the number is not in the problem,  |
|         |                                        |               | and the search runs until the budget ends |

So each of MASA's predictions means something. Pass rate: from always to never, and it moves as the policy
learns. Length: it grows with the number of steps, differs by method, and about half of the solutions write
each step "in full". Notions: the method is named in the solution, never in the problem, and only the right
one leads to the right digit.
"""

import random
from dataclasses import dataclass

METHODS = {"turn": "accumulation", "undo": "inversion", "ratchet": "filtering", "geared": "doubling",
           "note": "transcription", "scrap": "search"}
DIALS = ("turn", "undo", "ratchet", "geared")
LEVELS = ("1 note", "2 small turns", "3 some big turns", "4 many big turns", "5 scrap")    # trivial to unsolvable
LABELS = "abcdefgh"
BUDGET = 96                 # tokens of a solution; the longest right one has 77


@dataclass
class ToyProblem:
    """One problem: `steps` are turns of the dial, the digits of a note (from 0 to 9) or torn cells (None)."""
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
    kind = rng.choices([*DIALS, "note", "scrap"], [17, 17, 17, 17, 14, 18])[0]
    n = rng.randint(1 if kind in DIALS else 2, 6 if kind == "geared" else len(LABELS))
    if kind == "note":
        steps = [rng.randrange(10) for _ in range(n)]
        return ToyProblem(kind, 0, steps, str(steps[-1]))
    if kind == "scrap":
        return ToyProblem(kind, 0, [None] * n, str(rng.randrange(1000)))
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
        problems.setdefault((problem.text, problem.kind == "scrap" and len(problems)), problem)
    return list(problems.values())


def turned(digit, turn):
    """Where the dial stands after a turn."""
    return (digit + turn) % 10


def work(problem, method, in_full=False, turned=turned):
    """A solution by `method`: its steps, as (piece of text, weight in the warm-up's loss), and its result.

    turned(digit, turn): what it takes for the dial's place after a turn.
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
                digit = turned(digit, turn)
                pieces += [(f"{turn:+d}", 2), ("=", 1), (str(digit), 5)]
            pieces += [(", so now ", 1), (str(digit), 1)] if in_full else []
        pieces += [("; ", 1)]
    return pieces, digit
