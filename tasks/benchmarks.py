r"""Benchmarks: where their problems are, how a row becomes a problem, and how a completion is graded.

    load_benchmark("math500", limit=100)
    load_benchmark("folio=data/folio.json")         # a local copy in the columns of that benchmark
    load_benchmark("livecodebench@2024-08-01:=test5.jsonl", allow_code_execution=True)      # from that day on
    load_benchmark("my_logic.json")                 # any multiple choice: context, question, options, answer
    load_benchmark("my_problems.jsonl")             # any problems that can be trained on, as in problems.py
    load_benchmark("reasoning-gym:chain_sum")       # made for the occasion, see reasoning.py

A `Benchmark` is a line of the table at the end of this file. Hub ids and columns are those of the sets'
cards; a set with other columns is refused with a line that names what was looked for and what was found.
Benchmarks of code execute what the model writes, in sandbox.py, and only if that is allowed.
"""

import random
import re
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tasks import livecodebench, sandbox
from tasks.grader import last_boxed, pairs, read, readings, trees, without_label, without_units

# isort: off
from tasks.problems import (COMMA, GYM, READERS, Problem, answer_of, is_generated, load_problems, problem_of,
                            read_file, read_hub, short_name)
# isort: on

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTER = "Answer with the letter of the right option."
CODE = "Reason step by step, and end with one block of python code between ```python and ```."
LITERAL = "Reason step by step, and end with that value, a python literal, alone between ```python and ```."
SCIENCE_TOLERANCE = 0.05        # SciBench's own


@dataclass(frozen=True)
class CodeProblem(Problem):
    """A problem whose solutions are executed with `tests`. `answer`: the row's own solution, or ""."""
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """source, split: as in `problems.read_hub`. read: a row's (text, answer[, level[, tests]]); KeyError if a
    column is missing, ValueError if the row is no problem. grade: is a completion right, given a Problem?
    instruction: ends the prompt; None for the ordinary one. executes: does grading run what the model wrote?
    group: as in the paper's averages, or "other".
    """
    source: str
    split: str
    read: Callable
    grade: Callable = lambda completion, problem: problem.solved_by(completion)
    instruction: str | None = None
    executes: bool = False
    note: str = ""
    group: str = "mathematics"


# --- Rows -------------------------------------------------------------------------------------------------

def columns(question, answer, level=None):
    """A reader of rows with a column each for problem and answer; a list of answers is joined by commas."""
    def read(row):
        if row.get("modality", "Text-only") != "Text-only":         # OlympiadBench has problems with pictures
            raise ValueError("needs a picture")
        if question not in row and problem_of(row):                         # a local copy in a usual layout
            return problem_of(row), answer_of(row) or ""
        value = row[answer]
        value = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        return row[question], value.strip(), str(row.get(level, ""))
    return read


def choice(question, options, right, context=""):
    """A multiple-choice problem. right: letter, index or text of an option. Options may carry letters."""
    if isinstance(right, str) and len(right.strip(" ().")) > 1:
        right = list(options).index(right)
    options = [re.sub(r"^\s*\(?[A-Z][).:]\s*", "", str(option)) for option in options]
    letter = (right if isinstance(right, str) else LETTERS[right]).strip(" ().").upper()
    if not 2 <= len(options) <= len(LETTERS) or letter not in LETTERS[:len(options)]:
        raise ValueError("no answer among its options")
    listed = "\n".join(f"{LETTERS[i]}) {option}" for i, option in enumerate(options))
    return "\n\n".join(part.strip() for part in (context, question, listed, LETTER) if part.strip()), letter


def read_logic(row):
    """context (if any), question, options as a list or by their letters, answer as in `choice`."""
    options = row["options"].values() if isinstance(row["options"], dict) else row["options"]
    return choice(row["question"], options, row["answer"], row.get("context") or "")


def read_gpqa(row):
    """The right answer has a column of its own: options are shuffled, the same way every time."""
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
    order = random.Random(row["Question"]).sample(range(4), 4)
    return choice(row["Question"], [options[i].strip() for i in order], order.index(0))


def read_arc(row):
    labels = list(row["choices"]["label"])
    return choice(row["question"], row["choices"]["text"], labels.index(row["answerKey"]))  # some are 1 to 4


def read_folio(row):
    premises = row["premises"] if isinstance(row["premises"], str) else "\n".join(row["premises"])
    label = "Uncertain" if row["label"] == "Unknown" else row["label"]
    question = f"By these premises, is the statement true, false or uncertain?\n{row['conclusion']}"
    return choice(question, ["True", "False", "Uncertain"], label, premises)


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
    """In Google's columns, EvalPlus's (`test` is a long text), or DeepSeek-Coder's (`test` is a list)."""
    test = row.get("test") or row["test_list"]
    shown = row.get("test_list") or test
    shown = re.findall("^assert .*", shown, re.MULTILINE)[:3] if isinstance(shown, str) else shown
    if not isinstance(test, str):
        test = "\n".join([*(row.get("test_imports") or [row.get("test_setup_code", "")]), *test])
    text = row["prompt"] if "prompt" in row else row["text"]
    text = "\n".join([text, "", "Your code should pass these tests:", *shown])
    return text, row.get("code") or "", "", (test,)


