r"""Is the last \boxed{} answer of a completion mathematically equal to the gold answer?

    grade(r"... so its area is \boxed{\frac{1}{2}\text{ cm}^2}.", "0.5")    ->  True

The completion is hostile by assumption: reinforcement learning finds whatever the grader did not expect.
sympy's parsers run python written in an answer; its simplify and solve may take hours. The usual cure, an
alarm, fails outside the main thread and lets verdicts depend on the load of the machine. So:

1. latex.py turns text into trees of tuples like ("+", "x", "1"). What it cannot read equals only itself.
2. What only dresses an answer is taken off, where the other answer has none of it: conditions, the name of
   what has that value, units.
3. Trees are compared structure by structure, sets of real numbers as sorted ends of intervals, formulas by
   their values at 20 points, at 500 digits: more than an answer has room to write down, so that no decimal
   passes for a root or for pi. Rational numbers are exact.
4. Work is bounded by counting it (characters, tokens, operations, bits), never by a clock.

docs/grading.md lists the conventions. To use it elsewhere, copy this file and latex.py side by side.
"""

import math
import operator
import re
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from hashlib import sha256

import mpmath

# isort: off
try:
    from .latex import (CHANGING, FUNCTIONS, INTERVALS, SET_OPERATIONS, SYMBOL, Refused, flat, items,
                        last_boxed, name, read, readings, symbols, unit)
except ImportError:         # copied into another code base, without the package
    from latex import (CHANGING, FUNCTIONS, INTERVALS, SET_OPERATIONS, SYMBOL, Refused, flat, items,
                       last_boxed, name, read, readings, symbols, unit)
# isort: on

NO_ANSWER = re.compile(r"(?i:nan|n/a|null|<na>|nat|[-+]?inf|[-+]?infinity)|None")   # JSON, Python, pandas
PLAIN_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
OPERATION = re.compile(r"[\d)}!]\s*(?:[-+*/^×·÷]|\\(?:times|cdot|div)\b)|\\(?:[dt]?frac|sqrt|binom)\b|\d!")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
FRACTION = re.compile(r"-?(?:\\[dt]?frac\{\d+\}\{\d+\}|\d+/\d+)")
CONDITIONS = {"<", ">", "\\le", "\\ge", "\\ne", "\\in"}
APPLIED = {"f", "g", "h", "F", "G", "P"}                # letters that stand for functions, as in f(-1) = 5


def grade(completion, answer, problem=""):
    r"""True if the last \boxed{} of `completion` equals the gold `answer`. Takes any three objects.

    The verifiable reward of MASA (arXiv 2510.03259). problem: its text, so that arithmetic with its own
    numbers, not worked out, is no answer: `\boxed{16 + 69}` to "What is 69 + 16?". Never raises.
    """
    box = last_boxed(completion)
    return box is not None and not undone(box, answer, problem) and equal(box, answer)


def undone(box, answer, problem):
    """Is it arithmetic with the problem's own numbers, not worked out, where a plain number is asked for?"""
    if not all(isinstance(x, str) for x in (answer, problem)) or not PLAIN_NUMBER.fullmatch(answer.strip()):
        return False
    end = box.rpartition("=")[2].strip()
    if "." in answer and FRACTION.fullmatch(end):       # 5/2 may be found, where the problem has a 5 and a 2
        return end in problem
    return OPERATION.search(end) is not None and {*NUMBER.findall(end)} <= {*NUMBER.findall(problem)}


def equal(prediction, answer):
    """True if two answers, written without a box, are mathematically equal.

    Takes text (a number will do) and never raises; other objects, empty and over-long answers equal nothing,
    nor does anything equal an answer that says there is none, like nan or None.
    """
    try:
        ours, theirs = readings(prediction), readings(answer)
        if NO_ANSWER.fullmatch(str(answer).strip()):
            return False
        if ours[0] == theirs[0]:
            return ours[0] != []
        return any(same_answer(a, b) for a in trees(ours) for b in trees(theirs))
    except Exception:       # Refused, as a rule; but whatever it is, it must not end the training run
        return False


