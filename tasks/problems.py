"""Problems and where they come from: two generators, a dataset of the hub, or local files.

    load_problems("toy", "train", limit=4096)
    load_problems("reasoning-gym:chain_sum,min_terms=2,max_terms=3")        # see reasoning.py
    load_problems("agentica-org/DeepScaleR-Preview-Dataset")
    load_problems("my_problems.jsonl")      # or .json, .csv, .parquet, .jsonl.gz, or a folder of save_to_disk

A row needs a problem and an answer that can be checked. Rows without them are dropped, and their number and
the reason are printed. Texts that differ only in white space or case are the same problem.
"""

import csv
import gzip
import json
import random
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tasks.grader import equal, grade, last_boxed

MAX_CHARACTERS = 100_000        # of a problem; the tokens of its prompt are limited by the trainer
GYM = "reasoning-gym:"          # what its tasks begin with
COMMA = r",(?![^\[]*\])"       # between its options; a list of them has commas of its own
MISSING = ("", "nan", "<na>", "n/a", "none", "null", "inf", "-inf")         # what stands where no answer is


@dataclass(frozen=True)
class Problem:
    """level: a name for how hard the problem is, where the source tells; "" otherwise. score: is a completion
    right? None: if its boxed answer equals `answer` as mathematics.
    """
    id: str
    text: str
    answer: str
    level: str = ""
    score: Callable | None = field(default=None, kw_only=True, repr=False, compare=False)

    @property
    def key(self):
        """The text without case and white space: problems with the same key are the same."""
        return " ".join(self.text.casefold().split())

    def solved_by(self, completion):
        """Is this completion right?"""
        return self.score(completion) if self.score else grade(completion, self.answer, self.text)


def load_problems(source, split="train", limit=None, seed=0):
    """The problems of `source`: "toy", a task of reasoning-gym, a local file or folder, or an id of the hub.

    limit: at most so many, see `pick`; a generator makes as many (the toy world 4,096 by default), others for
    each split and seed. A local file is one split, whatever `split` says. Raises ValueError with one line
    that says what is wrong.
    """
    if source == "toy":
        from tasks import toy  # no other source needs it
        problems = toy.make_problems(limit or 4096, f"{split} {seed}")
        return [Problem(f"toy-{split}-{seed}-{i}", p.text, p.answer, p.level) for i, p in enumerate(problems)]
    if source.startswith(GYM):
        from tasks import reasoning
        return reasoning.load(source, split, limit, seed)
    rows = read_file(Path(source)) if Path(source).suffix in READERS else read_hub(source, split)
    problems, dropped, reasons = {}, [], Counter()
    for i, row in enumerate(rows):
        level = row.get("level")
        problem = Problem(f"{Path(source).stem}-{i}", problem_of(row) or "", answer_of(row) or "",
                          str(level) if isinstance(level, (str, int)) else "")
        reason = why_unusable(problem) or ("problem seen before" if problem.key in problems else None)
        if reason:
            dropped.append(problem)
            reasons[reason] += 1
        else:
            problems[problem.key] = problem
    problems = list(problems.values())
    counts = "; ".join(f"{count} rows: {reason}" for reason, count in reasons.most_common())
    if not problems:
        columns = ", ".join(sorted({str(name) for row in rows[:100] for name in row})) or "none"
        raise ValueError(
            f"{source} has no problem that can be trained on. Columns found: {columns}. Looked for a problem"
            " in problem, question or prompt, and for an answer in solution (boxed), answer, final_answer,"
            f" target or reward_model.ground_truth. Dropped: {counts or 'it has no rows'}.")
    if dropped:
        print(f"{source}: {len(problems)} of {len(rows)} problems kept. Dropped: {counts}"
              f"{by_level(dropped, problems)}")
    return problems if limit is None else pick(problems, limit, seed)


def is_generated(source):
    """Are there as many problems of `source` as one likes, others for each split?"""
    return source == "toy" or source.startswith(GYM)


def short_name(source):
    """What the problems of `source` are called in results and folders: the last part of a path or an id."""
    return source.removeprefix(GYM) if source.startswith(GYM) else Path(source).stem


# --- Which problems are held out --------------------------------------------------------------------------

def pick(problems, count, seed=0):
    """At most `count` different problems: those with the lowest hashes of seed and text.

    So their order does not matter, and a problem that is added replaces at most one.
    """
    problems = {problem.key: problem for problem in reversed(problems)}
    lowest = sorted(problems, key=lambda key: sha256(f"{seed} {key}".encode()).digest())[:count]
    return [problems[key] for key in lowest]


def split(problems, held_out):
    """Two lists without a problem in common: those to train on, and the held-out ones.

    held_out: these problems, or how many to `pick` of `problems`. Prints how many are removed from `problems`
    because the same ones are held out.
    """
    held_out = pick(problems, held_out) if isinstance(held_out, int) else held_out
    keys, ids = {problem.key for problem in held_out}, {id(problem) for problem in held_out}
    kept = [problem for problem in problems if problem.key not in keys]
    removed = [problem for problem in problems if problem.key in keys and id(problem) not in ids]
    if removed:
        print(f"{len(removed)} of {len(problems)} problems are held out as well, and not trained on"
              f"{by_level(removed, kept)}")
    return kept, held_out