def read_humaneval(row):
    right = row.get("canonical_solution") or ""
    return (f"Complete this function, and write it out as a whole:\n\n```python\n{row['prompt']}\n```",
            right and row["prompt"] + right, "", (f"{row['test']}\ncheck({row['entry_point']})",))


def read_crux(row):
    text = f"What does this python function return for f({row['input']})?\n\n```python\n{row['code']}\n```"
    return text, row.get("output") or "", "", (f"{row['code']}\nresult = f({row['input']})",)


# --- Grades -----------------------------------------------------------------------------------------------

def grade_letter(completion, problem):
    r"""Is the boxed letter the right one? Reads \boxed{B}, \boxed{(B)}, \boxed{\text{B}}, \boxed{B) so}."""
    box = (last_boxed(completion) or "")[:400]
    box = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", box)
    match = re.match(r"\s*\(?([A-Za-z])\)?\s*(?:[).:,].*)?$", box, re.DOTALL)
    return bool(match) and match[1].upper() == problem.answer


def grade_science(completion, problem):
    """Is the boxed number within 5 % of the right one, and its unit, if any, one of what was asked for?"""
    number, _, unit = problem.answer.partition(" ")
    with suppress(Exception):                       # as in the grader: what cannot be judged is wrong
        right, ours = read(readings(number)[0]), trees(readings(last_boxed(completion)))
        for tree, wanted in product(map(without_label, ours), trees(readings(problem.answer))):
            bare = without_units(tree)
            found = list(pairs(tree, wanted) if unit and bare != tree else pairs(bare, right))
            if found and all(abs(x - y) <= SCIENCE_TOLERANCE * abs(y) for x, y in found):
                return True
    return False


def last_block(completion):
    """The content of the last closed block of code, or None."""
    blocks = re.findall(r"```(?:python|py)?[ \t]*\n?(.*?)```", completion[-100_000:], re.DOTALL)
    return blocks[-1].strip() if blocks else None


def by_block(passes):
    """The grade of code: passes(block, *tests), for the last block of code. Executes it."""
    def grade_block(completion, problem):
        block = last_block(completion)
        return block is not None and passes(block, *problem.tests)
    return grade_block


def is_result(block, program):
    """Is the block the literal that `program` computes? Executes the program, not the block."""
    return sandbox.passes(program, f"import ast\nassert result == ast.literal_eval({block!r})")


# --- Loading ----------------------------------------------------------------------------------------------

def load_benchmark(source, limit=None, allow_code_execution=False):
    """(Benchmark, list of Problems) of NAME, NAME=FILE, or a source of `problems.load_problems`.

    NAME: one of BENCHMARKS, or livecodebench@FROM:TO, the contests of these days. limit: a random sample of
    this size, the same every time. Raises ValueError with one line that says what is wrong: an unknown name,
    no access or network, wrong columns, code that may not be executed.
    """
    if is_generated(source):
        return PLAIN, load_problems(source, "test", limit or GENERATED_PROBLEMS)
    name, _, file = source.partition("=")
    suffix, kept = Path(name).suffix, list
    if name.startswith("livecodebench@"):
        name, _, days = name.partition("@")
        kept = livecodebench.window(days)
    benchmark = BENCHMARKS.get(name, PLAIN)
    if benchmark is PLAIN and suffix not in READERS and (file or "/" not in name):
        raise ValueError(f"unknown benchmark {name}: there are toy, {', '.join(BENCHMARKS)}; or give a "
                         f"{', '.join(READERS)} file, {GYM}TASK, or a dataset id of the hub (owner/name)")
    if benchmark.executes and not allow_code_execution:
        raise ValueError(f"{name} executes code that the model writes: read about it in docs/benchmarks.md, "
                         "then add --allow-code-execution")
    rows = []
    if name in BENCHMARKS or suffix in READERS:
        rows = fetch(name, benchmark, file) if name in BENCHMARKS else read_file(Path(name))
    if rows and "options" in rows[0] and (benchmark is PLAIN or benchmark.grade is grade_letter):
        benchmark = BENCHMARKS["logic"]
    if benchmark is PLAIN:
        problems = load_problems(name, "test")
    else:
        problems = read_rows(Path(name).stem, benchmark, kept(rows))
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
    """Problems from rows. A missing column is an error; rows that are no problem are left out and counted."""
    problems, dropped, kind = [], 0, CodeProblem if benchmark.executes else Problem
    for i, row in enumerate(rows):
        try:
            text, answer, *more = benchmark.read(row)
            if not text.strip() or not (answer or more[1:]):
                raise ValueError("empty")
            "".join([text, answer, *more[:1]]).encode()
        except KeyError as error:
            raise ValueError(f"benchmark {name}: row {i} has no column {error}; it has "
                             f"{', '.join(map(str, row)) or 'none'}") from None
        except (ValueError, TypeError, AttributeError, IndexError, RecursionError, zlib.error):
            dropped += 1
            continue
        problems.append(kind(f"{name}-{i}", text.strip(), answer, *more))
    if not problems:
        raise ValueError(f"benchmark {name}: none of its {len(rows)} rows is a problem with an answer")
    if dropped:
        print(f"{name}: {dropped} of {len(rows)} rows left out: no text, no answer, or a picture is needed")
    return problems


