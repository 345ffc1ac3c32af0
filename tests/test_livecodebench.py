"""LiveCodeBench: rows made by hand in its layout, hostile ones among them, and programs that pass or fail."""

import base64
import json
import pickle
import time
import tracemalloc
import zlib

import pytest

from tasks import livecodebench
from tasks.benchmarks import load_benchmark
from tasks.livecodebench import same_lines, unpack, window


def pack(tests, protocol=4):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests), protocol))).decode()


def cases(kind, *pairs):
    return [{"input": given, "output": wanted, "testtype": kind} for given, wanted in pairs]


SHARED = {"question_title": "t", "platform": "p", "question_id": "q", "contest_id": "c", "difficulty": "hard"}
PROGRAM = SHARED | {
    "question_content": "Print the mean of each line's numbers.", "contest_date": "2024-08-31T00:00:00",
    "starter_code": "", "metadata": "{}",
    "public_test_cases": json.dumps(cases("stdin", ("1 2\n3 4 5\n", "1.5\n4.0\n"))),
    "private_test_cases": pack(cases("stdin", ("7", "7.0"), ("1 2\n2 2", "1.5\n2.0")))}
FUNCTION = SHARED | {
    "question_content": "Scale the numbers.", "contest_date": "2025-01-01T00:00:00",
    "starter_code": "class Solution:\n    def scale(self, numbers: List[int], by: int) -> List[int]:\n",
    "metadata": json.dumps({"func_name": "scale"}),
    "public_test_cases": json.dumps(cases("functional", ("[1, 2]\n3", "[3, 6]"))),
    "private_test_cases": pack(cases("functional", ("[]\n1", "[]"), ("[5]\n-1", "[-5]")))}


def load(tmp_path, *rows, days=""):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_benchmark(f"livecodebench{days}={path}", allow_code_execution=True)


def solves(tmp_path, row, code):
    benchmark, (problem,) = load(tmp_path, row)
    return benchmark.grade(f"I think.\n```python\n{code}\n```\n", problem)


MEANS = "for line in {}:\n    x = list(map(int, line.split()))\n    print(sum(x) / len(x))"


@pytest.mark.parametrize("code", [
    "import sys\n" + MEANS.format("sys.stdin"), MEANS.format("sys.stdin.read().splitlines()"),
    MEANS.format("open(0)"), MEANS.format("sys.stdin.buffer"), MEANS.format("sys.stdin") + "\nsys.exit()",
    "if __name__ == '__main__':\n    while 1:\n        try:\n            x = input().split()\n"
    "        except EOFError:\n            break\n        print(mean(map(int, x)), '')",
    "import os\nfor line in os.read(0, 99).decode().split('\\n'):\n    x = line.split()\n"
    "    x and os.write(1, b'%.3f \\n' % mean(map(int, x)))",
    "import numpy as np\n" + MEANS.format("sys.stdin").replace("sum(x) / len(x)", "np.mean(x)")])
def test_programs_that_are_right(code, tmp_path):
    assert solves(tmp_path, PROGRAM, code)


@pytest.mark.parametrize("code", [
    "print('1.5\\n4.0')",                                           # passes the public test only
    MEANS.format("sys.stdin") + "\nprint(0)", MEANS.format("sys.stdin") + "\n1 / 0",
    MEANS.format("sys.stdin").replace("print(", "print('mean', "),
    MEANS.format("sys.stdin") + "\nimport os\nos._exit(0)",
    MEANS.format("sys.stdin").replace("sum(x) / len(x)", "sum(x) // len(x)"), "", "def f(:"])
def test_programs_that_are_wrong(code, tmp_path):
    assert not solves(tmp_path, PROGRAM, code)


SCALE = "class Solution:\n    def scale(self, numbers: List[int], by: int) -> List[int]:\n        return {}"


