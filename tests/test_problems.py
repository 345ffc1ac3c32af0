"""Problems from files of the usual layouts, what is dropped and said, and the order of training."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from tasks.problems import Problem, ProblemStream, load_problems

ROWS = [
    {"problem": "1 + 1?", "solution": r"It is $\boxed{2}$.", "answer": "3"},                    # the box is the gold
    {"question": "2 + 2?", "answer": "thinking\n#### 4"},                                       # GSM8K
    {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 3?"}],
     "reward_model": {"ground_truth": "6"}},                                                    # verl
    {"prompt": [{"role": "user", "content": "4 + 4?"}],
     "reward_model": {"ground_truth": {"target": "9", "solution": r"\boxed{8}"}}},
    {"problem": "5 + 5?", "answer": 10, "level": "Level 1"},                                    # a number
    {"problem": "6 + 6?", "final_answer": "12", "level": 3}]
GOLD = [("1 + 1?", "2"), ("2 + 2?", "4"), ("3 + 3?", "6"), ("4 + 4?", "8"), ("5 + 5?", "10"), ("6 + 6?", "12")]


def write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)) + "\n\n")
    return str(path)


def contents(problems):
    return [(problem.text, problem.answer) for problem in problems]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_recognises_every_layout(tmp_path, suffix):
    problems = load_problems(write(tmp_path / f"p{suffix}", ROWS))
    assert contents(problems) == GOLD
    assert problems[4] == Problem("p-4", "5 + 5?", "10", "Level 1") and problems[5].level == ""


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS[1:2], ROWS[2:3], ROWS[3:4]])
def test_parquet(tmp_path, rows):
    problems = load_problems(write(tmp_path / "p.parquet", rows))
    assert contents(problems) == [GOLD[ROWS.index(rows[0])]]


def test_csv_and_json_object(tmp_path):
    assert contents(load_problems(write(tmp_path / "p.csv", [{"question": "7, or 8?", "answer": "7"}]))) == [
        ("7, or 8?", "7")]
    (tmp_path / "q.json").write_text(json.dumps({"version": 1, "data": ROWS[:1]}))
    assert contents(load_problems(str(tmp_path / "q.json"))) == GOLD[:1]


def test_what_cannot_be_trained_on_is_dropped_and_counted(tmp_path, capsys):
    bad = [{"problem": "", "answer": "1"}, {"problem": None, "answer": "1"}, {"problem": "no answer"},
           {"problem": "empty box", "solution": r"\boxed{}"}, {"problem": "x" * 100_001, "answer": "1"},
           {"problem": "1 + 1?", "answer": "2"}, {"problem": "lone \ud800", "answer": "1"},
           {"problem": "true is no answer", "answer": True}, {"problem": ["list"], "answer": "1"},
           {"problem": "long answer", "answer": "1+" * 300}]
    problems = load_problems(write(tmp_path / "p.jsonl", ROWS[:1] + bad))
    assert contents(problems) == GOLD[:1]
    said = capsys.readouterr().out
    for part in ("1 of 11 problems kept", "3 (no problem)", "3 (no answer)", "1 (problem seen before)",
                 "1 (problem over 100,000 characters)", "1 (not valid Unicode)", "1 (answer that the grader cannot read)"):
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
    ("p.txt", "1 + 1", "neither toy, nor a"),
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
    train, test = (load_problems("toy", split, limit=200) for split in ("train", "test"))
    assert len(train) == len({p.text for p in train if p.level != "5 scrap"} | {p.id for p in train if p.level == "5 scrap"})
    assert len({p.text for p in train} & {p.text for p in test}) < 60         # short ones recur
    assert train == load_problems("toy", "train", limit=200)


def test_every_pass_draws_every_problem_once_in_another_order():
    problems, stream = list(range(10)), ProblemStream(list(range(10)), seed=0)
    drawn = [problem for _ in range(8) for problem in stream.draw(5)]
    assert all(sorted(drawn[i:i + 10]) == problems for i in range(0, 40, 10)) and stream.position == 40
    assert drawn[:10] != drawn[10:20] and drawn != ProblemStream(problems, seed=1).draw(40)
    assert drawn == ProblemStream(problems, 0).draw(40) and drawn[7:31] == ProblemStream(problems, 0, 7).draw(24)
