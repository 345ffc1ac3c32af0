r"""From the LaTeX of an answer to trees: what models and data sets write, one spelling and one shape for each thing.

    read(readings(r"x = \dfrac12\text{ cm}")[0])    ->  ("rel", "x", "=", ("", ("\\frac", "1", "2"), '"cm'))

Knows nothing of values: tasks/grader.py judges. Text becomes tokens (`readings`: spellings, then characters), tokens
a tree by the precedence of operators, of which the comma of a list is one (`read`). What it does not know, or what
asks for too much work, it refuses. A tree is a token or a tuple; its kinds:

    "12", ".5", "0.\\overline{3}", "x", "x_1", "\\pi", '"cm'      a number, a letter, a constant, a word (from the quote on)
    ("+", a, b), "-", "*", "/", "^", "\\frac", "\\over", "\\binom", "\\choose", ("\\sqrt", n, a), ("", 2, x) for 2x
    ("!", a), "°", "%", "\\lvert" (|a|), "\\lfloor", "\\lceil", ("\\sin", a) and what else is in FUNCTIONS
    (",", a, b, ...), (";", ...), (":", ...)                      a list, a list of alternatives, a ratio
    ("&", a, ...), ("\\\\", a, ...)                               a row and the rows of a matrix
    ("()", a, b, ...), "(]", "[)", "[]", ("set", a, ...)          a tuple or interval, a set
    ("rel", a, "=", b, "<", c, ...), ("\\cup", a, b), "\\cap", "\\setminus"
"""

import re
import unicodedata
from fractions import Fraction

MAX_BRACES = 200_000        # and backslashes in a completion; beyond, only its end is searched
MAX_LENGTH = 400            # characters of an answer; the longest gold answer of MATH has 159
MAX_TOKENS = 200            # of an answer
MAX_OPERATIONS = 60         # of them that are slow or nested: powers, roots, functions, brackets


class Refused(Exception):
    """The answer is not one that this module reads, or it asks for too much work."""


def last_boxed(text):
    r"""The content of the last \boxed{...} (or \fbox{...}) of `text` that closes, or None. Never raises.

    A single number or letter needs no braces, as in \boxed 2. One pass, with a stack of the open braces.
    """
    if not isinstance(text, str):
        return None
    if sum(map(text.count, "\\{}")) > MAX_BRACES:
        text = text[-MAX_BRACES:]
    opened, start, end = [], -1, -1
    for match in BRACE.finditer(text):
        if match["bare"]:
            start, end = match.span("bare")
        elif match[0] == "{" or match["box"]:
            opened.append(match.end() if match["box"] else -1)
        elif match[0] == "}" and opened:
            start, end = max((start, end), (opened.pop(), match.start()))
    return text[start:end] if start >= 0 else None


BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s{0,9}(?:\{|(?P<bare>-?\d+|(?<=\s)[A-Za-z]\b)))|\\[\\{}]|[{}]")

# --- From text to tokens ----------------------------------------------------------------------------------

UNICODE = str.maketrans({
    "−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "⁄": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "±": r"\pm ", "√": r"\sqrt ", "π": r"\pi ", "θ": r"\theta ", "∞": r"\infty ", "∈": r"\in ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\{\}", "ℝ": r"\reals ", "Δ": r"\Delta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",
    "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ", "⋅": "*", "º": "°", "′": "'", "∠": r"\angle "})
WORDS = dict(word.split("→") for word in r"""and→, or→; to→: per→/ degree→° degrees→° percent→% dollar→"$
    dollars→"$ mph→"mi/"h infinity→\infty sin→\sin cos→\cos tan→\tan ln→\ln log→\log sqrt→\sqrt pi→\pi
    squared→^2 cubed→^3 factorial→! dozen→*12 hundred→*10^2 thousand→*10^3 million→*10^6 billion→*10^9
    trillion→*10^12 cot→\cot csc→\csc arcsin→\arcsin arccos→\arccos arctan→\arctan sinh→\sinh cosh→\cosh
    tanh→\tanh""".split())


