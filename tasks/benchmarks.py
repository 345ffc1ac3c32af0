r"""Benchmarks: where their problems are, how a row becomes a problem, and how a completion is graded.

    load_benchmark("math500", limit=100)
    load_benchmark("folio=data/folio.json")         # a local copy in the columns of that benchmark
    load_benchmark("my_logic.json")                 # any multiple choice: context, question, options, answer
    load_benchmark("my_problems.jsonl")             # any problems that can be trained on, as in data.py

A `Benchmark` is a line of the table at the end of this file. Hub ids and columns are those of the sets' public
cards; a set whose columns are others is refused with a line that names what was looked for and what was found.
Benchmarks of code execute what the model writes, in `sandbox.passes`, and only if that is allowed.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks import sandbox
from tasks.problems import READERS, Problem, answer_of, load_problems, problem_of, read_file, read_hub
from tasks.grader import equal, grade, last_boxed
from tasks.grader import number as value_of
from prompts import SOLUTION

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTER = "Answer with the letter of the right option."
CODE = "Reason step by step, and end with one block of python code between ```python and ```."
LITERAL = "Reason step by step, and end with that value, a python literal, alone between ```python and ```."
SCIENCE_TOLERANCE = 0.05        # SciBench's own


class Unusable(Exception):
    """A row that is no problem of the benchmark, such as one that needs a picture."""


@dataclass(frozen=True)
class Benchmark:
    """source, split: as in `data.read_hub`. read: a row's (text, answer, level), or KeyError if a column is missing.

    grade: is a completion right, given the Problem? instruction: what the prompt says after the problem's text.
    """
    source: str
    split: str
    read: Callable
    grade: Callable = lambda completion, problem: grade(completion, problem.answer)
    instruction: str = SOLUTION
    executes: bool = False
    note: str = ""


# --- Rows: (text, answer, level) --------------------------------------------------------------------------

def columns(question, answer, level=None):
    """A reader of rows whose problem and answer stand in one column each; a list of answers is joined by commas."""
    def read(row):
        if row.get("modality", "Text-only") != "Text-only":         # OlympiadBench has problems with pictures
            raise Unusable("needs a picture")
        if question not in row and problem_of(row) and answer_of(row):      # a local copy in a usual layout
            return problem_of(row), answer_of(row), ""
        value = row[answer]
        value = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        return row[question], value.strip(), str(row.get(level, ""))
    return read


def choice(question, options, right, context=""):
    """A multiple-choice problem from its parts: right is an index or a letter. Options may carry letters: A) ..."""
    options = [re.sub(r"^\s*\(?[A-Z][).:]\s*", "", str(option)) for option in options]
    letter = right if isinstance(right, str) else LETTERS[right]
    letter = letter.strip().strip("().").upper()
    if not 2 <= len(options) <= len(LETTERS) or letter not in LETTERS[:len(options)]:
        raise Unusable("no answer among its options")
    listed = "\n".join(f"{name}) {option}" for name, option in zip(LETTERS, options))
    return "\n\n".join(part.strip() for part in (context, question, listed, LETTER) if part.strip()), letter, ""


def read_logic(row):
    """context (if any), question, options, and an answer that is a letter, an index, or the text of an option."""
    options, answer = row["options"], row["answer"]
    if isinstance(options, dict):
        options = list(options.values())
    if isinstance(answer, str) and len(answer.strip(" ().")) > 1 and answer in options:
        answer = options.index(answer)
    return choice(row["question"], options, answer, row.get("context") or "")


def read_gpqa(row):
    """The right answer has a column of its own: options are shuffled, the same way every time."""
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
    order = random.Random(row["Question"]).sample(range(4), 4)
    return choice(row["Question"], [options[i].strip() for i in order], order.index(0))


def read_rbench(row):
    return choice(row["question"], [row[letter] for letter in "ABCDEF"], row["answer"])


def read_arc(row):
    labels = list(row["choices"]["label"])
    return choice(row["question"], row["choices"]["text"], labels.index(row["answerKey"]))     # some are 1 to 4


def read_folio(row):
    premises = row["premises"] if isinstance(row["premises"], str) else "\n".join(row["premises"])
    labels = ["True", "False", "Uncertain"]
    label = "Uncertain" if row["label"] == "Unknown" else row["label"]
    return choice(f"By these premises, is the statement true, false or uncertain?\n{row['conclusion']}", labels,
                  labels.index(label), premises)


def read_bbh(row):
    question, _, options = row["input"].partition("\nOptions:\n")
    return choice(question, options.splitlines(), row["target"])


def read_agieval(row):
    """query holds passage, question and a line of all choices, after which choices repeats them."""
    question = re.split(r"\s*Answer Choices:", row["query"])[0].removeprefix("Q: ")
    gold = row["gold"]
    return choice(question, row["choices"], gold[0] if isinstance(gold, (list, tuple)) else gold)


def read_scibench(row):
    unit = (row["unit"] or "").strip()
    text = row["problem_text"] + (f"\n\nGive the number in units of {unit}." if unit else "")
    return text, f"{str(row['answer_number']).strip()} {unit}".strip(), row.get("source") or ""


def read_mbpp(row):
    imports = list(row.get("test_imports") or row.get("test_setup_code", "").splitlines())
    text = row["prompt"] if "prompt" in row else row["text"]
    shown = "\n".join(row["test_list"])
    tests = row.get("test") or "\n".join([*imports, *row["test_list"]])                 # EvalPlus has one long test
    return f"{text}\n\nYour code should pass these tests:\n{shown}", tests, ""


def read_humaneval(row):
    return (f"Complete this function, and write it out as a whole:\n\n```python\n{row['prompt']}\n```",
            f"{row['test']}\ncheck({row['entry_point']})", "")


def read_crux(row):
    text = f"What does this python function return for f({row['input']})?\n\n```python\n{row['code']}\n```"
    return text, f"{row['code']}\nresult = f({row['input']})", ""


# --- Grades -----------------------------------------------------------------------------------------------

def grade_letter(completion, problem):
    r"""Is the boxed letter the right one? Reads \boxed{B}, \boxed{(B)}, \boxed{\text{B}}, \boxed{B) because}."""
    box = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", (last_boxed(completion) or "")[:400])
    match = re.match(r"\s*\(?([A-Za-z])\)?\s*(?:[).:,].*)?$", box, re.DOTALL)
    return bool(match) and match[1].upper() == problem.answer


NUMBER = re.compile(r"""\s* \$? \s* (
    [-+−]? \s* [\d.,]+ (?: \s* (?:\\times|\\cdot|×|\*) \s* 10 \s* \^ \s* (?:\{\s*[-+−]?\d+\s*\} | -?\d)
                       | [eE][-+]?\d+ )?
    ) (.*)""", re.DOTALL | re.VERBOSE)


def grade_science(completion, problem):
    """Is the boxed number within 5 % of the right one, and its unit, if it has one, the unit that was asked for?

    Units are compared as written or as formulas, not converted: 5 km are not 5000 m.
    """
    box = (last_boxed(completion) or "")[:400]
    ours, (number, _, unit) = NUMBER.match(box), problem.answer.partition(" ")
    found, right = (value_of(text) for text in (ours[1] if ours else "", number))
    if found is None or right is None or abs(found - right) > SCIENCE_TOLERANCE * abs(right):
        return False
    written, wanted = (plain_unit(text) for text in (ours[2], unit))
    return not written or not wanted or written == wanted or equal(f"1\\text{{ {written}}}", f"1\\text{{ {wanted}}}")


def plain_unit(text):
    r"""A unit without its LaTeX: \mathrm{~kJ} \mathrm{~mol}^{-1} and \text{ kJ/mol} become kJ mol^-1 and kJ/mol."""
    text = re.sub(r"\\(?:text|mathrm|operatorname|rm|left|right|[ ,;!])|[~${}]", " ", text)
    text = re.sub(r"\\(?:cdot|times)|\*|·", " ", text)
    return re.sub(r"\s*([/^])\s*", r"\1", " ".join(text.split())).strip(" .")


def last_block(completion):
    """The content of the last closed block of code, or None."""
    blocks = re.findall(r"```(?:python|py)?[ \t]*\n?(.*?)```", completion[-100_000:], re.DOTALL)
    return blocks[-1].strip() if blocks else None


def grade_code(completion, problem):
    """Does the last block of code pass the tests? Executes it."""
    block = last_block(completion)
    return block is not None and sandbox.passes(block, problem.answer)


def grade_literal(completion, problem):
    """Is the last block of code the literal that the given program computes? Executes the program, not the block."""
    block = last_block(completion)
    return block is not None and sandbox.passes(
        problem.answer, f"import ast\nassert result == ast.literal_eval({block!r})")


# --- Loading ----------------------------------------------------------------------------------------------

def load_benchmark(name, limit=None, allow_code_execution=False):
    """(Benchmark, list of Problems) of a name in BENCHMARKS, NAME=FILE, or a source of `data.load_problems`.

    limit: a random sample of this size, the same every time. Raises ValueError with one line that says what is
    wrong: an unknown name, no access or network, wrong columns, code that may not be executed.
    """
    name, _, file = name.partition("=")
    suffix = Path(name).suffix
    if name not in BENCHMARKS and suffix not in READERS and (file or name != "toy" and "/" not in name):
        raise ValueError(f"unknown benchmark {name}: there are toy, {', '.join(BENCHMARKS)}; or give a "
                         f"{', '.join(READERS)} file, or a dataset id of the hub (owner/name)")
    benchmark = BENCHMARKS.get(name, PLAIN)
    if benchmark.executes and not allow_code_execution:
        raise ValueError(f"{name} executes code that the model writes: read about it in README.md, then add "
                         "--allow-code-execution")
    if name == "toy":
        return benchmark, load_problems(name, "test", limit or TOY_PROBLEMS)
    rows = fetch(name, benchmark, file) if name in BENCHMARKS else read_file(Path(name)) if suffix in READERS else []
    if rows and "options" in rows[0] and (benchmark is PLAIN or benchmark.grade is grade_letter):
        benchmark = BENCHMARKS["logic"]
    if benchmark is PLAIN:
        problems = load_problems(name, "test")
    else:
        problems = read_rows(Path(name).stem, benchmark, rows)
    if limit and limit < len(problems):
        problems = random.Random(0).sample(problems, limit)
    return benchmark, problems


def fetch(name, benchmark, file):
    """The rows of a benchmark, from a local file or the hub."""
    if file or not benchmark.source:
        if Path(file).suffix not in READERS:
            raise ValueError(f"{name} needs a file: {name}=FILE, with a suffix of {', '.join(READERS)}")
        return read_file(Path(file))
    try:
        return read_hub(benchmark.source, benchmark.split)
    except ValueError as error:
        raise ValueError(f"benchmark {name}: {error} {name}=FILE. {benchmark.note}".rstrip()) from None


def read_rows(name, benchmark, rows):
    """Problems from rows. A missing column is an error; rows that are no problems are left out and counted."""
    problems, dropped = [], 0
    for i, row in enumerate(rows):
        try:
            text, answer, level = benchmark.read(row)
            if not (isinstance(text, str) and text.strip() and isinstance(answer, str) and answer):
                raise Unusable("empty")
            (text + answer + level).encode()
        except KeyError as error:
            raise ValueError(f"benchmark {name}: row {i} has no column {error}; it has "
                             f"{', '.join(map(str, row)) or 'none'}") from None
        except (Unusable, ValueError, TypeError, AttributeError, IndexError):
            dropped += 1
            continue
        problems.append(Problem(f"{name}-{i}", text.strip(), answer, level))
    if not problems:
        raise ValueError(f"benchmark {name}: none of its {len(rows)} rows is a problem with an answer")
    if dropped:
        print(f"{name}: {dropped} of {len(rows)} rows left out: no text, no usable answer, or a picture is needed")
    return problems


GATED = "Its authors ask for consent: accept it on its page of the hub, then `hf auth login`"
TOY_PROBLEMS = 200
PLAIN = Benchmark("", "", columns("problem", "answer"))
LOGIC = dict(read=read_logic, grade=grade_letter)
BENCHMARKS = {
    "math500": Benchmark("HuggingFaceH4/MATH-500", "test", columns("problem", "answer", "level")),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", "train", columns("problem", "answer")),
    "aime25": Benchmark("math-ai/aime25", "test", columns("problem", "answer")),
    "amc23": Benchmark("math-ai/amc23", "test", columns("question", "answer")),
    "minerva": Benchmark("math-ai/minervamath", "test", columns("question", "answer")),
    "olympiad": Benchmark("math-ai/olympiadbench", "test", columns("question", "final_answer", "subfield")),
    "gpqa": Benchmark("Idavidrein/gpqa:gpqa_diamond", "train", read_gpqa, grade_letter, note=GATED),
    "rbench": Benchmark("R-Bench/R-Bench:rbench-t_en", "test", read_rbench, grade_letter),
    "arc": Benchmark("allenai/ai2_arc:ARC-Challenge", "test", read_arc, grade_letter),
    "scibench": Benchmark("xw27/scibench", "train", read_scibench, grade_science),
    "prontoqa": Benchmark("renma/ProntoQA", "validation", **LOGIC),
    "proofwriter": Benchmark("renma/ProofWriter", "validation", **LOGIC),
    "folio": Benchmark("yale-nlp/FOLIO", "validation", read_folio, grade_letter, note=GATED),
    "deduction": Benchmark("lukaemon/bbh:logical_deduction_five_objects", "test", read_bbh, grade_letter),
    "lsat": Benchmark("hails/agieval-lsat-ar", "test", read_agieval, grade_letter),
    "logic": Benchmark("", "", **LOGIC),
    "mbpp": Benchmark("google-research-datasets/mbpp:sanitized", "test", read_mbpp, grade_code, CODE, True),
    "mbppplus": Benchmark("evalplus/mbppplus", "test", read_mbpp, grade_code, CODE, True),
    "humanevalplus": Benchmark("evalplus/humanevalplus", "test", read_humaneval, grade_code, CODE, True),
    "crux": Benchmark("cruxeval-org/cruxeval", "test", read_crux, grade_literal, LITERAL, True),
}