@pytest.mark.parametrize("code, right", [
    (SCALE.format("[by * n for n in numbers]"), True), (SCALE.format("tuple(by * n for n in numbers)"), True),
    ("from __future__ import annotations\n" + SCALE.format("[by * n for n in numbers]"), True),
    ("def scale(numbers, by):\n    return [by * n for n in numbers]", True),
    (SCALE.format("[by * n for n in numbers]") + "\nif __name__ == '__main__':\n    1 / 0", True),
    (SCALE.format("numbers * by"), False), (SCALE.format("[3, 6]"), False), (SCALE.format("None"), False),
    (SCALE.format("[by * n for n in numbers]").replace("scale", "scaled"), False),
    (SCALE.format("sys.exit()"), False), ("import sys\nsys.exit()", False), ("print([3, 6])", False)])
def test_functions(code, right, tmp_path):
    assert solves(tmp_path, FUNCTION, code) == right


def test_what_the_model_sees(tmp_path):
    _, (program, function) = load(tmp_path, PROGRAM, FUNCTION)
    task = "Write a program that reads its input from stdin and writes the answer to stdout."
    assert program.text == f"{PROGRAM['question_content']}\n\n{task}"
    assert function.text.startswith("Scale the numbers.\n\nComplete this code:\n\n```python\nclass Solution:")
    assert (program.level, program.answer) == ("hard", "") and "4.0" not in program.text


@pytest.mark.parametrize("code", [
    "while True: pass", "import time; time.sleep(60)", "x = bytearray(5 << 30)", "import os; os.fork()",
    "while True: print('x' * 1000)", "import subprocess; subprocess.run(['true'])",
    "input(); input(); input()"])
def test_what_breaks_a_limit_is_wrong(code, tmp_path, monkeypatch):
    monkeypatch.setitem(livecodebench.LIMITS, "seconds", 1)
    started = time.monotonic()
    assert not solves(tmp_path, PROGRAM, f"{code}\n{MEANS.format('sys.stdin')}")
    assert not solves(tmp_path, FUNCTION, f"{code}\n{SCALE.format('[by * n for n in numbers]')}")
    assert time.monotonic() - started < 6


def test_the_limit_of_time_is_for_each_test(tmp_path, monkeypatch):
    monkeypatch.setitem(livecodebench.LIMITS, "seconds", 1)
    assert solves(tmp_path, PROGRAM, "import time\ntime.sleep(0.5)\n" + MEANS.format("sys.stdin"))  # 3 tests


# --- Packed tests -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_private_tests(protocol):
    private = cases("stdin", ("é\n", "x" * 100_000))
    wanted = [("a", "b"), ("é\n", "x" * 100_000)]
    for packed in (pack(private, protocol), json.dumps(private)):
        assert unpack('{"func_name": null}', json.dumps(cases("stdin", ("a", "b"))), packed) == (None, wanted)


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os
        return os.system, (self.command,)


def test_hostile_pickles(tmp_path, capsys):
    """Nothing in them is executed: their rows are left out, the others stay."""
    mark, text = tmp_path / "mark", pickle.dumps("[]")
    attack = Attack(f"touch {mark}")
    pickles = [pickle.dumps(attack, protocol) for protocol in range(6)]
    pickles += [pickle.dumps([attack, "[]"]), text[:-1] + pickles[0],
                b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.",
                pickle.dumps(b"[]"), pickle.dumps(["[]"]), pickle.dumps(1), b"", b"\x80",
                b"X\xff\xff\xff\x7f[]", b"\x8d" + b"\xff" * 8 + b"[]", b"r\xff\xff\xff\x7f.",
                b"N" * 10_000_000]
    packed = [base64.b64encode(zlib.compress(data)).decode() for data in pickles]
    rows = [PROGRAM | {"private_test_cases": text} for text in packed]
    started = time.monotonic()
    _, problems = load(tmp_path, *rows, PROGRAM)
    assert not mark.exists() and [problem.id for problem in problems] == [f"livecodebench-{len(rows)}"]
    assert f"livecodebench: {len(rows)} of {len(rows) + 1} rows left out" in capsys.readouterr().out
    assert time.monotonic() - started < 5
    pickle.loads(pickles[0])
    assert mark.exists()                                            # which it would have done


