"""Problems from files of the usual layouts, what is dropped and said, and the order of training."""

import csv
import gzip
import json
import math
import random
import subprocess
import sys
from collections import Counter

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT

from tasks.problems import Problem, ProblemStream, fingerprint, load_problems, pick, split

ROWS = [
    {"problem": "1 + 1?", "solution": r"It is $\boxed{2}$.", "answer": "3"},           # the box is the gold
    {"question": "2 + 2?", "answer": "thinking\n#### 4"},                              # GSM8K
    {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 3?"}],
     "reward_model": {"ground_truth": "6"}},                                           # verl
    {"prompt": [{"role": "user", "content": "4 + 4?"}],
     "reward_model": {"ground_truth": {"target": "9", "solution": r"\boxed{8}"}}},
    {"problem": "5 + 5?", "answer": 10, "level": "Level 1"},                           # a number
    {"problem": "6 + 6?", "final_answer": "12", "level": 3}]
GOLD = [("1 + 1?", "2"), ("2 + 2?", "4"), ("Be brief.\n\n3 + 3?", "6"), ("4 + 4?", "8"), ("5 + 5?", "10"),
        ("6 + 6?", "12")]


def write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "\n".join(map(json.dumps, rows)) + "\n\n"
        path.write_text(json.dumps(rows) if path.suffix == ".json" else lines)
    return str(path)


def contents(problems):
    return [(problem.text, problem.answer) for problem in problems]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_recognises_every_layout(tmp_path, suffix):
    problems = load_problems(write(tmp_path / f"p{suffix}", ROWS))
    assert contents(problems) == GOLD
    assert problems[4] == Problem("p-4", "5 + 5?", "10", "Level 1") and problems[5].level == "3"


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS[1:2], ROWS[2:3], ROWS[3:4]])
def test_parquet(tmp_path, rows):
    problems = load_problems(write(tmp_path / "p.parquet", rows))
    assert contents(problems) == [GOLD[ROWS.index(rows[0])]]


def test_csv_and_json_object(tmp_path):
    assert contents(load_problems(write(tmp_path / "p.csv", [{"question": "7, or 8?", "answer": "7"}]))) == [
        ("7, or 8?", "7")]
    (tmp_path / "q.json").write_text(json.dumps({"version": 1, "data": ROWS[:1]}))
    assert contents(load_problems(str(tmp_path / "q.json"))) == GOLD[:1]


def test_compressed_files(tmp_path):
    for name, content in [("p.jsonl.gz", "\n".join(map(json.dumps, ROWS))), ("p.json.gz", json.dumps(ROWS))]:
        (tmp_path / name).write_bytes(gzip.compress(content.encode()))
        assert contents(load_problems(str(tmp_path / name))) == GOLD
    (tmp_path / "q.csv.gz").write_bytes(gzip.compress(b"problem,answer\n1 + 1?,2\n"))
    assert contents(load_problems(str(tmp_path / "q.csv.gz"))) == [("1 + 1?", "2")]


def test_a_folder_of_save_to_disk(tmp_path):
    train, test = (datasets.Dataset.from_list([{"problem": f"{n} + 1?", "answer": n + 1}]) for n in (1, 2))
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "two")
    assert contents(load_problems(str(tmp_path / "one"), "test")) == [("1 + 1?", "2")]
    assert contents(load_problems(str(tmp_path / "two"), "test")) == [("2 + 1?", "3")]
    for name, split_name in [("two", "validation"), ("", "train")]:
        with pytest.raises(ValueError, match=f"split {split_name}, cannot be loaded") as error:
            load_problems(str(tmp_path / name), split_name)
        assert "\n" not in str(error.value)


TURNS = [{"role": "user", "content": "Is 7 prime?"}, {"role": "assistant", "content": "Yes."},
         {"role": "user", "content": "And 8?"}]


@pytest.mark.parametrize("row, text", [
    ({"prompt": TURNS}, "Is 7 prime?\n\nYes.\n\nAnd 8?"),                               # no turn is lost
    ({"prompt": [*TURNS, {"role": "assistant", "content": "No."}]}, "Is 7 prime?\n\nYes.\n\nAnd 8?"),
    ({"problem": " ", "question": "filled"}, "filled"), ({"problem": None, "prompt": "filled"}, "filled"),
    ({"problem": [], "question": "filled"}, "filled"), ({"prompt": [{"role": "user", "content": [3]}]}, None),
    ({"prompt": [{"role": "assistant", "content": "alone"}]}, None), ({"prompt": [{}, 3]}, None)])
def test_the_problem_of_a_row(tmp_path, row, text):
    path = write(tmp_path / "p.json", [row | {"answer": "1"}, {"problem": "other", "answer": "1"}])
    assert [problem.text for problem in load_problems(path)] == [text, "other"][text is None:]


