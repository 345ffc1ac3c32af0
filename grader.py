r"""Is the last \boxed{} answer of a completion mathematically equal to the gold answer?

    grade(r"... so its area is \boxed{\frac{1}{2}\text{ cm}^2}.", "0.5")    ->  True

The completion is hostile by assumption: reinforcement learning finds whatever the grader did not expect.
sympy's parse_latex, parse_expr and sympify run python written in an answer, or silently read a prefix of it;
simplify, solve and even the automatic evaluation of a sympy object may take hours; and the usual cure, an
alarm, fails outside the main thread and lets the verdict depend on the load of the machine. So this module
reads and computes by itself, with nothing but the standard library and mpmath:

1. Text becomes tokens and tokens become a tree, by recursive descent. What the reader does not know it
   refuses, and a refused answer equals nothing but the same tokens.
2. Structure comes first (lists, tuples, intervals, sets, matrices, relations, units, words), algebra only in
   the leaves. `Judge.same` is the table of what may equal what.
3. Leaves are compared by value: exactly, as rational numbers, wherever possible, so that expressions in
   letters are compared exactly at fixed rational points; else at 500 digits, more than an answer has room to
   write down, so that no decimal passes for a root or for pi.
4. Work is bounded by counting it, never by a clock: length, depth, size of numbers, and a budget per call.
"""

import functools
import math
import operator
import re
import unicodedata
from fractions import Fraction
from itertools import islice, product
from zlib import crc32

import mpmath

MAX_LOOKS = 200_000         # at boxes and braces in search of the last box, about 0.1 s
MAX_LENGTH = 400            # characters of an answer; the longest gold answer of MATH has 159
MAX_DEPTH = 25              # of nesting
MAX_SPREAD = 1_200          # bits between the terms of an inexact sum, before one drowns in the other
BUDGET = 150_000            # work per pair of answers, in rough microseconds: 10^{10000} is read, 9^{9^9} not

REAL = mpmath.MPContext()   # a context of our own, whose precision nobody else changes
REAL.dps = 500
NOISE = REAL.mpf(10) ** -430                      # the relative size of what rounding may leave behind
PI, E, I = +REAL.pi, +REAL.e, REAL.mpc(0, 1)
REAL.sin(PI), REAL.exp(PI), REAL.ln(10)           # fill mpmath's caches of constants, lest threads race to


class Refused(Exception):
    """The answer is not one that this module reads, or it asks for too much work."""


def grade(completion, answer, *, rel_tol=0.0):
    r"""True if the last \boxed{} of `completion` equals the gold `answer`.

    The verifiable reward of MASA (arXiv 2510.03259). Takes any two objects and never raises. `rel_tol` is for
    numerical answers of physics, where 9.79 may pass for 9.81; 0 asks for equality.
    """
    box = last_boxed(completion)
    return box is not None and equal(box, answer, rel_tol=rel_tol)


def equal(prediction, answer, *, rel_tol=0.0):
    """True if two answers, written without a box, are mathematically equal.

    Takes text (a number will do) and never raises; other objects, empty and over-long answers equal nothing.
    """
    try:
        ours, theirs = readings(prediction), readings(answer)
        if ours[0] == theirs[0] != []:
            return True
        judge = Judge(rel_tol)
        return any(judge.same(read(p), read(a)) for p, a in product(ours, theirs))
    except Exception:       # Refused, as a rule; but whatever it is, it must not end the training run
        return False


def last_boxed(text):
    r"""The content of the last \boxed{...} of `text` that closes (else of the last \fbox{...}), or None.

    Never raises. A single number or letter needs no braces, as in \boxed 2. Boxes are tried from the last one
    backwards; one that does not close leaves its brace open for all before it, so no part is scanned twice.
    """
    if not isinstance(text, str):
        return None
    for command in ("\\boxed", "\\fbox"):
        end, left = len(text), MAX_LOOKS
        while left > 0 and (start := text.rfind(command, 0, end)) >= 0:
            left -= 1
            if opening := OPENING.match(text, start + len(command), end):
                if opening[1]:
                    return opening[1]
                depth = 1
                for brace in islice(BRACE.finditer(text, opening.end(), end), left):
                    left -= 1
                    depth += {"{": 1, "}": -1}.get(brace[0], 0)
                    if depth == 0:
                        return text[opening.end():brace.start()]
            end = start
    return None


OPENING = re.compile(r"\s{0,99}(?:\{|(-?\d+(?:\.\d+)?|(?<=\s)[A-Za-z](?![A-Za-z])))")
BRACE = re.compile(r"\\[\\{}]|[{}]")


# --- From text to tokens ----------------------------------------------------------------------------------

UNICODE = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "∕": "/", "⁄": "/",
    "√": r"\sqrt ", "∛": r"\sqrt[3]", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∈": r"\in ",
    "∅": r"\emptyset ", "△": r"\triangle ", "∠": r"\angle ", "‘": "'", "’": "'", "′": "'", "“": "", "”": "",
    "、": ",", "。": ".", "⟨": "(", "⟩": ")"})

