r"""Is the last \boxed{} answer of a completion mathematically equal to the gold answer?

    grade(r"... so its area is \boxed{\frac{1}{2}\text{ cm}^2}.", "0.5")    ->  True

The completion is hostile by assumption: reinforcement learning finds whatever the grader did not expect.
sympy's parse_latex, parse_expr and sympify run python written in an answer; simplify and solve may take hours,
and so may the mere making of a sympy expression: Abs(exp(exp(exp(100))) - exp(exp(100))) does not end. The
usual cure, an alarm, fails outside the main thread and lets verdicts depend on the load of the machine. So:

1. tasks/latex.py turns text into trees of tuples like ("+", "x", "1"), and refuses what it does not know: that
   equals nothing but the same tokens.
2. `same` compares trees, structure by structure, and formulas by their values at 20 points, at 500 digits:
   more than an answer has room to write down, so that no decimal passes for a root or for pi. Units are letters
   like others; but if only one of two answers has units, they are 1.
3. Sets of real numbers, in whatever notation, become sympy's sets, which are canonical.
4. Work is bounded by counting it (characters, tokens, operations, sets), never by a clock.

To use it elsewhere, copy this file and latex.py side by side.
"""

import math
import operator
import re
from fractions import Fraction
from functools import lru_cache
from hashlib import sha256

import mpmath
from sympy import Complement, FiniteSet, Integer, Intersection, Interval, S, Union, oo

try:
    from .latex import (CONSTANTS, FUNCTIONS, INTERVALS, SET_OPERATIONS, SYMBOL, Refused, flat, items, last_boxed, name,
                        read, readings, units)
except ImportError:         # copied into another code base, without the package
    from latex import (CONSTANTS, FUNCTIONS, INTERVALS, SET_OPERATIONS, SYMBOL, Refused, flat, items, last_boxed, name,
                       read, readings, units)

MAX_SETS = 10               # in two answers; sympy takes 0.1 s for so many


def grade(completion, answer, *, rel_tol=0.0):
    r"""True if the last \boxed{} of `completion` equals the gold `answer`.

    The verifiable reward of MASA (arXiv 2510.03259). Takes any two objects and never raises. `rel_tol` is for
    lone numbers as in physics, where 9.79 may pass for 9.81; 0 asks for equality.
    """
    box = last_boxed(completion)
    return box is not None and equal(box, answer, rel_tol=rel_tol)


def equal(prediction, answer, *, rel_tol=0.0):
    """True if two answers, written without a box, are mathematically equal.

    Takes text (a number will do) and never raises; other objects, empty and over-long answers equal nothing.
    """
    try:
        ours, theirs = readings(prediction), readings(answer)
    except Exception:       # Refused, as a rule; but whatever it is, it must not end the training run
        return False
    if ours[0] == theirs[0]:
        return ours[0] != []
    return any(agree(a, b, rel_tol) for a in ours for b in theirs)


def agree(tokens, others, rel_tol):
    """Do two lists of tokens say the same? What cannot be read says nothing."""
    try:
        return same_answer(read(tokens), read(others), rel_tol)
    except Exception:
        return False


# --- The values of formulas -------------------------------------------------------------------------------

REAL = mpmath.MPContext()   # a context of our own, whose precision nobody else changes
REAL.dps = 2000             # for once: mpmath caches its constants, and threads that refine them at once would race
REAL.sin(1), REAL.exp(1), REAL.ln(10)
REAL.dps = 500
POINTS = 20         # so many that \sqrt{b^2-4ac} and m!/k! are there at two of them, and that signs and parities differ
NOISE = REAL.mpf(10) ** -430                    # the relative size of what rounding may leave behind
VALUES = {"i": REAL.mpc(0, 1), "e": +REAL.e, "\\pi": +REAL.pi}


@lru_cache(1000)
def points(tree, plain=False):
    """At how many points is a formula to be compared (a constant: one), and have its values to be real?

    Units are letters, ° and % are factors; but in a `plain` formula units, and ° and % outside of functions, are 1.
    """
    letters = {token for token in flat(tree) if SYMBOL.fullmatch(token) and not (plain and token[0] == '"')}
    return POINTS if letters - CONSTANTS else 1, bool(letters) and "i" not in letters


