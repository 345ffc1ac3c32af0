r"""From the LaTeX of an answer to trees: one spelling and one shape for each thing.

    read(readings(r"x = \dfrac12\text{ cm}")[0])    ->  ("rel", "x", "=", ("", ("/", "1", "2"), '"cm'))

1. `readings` turns text into tokens: first by rewriting rules, in order, then character by character.
2. `read` turns tokens into a tree by the precedence of operators, of which the comma of a list is one.

It knows nothing of values: grader.py judges. A tree is a token, or a tuple whose first element is its kind:

    12  .5  0.\overline{3}  x  x_1  \pi  "cm        a number, a letter, a constant, a word (it starts with ")
    + - * / ^ \binom                                of two trees; "" is the product in 2x, of two or more
    ! ° % \lvert \lfloor \lceil \sqrt (n, x)        |x| and the like; and what is in FUNCTIONS
    , ; : & \\                                      list, alternatives, ratio, row and rows of a matrix
    () (] [) [] set \cup \cap \setminus             tuple or interval, set, of sets
    rel  \where                                     ("rel", a, "<", b, "=", c), a tree and its condition
    text                                            what cannot be read, as \int_0^1
"""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache, partial

MAX_BRACES = 200_000        # and backslashes in a completion; beyond, only its end is searched
MAX_LENGTH = 400            # characters of an answer; the longest gold answer of MATH has 159
MAX_TOKENS = 200            # of an answer
MAX_OPERATIONS = 20         # of them that are slow: powers, factorials, roots, functions
MAX_BRACKETS = 60           # that they may open


class Refused(Exception):
    """The answer is not one that can be read or judged, or it asks for too much work."""


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

# --- Names ------------------------------------------------------------------------------------------------