# What is settled before there are tokens, in this order.
SPELLINGS = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"\\(?:left|right)\s*\.", " "),
    (r"\\[hv]?phantom\s*(?:\{[^{}]*\}|\\?.)", ""),
    (r"\\begin\s*\{(?:[pbB]?|small)matrix\*?\}|\\begin\s*\{array\}\s*\{[clr|\s]*\}", r"\\matrix "),
    (r"\\begin\s*\{([vV]matrix|cases)\*?\}", r"\\\1 "),
    (r"\\end\s*\{\w+\*?\}", r"\\end "),
    (r"\\\\\s*\[[\d.]+\s*(?:ex|em|pt|mm|cm)\]", r"\\\\ "),                     # \\[1ex]
    (r"\\operatorname\*?\s*\{(\w+)\}", r"\\\1 "),
    (r"\\mathbb\s*\{?\s*R\s*\}?", r"\\reals "),
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])", "°"),
    (r"\^\s*\{?\s*\\prime\s*\}?", "'"),
    (r"(?i)\b([ap])\.\s?m\b\.?", r"\1m"),                                       # 3:30 p.m.
    (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
    (r"\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?", r"\\overline{\1\2\3}"),
    (r"\^\s*\{\s*(\d)\s*\}(?!\s*\d)", r"^\1"),
    (r"\\\{\s*[a-zA-Z](?:\s*\\in\s*\\reals)?\s*(?:\\mid|\||:)", r"\\{\\mid "),  # {x | x > 2} is x > 2
    (r"\((\w+)\)\s*(?=_)", r"\1"),                                              # (101)_2
    (r"(?<![\d.])\d{1,3}(?:(?:\{,\}|,?\\[,!;: ]\s*|,\s*\\!|[ ~])\d{3})+(?!\d)",
     lambda number: re.sub(r"\D", "", number[0])),
    (r"(?<![\w}.^])(\d+)\s+(\d+\s*/\s*\d+)(?![\d.])", r"(\1+\2)"),              # 3 1/2 and 3\frac{1}{2}
    (r"(?<![\w}.^])(\d+)\s*(\\[dtc]?frac\s*(?:\d\s*\d|\{\s*\d+\s*\}\s*\{\s*\d+\s*\}))", r"(\1+\2)"))]

THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
TOKEN = re.compile(r"""(?s:
    (?P<base>(?:\\(?:text|mathrm)\s*\{)?(?P<digits>[A-Z]*\d[\dA-Z]*)\}?\s*_\s*
        (?:\{\s*(?P<b1>[2-9]|[12]\d|3[0-6])\s*\}|(?P<b2>[2-9](?!\d)|[12]\d|3[0-6])))
  | (?P<number>\d*\.\d*\\(?:overline|bar)\s*(?:\{\d+\}|\d) | \d*\.\d*\(\d+\) | \d*\.\d+(?:\\[lc]?dots|\.\.\.)
        | (?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?)
  | \\(?:text(?:bf|it|rm|sf|tt|up|normal)?|[mh]box|mathrm|mathsf)\s*\{(?P<text>[^{}]*)\}
  | (?P<letters>[A-Za-z]+|[^\W\d_]+)
  | \\[a-zA-Z]+ | \\.? | \.\.\. | <= | >= | != | == | \*\* | \S)""", re.VERBOSE)

IGNORED = frozenset(r"""
    $ . ~ ` " \( \) \[ \] \! \, \: \; \> \ \left \right \middle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr
    \displaystyle \textstyle \limits \quad \qquad \mathbf \boldsymbol \bm \mathit \mathcal \vec \hline
    \underline \text \textbf \textit \mathrm \mbox \boxed \fbox""".split()) | {"\\ ", "\\\n"}
ALIASES = {alias: name for name, aliases in {
    r"\frac": r"\dfrac \tfrac \cfrac", r"\binom": r"\dbinom \tbinom", r"\le": r"\leq \leqslant <=",
    r"\ge": r"\geq \geqslant >=", "<": r"\lt", ">": r"\gt", r"\ne": r"\neq !=", "=": "==", "%": r"\%",
    "*": r"\times \cdot \ast", "/": r"\div", "^": "**", r"\{": r"\lbrace", r"\}": r"\rbrace", ":": r"\colon",
    "[": r"\lbrack", "]": r"\rbrack", "(": r"\lparen \langle", ")": r"\rparen \rangle", "or": r"\lor \vee",
    "|": r"\lvert \rvert \vert \|", r"\emptyset": r"\varnothing", r"\setminus": r"\backslash", "$$": r"\$",
    r"\dots": r"\ldots \cdots ...", ",": r"\land \wedge", r"\approx": r"\simeq", "$£": "£", "$€": "€",
}.items() for alias in aliases.split()}
SPOKEN = {"and": ",", "or": "or", "to": ":", "degree": "°", "degrees": "°", "percent": "%", "dollar": "$$",
          "dollars": "$$", "infinity": r"\infty", "approximately": r"\approx", "about": r"\approx"}
BARE = frozenset("sin cos tan cot sec csc arcsin arccos arctan exp ln log sqrt pi infty".split())
UNITS = frozenset("mm cm dm km mg kg ml mi ft in yd lb lbs oz hr hrs min sec mph kph am pm usd hz".split())