@pytest.mark.parametrize("row, answer", [
    ({"answer": ["", None, "nan", "1+" * 300, "7", "8"]}, "7"), ({"target": [3, 4]}, "3"),
    ({"answer": [["5"], True]}, None), ({"reward_model": {"ground_truth": {"answer": [7]}}}, "7"),
    ({"answer": 7}, "7"), ({"answer": 2.5}, "2.5"), ({"reward_model": {"ground_truth": ["7"]}}, "7"),
    ({"reward_model": {"ground_truth": 7}}, "7"),
    ({"solution": "3 + 4 = 7\n#### 7"}, "7"), ({"answer": r"So it is \boxed{7}."}, "7"),
    ({"solution": "words", "answer": "7"}, "7"), ({"solution": r"\boxed{}", "answer": "7"}, "7"),
    ({"answer": " ", "final_answer": "7"}, "7"), ({"answer": math.nan, "final_answer": 7}, "7"),
    *(({"answer": value}, None)
      for value in (math.nan, math.inf, "NaN", "None", "N/A", "<NA>", "null", [], [None], {}))])
def test_the_answer_of_a_row(tmp_path, capsys, row, answer):
    path = write(tmp_path / "p.json", [row | {"problem": "it"}, {"problem": "other", "answer": "1"}])
    assert [problem.answer for problem in load_problems(path)] == [answer, "1"][answer is None:]
    assert ("1 rows: no answer" in capsys.readouterr().out) == (answer is None)


def test_what_cannot_be_trained_on_is_dropped_and_counted(tmp_path, capsys):
    bad = [{"problem": "", "answer": "1"}, {"problem": None, "answer": "1"}, {"problem": "no answer"},
           {"problem": "empty box", "solution": r"\boxed{}"}, {"problem": "x" * 100_001, "answer": "1"},
           {"problem": "1 +  1?\n", "answer": "2"}, {"problem": "lone \ud800", "answer": "1"},
           {"problem": "true is no answer", "answer": True}, {"problem": ["list"], "answer": "1"},
           {"problem": "long answer", "answer": "1+" * 300}]
    problems = load_problems(write(tmp_path / "p.jsonl", ROWS[:1] + bad))
    assert contents(problems) == GOLD[:1]
    said = capsys.readouterr().out
    for part in ("1 of 11 problems kept", "3 rows: no problem", "3 rows: no answer",
                 "1 rows: problem seen before",
                 "1 rows: problem over 100,000 characters", "1 rows: not valid Unicode",
                 "1 rows: answer that the grader cannot read"):
        assert part in said


@pytest.mark.parametrize("name, content", [
    ("p.csv", "problem,answer\n1 + 1?,2\n"), ("p.jsonl", '{"problem": "1 + 1?", "answer": "2"}\n'),
    ("p.json", '[{"problem": "1 + 1?", "answer": "2"}]')])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, name, content):
    (tmp_path / name).write_text("\ufeff" + content, encoding="utf-8")
    assert contents(load_problems(str(tmp_path / name))) == [("1 + 1?", "2")]


def test_limit_is_a_seeded_sample(tmp_path):
    path = write(tmp_path / "p.jsonl", ROWS)
    samples = [contents(load_problems(path, limit=3, seed=seed)) for seed in (0, 0, 1, 2)]
    assert samples[0] == samples[1] and any(samples[0] != sample for sample in samples[2:])
    assert len(samples[0]) == 3 and set(samples[0]) < set(GOLD)
    assert len(load_problems(path, limit=99)) == 6


@pytest.mark.parametrize("name, content, said", [
    ("p.jsonl", '{"text": "a", "label": "b"}\n', "Columns found: label, text"),
    ("p.jsonl", "", "Columns found: none"),
    ("p.jsonl", '{"problem": "a"\n', "line 1 is not JSON"),
    ("p.jsonl", "[" * 100_000, "line 1 is not JSON"),
    ("p.jsonl", "[1]\n", "one object with named columns"),
    ("p.json", "3", "one object with named columns"),
    ("p.parquet", "not parquet", "cannot be read"),
    ("p.csv", "\ufffd", "has no problem"),
    ("p.txt", "1 + 1", "neither toy, nor a folder"),
])
def test_a_bad_file_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError) as error:
        load_problems(str(tmp_path / name))
    assert said in str(error.value) and "\n" not in str(error.value) and name in str(error.value)


def test_binary_and_missing_files_are_one_line(tmp_path):
    (tmp_path / "b.csv").write_bytes(bytes(range(256)))
    for name in ("b.csv", "missing.jsonl"):
        with pytest.raises(ValueError, match=name):
            load_problems(str(tmp_path / name))


def test_toy_splits_differ():
    train, test = (load_problems("toy", name, limit=200) for name in ("train", "test"))
    assert len({p.text for p in train} & {p.text for p in test}) < 60         # short ones recur
    assert train == load_problems("toy", "train", limit=200)


def test_no_other_source_needs_the_toy_world():
    code = "import sys, tasks.problems; print([name for name in sys.modules if 'toy' in name])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n"


# --- Which problems are held out --------------------------------------------------------------------------

def numbered(numbers, level=lambda n: f"level {n % 4}"):
    return [Problem(f"p-{n}", f"What is {n} + 1?", str(n + 1), level(n)) for n in numbers]