GREEK = dict(zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ", """alpha beta gamma delta epsilon zeta eta theta
    iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma
    Phi Psi Omega""".split()))
FUNCTIONS = frozenset("\\" + name for name in """ln log exp abs sin cos tan cot sec csc sinh cosh tanh coth
    sech csch arcsin arccos arctan arccot arcsec arccsc arcsinh arccosh arctanh""".split())
CONSTANTS = frozenset(["i", "e", "\\pi", "\\infty", "\\reals"])
SYMBOL = re.compile(
    rf"(?:[^\W\d_]|\\(?:{'|'.join(GREEK.values())}|angle|triangle)(?![a-zA-Z]))(?:[_'].*)?|\".+")
UNICODE = str.maketrans({
    "−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "⁄": "/", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "±": r"\pm ", "√": r"\sqrt ", "∞": r"\infty ", "∈": r"\in ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\{\}", "ℝ": r"\reals ", "º": "°", "′": "'", "∠": r"\angle ", "⇒": r"\Rightarrow ",
    "≈": r"\approx ", "→": r"\to ", **{letter: f"\\{name} " for letter, name in GREEK.items()}})
WORDS = dict(word.split("→") for word in r"""and→, or→; to→: per→/ degree→° degrees→° percent→% mph→"mi/"h
    infinity→\infty infty→\infty inf→\infty oo→\infty sqrt→\sqrt squared→^2 cubed→^3 factorial→! halves→/2
    thirds→/3 quarters→/4 fourths→/4 fifths→/5 sixths→/6 sevenths→/7 eighths→/8 ninths→/9 tenths→/10
    hundredths→/10^2 thousandths→/10^3 millionths→/10^6 dozen→*12 hundred→*10^2 thousand→*10^3 lakh→*10^5
    lakhs→*10^5 million→*10^6 crore→*10^7 crores→*10^7 billion→*10^9 trillion→*10^12 yes→"yes true→"true
    false→"false even→"even odd→"odd none→"none""".split())
WORDS |= {name.strip("\\"): "\\" + name.strip("\\") for name in [*GREEK.values(), *FUNCTIONS]}
CHANGING = frozenset("""not no never none nor neither isn doesn don aren is are was be does do has wrong
    false incorrect but except minus plus negative opposite less more least most fewer than greater under over
    above below between half halved twice double doubled triple tripled quarter zero one two three four five
    six seven eight nine ten even odd prime times mod where if unknown undefined nan million billion k M B
    bn""".split())
UNITS = {prefix + base: (factor, base)
         for base in "m g s L W V J N A Pa Hz Ω F C K T eV mol $ € £ ₹".split()
         for prefix, factor in zip(["", *"kcmdMGμn"], "1 1e3 .01 .001 .1 1e6 1e9 1e-6 1e-9".split())}
for line in """1 m meter metre, 1e3 m kilometer kilometre, .01 m centimeter centimetre, .001 m millimeter,
    .0254 m in inch inche, .3048 m ft foot feet, .9144 m yd yard, 1609.344 m mi mile, 1 s sec second,
    60 s min minute, 3600 s h hr hour, 86400 s day, 604800 s week, 1 g gram, 1e3 g kilogram,
    453.59237 g lb pound, 28.349523125 g oz ounce, 1 L liter litre, 1 C celsius fahrenheit, 1 W watt,
    1 V volt, 1 J joule, 1 N newton, 1 Hz hertz, 1 Pa pascal, 1 Ω ohm, 1 K kelvin, 1 $ usd dollar,
    .01 $ cent, 1 € eur euro, 1 ₹ inr rs rupee, 1 £ gbp""".split(","):
    factor, base, *words = line.split()
    UNITS |= dict.fromkeys(words, (factor, base))


def unit(word):
    """(factor, base unit) of a word: cm is (".01", "m"), an unknown unit 1 times itself in quotes."""
    singular = re.sub("(?<=..)s$", "", word.lower())
    return UNITS.get(word) or UNITS.get(singular) or ("1", f'"{singular}"')


# --- From text to tokens ----------------------------------------------------------------------------------

def words(match):
    r"""Words of running text as tokens like "cm. A letter is one if it is a unit, or the whole answer (B)."""
    before, after = match.string[:match.start()], match.string[match.end():]
    is_unit = re.search(r"(?:[\d)}/°]|\\cdot|\\circ)(?:[\s~]|\\[ ,;:!])*$", before)
    letters = "+" if is_unit or not before + after else "{2,}"
    quoted = re.sub(r'(?<![\\\w"])(?![ei]\b)[^\W\d_]' + letters, r'"\g<0>', match[1])
    return quoted + " " * after[:1].isalpha()


def words_after_number(match, letters=False):
    """What follows a number without any markup is words if it begins with a long unit, or has a long word.

    letters: also if it is units, behind a space and at the end of all, of one letter too, as in 5 m/s.
    """
    names = re.findall(r"[^\W\d_]+", match[0])
    is_unit = len(names[0]) > 1 and names[0] not in ("mg", "ms") and unit(names[0])[1][0] != '"'
    long = [name for name in names if re.match("(?i)[a-z](?=[a-z]*[aeiouy])[a-z]{3}", name)]
    short = letters and match.end() == len(match.string) and UNITS.keys() >= {*names}
    if is_unit or ((long or short) and not match[0][0].isalpha()):
        return " " + re.sub(r"[^\W\d_]+", r'"\g<0>', match[0])
    return match[0]


BASES = dict(zip("two three four five six seven eight nine ten".split(), range(2, 11)))
NAME = r"[a-zA-Z]+(?:\^?\{?-?\d\}?)?"
AFTER_NUMBER = rf"(?<=[\d}})°])(?![eE][-+]?\d)(?:\s|~|\\[ ,;:!])*{NAME}(?:(?:\s*[/*]\s*|\s+){NAME})*"
PARTS = {                   # of the patterns below: _ is a space, INSIDE what braces hold
    "_": r"(?:\s|~|\\[ ,;:!])", "INSIDE": r"((?:[^{}]|\{[^{}]*\})*)", "GROUP": r"(\{[^{}]*\}|\w)",
    "BASES": "|".join(BASES), "WORDS": "|".join(WORDS),
    "NOUN": rf'"?(?!(?:{"|".join(CHANGING)})\b)[a-z]+'}
SPELLINGS = [(re.compile(re.sub("<([A-Z_]+)>", lambda part: PARTS[part[1]], pattern)), replacement)
             for pattern, replacement in (
    # Layout, fonts, environments: \left[1, 2\right), {\bf 42}, \begin{cases} x=1 \\ y=2 \end{cases}
    (r"(<_>)<_>+", r"\1"), (r"(?<!\\)\$|\\(?:left|right)\s*\.", ""),
    (r"\\(?:left|right|[bB]igg?[lr]?|limits|ensuremath)(?![a-zA-Z])|^\s*\*\*|\*\*\s*$", ""),
    (r"\\(?:[dtcs]|nice)(frac|binom)", r"\\\1"),
    (r"\\(?:text)?color\s*\{\w*\}|\\(?:h?phantom|hspace|tag)\s*\{\w*\}", ""),
    (r"^\s*(?:=|\\(?:approx|[rR]ightarrow|implies|therefore|to)(?![a-zA-Z]))", ""),
    (r"\{\s*\\(?:rm|bf|it|sf|tt|em)(?![a-zA-Z])([^{}]*)\}|\\rm\s*\{([^{}]*)\}", r"\\text{\1\2}"),
    (r"\\\{\s*\\begin\s*\{(?:array\}\s*\{\w*|aligned)\}(.*?)\\end\s*\{\w+\}(?!\s*\\\})",
     r"\\begin{cases}\1\\end{cases}"),
    (r"\\begin\s*\{cases\}(.*?)\\end\s*\{cases\}",
     lambda cases: cases[1].strip().removesuffix(r"\\").replace(r"\\", ",").replace("&", "")),
    (r"\\begin\s*\{(?:[pbB]|small)?matrix\}|\\begin\s*\{array\}\s*\{[clr|\s]*\}", r"\\matrix "),
    (r"(\\\\)?\s*\\end\s*\{\w+\}", r"\\end "), (r"(\\\\|\\cr(?![a-z]))\s*(?:\[\w*\])?", r"\\\\ "),
    (r"\\(?:mathrm|operatorname)\s*(?:\{\s*d\s*\}|d(?![a-zA-Z]))", "d"),
    (r"\\(?:text(?:bf|it|rm|up|sf|tt|normal)?|emph|[mh]box|math(?:rm|it|sf|tt)|operatorname)\s*"
     r"\{<INSIDE>\}", words),
    # What is said about the answer: The answer is 5, Answer: 5, 2n \text{ for all } n, a_n (n \in \mathbb{N})
    (r'(?i)^\s*(?:<NOUN><_>+)*?(?:"?\b(?:is|are|equals|about|approximately|exactly)\b|"?[a-z]{4,}\s*:)\s*[:=]?'
     r"(?=.*\S)", ""),
    (r'(?i)^\s*"?(?:the\s+<NOUN>(?!\s*"?[a-z]{2})|(?:final\s+"?)?answer|so|thus|hence|therefore)\b\s*[:=,]?'
     r"(?=.*\S)", ""),
    (r'\\mathbb\s*\{?\s*R\s*\}?|"?\ball "?real "?numbers\b', r"\\reals "),
    (r"\\mathbb\s*\{?\s*([NZQC])\s*\}?(?:[_^]?\{?[*+]\}?)?", r'"\1'),
    (r'(?i)[,;]?<_>*(?:"?\b(?:for|where|with|when|if)\b(?:\s"?(?:all|any|every|each)\b)?|\\forall\b)',
     r" \\where "),
    (r"<_>*\((\s*[a-zA-Z]\s*(?:\\in|\\[gln]eq?|[<>])(?![a-z])[^()]*)\)\s*$", r" \\where \1"),
    # Names, sets and bars, where braces still tell what belongs together: \bar z, \{x \mid x > 2\}, x^2_1, f'
    (r"\\emptyset|\\varnothing", r"\\{\\}"), (r"\\var(?=[a-z])", r"\\"), (r"\s*_\s*", "_"),
    (r"(?<![\w}])\{(\w)\}_", r"\1_"), (r"_\{(?:\"|\\(?=max|min))(\w+)\}", r"_{\1}"),
    (r"(?<=[a-zA-Z])\^\s*<GROUP>_<GROUP>", r"_\2^\1"),
    (r"(?<![\w\\])\"?C_\{?(\d+)\}?\s*\^\s*\{?(\d+)\}?", r"\\binom{\1}{\2}"),
    (r"\\frac\s*\{\s*d(?!_)<INSIDE>\}\s*\{\s*d\s*(\\?[a-zA-Z]<INSIDE>)\}", r"\\derivative{\1}{\2}"),
    (r"\bd(\w*)/d([a-z])\b", r"\\derivative{\1}{\2}"),
    (r"\\overline\s*\{\s*([A-Z]{2})\s*\}", r"\1"), (r"\\wide(?=hat|tilde)", r"\\"),
    (r"\\times(?=\s*\\(?:vec|mathbf|boldsymbol|hat))", r"\\cross "),           # unknown: u x v is not v x u
    (r"\\(hat|bar|tilde|over)(?:line)?\s*(?:\{\s*([A-Za-z])\s*\}|([A-Za-z])(?![A-Za-z]))",
     lambda accent: f"{accent[2] or accent[3]}_{{{accent[1].replace('over', 'bar')}}}"),
    (r"\\reals\s*-\s*\\\{", r"\\reals\\setminus\\{"), (r"(\.\d{3})\\,(?=\d)", r"\1"),
    (r"(\\equiv.*?)\\b?mod\s*\{?(\d+)\}?", r'\1 "mod\2'),
    (r"\\[lr]?vert(?![a-z])|\\[vm]id(?![a-z])", "|"),
    (r"\\\{\s*[a-z]\s*(?:\\in\s*\\reals\s*)?<_>*[|:]<_>*((?:[^{}|]|\{[^{}]*\})*)\\\}", r"\1"),
    (r"(?<!\\)\|([^|]*)(?<!\\)\|", r"\\lvert \1\\rvert "),
    (r"(?<=[fgh])\s*\^\s*\{\s*-1\s*\}(?=\s*\()", "_{-1}"), (r"\^\s*\{?\s*\\prime\s*\}?", "'"),
    # Degrees, fractions, repeating decimals: 90^\circ, \dfrac12, 0.\dot{3}
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b", "°"), (r"°\s*([CF])(?![a-zA-Z])", r'°"\1'),
    (r"(\\frac|\\binom)\s*(\d)", r"\1{\2}"),
    (r"((?:\\frac|\\binom)\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
    (r"\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?", r"\\overline{\1\2\3}"),
    # Numbers: in base n, then of grouped digits, then mixed ones: 101_{\text{two}}, 1{,}000, 3\ 1/2
    (r'(?<![\w^{])[("]?((?=[A-Z]*\d)[A-Z\d]+|[\da-fA-F]{2,}(?=\)?\s*_\s*\{?16))\)?\s*'
     r'(?:_\s*\{?|\(?"?\bbase[- ])\s*[("]*([1-9]\d*|<BASES>)\b[\s)}]*',
     lambda n: f'{n[1].upper()}"base{BASES.get(n[2], n[2])} '),
    (r",\s*\\[,;: ]\s*(0\d\d(?!\d))?", lambda comma: "," + comma[1] if comma[1] else ", "),        # 100,\,200
    (r"(?<![\d.])\d{1,3}(?:(?:\{,\}|\\[,!;: ]\s*|,\s*\\!\s*|[ ~])\d{3})+(?!\d)",
     lambda n: re.sub(r"\D", "", n[0])),
    (r"(?<![\w}.^])(?<!\\sqrt)(?<!\\sqrt )(\d+)(<_>+\d+\s*/\s*\d+(?![\d.])|<_>*\\frac\s*\{\d+\}\s*\{\d+\})",
     r"(\1+\2)"),
    # Words: those that count or are signs before those that may be units: 5^{th}, 5 million, 5 cm, 5 apples
    (r'(?i)^(.*\d.*?)"?\bbelow "?zero\b', r"-\1"), (r'(?i)"?\band "?a "?half\b', r"+ 1/2"),
    (r'(?<=\d)(?:\s*\^\s*\{?)?"?(?:st|nd|rd|th)\b\}?', ""),
    (r'(?i)(:\s*\d\d)<_>*"?([ap])\.?\s?"?m\b[.\s]*', lambda time: f'{time[1]} "{time[2].lower()}m'),
    (r'(?i)"?\b(?:square|sq\.?)<_>+("?\w+)', r"\1^2"), (r'(?i)"?\bcubic<_>+("?\w+)', r"\1^3"),
    (r"(?<![\\a-z])\"?a(?:r|rc)?(?=(?:sin|cos|tan)h?(?![a-z]))|\\ar(?=(?:sin|cos|tan)h)", r"\\arc"),
    (r'(?i)(?<![\\a-z"])(?:(?<!\d)(?<!\d )(?<!\d\\,)|(?!"?sec\b))"?(?:<WORDS>)(?![a-z])',
     lambda word: WORDS[word[0].strip('"').lower()]),
    (r'(?<=[\d})])<_>*\\mu\s*"?([a-zA-Z])(?![a-zA-Z])', r' "μ\1'),
    (r'(?<=[\d})])<_>*"?([kM]?)<_>*\\Omega', r' "\1Ω'),
    (AFTER_NUMBER, words_after_number),
    # What the rules above would take for something else: +/-, \pmod{7}, \$5, x_{1}
    (r"\+\s*/\s*-", r"\\pm "), (r"\\pmod\s*\{?\s*(\d+)\s*\}?|\(\s*[\\\"]?mod\s+(\d+)\s*\)", r' "mod\1\2'),
    (r"\\?([$€£¥₹])(?=\s*[\d.\\({])|\b(USD|EUR|Rs)\b\.?\s*(?=\d)", r'"\1\2*'),
    (r'(?<!")\\?([$€£¥₹])', r'"\1'),
    (r"_\s*\{\s*(\w)\s*\}", r"_\1"), (r"\\(?:long)?rightarrow", r"\\to"))]
CHOICE = re.compile(
    r"(?s)(?:\\\w+\s*\{)?\s*(?:[Oo]ption |[Cc]hoice |(?=\(|\w[).:]|\w(?: -|,) *(?:[Aa]n? )?[a-zA-Z]{3,}))"
    rf"\(?([A-J])(?:[).:]| -|,)?(?:(?:\}}|{PARTS['_']})+(?!\s*[-+*/^=<>,(])(.*))?")
ANOTHER = re.compile(r"(?i:\b(?:option|choice|answer|or|and|nor|not)\b)"
                     r"|(?<![-+*/=^_<>\w])(?<![-+*/=^_<>\w] )\(?[A-J](?:[).:,;]|\s*$|\s+[A-Z(])")
THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
ZEROS = re.compile(r"(?<![\d.])[1-9]\d{0,2}(?:,0\d\d)+(?![\d.])")
TOKEN = re.compile(r"""(?s:
    \d*\.\d*\\(?:overline|bar)\s*(?:\{\d+\}|\d) | \d*\.\d*\(\d+\) | \d*\.\d+(?:\\[lc]?dots|\.\.\.)
  | (?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?                              # 0.\overline{3}, 3.14e-5
  | "[\w$€£¥₹]+                                                                      # "cm
  | (?:\\[a-zA-Z]+|[^\W\d_])(?:_\w|_\{(?:[^{}]|\{[^{}]*\})*\}|')*                           # x_1 and \sqrt
  | \\.? | \.\.\. | :=? | <= | >= | != | \*\* | \S)""", re.VERBOSE)
IGNORED = frozenset(r""". ~ ` \( \) \[ \] \! \, \: \; \> \ \displaystyle \textstyle \quad \qquad \mathbf
    \mathrm \mathtt \mathsf \boldsymbol \bm \large \Large \overrightarrow \underline \therefore
    \vec""".split()) | {"\\ ", "\\\n"}
ALIASES = dict(alias.split("→") for alias in r"""\leq→\le \leqslant→\le <=→\le \geq→\ge \geqslant→\ge >=→\ge
    \lt→< \gt→> \neq→\ne !=→\ne \%→% \times→* \cdot→* \div→/ **→^ \lbrace→\{ \rbrace→\} \langle→( \rangle→)
    \equiv→= :=→= \coloneqq→= \lg→\log \ldots→\dots ...→\dots \lVert→\| \rVert→\| \Vert→\|""".split())


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
    choice = CHOICE.fullmatch(text)
    if choice and not ANOTHER.search(re.sub(r"\\text\w*|\\math\w+|\\[ ,;:!]|[${}~]", " ", choice[2] or "")):
        return [[choice[1]], *(spelled(choice[2]) if choice[2] else [])]
    return spelled(text)


@lru_cache(1000)
def spelled(text):
    """The readings of a text that is no choice."""
    for pattern, replacement in SPELLINGS:
        text = pattern.sub(replacement, text)
    joined = lambda match: match[0].replace(",", "")
    list_ = ZEROS.sub(joined, text)                         # 1,000 is no list, nor is (1,000, 2) one of three
    number = list_ if re.search(r"[(\[]|\\\{", text) else THOUSANDS.sub(joined, text)
    length = re.sub(AFTER_NUMBER, partial(words_after_number, letters=True), number)
    return [tokenise(reading) for reading in dict.fromkeys([number, list_, length])]


def tokenise(text):
    """Numbers, letters like x or x_1, words like "cm, commands, and all else character by character."""
    found = TOKEN.findall(text.rstrip(" ,;\\"))
    tokens = [ALIASES.get(token, token.replace(" ", "") if "_" in token else token) for token in found]
    return [token for token in tokens if token not in IGNORED]


# --- From tokens to a tree --------------------------------------------------------------------------------

RELATIONS = ("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", "\\approx")
SET_OPERATIONS = ("\\cup", "\\cap", "\\setminus")
INTERVALS = ("()", "(]", "[)", "[]")
CLOSING = {"(": ")]", "[": ")]", "{": "}", "\\{": ["\\}"], "\\lvert": ["\\rvert"],
           "\\lfloor": ["\\rfloor"], "\\lceil": ["\\rceil"], "\\matrix": ["\\end"]}
CHAINED = (",", ";", "&", "\\\\", ":", "")      # operators of many operands; "" is the product in 2x
CAPITALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
QUOTIENTS = {"\\frac": "/", "\\over": "/", "\\binom": "\\binom", "\\choose": "\\binom"}
POSTFIX = ("!", "°", "%")
END = "<end>"
SUM, ARGUMENT, TIMES, POWER = 6, 7, 8, 9        # how close bind: +, sin in \sin 2x, the product in 2x, ^
BINDING = dict.fromkeys([END, ")", "]", "}", "\\}", "\\end", "\\rvert", "\\rfloor", "\\rceil"], 0) | {
    "\\where": .5, "\\\\": 1, "&": 2, ";": 2.5, ",": 3, **dict.fromkeys(RELATIONS, 4),
    **dict.fromkeys(SET_OPERATIONS, 5), ":": 5, "\\over": 5, "\\choose": 5,
    "+": SUM, "-": SUM, "*": TIMES, "/": TIMES, **dict.fromkeys("^!°%", POWER)}


def read(tokens):
    """The tree of an answer; it is a text if it cannot be read. Refused if it asks for too much work."""
    slow = [token for token in tokens if token in ("^", "!", "\\sqrt") or token.split("_")[0] in FUNCTIONS]
    nested = [token for token in tokens if token in CLOSING]
    if len(tokens) > MAX_TOKENS or len(slow) > MAX_OPERATIONS or len(nested) > MAX_BRACKETS:
        raise Refused("too much work")
    try:
        return parse(tokens)
    except (Refused, IndexError):
        return plain(tokens)


def plain(tokens):
    """A text: the tokens without the braces around a single one, as in ^{3}."""
    lone = {i for i in range(len(tokens) - 2) if tokens[i] == "{" and tokens[i + 2] == "}"}
    return "text", *(token for i, token in enumerate(tokens) if i not in lone and i - 2 not in lone)


def parse(tokens):
    r"""The tree of tokens. 1 \pm 2, \mp 3 is a list of all that the upper and the lower signs give."""
    trees = []
    for upper, lower in ("+-", "-+"):
        left = [{"\\pm": upper, "\\mp": lower}.get(token, token) for token in (END, *reversed(tokens))]
        trees.append(expression(left, 0))
        if left != [END]:
            raise Refused("more than an answer")
    if trees[0] == trees[1]:
        return trees[0]
    kind, lists = ("set", [tree[1:] for tree in trees]) if trees[0][0] == "set" else (",", map(items, trees))
    return kind, *(item for pair in zip(*lists) for item in dict.fromkeys(pair))


def expression(tokens, level):
    """Takes a tree from the end of `tokens`, up to an operator that binds no closer than `level`."""
    size, minus = len(tokens), False
    while tokens[-1] in ("+", "-"):
        minus ^= tokens.pop() == "-"
    tree = atom(tokens) if len(tokens) == size else expression(tokens, max(level, SUM))
    tree = join("*", "-1", tree) if minus else tree
    while (binding := BINDING.get(tokens[-1], TIMES)) > level:
        ends = tokens[-1] in ("*", "/", *CLOSING, *FUNCTIONS) or tokens[-2:] == ["^", "e"]
        if level == ARGUMENT and ends:
            break                                               # \sin x (1 + x), \sin x \cos x, \sin x e^x
        token = tokens.pop() if tokens[-1] in BINDING else ""
        while token in (",", ";") and tokens[-1] in (",", ";"):             # 1, 2, and 3
            token = tokens.pop()
        tree = (token, tree) if token in POSTFIX else join(token, tree, expression(tokens, binding))
        if token in ("^", "!") and tokens[-1] == token:
            raise Refused("a tower without braces, or a double factorial")
    return tree


def atom(tokens):
    """Takes what no operator splits: a number, a name, a bracket, a fraction, a root, a function of x."""
    token = tokens.pop()
    name, _, base = token.partition("_")
    if token in CLOSING:
        return bracket(token, ("set",) if tokens[-1] == "\\}" else expression(tokens, 0), tokens.pop())
    if token in QUOTIENTS:
        return QUOTIENTS[token], atom(tokens), atom(tokens)
    if token == "\\sqrt":
        return token, atom(tokens) if tokens[-1] == "[" else "2", atom(tokens)
    if name in FUNCTIONS:
        exponent = expression(tokens, POWER) if tokens[-1] == "^" and tokens.pop() else "1"
        x = atom(tokens) if tokens[-1] in CLOSING else expression(tokens, ARGUMENT)
        if exponent == ("*", "-1", "1"):
            return "\\arc" + name[1:], x
        return "^", ("/", (name, x), (name, parse(tokenise(base)))) if base else (name, x), exponent
    if token[0] in ".0123456789" or token in CONSTANTS or SYMBOL.fullmatch(token):
        return token
    found, depth = [token], 0                   # \int_0^1 x dx is a text, up to = or to the end of a bracket
    while depth or (tokens[-1] != "=" and BINDING.get(tokens[-1]) != 0):
        depth += (tokens[-1] in CLOSING) - (BINDING.get(tokens[-1]) == 0)
        found.append(tokens.pop())
    return plain(found)


def bracket(opening, tree, closing):
    """The tree of what stands in brackets: a set, a matrix, |x|, a tuple like ("[)", "1", "2"), or x."""
    if closing not in CLOSING[opening]:
        raise Refused("brackets that do not match")
    if opening == "\\{":
        return "set", *items(tree)
    if opening == "\\matrix":
        return tree if tree[0] in ("&", "\\\\") else ("\\\\", tree)
    if opening in ("\\lvert", "\\lfloor", "\\lceil"):
        return opening, tree
    if tree[0] in (",", ";") and opening != "{":
        return opening + closing, *items(tree)
    if opening + closing in ("(]", "[)"):
        raise Refused("half an interval")
    return tree


def join(token, left, right):
    """The tree of two trees and the operator between them; what is chained, like 1, 2, 3, is one node."""
    if token in RELATIONS:
        return *(left if left[0] == "rel" else ("rel", left)), token, right
    if token in CHAINED and left[0] == token:
        return token, *left[1:], right
    if token == "" and left in CAPITALS and right[0] == "()":                 # the point A(2, 3)
        return "rel", left, "=", right
    if token in ("", "*") and right[0] in ("&", "\\\\") and not {"&", "\\\\"} & {*flat(left)}:      # a matrix
        return right[0], *(join("*", left, part) for part in right[1:])
    return QUOTIENTS.get(token, token), left, right


def items(tree):
    """What a list lists. 1, 2 or 3 are three things, but p=5, q=2 or p=7, q=2 two."""
    if tree[0] == ";" and any(part[0] != "," for part in tree[1:]):
        return tuple(item for part in tree[1:] for item in items(part))
    return tree[1:] if tree[0] in (",", ";") else (tree,)


def flat(tree):
    """All tokens of a tree."""
    return [tree] if isinstance(tree, str) else [token for part in tree for token in flat(part)]


def symbols(tree):
    """The letters and words of a tree."""
    return {token for token in flat(tree) if SYMBOL.fullmatch(token)} - CONSTANTS


def name(tree):
    """The letters of a tree that may be a name: x, AB, f(x), f(2), P(X = 2), (x, y), Area; else nothing."""
    letters = [token for token in flat(tree) if token not in ("", "()", "rel", *RELATIONS)]
    if tree[0] != "rel" and letters and not letters[0].isdigit() and all(
            token.isdigit() or SYMBOL.fullmatch(token) for token in letters):
        return "".join(letters)
    return ""