def normalise(text):
    """`text` (or a number) in one spelling of characters, digit groups and degrees, and without a box."""
    if isinstance(text, (int, float)) and abs(text) < 10**MAX_LENGTH:
        text = str(text)
    if not isinstance(text, str) or len(text := text.strip()) > MAX_LENGTH:
        raise Refused("no text, or too much")
    text = last_boxed(text) or text
    if not text.isascii():
        plain = functools.partial(unicodedata.normalize, "NFKC")
        text = re.sub("[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda run: "^{%s}" % plain(run[0]), text)
        text = re.sub("[₀-₉]+", lambda run: "_{%s}" % plain(run[0]), text)
        text = re.sub("[¼-¾⅐-⅞]", lambda half: r"\frac{%s}{%s}" % tuple(plain(half[0]).split("⁄")), text)
        text = "".join(map(spell, plain(text.replace("ℝ", r"\reals ")).translate(UNICODE)))
    for pattern, replacement in SPELLINGS:
        text = pattern.sub(replacement, text)
    return text


def readings(text):
    """The tokens of an answer; both ways for 1,234, which may be a list (in brackets it is, 1,000 never)."""
    text = normalise(text)
    whole = text if re.search(r"[(\[]|\\\{", text) else THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return [tokenise(reading) for reading in dict.fromkeys((whole, whole if ",0" in text else text))]


def spell(char):
    """A Greek letter as its command, nothing for an invisible character, any other character as it is."""
    script, *name = unicodedata.name(char, "").split() or [""]
    if script == "GREEK" and len(name) > 1:
        return "\\" + (name[-1].lower() if name[0] == "SMALL" else name[-1].capitalize()) + " "
    return "" if unicodedata.category(char) == "Cf" else char


def tokenise(text, spoken=False):
    r"""The tokens of normalised text; their first character tells their kind.

    A number is itself, `#A5_11` a numeral with its base, `"word` a word of running text (`spoken`, as in
    \text), `\frac` a command, `x` a letter, the rest punctuation.
    """
    tokens = []
    for match in TOKEN.finditer(text):
        kind, token = match.lastgroup, match[0]
        if kind == "base":
            tokens.append(f"#{match['digits']}_{match['b1'] or match['b2']}")
        elif kind == "text":
            tokens += tokenise(match["text"], spoken=True)
        elif kind == "letters" and token.lower() in SPOKEN:
            tokens.append(SPOKEN[token.lower()])
        elif kind == "letters":
            unit = tokens and tokens[-1][-1] in "0123456789})" and (token.lower() in UNITS or (
                len(token) > 3 and text[match.start() - 1] == " " and re.search("[aeiou]", token[1:])))
            word = unit or not token.isascii() or spoken and token not in ("e", "i")
            tokens += ['"' + token] if word else ["\\" + token] if token in BARE else token
        elif (token := ALIASES.get(token, token)) not in IGNORED:
            tokens.append(token)
    return tokens


# --- From tokens to a tree --------------------------------------------------------------------------------
#
# A node is a tuple that starts with its kind. Leaves: ("num", Fraction), ("sym", name), ("text", letters),
# ("base", digits, base). Algebra: ("add", *terms), ("mul", *factors), ("pow", base, exponent), ("sin", x) and
# other functions. Structure: ("list", *items), ("or", *items), ("set", *items), ("(]", *items) and so on,
# ("matrix", *rows) of ("row", *entries), ("ratio", *parts), ("unit", node, words), ("\\cup", a, b) and so on,
# ("rel", named, sides, relations), where `named` tells whether the first side names the others, as in x = 5.

ONE, MINUS_ONE, TWO = (("num", Fraction(n)) for n in (1, -1, 2))
REALS, INFINITY, MINUS_INFINITY = ("sym", "\\reals"), ("sym", "\\infty"), ("sym", "-\\infty")
MARKS = {"°", "%"}
CONSTANTS = {"i": I, "e": E, "\\pi": PI, "\\infty": REAL.inf, "-\\infty": REAL.ninf,
             "°": PI / 180, "%": Fraction(1, 100)}
SYMBOLS = frozenset("\\" + name for name in (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma "
    "tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell "
    "pi infty reals angle triangle").split())
FUNCTIONS = {
    "sin": REAL.sin, "cos": REAL.cos, "tan": REAL.tan, "cot": lambda x: 1 / REAL.tan(x),
    "sec": lambda x: 1 / REAL.cos(x), "csc": lambda x: 1 / REAL.sin(x), "sinh": REAL.sinh, "cosh": REAL.cosh,
    "tanh": REAL.tanh, "arcsin": REAL.asin, "arccos": REAL.acos, "arctan": REAL.atan, "exp": REAL.exp,
    "ln": REAL.ln, "log": lambda x: REAL.ln(x) / REAL.ln(10), "lg": lambda x: REAL.ln(x) / REAL.ln(10)}
BRACKETS = {"|": ("abs", "|"), "\\lfloor": ("floor", "\\rfloor"), "\\lceil": ("ceil", "\\rceil")}
NUMERALS = {word: ("num", Fraction(n)) for n, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve".split())}
STEMS = {alias: name for name, aliases in {
    "^ 2": "square sq squared", "^ 3": "cubic cubed", "/": "per", "mi / h": "mph", "$$": "usd", "": "unit",
    "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre", "in": "inch inche",
    "ft": "foot feet", "yd": "yard", "mi": "mile", "h": "hour hr", "min": "minute", "s": "second sec",
    "g": "gram", "kg": "kilogram", "lb": "pound", "oz": "ounce"}.items() for alias in aliases.split()}

END = "<end>"
SEPARATORS, SET_OPERATORS = (",", ";", "or"), ("\\cup", "\\cap", "\\setminus")
RELATIONS = ("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", "\\approx")
STOPS = {END, ")", "]", "}", "\\}", "&", "\\\\", "\\end", ":", *SEPARATORS, *RELATIONS, *SET_OPERATORS}
NO_FACTORS = STOPS | {"+", "-", "*", "/", "\\mid", "\\rfloor", "\\rceil"}


def read(tokens):
    r"""The tree of an answer: for 1 \pm 2 a list, where signs vary freely unless \mp ties them together."""
    tokens = list(tokens)
    while tokens[-1:] and tokens[-1] in (",", ";", "\\\\"):
        tokens.pop()
    signs = [at for at, token in enumerate(tokens) if token in ("\\pm", "\\mp")]
    upper = ["+" if tokens[at] == "\\pm" else "-" for at in signs]
    lower = ["-" if tokens[at] == "\\pm" else "+" for at in signs]
    trees = []
    for choice in (upper, lower) if "-" in upper or len(signs) > 4 else product("+-", repeat=len(signs)):
        for at, sign in zip(signs, choice):
            tokens[at] = sign
        trees.append(Reader(tokens).read())
    merged = [item for place in zip(*map(items, trees)) for item in dict.fromkeys(place)]
    return trees[0] if len(trees) == 1 else ("list", *merged)


def items(node):
    return node[1:] if node[0] in ("list", "or") else (node,)


def flat(tokens):
    """Words run together in lower case: neither spaces, hyphens nor brackets tell answers apart."""
    text = "".join(token.lstrip('"') for token in tokens if token not in "(){}[]'").lower()
    return re.sub(r"(?<=[a-z])-(?=[a-z])", "", text)


def numeral(token):
    r"""The exact value of a number token: 12, .5, 3e5, 0.1\overline{36}, 0.(3), 0.333..."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(?:[eE]([-+]?\d{1,3}))?", token):
        return Fraction(match[1]) * Fraction(10) ** int(match[2] or 0)
    match = (re.fullmatch(r"(\d*)\.(\d*)(?:\\\w+\s*|\()\{?(\d+)[})]?", token)
             or re.fullmatch(r"(\d*)\.(\d{0,9}?)(?=\d{3})(\d{1,9}?)\3+(?:\\\w+|\.\.\.)", token))
    if not match:
        raise Refused(f"number {token}")
    whole, fixed, repeated = match.groups()
    return Fraction(int(whole + fixed + repeated) - int(whole + fixed or 0),
                    (10 ** len(repeated) - 1) * 10 ** len(fixed))


def unit_words(tokens):
    """The words of a unit, {"m", "/", "s", "^", "2"} for m/s^2, without plurals and in short."""
    if not all(token[0] in '"$/^*-' or token[0].isalpha() or token in ("2", "3") for token in tokens):
        raise Refused("no unit")
    words = [token.lstrip('"').lower() for token in tokens]
    words = [word.rstrip("s") or word for word in words]
    return {part for word in words for part in STEMS.get(word, word).split()}


def negative(node):
    if node[0] in ("num", "base"):
        return ("num", -node[1]) if node[0] == "num" else ("base", "-" + node[1], node[2])
    return MINUS_INFINITY if node == INFINITY else times(MINUS_ONE, node)


def fraction(top, bottom):
    if top[0] == bottom[0] == "num" and bottom[1]:
        return ("num", top[1] / bottom[1])
    return times(top, ("pow", bottom, MINUS_ONE))


def times(*factors):
    """A product. A number before a matrix multiplies each entry."""
    if len(factors) == 1:
        return factors[0]
    scalars = [factor for factor in factors if factor[0] != "matrix"]
    if len(scalars) == len(factors) - 1:
        matrix, = set(factors) - set(scalars)
        return ("matrix", *(("row", *(times(*scalars, entry) for entry in row[1:])) for row in matrix[1:]))
    return ("mul", *(part for factor in factors for part in (factor[1:] if factor[0] == "mul" else [factor])))


class Reader:
    """Recursive descent: answer > relation > side > sum > product > factor > atom. Raises Refused."""

    def __init__(self, tokens):
        self.tokens, self.at = [*tokens, END], 0
        self.depth = self.bars = 0
        self.units = set()

    def peek(self, ahead=0):
        return self.tokens[self.at + ahead]

    def take(self, *expected):
        token = self.peek()
        if token not in expected if expected else token == END:
            raise Refused(f"{token} instead of {expected}")
        self.at += 1
        return token

    def accept(self, *wanted):
        return self.take() if self.peek() in wanted else None

    def words(self):
        start = self.at
        while self.peek() not in STOPS:
            self.take()
        return self.tokens[start:self.at]

    def read(self):
        try:
            node = self.answer()
            self.take(END)
            return node
        except Refused:
            letters = flat(self.tokens[:-1])
            if not letters or not all(re.match(r'["\w(){}]', token) for token in self.tokens[:-1]):
                raise
            return ("text", letters)                        # mere words need no grammar

    def answer(self):
        parts, kind = [], "list"
        while True:
            while separator := self.accept(*SEPARATORS):
                kind = "or" if separator == "or" else kind
            parts.append(self.relation())
            if self.peek() not in SEPARATORS:
                return parts[0] if len(parts) == 1 else (kind, *parts)

    def relation(self):
        self.accept("\\approx", "=")
        sides, relations = [self.side()], []
        while relation := self.accept(*RELATIONS, *(":" if sides[0][0] == "text" else "")):
            relations.append("=" if relation == ":" else relation)
            sides.append(self.side())
        if {*relations} == {"="} and is_name(sides[-1]) and not is_name(sides[0]):      # 5 = x
            sides.reverse()
        return ("rel", is_name(sides[0]), tuple(sides), tuple(relations)) if relations else sides[0]

    def side(self):
        outer, self.units = self.units, set()
        token = self.peek()
        if token[0] == '"' and (len(token) > 2 or self.peek(1)[0] == '"' or self.peek(1) in STOPS):
            node = ("text", flat(self.words()))
        else:
            node = self.ratio()
        while operation := self.accept(*SET_OPERATORS):
            node = (operation, node, self.sum())
        node = NUMERALS.get(spelled(node).lower(), node)
        node = ("unit", node, frozenset(self.units)) if self.units else node
        self.units = outer
        return node

    def ratio(self):
        """1:2 is the number 1/2, and 1:2:3 the numbers 1/3 and 2/3."""
        parts = [self.sum()]
        while self.accept(":"):
            parts.append(self.sum())
        last = parts.pop()
        parts = [fraction(part, last) for part in parts] or [last]
        return parts[0] if len(parts) == 1 else ("ratio", *parts)

    def sum(self):
        terms = [self.product()]
        while operation := self.accept("+", "-"):
            terms.append(self.product() if operation == "+" else negative(self.product()))
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def product(self):
        factors = [self.signed()]
        while True:
            token = self.peek()
            if self.accept("*"):
                factors.append(self.signed())
            elif self.accept("/"):
                factors[-1] = fraction(factors[-1], self.signed())
            elif token[0] in '"$':
                self.units |= unit_words(self.words())
            elif not self.goes_on():
                return times(*factors)
            elif token[0].isdigit() and factors[-1][0] in ("num", "sym"):
                raise Refused("x2 is neither 2x nor x^2")
            else:
                factors.append(self.factor())

    def goes_on(self):
        token = self.peek()
        return token not in NO_FACTORS and token[0] not in '"$' and not (token == "|" and self.bars)

    def signed(self):
        minus = False
        while token := self.accept("+", "-", "$$", "$£", "$€"):
            minus ^= token == "-"
            self.units |= {token} - {"+", "-"}
        return negative(self.factor()) if minus else self.factor()

    def factor(self):
        node = self.atom()
        while True:
            if self.peek() == "^":
                node = ("pow", node, self.exponent())
            elif self.peek() == "!" and node[0] != "!":         # a double factorial is another thing
                node = (self.take(), node)
            elif mark := self.accept(*MARKS):
                node = times(node, ("sym", mark))
            else:
                return node

    def exponent(self):
        self.take("^")
        node = negative(self.argument()) if self.accept("-") else self.argument()
        if self.peek() == "^":
            raise Refused("a tower without braces")
        return node

    def argument(self, digits=False):
        r"""What a command without braces applies to. Of a number, \frac12 takes the first digit, 2^10 all."""
        if digits and self.peek().isdigit():
            self.tokens[self.at:self.at + 1] = self.peek()
        return self.atom()

    def atom(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Refused("too deep")
        token = self.take()
        outer, self.bars = self.bars, token == "|"
        if token[0].isdigit() or token[0] == ".":
            node = ("num", numeral(token))
        elif token[0] == "#" and len(token) > 1:
            node = ("base", *token[1:].split("_"))
        elif token[0].isalpha() or token[0] == '"' and len(token) == 2 or token in SYMBOLS:
            node = ("sym", self.name(token.lstrip('"')))
        elif token in ("(", "[", "{"):
            node = self.group(token)
        elif token == "\\{":
            node = self.braces()
        elif token in BRACKETS:
            node = (BRACKETS[token][0], self.sum())
            self.take(BRACKETS[token][1])
        elif token in ("\\frac", "\\binom"):
            parts = self.argument(digits=True), self.argument(digits=True)
            node = fraction(*parts) if token == "\\frac" else ("binom", *parts)
        elif token == "\\sqrt":
            index = self.group("[") if self.accept("[") else TWO
            node = ("pow", self.argument(), fraction(ONE, index))
        elif token[1:] in FUNCTIONS:
            node = self.function(token[1:])
        elif token in ("\\matrix", "\\vmatrix", "\\Vmatrix", "\\cases"):
            node = (token[1:], *self.rows())
        elif token == "\\emptyset":
            node = ("set",)
        else:
            raise Refused(f"unknown {token}")
        self.bars = outer
        self.depth -= 1
        return node

    def name(self, name):
        while token := self.accept("_", "'"):
            start = self.at
            if token == "_":
                self.argument()
            name += token + flat(self.tokens[start:self.at])
        return name

    def group(self, opening):
        node = self.answer()
        brackets = opening + (self.take("}") if opening == "{" else self.take(")", "]"))
        if node[0] == "list" and opening != "{":
            return (brackets, *node[1:])
        if brackets not in ("()", "[]", "{}"):
            raise Refused("brackets that do not match")
        return node

    def braces(self):
        if self.accept("\\}"):
            return ("set",)
        condition = self.accept("\\mid")
        node = self.answer()
        self.take("\\}")
        return node if condition else ("set", *items(node))

    def function(self, name):
        power = self.exponent() if self.peek() == "^" else None
        base = self.argument(digits=self.peek() != "10") if name == "log" and self.accept("_") else None
        if self.peek() in ("(", "[", "{"):
            x = self.atom()
        else:
            factors = [self.signed()]
            while self.goes_on() and self.peek()[1:] not in FUNCTIONS and not self.peek()[0].isdigit():
                factors.append(self.factor())
            x = times(*factors)
        if power == MINUS_ONE:
            return ("arc" + name, x)
        node = fraction(("ln", x), ("ln", base)) if base else (name, x)
        return ("pow", node, power) if power else node

    def rows(self):
        rows = [[]]
        while not self.accept("\\end"):
            if self.accept("\\\\"):
                rows.append([])
            elif not self.accept("&"):
                rows[-1].append(self.answer())
        if not any(rows):
            raise Refused("an empty matrix")
        return [("row", *row) for row in rows if row]


# --- What trees are ---------------------------------------------------------------------------------------

def names(tree):
    """The names of all symbols in a tree."""
    if tree[:1] == ("sym",):
        return {tree[1]}
    return set().union(*(names(part) for part in tree if isinstance(part, tuple)))


def is_constant(*nodes):
    return names(nodes) <= CONSTANTS.keys()


def is_name(node):
    r"""Can `node` be what an answer is called: x, AB, f(x), f(2), f^{-1}(x), \angle A, (x, y), Area?"""
    if node[0] == "mul":
        head = node[1][1] if node[1][0] == "pow" and node[1][2] == MINUS_ONE else node[1]
        return is_name(head) and all(part[0] == "num" or is_name(part) for part in node[2:])
    return (node[0] == "text" or node[0] == "sym" and node[1] not in CONSTANTS
            or node[0] == "()" and all(map(is_name, node[1:])))


def spelled(node):
    """The letters of a node that is nothing but letters, else nothing."""
    if node[0] == "text" or node[0] == "sym" and node[1].isalpha():
        return node[1]
    letters = [spelled(factor) for factor in node[1:]] if node[0] == "mul" else [""]
    return "".join(letters) if all(letters) else ""


def unmarked(node):
    return times(*node[1:-1]) if node[0] == "mul" and node[-1][0] == "sym" and node[-1][1] in MARKS else node


def coordinates(node):
    """What stands in order in (1, 2), in a column vector or in 1, 2; nothing in an interval like [1, 2]."""
    if node[0] == "matrix":
        return [row[1] for row in node[1:]] if all(len(row) == 2 for row in node[1:]) else []
    return node[1:] if node[0] in ("list", "()") or node[0] == "[]" and len(node) != 3 else []


def assigns(parts):
    """x = 1, y = 2 gives each value a name, and so an order to the values."""
    return len({part[2][0] for part in parts if part[0] == "rel" and part[1]}) == len(parts)


def subjects(node):
    """What the relations in a tree are about."""
    if node[0] == "rel":
        return {side for side in node[2] if is_name(side)}
    return set().union(*(subjects(part) for part in node[1:] if isinstance(part, tuple)))


def conditions(relation):
    """(relation, difference) for each link of a < b = c, where the difference is to be < 0 or = 0."""
    sides = [side[1] if side[0] == "unit" else side for side in relation[2]]
    links = [(y, MIRRORED[op], x) if op in MIRRORED else (x, op, y)
             for x, op, y in zip(sides, relation[3], sides[1:])]
    return [(op, ("add", x, negative(y))) for x, op, y in links]


# --- What values are --------------------------------------------------------------------------------------
#
# A Fraction if it is known to be rational, else an mpf or mpc of the context REAL.

def is_real(value):
    return not isinstance(value, REAL.mpc)


def bits(value):
    return value.numerator.bit_length() + value.denominator.bit_length()


def inexact(value):
    return REAL.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


# --- From trees to a verdict ------------------------------------------------------------------------------

MIRRORED = {">": "<", "\\ge": "\\le"}
OPERATIONS = {
    "=": operator.eq, "\\ne": operator.ne, "<": operator.lt, "\\le": operator.le, ">": operator.gt,
    "\\ge": operator.ge, "\\cup": operator.or_, "\\cap": operator.and_, "\\setminus": operator.gt,
    "(": operator.gt, "[": operator.ge, ")": operator.lt, "]": operator.le}
INTERVALS = ("()", "(]", "[)", "[]")
PRODUCT = re.compile(r"([a-z]{2,3}|.) ([a-z]{2,3}|.)")     # of letters; CBAD and No are words
COLLECTIONS = {"list", "or", "set", "matrix", "vmatrix", "Vmatrix", "cases", "row", "ratio", *INTERVALS}
SCALE = 10**300             # endpoints are compared as multiples of 1 / SCALE
POINTS = 5                  # at which letters are given values


class Judge:
    """Compares trees, within one budget of work. Raises Refused."""

    def __init__(self, tolerance=0.0):
        self.tolerance = Fraction(tolerance)
        self.budget, self.known = BUDGET, {}
        self.point, self.real = 0, False

    def spend(self, cost, size=0):
        """Count some work, which grows with the square of the bits of exact numbers."""
        cost += (size // 1000) ** 2
        if cost > self.budget:
            raise Refused("too much work")
        self.budget -= cost

    def same(self, a, b):
        self.spend(5)
        kinds = {a[0], b[0]}
        if a == b:
            return True
        x, y = spelled(a), spelled(b)
        if "text" in kinds or x and y and not PRODUCT.fullmatch(x + " " + y):
            return x != "" and x.lower() == y.lower()
        if "rel" in kinds and self.same_relation(a, b):
            return True
        if kinds & {"rel", "or", "list", "set", *INTERVALS, *SET_OPERATORS}:
            verdict = self.same_set(a, b)
            if verdict is not None:
                return verdict
        if "unit" in kinds:
            (a, ours), (b, theirs) = (node[1:] if node[0] == "unit" else (node, set()) for node in (a, b))
            ours, theirs = ours | names(a) & MARKS, theirs | names(b) & MARKS
            more_precise = (ours <= theirs or ours >= theirs) and not (ours ^ theirs) & {"^", "/"}
            return (not ours or not theirs or more_precise) and self.same(a, b)     # 7 (distinct) integers
        if kinds & COLLECTIONS:
            return self.same_items(a, b)
        if kinds == {"base", "num"}:        # a bare numeral could be in any base: only its digits count
            number, (_, digits, _) = (a, b) if a[0] == "num" else (b, a)
            return bool(re.fullmatch(r"-?\d+", digits)) and number[1] == int(digits)
        if kinds & {"rel", "base", *SET_OPERATORS} and kinds != {"base"}:
            return False
        one_marked = names(a).isdisjoint(MARKS) != names(b).isdisjoint(MARKS)
        if one_marked and self.same_value(unmarked(a), unmarked(b)):
            return True                     # 90° is 90 as well as pi/2, 50% is 50 as well as 1/2
        return self.same_value(a, b)

    def same_items(self, a, b):
        """Tuples, vectors and matrices in order; comma separated answers and sets in any order."""
        kinds = {a[0], b[0]}
        ours, theirs = (node[1:] if node[0] == "set" else items(node) for node in (a, b))
        if kinds & {"()", "[]"} and kinds & {"list", "matrix"}:
            ours, theirs = coordinates(a), coordinates(b)
        elif not kinds & {"list", "or", "set"}:
            if len(kinds) > 1:
                return False
            ours, theirs = a[1:], b[1:]
        elif "set" in kinds:
            return all(any(self.same(x, y) for y in theirs) for x in ours) and all(
                any(self.same(x, y) for x in ours) for y in theirs)
        elif assigns(ours) == assigns(theirs):
            return self.matched(ours, theirs)
        return 0 < len(ours) == len(theirs) and all(map(self.same, ours, theirs))

    def matched(self, ours, theirs):
        """Is there one of theirs for each of ours, and none left over?"""
        left = list(theirs)
        for x in ours:
            twin = next((y for y in left if self.same(x, y)), None)
            if twin is None:
                return False
            left.remove(twin)
        return not left

    def same_relation(self, a, b):
        """x = 5 and 5; or two equations or inequalities that a constant factor makes one."""
        relation, other = (a, b) if a[0] == "rel" and (b[0] != "rel" or "\\approx" in a[3]) else (b, a)
        _, named, sides, relations = relation
        if "\\approx" in relations:
            return any(self.same(side, other) for side in sides[named:])
        if other[0] == "rel":
            ours, theirs = conditions(a), conditions(b)
            return len(ours) == len(theirs) and all(map(self.same_condition, ours, theirs))
        return {*relations} <= ({"=", "\\in"} if named else {"="}) and all(
            self.same(side, other) for side in sides[named:])

    def same_condition(self, a, b):
        """Is one difference the other one times a constant (a positive one, if it is to be < 0)?"""
        pairs = self.pairs(a[1], b[1])
        x0, y0 = next((pair for pair in pairs if all(pair)), (0, 0))
        if a[0] != b[0] or not x0 or len(pairs) < 2 or a[0] in ("<", "\\le") and not (
                is_real(x0) and is_real(y0) and (x0 > 0) == (y0 > 0)):
            return False
        return all(self.close(self.multiply(x, y0), self.multiply(y, x0)) for x, y in pairs)

    # Sets of real numbers, in any notation: intervals, unions, inequalities, ...

    def same_set(self, a, b):
        """Are two sets the same at, between and beyond all endpoints? None if one is no real set."""
        if len(subjects(a) | subjects(b)) > 1:
            return None
        try:
            self.ends = set()
            self.contains(a, 0), self.contains(b, 0)            # for the endpoints that they note
            ends = sorted(self.ends - {math.inf, -math.inf}) or [0]
            between = [(low + high) // 2 for low, high in zip(ends, ends[1:])]
            return all(self.contains(a, x) == self.contains(b, x)
                       for x in [ends[0] - 1, *ends, *between, ends[-1] + 1])
        except Refused:
            return None

    def contains(self, node, x):
        self.spend(10)
        kind, *parts = node
        if node == REALS:
            return True
        if kind == "set":
            return x in [self.place(part) for part in parts]
        if kind in INTERVALS and len(parts) == 2:
            low, high = map(self.place, parts)
            if low >= high:
                raise Refused("a tuple")
            return OPERATIONS[kind[0]](x, low) and OPERATIONS[kind[1]](x, high)
        if kind in SET_OPERATORS:
            return OPERATIONS[kind](*[self.contains(part, x) for part in parts])
        if kind == "rel" and parts[0] and parts[2] == ("\\in",):
            return self.contains(parts[1][1], x)
        if kind == "rel" and any(map(is_name, parts[1])) and {*parts[2]} <= OPERATIONS.keys():
            sides = [x if is_name(side) else self.place(side) for side in parts[1]]
            return all(OPERATIONS[op](left, right) for left, op, right in zip(sides, parts[2], sides[1:]))
        if kind == "or" or kind == "list" and all(part[0] == "rel" for part in parts):
            either = kind == "or" or all("=" in part[3] for part in parts)
            return (any if either else all)([self.contains(part, x) for part in parts])
        raise Refused("no set")

    def place(self, node):
        """Where a real constant lies, in units of 1 / SCALE, far finer than answers differ."""
        node = unmarked(node[1] if node[0] == "unit" else node)
        value = self.values(node)[0] if is_constant(node) else None
        if value is None or not is_real(value):
            raise Refused("no real constant")
        infinite = not isinstance(value, Fraction) and REAL.isinf(value)
        end = math.copysign(math.inf, value) if infinite else int(REAL.nint(inexact(value) * SCALE))
        self.ends.add(end)
        return end

    # Leaves

    def same_value(self, a, b):
        pairs, tolerance = self.pairs(a, b), self.tolerance if is_constant(a, b) else 0
        return bool(pairs) and all(self.close(x, y, tolerance) for x, y in pairs)

    def close(self, x, y, tolerance=0):
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            return abs(x - y) <= tolerance * abs(y)
        x, y = inexact(x), inexact(y)
        near = max(NOISE, inexact(tolerance)) * abs(y)
        return x == y or REAL.isfinite(x) and abs(x - y) <= near < REAL.inf

    def pairs(self, a, b):
        """The values of two trees at the points where both have one; letters are real, unless i occurs."""
        constant = is_constant(a, b)
        self.real = not constant and "i" not in names((a, b))
        pairs = zip(*(values * (POINTS // len(values)) for values in map(self.values, (a, b))))
        pairs = [(x, y) for x, y in pairs if x is not None and y is not None]
        return pairs[:1] if constant else pairs if len(pairs) > 1 else []

    def values(self, node):
        """The value of a tree at each point (a constant has one), None where it has none."""
        key = node, self.real
        if key not in self.known:
            self.known[key] = []
            for self.point in range(1 if is_constant(node) else POINTS):
                try:
                    self.known[key].append(self.value(node))
                except (Refused, ValueError, ZeroDivisionError):
                    self.known[key].append(None)
        return self.known[key]

    def value(self, node):
        kind, *parts = node
        if kind == "num":
            return parts[0]
        if kind == "sym":
            return self.symbol(parts[0])
        if kind == "base":
            return Fraction(int(parts[0], int(parts[1])))
        operation = {"add": self.add, "mul": self.multiply, "pow": self.power}.get(kind)
        if not operation and kind not in ("!", "binom", "abs", "floor", "ceil", *FUNCTIONS):
            raise Refused(f"no value of a {kind}")
        values = [self.value(part) for part in parts]
        return operation(*values) if operation else self.function(kind, *values)

    def symbol(self, name):
        if name in CONSTANTS:
            return CONSTANTS[name]
        n = crc32(f"{name} {self.point}".encode("utf-8", "replace"))
        return (Fraction(n % 997 + 1, 1009), Fraction(n % 9973 + 1009, 1009), -Fraction(n % 9973 + 1, 1013),
                Fraction(n % 48 * 2 + 2), Fraction(n % 48 * 2 + 3))[self.point]

    def operands(self, values):
        """All rational, if they are; else all at 500 digits."""
        if all(isinstance(value, Fraction) for value in values):
            self.spend(2, sum(map(bits, values)))
            return values
        self.spend(10 * len(values))
        return [inexact(value) for value in values]

    def add(self, *terms):
        terms = self.operands(terms)
        total = sum(terms)
        if isinstance(total, Fraction):
            return total
        sizes = [REAL.mag(term) for term in terms if term]
        if max(sizes) - min(sizes) > MAX_SPREAD:
            raise Refused("a term drowns in another")
        return Fraction(0) if abs(total) <= REAL.ldexp(NOISE, max(sizes)) else self.tidy(total)

    def multiply(self, *factors):
        return self.tidy(math.prod(self.operands(factors)))

    def power(self, base, exponent):
        rational = isinstance(exponent, Fraction)
        if not base:
            if not rational or exponent <= 0:
                raise Refused("division by zero")
            return base
        if rational and exponent.denominator == 1 and isinstance(base, Fraction):
            self.spend(2, bits(base) * abs(exponent.numerator))
            return base ** exponent.numerator
        if rational and exponent.denominator % 2 and exponent % 1 and is_real(base) and base < 0:
            root = self.power(-base, exponent)                  # the real root, as in \sqrt[3]{-8}
            return -root if exponent.numerator % 2 else root
        self.spend(250)
        base, exponent = inexact(base), inexact(exponent)
        if not abs(exponent) * (abs(REAL.mag(base)) + 1) < 1e6:
            raise Refused("a power too large")
        return self.tidy(base ** exponent)

    def function(self, name, x, k=None):
        self.spend(250)
        if name in ("!", "binom"):
            if any(not isinstance(n, Fraction) or n % 1 or not 0 <= n <= 3000 for n in (x, k or x)):
                raise Refused("no whole number")
            return Fraction(math.factorial(int(x)) if name == "!" else math.comb(int(x), int(k)))
        if name == "abs":
            return abs(x)
        if name in ("floor", "ceil") and is_real(x) and abs(x) < SCALE:
            return Fraction(math.floor(x) if name == "floor" else math.ceil(x))
        if name not in FUNCTIONS or name[0] != "l" and not abs(x) < 1e6:
            raise Refused(f"no {name} of this")
        result = FUNCTIONS[name](inexact(x))
        if abs(result) > 1 / NOISE:
            raise Refused("a pole")
        return Fraction(0) if abs(result) <= NOISE else self.tidy(result)

    def tidy(self, value):
        """`value` without the noise of rounding: real, imaginary or whole where it nearly is."""
        if isinstance(value, Fraction):
            return value
        size = NOISE * abs(value)
        if not is_real(value):
            real, imaginary = (0 if abs(part) <= size else part for part in (value.real, value.imag))
            value = REAL.mpc(real, imaginary) if imaginary else real
        if not REAL.isfinite(value) or self.real and not is_real(value):
            raise Refused("no real value")
        if is_real(value) and REAL.mag(value) < 300 and abs(value - REAL.nint(value)) <= size:
            return Fraction(int(REAL.nint(value)))
        return value