def same_mix(part, other):
    """The share of every level differs by less than 3.5 standard errors."""
    counts, others = (Counter(problem.level for problem in problems) for problems in (part, other))
    total = len(part) + len(other)
    for level in counts | others:
        share = (counts[level] + others[level]) / total
        error = math.sqrt(share * (1 - share) * (1 / len(part) + 1 / len(other)))
        if abs(counts[level] / len(part) - others[level] / len(other)) > 3.5 * error:
            return False
    return True


def test_growth_of_a_file_hardly_changes_what_is_held_out():
    _, before = split(numbered(range(40)), 8)
    for added in range(40, 60):
        _, after = split(numbered([*range(40), added]), 8)
        new = {p.id for p in after} - {p.id for p in before}
        assert len(after) == 8 and new <= {f"p-{added}"}
    shuffled = random.Random(0).sample(numbered(range(40)), 40)
    assert split(shuffled, 8)[1] == before == split(shuffled, 16)[1][:8]
    respelled = [Problem(p.id, p.text.upper().replace(" ", "\n "), p.answer) for p in shuffled]
    assert [p.id for p in split(respelled, 8)[1]] == [p.id for p in before]


@pytest.mark.parametrize("count", [0, 1, 64, 1000])
def test_taken_out_problems_are_not_trained_on_and_have_the_same_mix(capsys, count):
    problems = numbered(range(1000), lambda n: "rare" if n < 50 else "easy" if n < 300 else "hard")
    train, held_out = split(problems, count)
    assert sorted(train + held_out, key=problems.index) == problems and len(held_out) == count
    assert capsys.readouterr().out == ""
    assert count < 2 or not train or same_mix(train, held_out)


def test_what_is_held_out_as_well_is_removed_and_told_by_level(capsys):
    problems = numbered(range(200))
    held_out = [Problem("h", "what is  7 + 1?", "8"), Problem("h", "What is 8 + 1?\n", "9"), *numbered([300])]
    train, same = split(problems, held_out)
    assert same is held_out and train == [p for p in problems if p.id not in ("p-7", "p-8")]
    said = capsys.readouterr().out
    assert said.startswith("2 of 200 problems are held out as well") and said.count("\n") == 1
    assert "1 of level 'level 3'" in said and "1 of level 'level 0'" in said and "WARNING" not in said


def test_a_warning_where_a_kind_of_problem_is_lost(tmp_path, capsys):
    few = [Problem(f"few-{n}", f"What is {n % 3}?", "1", "hopeless") for n in range(100)]   # has three texts
    problems = numbered(range(300)) + few
    train, _ = split(problems, [Problem("h", p.text, "1") for p in few[:3]] + numbered(range(300, 320)))
    assert len(train) == 300                                                                # given
    assert "; 100 of level 'hopeless' (WARNING: 25% of all" in capsys.readouterr().out
    count = 1 + next(i for i, problem in enumerate(pick(problems, 303)) if problem.level == "hopeless")
    train, held_out = split(problems, count)
    assert len(held_out) == count and len(train) + count < 400                              # taken out
    assert "of level 'hopeless' (WARNING:" in capsys.readouterr().out
    rows = [{"problem": p.text, "answer": p.answer, "level": p.level} for p in problems]
    assert len(load_problems(write(tmp_path / "p.jsonl", rows))) == 303                     # in a file
    assert "97 of level 'hopeless' (WARNING: 25% of all" in capsys.readouterr().out


def test_the_toy_world_has_the_same_mix_in_training_and_held_out(capsys):
    train, held_out = split(load_problems("toy"), load_problems("toy", "test", 1000))
    assert same_mix(train, held_out) and "WARNING" not in capsys.readouterr().out
    assert not {p.key for p in train} & {p.key for p in held_out}


def test_the_same_mix_is_not_seen_everywhere():
    assert not same_mix(numbered(range(400)), [p for p in numbered(range(100)) if p.level != "level 0"])


def test_pick_and_fingerprint():
    problems = numbered(range(50))
    assert len(pick(problems * 2, 80)) == 50 and pick(problems, 5, seed=1) != pick(problems, 5)
    others = [problems[:-1], problems[::-1], [*problems[:-1], Problem("p-49", problems[-1].text, "51")]]
    assert len({fingerprint(part) for part in (problems, *others)}) == 4
    assert fingerprint(problems) == fingerprint(numbered(range(50)))
    assert fingerprint(problems).startswith("50 problems, ")


# --- The order of training --------------------------------------------------------------------------------


def test_every_pass_draws_every_problem_once_in_another_order():
    problems, stream = list(range(10)), ProblemStream(list(range(10)), seed=0)
    drawn = [problem for _ in range(8) for problem in stream.draw(5)]
    assert all(sorted(drawn[i:i + 10]) == problems for i in range(0, 40, 10)) and stream.position == 40
    assert drawn[:10] != drawn[10:20] and drawn != ProblemStream(problems, seed=1).draw(40)
    assert drawn == ProblemStream(problems, 0).draw(40)
    assert drawn[7:31] == ProblemStream(problems, 0, 7).draw(24)