@lru_cache(10_000)
def value_at(tree, point, plain=False):
    """The value of a formula at a point, None where it has none."""
    try:
        return value(tree, point, plain, points(tree, plain)[1])
    except (Refused, ArithmeticError, ValueError, TypeError):
        return None


def value(tree, point, plain, real):
    """The value of a formula at a point, as mpf or mpc, or int. Refuses what is none, like a list.

    real: refuse what is imaginary on the way, as \\sqrt{x} \\sqrt{y} is where \\sqrt{xy} is not.
    """
    if isinstance(tree, str):
        return REAL.one if plain and tree[0] == '"' else symbol(tree, point)
    kind, *parts = tree
    if kind not in OPERATIONS or kind == "" and any(isinstance(part, str) and part.isdigit() for part in parts[1:]):
        raise Refused("no formula, or x2, which is neither 2x nor x^2")
    if kind == "" and not plain and str(parts[1]).startswith('"base'):
        return int(parts[0], int(parts[1][5:])) * symbol('"base', point)
    if plain and kind in ("°", "%"):
        return value(parts[0], point, plain, real)
    x = OPERATIONS[kind](*(value(part, point, plain and kind not in FUNCTIONS, real) for part in parts))
    if real and abs(x.imag) > NOISE * abs(x):
        raise Refused("not real")
    return x


