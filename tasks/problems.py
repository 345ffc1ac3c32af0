"""Problems and where they come from: the built-in toy world, a dataset of the hub, or a local file.

    load_problems("toy", "train", limit=4096)
    load_problems("agentica-org/DeepScaleR-Preview-Dataset")
    load_problems("my_problems.jsonl")          # or .json, .csv, .parquet

A row needs a problem and an answer that can be checked. Rows that have no such thing are dropped, and their
number and the reason are printed: nothing is trained on that cannot be graded.
"""

import csv
import json
import random
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tasks import toy
from tasks.grader import equal, last_boxed

MAX_CHARACTERS = 100_000        # of a problem; the tokens of its prompt are limited by the trainer


@dataclass(frozen=True)
class Problem:
    """`level` is a name for how hard the problem is, where the source tells; "" otherwise."""
    id: str
    text: str
    answer: str
    level: str = ""


def load_problems(source, split="train", limit=None, seed=0):
    """The problems of `source`: "toy", a local .parquet, .jsonl, .json or .csv file, or a dataset id of the hub.

    limit: a random sample of this size, drawn with `seed`; the toy world makes as many (default 4,096). A local
    file is one split, whatever `split` says. Raises ValueError with one line that says what is wrong.
    """
    if source == "toy":
        problems = toy.make_problems(limit or 4096, f"{split} {seed}")
        return [Problem(f"toy-{split}-{seed}-{i}", p.text, p.answer, p.level) for i, p in enumerate(problems)]
    rows = read_file(Path(source)) if Path(source).suffix in READERS else read_hub(source, split)
    problems, dropped, seen = [], Counter(), set()
    for i, row in enumerate(rows):
        text, answer = problem_of(row), answer_of(row)
        reason = why_unusable(text, answer) or ("problem seen before" if text in seen else None)
        if reason:
            dropped[reason] += 1
            continue
        seen.add(text)
        level = row.get("level")
        problems.append(Problem(f"{Path(source).stem}-{i}", text, answer, level if isinstance(level, str) else ""))
    if not problems:
        columns = ", ".join(sorted({str(name) for row in rows[:100] for name in row})) or "none"
        reasons = "; ".join(f"{count} rows: {reason}" for reason, count in dropped.most_common())
        raise ValueError(
            f"{source} has no problem that can be trained on. Columns found: {columns}. Looked for a problem in "
            f"problem, question or prompt, and for an answer in solution (boxed), answer, final_answer, target or "
            f"reward_model.ground_truth. {reasons or 'It has no rows'}.")
    if dropped:
        reasons = ", ".join(f"{count} ({reason})" for reason, count in dropped.most_common())
        print(f"{source}: {len(problems)} of {len(rows)} problems kept, dropped {reasons}")
    if limit is not None and limit < len(problems):
        problems = random.Random(f"sample {seed}").sample(problems, limit)
    return problems


# --- Reading files: a list of rows (dicts) ----------------------------------------------------------------

def read_parquet(path):
    import pyarrow.parquet      # comes with datasets, and is not needed by the toy world
    return pyarrow.parquet.read_table(path).to_pylist()


def read_jsonl(path):
    rows = []
    with open(path, encoding="utf-8-sig") as file:          # -sig: with or without a byte order mark
        for number, line in enumerate(file, 1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} is not JSON: {error}") from None
    return rows


def read_json(path):
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict):           # {"data": [...]}
        content = next((value for value in content.values() if isinstance(value, list)), [content])
    return content


def read_csv(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


READERS = {".parquet": read_parquet, ".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv}


def read_file(path):
    """The rows of a local file. Raises ValueError in one line for whatever is wrong with it."""
    try:
        rows = READERS[path.suffix](path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except Exception as error:              # each reader has errors of its own, and none names the file
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} cannot be read: it should hold one object with named columns for each problem")
    return rows


def one_line(error):
    """What an exception says on one line of at most 300 characters, or its type if it says nothing."""
    return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__


def read_hub(source, split):
    """The rows of a dataset of the Hugging Face hub; `id:config` names one of several configurations."""
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ValueError(f"{source} is neither toy, nor a {', '.join(READERS)} file, nor a dataset id (owner/name)")
    try:
        import datasets
        name, _, config = source.partition(":")
        return datasets.load_dataset(name, config or None, split=split).to_list()
    except Exception as error:              # no network, no such set, no such split, gated, not installed
        raise ValueError(f"dataset {source}, split {split}, cannot be loaded: {one_line(error)}. Download "
                         "it once where there is a network, or give a local file with --data") from None


# --- What a row says --------------------------------------------------------------------------------------

def problem_of(row):
    """The problem's text, or None: a string, or the last user message of a chat."""
    for column in ("problem", "question", "prompt"):
        value = row.get(column)
        if isinstance(value, list):
            value = next((message.get("content") for message in reversed(value)
                          if isinstance(message, dict) and message.get("role") == "user"), None)
        if isinstance(value, str):
            return value.strip()
    return None


def answer_of(row):
    r"""The gold answer as text, or None. The last \boxed{} of a solution comes first: it is what a grader knows.

    verl keeps the answer in reward_model.ground_truth, as text or as an object with such columns.
    """
    truth = row["reward_model"].get("ground_truth") if isinstance(row.get("reward_model"), dict) else None
    truth = truth if isinstance(truth, dict) else {"answer": truth}
    for columns in (row, truth):
        solution = columns.get("solution")
        if isinstance(solution, str) and (boxed := last_boxed(solution)) is not None:
            return boxed.strip()
    for columns in (row, truth):
        for column in ("answer", "final_answer", "target"):
            value = columns.get(column)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                value = str(value)
            if isinstance(value, str):
                return value.split("####")[-1].strip()          # GSM8K writes its reasoning before ####
    return None


def why_unusable(text, answer):
    """The reason why a problem cannot be trained on, or None."""
    if not text:
        return "no problem"
    if not answer:
        return "no answer"
    if len(text) > MAX_CHARACTERS:
        return f"problem over {MAX_CHARACTERS:,} characters"
    try:
        (text + answer).encode()
    except UnicodeEncodeError:
        return "not valid Unicode"
    return None if equal(answer, answer) else "answer that the grader cannot read"


# --- The order of training --------------------------------------------------------------------------------

class ProblemStream:
    """Problems without end: one shuffled pass after another. `position` is how many have been drawn."""

    def __init__(self, problems, seed, position=0):
        self.problems, self.seed, self.position = problems, seed, position

    def draw(self, count):
        """The next `count` problems."""
        size = len(self.problems)
        places = range(self.position, self.position + count)
        orders = {epoch: random.Random(f"{self.seed} {epoch}").sample(range(size), size)
                  for epoch in {place // size for place in places}}
        self.position += count
        return [self.problems[orders[place // size][place % size]] for place in places]