def test_a_zip_bomb(monkeypatch):
    monkeypatch.setattr(livecodebench, "LARGEST", 1_000_000)
    bomb = base64.b64encode(zlib.compress(pickle.dumps(" " * 100_000_000 + "[]"))).decode()
    tracemalloc.start()
    with pytest.raises(ValueError, match="too large"):
        unpack("{}", "[]", bomb)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("change", [
    {"private_test_cases": "[" * 100_000}, {"public_test_cases": "[1]"},
    {"public_test_cases": '[{"input": "a"}]'},
    {"public_test_cases": '[{"input": "a", "output": 1}]'}, {"private_test_cases": "not base64!"},
    {"private_test_cases": base64.b64encode(b"no zlib").decode()}, {"metadata": "[]"}, {"metadata": "{"},
    {"private_test_cases": pack(cases("stdin", ("1", "2")))[:-8]}, {"starter_code": None},
    {"question_content": 3}, {"public_test_cases": "[]", "private_test_cases": "[]"}])
def test_rows_that_cannot_be_read_are_left_out(change, tmp_path):
    _, problems = load(tmp_path, PROGRAM | change, PROGRAM)
    assert [problem.id for problem in problems] == ["livecodebench-1"]


def test_a_hostile_name_of_a_function_stays_in_the_sandbox(tmp_path):
    mark = tmp_path / "mark"
    name = f"__class__ or open({str(mark)!r}, 'w')"
    assert not solves(tmp_path, FUNCTION | {"metadata": json.dumps({"func_name": name})}, "print()")
    assert not mark.exists()


# --- Days, and how outputs are compared -------------------------------------------------------------------

@pytest.mark.parametrize("days, kept", [
    (":", [0, 1]), ("2024-08-31:", [0, 1]), ("2024-09-01:", [1]), (":2025-01-01", [0, 1]),
    (":2024-12-31", [0]), ("2024-08-31:2024-08-31", [0])])
def test_days(days, kept, tmp_path):
    _, problems = load(tmp_path, PROGRAM, FUNCTION, days=f"@{days}")
    rows = (PROGRAM, FUNCTION)
    assert [p.text.partition("\n")[0] for p in problems] == [rows[i]["question_content"] for i in kept]
    assert window(days)([{"contest_date": "x"}, *rows])[-1:] == [rows[kept[-1]]]


def test_days_that_make_no_sense(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.benchmarks.read_hub", None)          # refused before anything is loaded
    for days in ("", "v6", "2024", "2024-08-01", "2024-08-01:2025", "2024-08-01..2025-01-31", "a:b"):
        with pytest.raises(ValueError, match="livecodebench@"):
            load_benchmark(f"livecodebench@{days}", allow_code_execution=True)
    with pytest.raises(ValueError, match="none of 2 rows has a contest_date of then"):
        load(tmp_path, PROGRAM, FUNCTION, days="@2026-01-01:")


@pytest.mark.parametrize("written, wanted, equal", [
    ("a b\n", "a b", True), ("  a b  \n\n", "a b\n", True), ("a  b", "a b", False), ("a\nb", "a b", False),
    ("1.50 2", "1.5 2.0", True), ("1e2", "100", True), ("0.1000000000000000001", "0.1", False),
    ("-0", "0", True), ("yes", "YES", False), ("1 x", "1.0 x", False), ("", "", True), ("", "1", False),
    ("a\n\nb", "a\nb", False),
    ("snan", "1", False), ("nan", "1", False), ("1e999999999", "1", False), ("1" * 100_000, "1", False)])
def test_outputs(written, wanted, equal):
    assert same_lines(written, wanted) is equal