def symbol(token, point):
    """The value of a number, of a constant, or of a letter at a point."""
    if token in VALUES:
        return VALUES[token]
    if token in ("\\infty", "\\reals"):
        raise Refused("no number")
    if SYMBOL.fullmatch(token):                 # by chance, but the same for ever
        chance = int.from_bytes(sha256(f"{token} {point}".encode("utf-8", "replace")).digest()[:4], "big")
        if point < 2:
            return REAL.mpf(chance % 997 + 1) / (1009, 101)[point]      # between 0 and 1, or 10
        if point < 10:
            return REAL.mpf(chance % 1999 - 999) / (1009, 101)[point // 8]          # of either sign, for |x|
        return REAL.mpf(chance % (89, 899)[point // 15] + 2)                # whole, for (-1)^n and n!
    match = (re.fullmatch(r"(\d*)\.(\d*)(?:\\\w+\s*|\()\{?(\d+)[})]?", token)               # 0.1\overline{6}
             or re.fullmatch(r"(\d*)\.(\d{0,9}?)(?=\d{3})(\d{1,9}?)\3+(?:\\\w+|\.\.\.)", token))    # 0.333...
    if not match:
        return REAL.mpf(token)
    whole, fixed, period = match.groups()
    nines = (10 ** len(period) - 1) * 10 ** len(fixed)
    return REAL.mpf(int(whole + fixed + period) - int(whole + fixed or 0)) / nines


def add(x, y):
    """x + y. Refuses 10^600 + 1, which no 500 digits can tell from 10^600."""
    small, large = sorted((x, y), key=abs)
    if abs(x + y) <= NOISE * abs(large):
        return REAL.zero                        # of equal numbers only noise is left
    if 0 < abs(small) < NOISE * abs(large):
        raise Refused("a term drowns in another")
    return x + y


def power(x, y):
    """x to the power y: the principal value, but the real one of an odd root. Refuses 0^0 and over 10^6 bits."""
    if not x and not y > 0 or not abs(y) * (1 + abs(REAL.mag(x or 1))) < 1e6:
        raise Refused("division by zero, or a power too large")
    root = REAL.nint(1 / y) if y and not y.imag else 0
    if not x.imag and x < 0 and root % 2 and abs(root * y - 1) < NOISE:
        return -(-x) ** y                       # the real root, as in \sqrt[3]{-8}
    return x ** y


@lru_cache(1000)
def factorial(x):
    """x!, within a millisecond."""
    if not 0 <= x <= 3000 or x != REAL.nint(x):
        raise Refused("no whole number, or one too large")
    return REAL.mpf(math.factorial(int(x)))


def binomial(n, k):
    """n over k for whole k, but any n."""
    if not 0 <= k <= 1000 or k != REAL.nint(k):
        raise Refused("no whole number, or one too large")
    return math.prod(n - j for j in range(int(k))) / factorial(k)


def guarded(function):
    """The same function, but refusing large arguments and poles, which are slow or noise."""
    def guard(x):
        if not abs(x) < 1e6:
            raise Refused("too large, or no number")
        result = function(x)
        if not abs(result) < 1 / NOISE:
            raise Refused("a pole")
        return result if abs(result) > NOISE else REAL.zero
    return guard


FUNCTION_VALUES = {"\\ln": REAL.ln, "\\log": lambda x: REAL.ln(x) / REAL.ln(10), **{
    "\\" + name: guarded(function) for name, function in {
        "sin": REAL.sin, "cos": REAL.cos, "tan": REAL.tan, "cot": lambda x: 1 / REAL.tan(x),
        "sec": lambda x: 1 / REAL.cos(x), "csc": lambda x: 1 / REAL.sin(x), "arcsin": REAL.asin,
        "arccos": REAL.acos, "arctan": REAL.atan, "sinh": REAL.sinh, "cosh": REAL.cosh, "tanh": REAL.tanh}.items()},
    "\\exp": lambda x: power(VALUES["e"], x)}
OPERATIONS = {
    "+": add, "-": lambda x, y: add(x, -y), "*": operator.mul, "": lambda *xs: math.prod(xs), "^": power,
    "/": operator.truediv, "\\frac": operator.truediv, "\\over": operator.truediv, "\\binom": binomial,
    "\\choose": binomial, "\\sqrt": lambda n, x: power(x, 1 / n), "!": factorial, "\\lvert": abs,
    "°": lambda x: x * REAL.pi / 180, "%": lambda x: x / 100, "\\lfloor": lambda x: REAL.floor(x + NOISE),
    "\\lceil": lambda x: REAL.ceil(x - NOISE), **FUNCTION_VALUES}


# --- From trees to a verdict ------------------------------------------------------------------------------

WORD = re.compile(r"[A-Za-z][a-z]{2,}|[Nn]o")           # as Yes and yes
STRUCTURES = {",", ";", "set", "rel", "&", "\\\\", ":", *SET_OPERATIONS, *INTERVALS}
MIRRORED = {">": "<", "<": ">", "\\ge": "\\le", "\\le": "\\ge"}
PRODUCT = re.compile(r"[a-z]{2,3}|.|(?=.*[a-z])(?=.*[A-Z])\w+")         # of letters; CBAD and listen are words


def same_answer(a, b, rel_tol):
    """Are two trees equal, as sets of real numbers or by structure, or within a tolerance?

    Where the answer b is a number, a may say of what: m + n = 25, |z| = 5; but not 2x = 10 or x^2 = 4.
    """
    if a[0] == "rel" and a[2] == "=" and b[0] not in STRUCTURES and points(b)[0] == 1 and value_at(b, 0):
        letters = {token for token in flat(a[1]) if SYMBOL.fullmatch(token)} - CONSTANTS
        if len(letters) > 1 or letters and (a[1][0] == "\\lvert" or a[1][0] == "^" and a[1][1][0] in FUNCTIONS):
            a = a[3] if len(a) == 4 else ("rel", *a[3:])
    verdict = same_set(a, b)
    return verdict if verdict is not None else same(a, b) or near(a, b, rel_tol)


def same(a, b):
    """Are two trees equal by structure?"""
    kinds = {tree[0] if tree[0] in STRUCTURES else "" for tree in (a, b)}
    if a == b or kinds == {""}:
        return a == b or same_formula(a, b)
    if "rel" in kinds:
        return same_relation(a, b) if a[0] == "rel" else same_relation(b, a)
    if ":" in kinds:                                            # 1:2 is 1/2, and 1:2:3 is 1/3, 2/3
        a, b = ([("/", part, tree[-1]) for part in tree[1:-1]] if tree[0] == ":" else [tree] for tree in (a, b))
        return len(a) == len(b) and all(map(same, a, b))
    ours, theirs = items(a), items(b)
    if "set" in kinds:
        return all(any(same(x, y) for y in theirs) for x in ours) and all(
            any(same(x, y) for x in ours) for y in theirs)
    if kinds <= {",", ";", ""} and assigned(ours) == assigned(theirs):
        left = list(theirs)
        for x in ours:
            twin = next((y for y in left if same(x, y)), None)
            if twin is None:
                return False
            left.remove(twin)
        return not left
    if len(kinds) > 1 and not kinds <= {",", "()", "\\\\"}:
        return False
    return len(a) == len(b) and all(map(same, a[1:], b[1:]))


def assigned(parts):
    """x = 1, y = 2 gives each value a name, and so an order to the values."""
    return len({part[1] for part in parts if part[0] == "rel" and name(part[1])}) == len(parts)


def same_formula(a, b):
    """Two words are equal if their letters are, a product xy is yx too; other formulas by their values."""
    x, y = name(a), name(b)
    if re.search(r'"|\\angle', x + y):
        return x.replace('"', "").lower() == y.replace('"', "").lower()
    if x.lower() == y.lower() and WORD.fullmatch(x) and WORD.fullmatch(y):
        return True
    if x and y and (x + y).isalpha() and not (PRODUCT.fullmatch(x) and PRODUCT.fullmatch(y)):
        return x == y
    return equal_values(a, b) or bool(units(a)) != bool(units(b)) and equal_values(a, b, plain=True)


def pairs(a, b, plain=False):
    """The values of two formulas at each point where both have one."""
    ours, theirs = points(a, plain)[0], points(b, plain)[0]
    for point in range(max(ours, theirs)):
        x, y = value_at(a, point % ours, plain), value_at(b, point % theirs, plain)
        if x is not None and y is not None:
            yield x, y


def exact(tree):
    """The value of a formula of rational numbers as a Fraction, of up to 40,000 bits. Refuses all others."""
    if isinstance(tree, str):
        if not re.fullmatch(r"-?\d+(\.\d+)?|\.\d+", tree):
            raise Refused("no plain number")
        return Fraction(tree)
    kind, *parts = tree
    if kind not in RATIONAL or kind == "" and any(isinstance(part, str) for part in parts[1:]):
        raise Refused("not rational")
    x, y = (exact(part) for part in (*parts, "0")[:2])
    bits = max(part.bit_length() for part in (x.numerator, x.denominator))
    if kind == "^" and (y.denominator > 1 or abs(y) * bits > 40_000 or x == 0 >= y):
        raise Refused("a root, too large, or 0^0")
    if kind == "!" and (x.denominator > 1 or not 0 <= x < 3000):
        raise Refused("no whole number, or one too large")
    result = Fraction(RATIONAL[kind](x, y))
    if max(result.numerator.bit_length(), result.denominator.bit_length()) > 40_000 or len(parts) > 2:
        raise Refused("too large")
    return result


RATIONAL = {"+": operator.add, "-": operator.sub, "*": operator.mul, "": operator.mul, "/": operator.truediv,
            "\\frac": operator.truediv, "\\over": operator.truediv, "^": lambda x, y: x ** int(y),
            "!": lambda x, _: math.factorial(int(x))}


def equal_values(a, b, plain=False):
    """Are two formulas equal at every point, and two points at least, or as constants?"""
    try:
        return exact(a) == exact(b)             # 2^{2023} - 1, which no 500 digits can tell from 2^{2023}
    except (Refused, ArithmeticError):
        found = 0
    for found, (x, y) in enumerate(pairs(a, b, plain), 1):
        if not close(x, y):
            return False
    return found >= (2 if POINTS in (points(a, plain)[0], points(b, plain)[0]) else 1)


def close(x, y):
    return abs(x - y) <= NOISE * max(abs(x), abs(y))


def same_relation(relation, other):
    """x = 5 and 5; or two equations or inequalities that a constant factor makes one."""
    if other[0] != "rel":
        sides, links = relation[1::2], relation[2::2]
        exact = links.index("\\approx") + 1 if "\\approx" in links else len(sides)
        said = [side for side in sides[:exact] if not name(side)] or [sides[min(exact, len(sides) - 1)]]
        known = {"=", "\\approx", *["\\in"] * (other[0] in STRUCTURES)}               # x \in \{5\}, not x \in 5
        return {*links} <= known and all(same(side, other) for side in said)
    if relation[2::2] == other[2::2] and all(map(same, relation[1::2], other[1::2])):
        return True
    ours, theirs = conditions(relation), conditions(other)
    return len(ours) == len(theirs) and all(map(proportional, ours, theirs))


def conditions(relation):
    """(operator, x - y) for each link x < y or x = y of a chain."""
    links = list(zip(relation[1::2], relation[2::2], relation[3::2]))
    links = links[::-1] if relation[2] in (">", "\\ge") else links          # c > b > a is a < b < c
    return [(MIRRORED[op], ("-", y, x)) if op in (">", "\\ge") else (op, ("-", x, y)) for x, op, y in links]


def proportional(a, b):
    """Are two conditions one, but for a factor? A negative factor would turn an inequality round."""
    found = list(pairs(a[1], b[1]))
    x0, y0 = next((pair for pair in found if all(pair)), (0, 0))
    if a[0] != b[0] or not x0 or len(found) < 2 or a[0] in ("<", "\\le") and not x0 * y0 > 0:
        return False
    return all(close(x * y0, y * x0) for x, y in found)


def near(a, b, rel_tol):
    """Are two trees lone numbers, in the same unit or one in none, that differ by no more than rel_tol |b|?"""
    sides = [tree[-1] if tree[0] == "rel" else tree for tree in (a, b)]
    if not rel_tol > 0 or units(a) != units(b) and units(a) and units(b) or any(points(x, True)[0] > 1 for x in sides):
        return False
    x, y = (value_at(side, 0, True) for side in sides)
    return None not in (x, y) and abs(x - y) <= rel_tol * abs(y)


UNITE = {"\\cup": Union, "\\cap": Intersection, "\\setminus": Complement}
RAYS = {"<": lambda x: Interval.open(-oo, x), "\\le": lambda x: Interval(-oo, x), "=": FiniteSet,
        ">": lambda x: Interval.open(x, oo), "\\ge": lambda x: Interval(x, oo),
        "\\ne": lambda x: Complement(S.Reals, FiniteSet(x))}


def same_set(a, b):
    """Are two trees the same set of real numbers, in the same variable? None if one is no such set."""
    if units(a) and units(b):
        return None
    names = []
    try:
        verdict = as_set(a, names) == as_set(b, names)
    except (Refused, KeyError, ValueError):
        return None
    return verdict if len({*names} - {""}) < 2 else None


def as_set(tree, names):
    """sympy's set of a tree. Appends its variables to `names`, and "" for each set, to count them."""
    kind, *parts = tree
    names.append("")
    if len(names) > MAX_SETS:
        raise Refused("too many sets")
    if tree == "\\reals":
        return S.Reals
    if kind == "set":
        return FiniteSet(*map(place, parts))
    if kind in INTERVALS and len(parts) == 2 and place(parts[0]) < place(parts[1]):
        return Interval(*map(place, parts), kind[0] == "(", kind[1] == ")")
    if kind in SET_OPERATIONS:
        return UNITE[kind](*(as_set(part, names) for part in parts))
    if kind == "rel":
        return Intersection(*(ray(*link, names) for link in zip(parts[::2], parts[1::2], parts[2::2])))
    if kind in (",", ";") and all(part[0] == "rel" and (kind == ";" or "=" not in part) for part in parts):
        return (Union if kind == ";" else Intersection)(*(as_set(part, names) for part in parts))
    raise Refused("no set")


def ray(left, relation, right, names):
    """The numbers x for which x < 5, or 5 > x, or x is in (0, 1)."""
    if not name(left):
        left, relation, right = right, MIRRORED.get(relation, relation), left
    if not name(left):
        raise Refused("no variable")
    names.append(name(left))
    return as_set(right, names) if relation == "\\in" else RAYS[relation](place(right))


def place(tree):
    """Where a real number lies, in steps of 10^-400: finer than an answer of 400 characters can write."""
    if tree in ("\\infty", ("*", "-1", "\\infty")):
        return oo if tree == "\\infty" else -oo
    x = value_at(tree, 0, True) if points(tree, True)[0] == 1 else None
    if x is None or x.imag:
        raise Refused("no real number")
    return Integer(int(REAL.nint(x * 10**400)))