def words(match):
    r"""Words of running text as tokens like "cm. A letter is a word if it is a unit, or the whole answer (B)."""
    before, after = match.string[:match.start()], match.string[match.end():]
    is_unit = re.search(r"(?:[\d)}/°]|\\cdot)(?:\s|\\[ ,;])*$", before)
    letters = "+" if is_unit or not before + after else "{2,}"
    return re.sub(r'(?<![\\\w"])(?![ei]\b)[^\W\d_]' + letters, r'"\g<0>', match[1])


DIGITS = "two three four five six seven eight nine ten".split()
SPACE, ORDINAL = r"\s|~|\\[ ,;:!]", "(?:st|nd|rd|th)"
SPELLINGS = [(re.compile(pattern), replacement) for pattern, replacement in (
    # Layout, time of day, environments: \left[1, 2\right), 3:30 p.m., \begin{cases} x=1 \\ y=2 \end{cases}
    (r"(?<!\\)\$", ""),                                                                           # $5$
    (r"(?i)(:\s*\d\d)(?:%s)*(?:\\text\s*\{)?\s*([ap])\.?\s?m\b[.\s}]*" % SPACE,
     lambda time: f'{time[1]} "{time[2].lower()}m'),                                                # 3:30 p.m.
    (r"^\s*(?:=|\\approx)|\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
    (r"(?s)\\begin\s*\{cases\}(.*?)\\end\s*\{cases\}", lambda cases: cases[1].replace(r"\\", ",").replace("&", "")),
    (r"\\begin\s*\{(?:[pbB]|small)?matrix\}|\\begin\s*\{array\}\s*\{[clr|\s]*\}", r"\\matrix "),
    (r"(\\\\)?\s*\\end\s*\{\w+\}", r"\\end "),
    (r"\\mathbb\s*\{?\s*R\s*\}?|\\text\s*\{\s*all real numbers\s*\}|^all real numbers$", r"\\reals "),
    (r"\\(?:text)?color\s*\{\w*\}|\\(?:h?phantom|hspace)\s*\{\w*\}|\\tag\s*\{\w*\}|^\s*\*\*|\*\*\s*$", ""),
    (r"(\\\\|\\cr(?![a-z]))\s*(?:\[\w*\])?", r"\\\\ "),
    (r"\{\s*\\rm\s([^{}]*)\}|\\rm\s*\{([^{}]*)\}", r"\\text{\1\2}"),
    # Names, sets and bars, where braces still tell what belongs together: \bar z, \{x \mid x > 2\}, |x|, f'
    (r"\\overline\s*\{\s*([A-Z]{2})\s*\}", r"\1"),
    (r"\\times(?=\s*\\(?:vec|mathbf|boldsymbol|hat))", r"\\cross "),           # unknown: u x v is not v x u
    (r"\\(hat|bar|overline|tilde)\s*(?:\{\s*([A-Za-z])\s*\}|([A-Za-z])(?![A-Za-z]))", r"\2\3_{\1}"),
    (r"\\reals\s*-\s*\\\{", r"\\reals\\setminus\\{"), (r"(\.\d{3})\\,(?=\d)", r"\1"),
    (r"(\\equiv.*?)\\b?mod\s*\{?(\d+)\}?", r'\1 "mod\2'),
    (r"\\emptyset|\\varnothing", r"\\{\\}"),
    (r"\\[lr]vert|\\[vm]id", "|"),
    (r"\\\{\s*[a-z]\s*(?:\\in\s*\\reals\s*)?[|:]((?:[^{}|]|\{[^{}]*\})*)\\\}", r"\1"),    # \{x | x > 2\}
    (r"\|([^|]*)\|", r"\\lvert \1\\rvert "),
    (r"(?<=[fgh])\s*\^\s*\{\s*-1\s*\}(?=\s*\()", "_{-1}"), (r"\^\s*\{?\s*\\prime\s*\}?", "'"),       # f^{-1}(x), f'
    # Degrees, fractions, repeating decimals: 90^\circ, \dfrac12, 0.\dot{3}
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b", "°"),
    (r"\\(?:[dtcs]|nice)(frac|binom)", r"\\\1"), (r"(\\frac|\\binom)\s*(\d)", r"\1{\2}"),        # \dfrac, \frac12
    (r"((?:\\frac|\\binom)\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
    (r"\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?", r"\\overline{\1\2\3}"),
    # Numbers: in base n, then of grouped digits, then mixed ones: 101_{\text{two}}, 1{,}000, 3\ 1/2
    (r"(?:_\s*\{?|\(?\bbase[- ])\s*(?:\\text\s*\{\s*)?(two|three|four|five|six|seven|eight|nine|ten)\b[\s})]*",
     lambda base: f"_{DIGITS.index(base[1]) + 2} "),
    (r"(?:\\text\s*\{)?\s*\(?\bbase[- ](\d+)[)}]*", r"_\1 "),                                     # 1021 (base 6)
    (r"(?<![\w^{])(?:\(|\\text\{)?([A-Z\d]*\d[A-Z\d]*)[)}]?\s*_\s*(?:\{\s*\(?)?\s*([1-9]\d*)\s*(?:\)?\s*\})?",
     r'\1"base\2'),
    (r"(?<![\w^{])(?:\(|\\text\{)?((?=\w*\d|\w\w)[\da-fA-F]+)[)}]?_\{?16\}?",
     lambda number: number[1].upper() + '"base16'),
    (r",\s*\\[,;: ]\s*(0\d\d(?!\d))?", lambda comma: "," + comma[1] if comma[1] else ", "),        # 100,\,200
    (r"(?<![\d.])\d{1,3}(?:(?:\{,\}|\\[,!;: ]\s*|,\s*\\!|[ ~])\d{3})+(?!\d)",                # 1{,}000
     lambda number: re.sub(r"\D", "", number[0])),
    (r"(?<![\w}.^])(?<!\\sqrt)(?<!\\sqrt )(\d+)(S+\d+\s*/\s*\d+(?![\d.])|S*\\frac\s*\{\d+\}\s*\{\d+\})".replace(
        "S", f"(?:{SPACE})"), r"(\1+\2)"),
    # Words: those that count or are signs before those that may be units: 5^{th}, 5 million, 5 cm, 5 apples
    (r"(?<=\d)(?:\^?\s*\{?\\(?:text|mathrm)\s*\{ORD\}\}?|\^\s*\{ORD\}|ORD\b)".replace("ORD", ORDINAL), ""),  # 5^{th}
    (r"(?i)\b(?:square|sq\.?)(?:%s)+(\w+)" % SPACE, r"\1^2"), (r"(?i)\bcubic(?:%s)+(\w+)" % SPACE, r"\1^3"),
    (r"(?i)(?<![\\a-z])(?:%s)(?![a-z])" % "|".join(WORDS), lambda word: WORDS[word[0].lower()]),
    (r"\\(?:text(?:bf|it|rm|up|sf|tt|normal)?|emph|[mh]box|math(?:rm|it|sf)|operatorname)\s*\{([^{}]*)\}", words),
    (r"(?<=[\d})])(?:%s)*([mck]m|mi|kg|ft|in|lbs?|oz|hr|min|sec|mph)\b" % SPACE, r' "\1'),     # 5 cm
    (r"(?<=[\d})]) +([a-z](?=[a-z]*[aeiou])[a-z]{3,})\b", r' "\1'),                              # 5 apples
    (r'(?<=[\d})])(\s*"\w+?)s\b', r"\1"),
    # What the rules above would take for something else: +/-, \pmod{7}, \$5, x_{1}
    (r"\+\s*/\s*-", r"\\pm "), (r"\\pmod\s*\{?\s*(\d+)\s*\}?|\(\s*\\?mod\s+(\d+)\s*\)", r' "mod\1\2'),
    (r"\\\$", r'"$*'), (r"[€£¥]", r'"\g<0>*'),
    (r"_\s*\{\s*(\w)\s*\}", r"_\1"))]
CHOICE = re.compile(r"(?:\\\w+\s*\{)?\s*(?:[Oo]ption |[Cc]hoice |(?=\(|\w[).:]))\(?([A-J])[).:]?"
                    r"(?:(?:\}|%s)+(?!\s*[-+*/^=<>,(])(?!.*(?:[A-J]\)|\bor\b|\band\b))(.*))?" % SPACE, re.DOTALL)
LETTER_UNIT = re.compile(r"(-?[\d.,]+)(?:%s)+([msghJNVWAK])(\s*/\s*[smh])?(\^\{?[23]\}?)?" % SPACE)         # 10 m/s
THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
ZEROS = re.compile(r"(?<![\d.])[1-9]\d{0,2}(?:,0\d\d)+(?![\d.])")
TOKEN = re.compile(r"""(?s:
    \d*\.\d*\\(?:overline|bar)\s*(?:\{\d+\}|\d) | \d*\.\d*\(\d+\) | \d*\.\d+(?:\\[lc]?dots|\.\.\.)   # 0.\overline{3}
  | (?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?                                              # 3.14e-5
  | "[\w$€£¥]+                                                                                      # "cm
  | (?:\\[a-zA-Z]+|[^\W\d_])(?:_\w|_\{(?:[^{}]|\{[^{}]*\})*\}|')*                           # x_1 and \sqrt
  | \\.? | \.\.\. | <= | >= | != | \*\* | \S)""", re.VERBOSE)
IGNORED = frozenset(r""". ~ ` \( \) \[ \] \! \, \: \; \> \ \displaystyle \textstyle \quad \qquad \mathbf
    \boldsymbol \large \Large \overrightarrow \underline \therefore \vec""".split()) | {"\\ ", "\\\n"}
ALIASES = dict(alias.split("→") for alias in r"""\leq→\le \leqslant→\le <=→\le \geq→\ge \geqslant→\ge >=→\ge
    \lt→< \gt→> \neq→\ne !=→\ne \%→% \times→* \cdot→* \div→/ **→^ \lbrace→\{ \rbrace→\} \langle→(
    \rangle→) \equiv→= \lg→\log \ldots→\dots
    ...→\dots "centimeter→"cm "centimetre→"cm "meter→"m "inche→"in "feet→"ft "mile→"mi "hour→"h "hr→"h
    "minute→"min "second→"s """.split())


def readings(text):
    """The tokens of `text` (or of a number), in several readings where there are.

    1,234 is a number, and a list of two; (D) 12 a choice, and its value; 5 m a length, and a product.
    """
    text = str(Fraction(str(text))) if isinstance(text, (int, float)) else text
    if not isinstance(text, str) or len(text := text.strip()) > MAX_LENGTH:
        raise Refused("no text, or too much")
    text = re.sub("[₀-₉]+", r"_{\g<0>}", re.sub("[⁰¹²³⁴-⁹⁻]+", r"^{\g<0>}", text))
    text = re.sub("[¼-¾⅐-⅞]", r" \g<0>", text)              # 3½ is a mixed number
    text = unicodedata.normalize("NFKC", (last_boxed(text) or text).translate(UNICODE)).translate(UNICODE)
    choice, length = CHOICE.fullmatch(text), LETTER_UNIT.fullmatch(text)
    for pattern, replacement in SPELLINGS:
        text = pattern.sub(replacement, text)
    is_tuple = re.search(r"[(\[]|\\\{", text)
    number = (ZEROS if is_tuple else THOUSANDS).sub(lambda match: match[0].replace(",", ""), text)
    list_ = number if ",0" in text else text                # 1,000 is no list, nor is (1,000, 2) one of three
    found = [tokenise(reading) for reading in dict.fromkeys((number, list_))]
    if length:
        value, *unit = (part or "" for part in length.groups())
        found.append(tokenise(value.replace(",", "") + re.sub(r"([a-zA-Z])", r' "\1', "".join(unit))))
    return [*found, *([[choice[1]]] if choice else []), *(readings(choice[2]) if choice and choice[2] else [])]


def tokenise(text):
    """Numbers, letters like x or x_1, words like "cm, commands, and all else character by character."""
    found = TOKEN.findall(text.rstrip(" ,;\\"))
    tokens = [ALIASES.get(token, token.replace(" ", "") if "_" in token else token) for token in found]     # x_{n + 1}
    return [token for token in tokens if token not in IGNORED]


# --- From tokens to a tree --------------------------------------------------------------------------------

FUNCTIONS = frozenset("\\" + name for name in """ln log exp sin cos tan cot sec csc arcsin arccos arctan sinh cosh
    tanh""".split())
CONSTANTS = frozenset(["i", "e", "\\pi"])
SYMBOL = re.compile(r"""(?:[^\W\d_]|\\(?:[a-z]*(?:alpha|beta|gamma|delta|epsilon|eta|kappa|lambda|mu|nu|rho|sigma|tau
    |phi|chi|psi|omega)|[xX]i|Gamma|Delta|Phi|Sigma|Omega|angle|triangle|infty|reals))(?:[_'].*)?|".+""", re.VERBOSE)
RELATIONS = ("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", "\\approx")
SET_OPERATIONS = ("\\cup", "\\cap", "\\setminus")
INTERVALS = ("()", "(]", "[)", "[]")
CLOSING = {"(": ")]", "[": ")]", "{": "}", "\\{": ["\\}"], "\\lvert": ["\\rvert"],
           "\\lfloor": ["\\rfloor"], "\\lceil": ["\\rceil"], "\\matrix": ["\\end"]}
CHAINED = (",", ";", "&", "\\\\", ":", "")      # operators of many operands; "" is the product in 2x
POSTFIX = ("!", "°", "%")
END = "<end>"
SUM, ARGUMENT, TIMES, POWER = 6, 7, 8, 9        # how close bind: +, sin in \sin 2x, the product in 2x, ^
BINDING = dict.fromkeys([END, ")", "]", "}", "\\}", "\\end", "\\rvert", "\\rfloor", "\\rceil"], 0) | {
    "\\\\": 1, "&": 2, ",": 3, ";": 3, **dict.fromkeys(RELATIONS, 4), **dict.fromkeys(SET_OPERATIONS, 5), ":": 5,
    "\\over": 5, "\\choose": 5,
    "+": SUM, "-": SUM, "*": TIMES, "/": TIMES, **dict.fromkeys("^!°%", POWER)}


def read(tokens):
    r"""The tree of an answer. 1 \pm 2, \mp 3 is a list of all that the upper and the lower signs give."""
    slow = [t for t in tokens if t in ("^", "!", "\\sqrt") or t in CLOSING or t.split("_")[0] in FUNCTIONS]
    if len(tokens) > MAX_TOKENS or len(slow) > MAX_OPERATIONS:
        raise Refused("too much work")
    trees = []
    for upper, lower in ("+-", "-+"):
        left = [{"\\pm": upper, "\\mp": lower}.get(token, token) for token in (END, *reversed(tokens))]
        trees.append(expression(left, 0))
        if left != [END]:
            raise Refused("more than an answer")
    both = [dict.fromkeys(pair) for pair in zip(*map(items, trees))]
    return trees[0] if trees[0] == trees[1] else (",", *(item for pair in both for item in pair))


def expression(tokens, level):
    """Takes a tree from the end of `tokens`, up to an operator that binds no closer than `level`."""
    size, minus = len(tokens), False
    while tokens[-1] in ("+", "-"):
        minus ^= tokens.pop() == "-"
    tree = atom(tokens) if len(tokens) == size else expression(tokens, max(level, SUM))
    tree = join("*", "-1", tree) if minus else tree
    while (binding := BINDING.get(tokens[-1], TIMES)) > level:
        if level == ARGUMENT and (tokens[-1] in ("*", "/", *CLOSING, *FUNCTIONS) or tokens[-2:] == ["^", "e"]):
            break                                               # \sin x (1 + x), \sin x \cos x, \sin x e^x
        token = tokens.pop() if tokens[-1] in BINDING else ""
        while token in (",", ";") and tokens[-1] in (",", ";"):             # 1, 2, and 3
            token = tokens.pop()
        tree = (token, tree) if token in POSTFIX else join(token, tree, expression(tokens, binding))
        if token in ("^", "!") and tokens[-1] == token:
            raise Refused("a tower without braces, or a double factorial")
    return tree


def atom(tokens):
    """Takes what no operator splits: a number, a name, a bracket, a fraction, a root, a function with argument."""
    token = tokens.pop()
    name, _, base = token.partition("_")
    if token in CLOSING:
        return bracket(token, ("set",) if tokens[-1] == "\\}" else expression(tokens, 0), tokens.pop())
    if token in ("\\frac", "\\binom"):
        return token, atom(tokens), atom(tokens)
    if token == "\\sqrt":
        return token, atom(tokens) if tokens[-1] == "[" else "2", atom(tokens)
    if name in FUNCTIONS:
        exponent = expression(tokens, POWER) if tokens[-1] == "^" and tokens.pop() else "1"
        x = atom(tokens) if tokens[-1] in CLOSING else expression(tokens, ARGUMENT)
        if exponent == ("*", "-1", "1"):
            return "\\arc" + name[1:], x
        return "^", ("/", (name, x), (name, subscript(base))) if base else (name, x), exponent
    if token[0] in ".0123456789" or token in CONSTANTS or SYMBOL.fullmatch(token):
        return token
    raise Refused(f"unknown {token}")


def subscript(text):
    r"""The tree of a base, as in \log_{\frac12}."""
    return expression([END, *reversed(tokenise(text[1:-1] if text[0] == "{" else text))], 0)


def bracket(opening, tree, closing):
    """The tree of what stands in brackets: a set, a matrix, |x|, an interval or tuple like ("[)", "1", "2"), or x."""
    if closing not in CLOSING[opening]:
        raise Refused("brackets that do not match")
    if opening == "\\{":
        return "set", *items(tree)
    if opening == "\\matrix":
        return tree if tree[0] in ("&", "\\\\") else ("\\\\", tree)
    if opening in ("\\lvert", "\\lfloor", "\\lceil"):                                   # |x|, or x rounded down or up
        return opening, tree
    if tree[0] in (",", ";") and opening != "{":
        return opening + closing, *tree[1:]
    if opening + closing in ("()", "[]", "{}"):
        return tree
    raise Refused("half an interval")


def join(token, left, right):
    """The tree of two trees and the operator between them; what is chained, like 1, 2, 3, is one node."""
    if token in RELATIONS:
        return *(left if left[0] == "rel" else ("rel", left)), token, right
    if token in CHAINED and (left[0] == token or (left[0], token) == (",", ";")):
        return token, *left[1:], right
    if token in ("", "*") and right[0] in ("&", "\\\\"):        # a matrix
        return right[0], *(join("*", left, part) for part in right[1:])
    return token, left, right


def items(tree):
    return tree[1:] if tree[0] in (",", ";", "set") else (tree,)


def flat(tree):
    return [tree] if isinstance(tree, str) else [token for part in tree for token in flat(part)]


def units(tree):
    return {token for token in flat(tree) if token.startswith(('"', "°", "%"))}


def name(tree):
    """The letters of a tree that may be a name: x, AB, f(x), f(2), (x, y), Area; else nothing."""
    letters = [token for token in flat(tree) if token not in ("", "()")]
    if all(token.isdigit() or SYMBOL.fullmatch(token) for token in letters) and not letters[0].isdigit():
        return "".join(letters)
    return ""