def trees(found):
    """The trees of those readings that do not ask for too much work."""
    for tokens in found:
        with suppress(Refused):
            yield read(tokens)


# --- What dresses an answer -------------------------------------------------------------------------------

def same_answer(a, b):
    """Are two trees the same answer, if what only one says about its value is left out? b is the gold one."""
    a, b = grouped(a), grouped(b)
    x, y = without_condition(a), without_condition(b)
    if (x == a) != (y == b):
        a, b = x, y
    if claim(a) != claim(b):
        a, b = without_label(a), without_label(b, {"x", "y"})
    x, y = without_units(a), without_units(b)
    return same_value(a, b) or ((x == a) != (y == b) and same_value(x, y))


def grouped(tree):
    """p=5, q=2, p=7, q=2 as two pairs."""
    names = [part[1] if part[0] == "rel" else "" for part in tree[1:]] if tree[0] == "," else []
    size = len(set(names))
    if not 1 < size < len(names) or names != names[:size] * (len(names) // size):
        return tree
    return ";", *((",", *tree[i:i + size]) for i in range(1, len(tree), size))


def without_condition(tree):
    """2n of 2n, n >= 1, and x = 2 of x = 2, x != -3; but not the first of several cases."""
    if tree[0] == "\\where":
        return tree if "\\where" in flat(tree[1:]) else without_condition(tree[1])
    main = [part for part in tree[1:] if part[0] != "rel" or not CONDITIONS.issuperset(part[2::2])]
    if tree[0] != "," or not 0 < len(main) < len(tree) - 1:
        return tree
    return main[0] if len(main) == 1 else (",", *main)


def claim(tree):
    """Does a tree say what has the value: an equation, or a list of such?"""
    return "rel" if tree[0] == "rel" else "list" if tree[0] in (",", ";") and tree[1][0] == "rel" else ""


def without_label(tree, unknowns=frozenset()):
    r"""The value in x = 5, f(2) = 5, \lim f(x) = 5, \frac23 \approx 0.67, A(2, 3); else the tree itself.

    A number, but not 0, may also be the value of a formula as in m + n = 25 or |z| = 5, if that has none of
    the `unknowns`; 2x = 10 and x^2 = 4 are to be solved. x = 1, y = 2 gives (1, 2), and x = 1, 2 a list.
    """
    if claim(tree) == "list":
        names = {part[1] for part in tree[1:] if part[0] == "rel"}
        kind = "()" if 1 < len(names) == len(tree) - 1 else tree[0]
        return kind, *(without_label(part, unknowns) for part in tree[1:])
    sides, links = tree[1::2], tree[2::2]
    if tree[0] != "rel" or not {"=", "\\approx"}.issuperset(links):
        return tree
    exact = links.index("\\approx") + 1 if "\\approx" in links else len(sides)
    is_number = any(not symbols(side) and value_at(side, 0) for side in sides)
    values = [side for side in sides[:exact] if not is_label(side, is_number, unknowns)]
    values = values or sides[1:exact] or sides[exact:exact + 1]
    return values[0] if all(same(x, values[0]) for x in values[1:]) else tree


def is_label(side, is_number, unknowns):
    """Is this side of an equation no more than the name of what is on the other side?"""
    if name(side) or "text" in flat(side) or (side[0] == ":" and all(map(name, side[1:]))):
        return True
    if side[0] == "" and side[1] in APPLIED and len(side) == 3 and isinstance(side[2], tuple):
        return True
    letters = symbols(side)
    special = side[0] == "\\lvert" or (side[0] == "^" and side[1][0] in FUNCTIONS)
    return is_number and (len(letters) > 1 or (special and letters != set())) and not letters & unknowns


def is_unit(tree):
    r"""Is a tree a word that may be a unit, or a product of such, like "m / "s^2?"""
    if isinstance(tree, str):
        word = tree[1:] if len(tree) < 4 else tree[1:].lower()
        return tree[0] == '"' and word not in CHANGING
    product = tree[0] in ("", "*", "/") and all(map(is_unit, tree[1:]))
    return product or (tree[0] == "^" and is_unit(tree[1]))


def without_units(tree):
    """A tree without the units beside numbers, signs of degree and per cent; sines and roots keep theirs."""
    if isinstance(tree, str) or tree[0] in FUNCTIONS or tree[0] in ("text", "\\sqrt"):
        return tree
    kind, *parts = tree
    bare = [without_units(part) for part in parts]
    if kind in ("°", "%"):
        return bare[0]
    if kind in ("", "*") and parts[0] != "-1":
        is_money = isinstance(parts[0], str) and unit(parts[0][1:] or "-")[1] in "$€£¥₹"
        kept = [x for x, part in zip(bare, parts) if not is_unit(part)]
        bare = kept if kept and (is_money or not is_unit(parts[0])) else bare
        return bare[0] if len(bare) == 1 else (kind, *bare)
    if kind == "/" and is_unit(parts[1]) and not is_unit(parts[0]):
        known = all(unit(token[1:])[1][0] != '"' for token in flat(parts[1]) if token.startswith('"'))
        return bare[0] if known or bare[0] != parts[0] else tree
    return kind, *bare


# --- From trees to a verdict ------------------------------------------------------------------------------

WORD = re.compile(r"[A-Za-z][a-z]{2,}|(?i:no)")           # as May and may
STRUCTURES = {",", ";", "set", "rel", "&", "\\\\", ":", "\\where", "text", *SET_OPERATIONS, *INTERVALS}
MIRRORED = {">": "<", "<": ">", "\\ge": "\\le", "\\le": "\\ge"}
PRODUCT = re.compile(r"[a-z]{2,3}|.|(?=.*[a-z])(?=.*[A-Z])\w+")       # of letters; CBAD and listen are words


def same_value(a, b):
    """Are two trees equal? A set may be written as the list of its elements, 1/2 as "1/2 or 0.5"."""
    a, b = (x[1] if x[0] == ";" and all(same(x[1], part) for part in x[2:]) else x for x in (a, b))
    if (a[0] == "set") != (b[0] == "set"):
        a, b = (("set", *items(x)) if x[0] in (",", ";") or (x[0] not in STRUCTURES and x != "\\reals") else x
                for x in (a, b))
    verdict = same_set(a, b)
    return same(a, b) if verdict is None else verdict


def same(a, b):
    """Are two trees equal by structure?"""
    kinds = {tree[0] if tree[0] in STRUCTURES else "" for tree in (a, b)}
    if a == b or kinds == {""}:
        return a == b or same_formula(a, b)
    if kinds == {"rel"}:
        return same_relation(a, b)
    if ":" in kinds:                                # 1:2 is 1/2, and 1:2:3 is 1/3, 2/3; but 3:1 is not 3
        if any(tree[0] != ":" and getattr(value_at(tree, 0), "denominator", 0) == 1 for tree in (a, b)):
            return False
        a, b = ([("/", x, tree[-1]) for x in tree[1:-1]] if tree[0] == ":" else [tree] for tree in (a, b))
        return len(a) == len(b) and all(map(same, a, b))
    if kinds == {"set"}:
        return all(any(same(x, y) for y in theirs[1:]) for ours, theirs in ((a, b), (b, a)) for x in ours[1:])
    if kinds <= {",", ";", ""}:
        left = list(items(b))
        for x in items(a):
            twin = next((y for y in left if same(x, y)), None)
            if twin is None:
                return False
            left.remove(twin)
        return not left
    if len(kinds) > 1 and not kinds <= {",", "()", "\\\\"}:
        return False
    return len(a) == len(b) and all(map(same, a[1:], b[1:]))


def same_formula(a, b):
    """Two words are equal if their letters are, a product xy is yx too; other formulas by their values."""
    x, y = name(a), name(b)
    if re.search(r'"|\\angle', x + y) and (x and y):
        return x.replace('"', "").lower() == y.replace('"', "").lower()
    if x.lower() == y.lower() and WORD.fullmatch(x) and WORD.fullmatch(y):
        return True
    if x and y and (x + y).isalpha() and not (PRODUCT.fullmatch(x) and PRODUCT.fullmatch(y)):
        return x == y
    return equal_values(a, b)


def same_relation(a, b):
    """Two equations or inequalities that are the same side by side, or that a constant factor makes one."""
    if a[2::2] == b[2::2] and all(map(same, a[1::2], b[1::2])):
        return True
    ours, theirs = conditions(a), conditions(b)
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
    if a[0] != b[0] or not x0 or len(found) < 2 or (a[0] in ("<", "\\le") and not x0 * y0 > 0):
        return False
    return all(close(x * y0, y * x0) for x, y in found)


# --- Sets of real numbers: equal if they hold the same of all ends of intervals and the numbers beside -----

COMPARE = {"<": operator.lt, ">": operator.gt, "\\le": operator.le, "\\ge": operator.ge, "=": operator.eq,
           "\\ne": operator.ne}
UNITE = {"\\cup": any, ";": any, "\\cap": all, ",": all, "\\setminus": lambda pair: pair == [True, False]}


def same_set(a, b):
    """Are two trees the same set of real numbers, whatever its letters are? None if one is no such set."""
    if any(x != "\\reals" and x[0] not in STRUCTURES for x in (a, b)):
        return None
    ours, theirs = ({token for token in symbols(tree) if token[0] != '"'} for tree in (a, b))
    variables = ours ^ theirs or ours
    variable = variables.pop() if len(variables) == 1 else ""
    found, needed = 0, 2 if (symbols(a) | symbols(b)) - {variable} else 1
    for point in range(POINTS if needed > 1 else 1):
        with suppress(Refused, KeyError):
            ends = {*range(32)}                                         # some numbers for sets of letters
            in_a, in_b = (as_set(tree, variable, point, ends) for tree in (a, b))
            if any(in_a(x) != in_b(x) for end in ends for x in (end - 1, end, end + 1)):
                return False
            found += 1
    return True if found >= needed else None


def as_set(tree, variable, point, ends):
    """The function that says if a set holds a number of `place`. Adds the ends of its intervals to `ends`."""
    kind, *parts = tree
    if tree == "\\reals":
        return lambda x: True
    if isinstance(tree, str) and SYMBOL.fullmatch(tree):                        # of a letter, chance decides
        return lambda x: chance(f"{tree} {x}", point) % 2 == 1
    if kind == "set":
        return [place(part, point, ends) for part in parts].__contains__
    if kind in INTERVALS and len(parts) == 2:
        low, high = (place(part, point, ends) for part in parts)
        if low < high:
            return lambda x: low < x < high or (x == low and kind[0] == "[") or (x == high and kind[1] == "]")
    if kind == "rel" and parts[:2] == [variable, "\\in"] and len(parts) == 3:
        return as_set(parts[2], variable, point, ends)
    if kind == "rel" and len(parts) == 3 and variable in parts:
        sides = [side if side == variable else place(side, point, ends) for side in parts[::2]]
        return lambda x: COMPARE[parts[1]](*(x if side == variable else side for side in sides))
    if kind == "rel" and len(parts) > 3:
        kind, parts = ",", [("rel", *link) for link in zip(parts[::2], parts[1::2], parts[2::2])]
    elif kind not in SET_OPERATIONS and not (kind in (",", ";") and all(
            part[0] == "rel" and (kind == ";" or "=" not in part) for part in parts)):
        raise Refused("no set of real numbers")
    sets = [as_set(part, variable, point, ends) for part in parts]
    return lambda x: UNITE[kind]([holds(x) for holds in sets])


def place(tree, point, ends):
    """Where a real number lies, in steps of 10^-400: finer than an answer of 400 characters can write."""
    if tree in ("\\infty", ("*", "-1", "\\infty")):
        return math.inf if tree == "\\infty" else -math.inf
    x = value_at(tree, point if symbols(tree) else 0)
    if x is None or x.imag:
        raise Refused("no real number")
    found = floor(x * STEPS + (Fraction(1, 2) if isinstance(x, Fraction) else 0.5))
    ends.add(found)
    return found


# --- The values of formulas: exact fractions as long as may be, then 500 digits ---------------------------

REAL = mpmath.MPContext()   # a context of our own, whose precision nobody else changes
REAL.dps = 2000             # for once: mpmath caches its constants, and threads that refine them would race
REAL.sin(1), REAL.exp(1), REAL.ln(10)
REAL.dps = 500
POINTS = 20         # so many that \sqrt{b^2-4ac} and m!/k! exist at two, and signs and parities differ
NOISE = REAL.mpf(10) ** -430                    # the relative size of what rounding may leave behind
STEPS = 10 ** 400
MAX_BITS = 25_000   # of a fraction: 2023^{2023} and 2023! have fewer


@lru_cache(10_000)
def value_at(tree, point):
    """The value of a formula at a point, None where it has none. Real letters must give real values."""
    letters = {*flat(tree)}
    with suppress(Refused, ArithmeticError, ValueError, TypeError):
        return value(tree, point, "i" not in letters and any(map(SYMBOL.fullmatch, letters)))


def pairs(a, b):
    """The values of two formulas at each point where both have one; constants are everywhere the same."""
    ours, theirs = bool(symbols(a)), bool(symbols(b))
    for point in range(POINTS if ours or theirs else 1):
        x, y = value_at(a, point * ours), value_at(b, point * theirs)
        if x is not None and y is not None:
            yield x, y


def equal_values(a, b):
    """Are two formulas equal at every point, and two points at least, or as constants?"""
    found = 0
    for x, y in pairs(a, b):
        if not close(x, y):
            return False
        found += 1
    return found >= (2 if symbols(a) or symbols(b) else 1)


def close(x, y):
    """Are two values equal, exactly as fractions, else but for noise?"""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    x, y = REAL.convert(x), REAL.convert(y)
    return abs(x - y) <= NOISE * max(abs(x), abs(y))


def value(tree, point, real):
    """The value of a formula at a point, as a Fraction, mpf or mpc. Refuses what is none, like a list.

    real: refuse what is imaginary on the way, as \\sqrt{x} \\sqrt{y} is where \\sqrt{xy} is not.
    """
    if isinstance(tree, str):
        return symbol(tree, point)
    kind, *parts = tree
    if kind not in OPERATIONS or (kind == "" and any(str(part).isdigit() for part in parts[1:])):
        raise Refused("no formula, or x2, which is neither 2x nor x^2")
    if kind == "" and str(parts[1]).startswith('"base'):
        return int(parts[0], int(parts[1][5:])) * symbol('"base', point)
    xs = [value(part, point, real) for part in parts]
    if kind not in EXACT or not all(isinstance(x, Fraction) for x in xs):
        xs = map(REAL.convert, xs)
    x = OPERATIONS[kind](*xs)
    if isinstance(x, Fraction):
        return x if max(x.numerator.bit_length(), x.denominator.bit_length()) < MAX_BITS else REAL.convert(x)
    if (real and abs(x.imag) > NOISE * abs(x)) or abs(REAL.mag(x or 1)) > 1e6:
        raise Refused("not real, or of over 10^6 bits")
    return x


def chance(token, point):
    """32 bits by chance, but the same for ever."""
    return int.from_bytes(sha256(f"{token} {point}".encode("utf-8", "replace")).digest()[:4], "big")


def symbol(token, point):
    """The value of a number, of a constant, of a unit, or of a letter at a point."""
    if token in VALUES:
        return VALUES[token]
    if token[0] == '"':
        factor, base = unit(token[1:])
        return REAL.mpf(factor) * (chance(base, point) % 997 + 1)
    if SYMBOL.fullmatch(token):
        number = chance(token, point)
        if point < 2:
            return REAL.mpf(number % 997 + 1) / (1009, 101)[point]      # between 0 and 1, or 10
        if point < 10:
            return REAL.mpf(number % 1999 - 999) / (1009, 101)[point // 8]          # of either sign, for |x|
        return REAL.mpf(number % (89, 899)[point // 15] + 2)                # whole, for (-1)^n and n!
    match = (re.fullmatch(r"(\d*)\.(\d*)(?:\\\w+\s*|\()\{?(\d+)[})]?", token)               # 0.1\overline{6}
             or re.fullmatch(r"(\d*)\.(\d{0,9}?)(?=\d{3})(\d{1,9}?)\3+(?:\\\w+|\.\.\.)", token))    # 0.333...
    if not match:
        return Fraction(token)
    whole, fixed, period = match.groups()
    nines = (10 ** len(period) - 1) * 10 ** len(fixed)
    return Fraction(int(whole + fixed + period) - int(whole + fixed or 0), nines)


def add(x, y):
    """x + y. Refuses 10^600 + \\pi, which no 500 digits can tell from 10^600."""
    if isinstance(x, Fraction):
        return x + y
    small, large = sorted((x, y), key=abs)
    if abs(x + y) <= NOISE * abs(large):
        return REAL.zero                        # of equal numbers only noise is left
    if 0 < abs(small) < NOISE * abs(large):
        raise Refused("a term drowns in another")
    return x + y


@lru_cache(1000)
def power(x, y):
    """x to the power y: the principal value, but real odd roots. Refuses 0^0 and over 10^6 bits."""
    if isinstance(x, Fraction):
        bits = max(x.numerator.bit_length(), x.denominator.bit_length())
        if y.denominator == 1 and (x or y > 0) and abs(y) * bits < MAX_BITS:
            return x ** int(y)
        x, y = REAL.convert(x), REAL.convert(y)
    if (not x and not y > 0) or not abs(y) * (1 + abs(REAL.mag(x or 1))) < 1e6:
        raise Refused("division by zero, or a power too large")
    root = REAL.nint(1 / y) if abs(y) > 1e-6 and not y.imag else 0
    if not x.imag and x < 0 and root % 2 and abs(root * y - 1) < NOISE:
        return -(-x) ** y                       # the real root, as in \sqrt[3]{-8}
    return x ** y


def floor(x):
    return Fraction(math.floor(x) if isinstance(x, Fraction) else int(REAL.floor(x + NOISE)))


def whole(x, limit):
    """A number as an int, if it is a whole one from 0 to `limit`."""
    if not 0 <= x <= limit or x != int(x):
        raise Refused("no whole number, or one too large")
    return int(x)


def guarded(function, limit=1e6):
    """The same function, but refusing large arguments and poles, which are slow or noise."""
    @lru_cache(1000)
    def guard(x):
        if not abs(x) < limit:
            raise Refused("too large, or no number")
        result = function(x)
        if not abs(result) < 1 / NOISE:
            raise Refused("a pole")
        return result if abs(result) > NOISE else REAL.zero
    return guard


VALUES = {"i": REAL.mpc(0, 1), "e": +REAL.e, "\\pi": +REAL.pi}
OPERATIONS = {
    "+": add, "-": lambda x, y: add(x, -y), "*": operator.mul, "": lambda *xs: math.prod(xs), "^": power,
    "/": operator.truediv, "\\lvert": abs, "\\abs": abs,
    "\\binom": lambda n, k: math.prod(n - j for j in range(whole(k, 60))) / math.factorial(whole(k, 60)),
    "!": lambda x: Fraction(math.factorial(whole(x, 3000))), "\\sqrt": lambda n, x: power(x, 1 / n),
    "%": lambda x: x / 100, "\\lfloor": floor, "\\lceil": lambda x: -floor(-x)}
EXACT = OPERATIONS.keys() - {"\\sqrt"}          # of fractions a fraction, or nearly so
OPERATIONS |= {
    "°": lambda x: x * REAL.pi / 180, "\\ln": REAL.ln, "\\log": lambda x: REAL.ln(x) / REAL.ln(10),
    "\\exp": lambda x: REAL.exp(x) if abs(x) < 1e5 else power(REAL.e, x),
    **{name: guarded(getattr(REAL, name[1:].replace("arc", "a")), 300 if name[-1] == "h" else 1e6)
       for name in FUNCTIONS - {"\\ln", "\\log", "\\exp", "\\abs"}}}     # \tanh(500) is 1 to 433 digits