def by_level(removed, kept):
    """How many problems of each level were removed, as text, with a warning if this changes their mix."""
    gone, left = Counter(problem.level for problem in removed), Counter(problem.level for problem in kept)
    text, rest = "", max(1, len(kept))
    for place, (level, count) in enumerate(gone.most_common() if any(gone) else ()):
        before, after = (count + left[level]) / (len(removed) + len(kept)), left[level] / rest
        changed = before - after > 2 * (before * (1 - before) / rest) ** 0.5            # two standard errors
        if place < 8 or changed:
            text += f"; {count} of level {level[:40]!r}"
        if changed:
            text += f" (WARNING: {before:.0%} of all problems before, {after:.0%} after)"
    return text


def fingerprint(problems):
    """A short text that changes with any problem or answer, for a run to keep and compare."""
    rows = json.dumps([(problem.text, problem.answer) for problem in problems])
    return f"{len(problems)} problems, {sha256(rows.encode()).hexdigest()[:8]}"


# --- Reading files: a list of rows (dicts) ----------------------------------------------------------------

def open_text(path):
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")         # -sig: without a byte order mark


def read_parquet(path):
    import pyarrow.parquet  # comes with datasets, and is not needed by the toy world
    return pyarrow.parquet.read_table(path).to_pylist()


def read_jsonl(path):
    rows = []
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} is not JSON: {error}") from None
    return rows


def read_json(path):
    with open_text(path) as file:
        content = json.load(file)
    if isinstance(content, dict):           # {"data": [...]}
        content = next((value for value in content.values() if isinstance(value, list)), [content])
    return content


def read_csv(path):
    with open_text(path) as file:
        return list(csv.DictReader(file))


READERS = {".parquet": read_parquet, ".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv,
           ".gz": lambda path: READERS[Path(path.stem).suffix](path)}


def read_file(path):
    """The rows of a local file. Raises ValueError in one line for whatever is wrong with it."""
    try:
        rows = READERS[path.suffix](path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except Exception as error:              # each reader has errors of its own, and none names the file
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} cannot be read: it needs one object with named columns for each problem")
    return rows


def one_line(error):
    """What an exception says on one line of at most 300 characters, or its type if it says nothing."""
    return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__


def read_hub(source, split):
    """The rows of a dataset: a folder of `save_to_disk`, or an id of the hub, id:config if it has several."""
    folder = Path(source).is_dir()
    if not folder and (source.startswith((".", "/", "~")) or source.count("/") != 1):
        kinds = ", ".join(READERS)
        raise ValueError(f"{source} is neither toy, nor a folder, {kinds} file, {GYM}TASK or dataset id "
                         "(owner/name)")
    try:
        import datasets
        if folder:
            found = datasets.load_from_disk(source)
            return (found[split] if isinstance(found, dict) else found).to_list()
        notice_offline()
        name, _, config = source.partition(":")
        return datasets.load_dataset(name, config or None, split=split).to_list()
    except Exception as error:              # no network, no such set, no such split, gated, not installed
        raise ValueError(f"dataset {source}, split {split}, cannot be loaded: {one_line(error)}. Download "
                         "it once where there is a network, or give a local file with --data") from None


def notice_offline():
    """Without a network, make the hub's libraries use what is there: they would try for most of a minute."""
    from huggingface_hub import constants, get_session
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:                       # its type depends on the version
        constants.HF_HUB_OFFLINE = True


# --- What a row says --------------------------------------------------------------------------------------

def problem_of(row):
    """The problem's text, or None: a string, or the turns of a chat up to the last one of the user."""
    for column in ("problem", "question", "prompt"):
        value = row.get(column)
        if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
            while value and value[-1].get("role") != "user":
                value = value[:-1]
            texts = [turn.get("content") for turn in value]
            value = "\n\n".join(texts) if all(isinstance(text, str) and text for text in texts) else None
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def answer_of(row):
    r"""The gold answer as text, or None. The last \boxed{} of a solution comes first: a grader knows it.

    verl keeps the answer in reward_model.ground_truth, as text or as an object with such columns.
    """
    truth = row["reward_model"].get("ground_truth") if isinstance(row.get("reward_model"), dict) else None
    places = row, truth if isinstance(truth, dict) else {"answer": truth}
    cells = [place.get("solution") for place in places]
    cells = [cell for cell in cells if isinstance(cell, str) and ("####" in cell or last_boxed(cell))]
    cells += [place.get(column) for place in places for column in ("answer", "final_answer", "target")]
    return next(filter(None, map(as_answer, cells)), None)


def as_answer(cell):
    """The answer in a cell, or None; of a list of accepted answers, the first that the grader can read."""
    if isinstance(cell, list):
        accepted = map(as_answer, (item for item in cell if not isinstance(item, list)))
        return next((answer for answer in accepted if answer and equal(answer, answer)), None)
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        cell = str(cell)
    if not isinstance(cell, str):
        return None
    answer = (last_boxed(cell) or cell.split("####")[-1]).strip()       # GSM8K reasons before ####
    return None if answer.casefold() in MISSING else answer


def why_unusable(problem):
    """The reason why a problem cannot be trained on, or None."""
    if not problem.text:
        return "no problem"
    if not problem.answer:
        return "no answer"
    if len(problem.text) > MAX_CHARACTERS:
        return f"problem over {MAX_CHARACTERS:,} characters"
    try:
        (problem.text + problem.answer).encode()
    except UnicodeEncodeError:
        return "not valid Unicode"
    return None if equal(problem.answer, problem.answer) else "answer that the grader cannot read"


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