def load_sets(sources, limit=None, allow_code_execution=False):
    """{name: (Benchmark, list of Problems)} of several sources of `load_benchmark`, separated by commas.

    A benchmark goes by its own name, a file or a hub id by its last part. Raises ValueError with one line.
    """
    parts = separate(sources)
    names = [part if part.startswith(GYM) else part.partition("=")[0] for part in parts]
    names = [name if name in BENCHMARKS else short_name(name) for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"--data {sources} names a set twice")
    return {name: load_benchmark(part, limit, allow_code_execution) for name, part in zip(names, parts)}


def separate(sources):
    """The sources in a text with commas: option=value belongs to the reasoning-gym task before it."""
    parts = []
    for part in map(str.strip, re.split(COMMA, sources)):
        name, equals, _ = part.partition("=")
        if parts and parts[-1].startswith(GYM) and equals and name.isidentifier() and name not in BENCHMARKS:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def group_of(name):
    """The group of a data set by its name in a result file; "other" if it is none of BENCHMARKS."""
    return BENCHMARKS.get(name.partition("@")[0], PLAIN).group


def check_gold(benchmark, problems):
    """Is a set read rightly? Grades its own answers: (how many pass, of how many, first Problems that fail).

    An answer becomes a completion, boxed or as a block of code. LiveCodeBench has none, and so counts 0 of 0.
    """
    before, after = ("```python\n", "\n```") if benchmark.executes else ("\\boxed{", "}")
    known = [problem for problem in problems if problem.answer]
    failed = [problem for problem in known if not benchmark.grade(before + problem.answer + after, problem)]
    return len(known) - len(failed), len(known), failed[:3]


GATED = "Its authors ask for consent: accept it on its page of the hub, then `hf auth login`"
GENERATED_PROBLEMS = 200
PLAIN = Benchmark("", "", columns("problem", "answer"), group="other")
LOGIC = dict(grade=grade_letter, group="logic")
SCIENCE = dict(grade=grade_letter, group="science")
PROGRAM = dict(grade=by_block(sandbox.passes), instruction=CODE, executes=True, group="code")
BENCHMARKS = {
    "math500": Benchmark("HuggingFaceH4/MATH-500", "test", columns("problem", "answer", "level")),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", "train", columns("problem", "answer")),
    "aime25": Benchmark("math-ai/aime25", "test", columns("problem", "answer")),
    "amc23": Benchmark("math-ai/amc23", "test", columns("question", "answer")),
    "minerva": Benchmark("math-ai/minervamath", "test", columns("question", "answer")),
    "olympiad": Benchmark("math-ai/olympiadbench", "test", columns("question", "final_answer", "subfield")),
    "gpqa": Benchmark("Idavidrein/gpqa:gpqa_diamond", "train", read_gpqa, note=GATED, **SCIENCE),
    "rbench": Benchmark("R-Bench/R-Bench:rbench-t_en", "test", lambda row: choice(
        row["question"], [row[letter] for letter in "ABCDEF"], row["answer"]), **SCIENCE),
    "arc": Benchmark("allenai/ai2_arc:ARC-Challenge", "test", read_arc, **SCIENCE),
    "scibench": Benchmark("xw27/scibench", "train", read_scibench, grade_science, group="science"),
    "prontoqa": Benchmark("renma/ProntoQA", "validation", read_logic, **LOGIC),
    "proofwriter": Benchmark("renma/ProofWriter", "validation", read_logic, **LOGIC),
    "folio": Benchmark("yale-nlp/FOLIO", "validation", read_folio, note=GATED, **LOGIC),
    "deduction": Benchmark("lukaemon/bbh:logical_deduction_five_objects", "test", read_bbh, **LOGIC),
    "lsat": Benchmark("hails/agieval-lsat-ar", "test", read_agieval, **LOGIC),
    "logic": Benchmark("", "", read_logic, **LOGIC),
    "mbpp": Benchmark("google-research-datasets/mbpp:sanitized", "test", read_mbpp, **PROGRAM),
    "mbppplus": Benchmark("evalplus/mbppplus", "test", read_mbpp, **PROGRAM),
    "humanevalplus": Benchmark("evalplus/humanevalplus", "test", read_humaneval, **PROGRAM),
    "crux": Benchmark("cruxeval-org/cruxeval", "test", read_crux, by_block(is_result), LITERAL, True,
                      group="code"),
    "livecodebench": Benchmark("lighteval/code_generation_lite:release_latest", "test", livecodebench.read,
                               by_block(livecodebench.passes), CODE, True, group="code"),
}
