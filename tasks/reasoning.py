r"""Problems that reasoning-gym makes: tasks of arithmetic, logic, language and games, with answers.

    load("reasoning-gym:chain_sum,min_terms=2,max_terms=3", "train", limit=500)

The package is optional. A boxed answer is right if the task's own scoring gives it 1, or if it is a number,
not a formula, that equals a gold number. `TASKS` are those whose scoring was read, in version 0.1.25, and
only compares. Others call eval or sympy on what a model wrote, do not come back from 1e999999999, take any
answer for right, or make other problems in every process.
"""

import json
import re
import zlib
from dataclasses import fields
from functools import partial

from tasks.grader import equal, last_boxed
from tasks.problems import COMMA, GYM, MAX_CHARACTERS, Problem, one_line

DEFAULT_SIZE = 1000
MAX_ANSWER = 10_000             # characters that are given to a task's scoring
NUMBER = r"[-+−]?\d+(?:,\d{3})*(?:\.\d+)?"
TASKS = frozenset("""
    ab acre advanced_geometry aiw arc_1d arc_agi base_conversion basic_arithmetic binary_alternation
    bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic color_cube_rotation
    count_bits count_primes course_schedule cryptarithm decimal_arithmetic decimal_chain_sum dice
    emoji_mystery family_relationships fraction_simplification futoshiki game_of_life gcd group_anagrams
    jugs kakurasu knights_knaves largest_island lcm leg_counting letter_counting letter_jumble
    list_functions mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid needle_haystack
    number_filtering number_format number_sequence number_sorting palindrome_generation
    palindrome_partitioning path_star prime_factorization products quantum_lock rearc rectangle_count
    rotate_matrix rotten_oranges self_reference sentence_reordering shortest_path simple_equations
    simple_geometry spell_backward string_manipulation string_splitting string_synthesis sudoku survo
    syllogism time_intervals tsumego word_sequence_reversal word_sorting zebra_puzzles""".split())


def load(source, split="train", limit=None, seed=0):
    """Problems of "reasoning-gym:TASK,option=value,...": `size` (1,000), or `limit` if that is less.

    Another split, or seed, gives other problems; none occurs twice, so a small task may have fewer. Raises
    ValueError with one line for a package that is missing, an unknown task or option, or a wrong value.
    """
    try:
        import reasoning_gym  # optional
    except ImportError:
        raise ValueError(f"{source} needs a package that is not installed: pip install "
                         "reasoning-gym") from None
    task, *parts = re.split(COMMA, source.removeprefix(GYM))
    if task not in TASKS:
        raise ValueError(f"{GYM}{task} is none of the tasks whose answers can be graded safely: "
                         f"{', '.join(sorted(TASKS))}")
    config = reasoning_gym.factory.DATASETS[task][1]
    known = {field.name: field.default for field in fields(config) if field.name != "seed"}
    pairs = [part.partition("=")[::2] for part in parts]
    wrong = [name for name, value in pairs if name.strip() not in known or not value]
    if wrong:
        raise ValueError(f"{GYM}{task} has no option {wrong[0]!r} with a value; it has {', '.join(known)}")
    options = {name.strip(): as_value(value) for name, value in pairs}
    for name, value in options.items():
        if isinstance(known[name], (int, float)) and isinstance(value, str):
            raise ValueError(f"{source}: {name} must be a number, as {known[name]}, not {value}")
    size = options.pop("size", DEFAULT_SIZE)
    try:
        count = min(size, limit or size)        # neighbouring seeds would share their problems
        made = reasoning_gym.create_dataset(task, seed=zlib.crc32(f"{split} {seed}".encode()), size=4 * count,
                                            **options)
        entries = {}
        for entry in map(made.__getitem__, range(4 * count)):
            text, answer = entry["question"], entry["answer"]
            if answer and isinstance(answer, str) and len(text) <= MAX_CHARACTERS:
                entries.setdefault(Problem("", text, "").key, entry)
            if len(entries) == count:
                break
    except Exception as error:                  # each task checks its options in its own way
        raise ValueError(f"{source} cannot be made: {one_line(error)}") from None
    return [Problem(f"{task}-{split}-{seed}-{i}", entry["question"].strip(), entry["answer"],
                    level_of(entry) or task, score=partial(score, made, entry))
            for i, entry in enumerate(entries.values())]


def as_value(text):
    """The value of an option: a number, true or false where it is one, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def level_of(entry):
    """The whole numbers by which a task says how hard a problem is, as in "num_terms 2 num_digits 1"."""
    metadata = entry.get("metadata", {})
    return " ".join(f"{name} {metadata[name]}" for name in metadata.get("difficulty", {})
                    if isinstance(metadata.get(name), int))


def score(made, entry, completion):
    r"""Is the last \boxed{} of a completion right? Never raises."""
    answer, gold = plain(last_boxed(completion) or ""), entry["answer"]
    if re.fullmatch(NUMBER, answer) and re.fullmatch(NUMBER, gold) and equal(answer.replace(",", ""), gold):
        return True
    try:
        return 0 < len(answer) <= MAX_ANSWER and made.score_answer(answer, entry) >= 1
    except Exception:                           # tasks trust what they score
        return False


def plain(box):
    """The content of a box without LaTeX around text and numbers."""
    box = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", box[:MAX_ANSWER + 1])
    return re.sub(r"\\[,;! ]|\\?\$", "", box).replace("{,}", ",").strip()
