"""LiveCodeBench: its rows, whose tests are packed, and its rules for what passes them.

A row is one of code_generation_lite (test.jsonl to test6.jsonl). A program is tested by what it writes to
stdout for what it reads from stdin; a function, if the row names one, by its result for its arguments. All
tests must pass, each within limits of its own. The rules are those of the set's own runner
(LiveCodeBench/LiveCodeBench, lcb_runner/evaluation/testing_util.py).
"""

import base64
import json
import pickletools
import re
import zlib
from decimal import Decimal
from itertools import islice

from tasks import sandbox

LIMITS = dict(seconds=6, memory=4 << 30)            # of each test, as there
LARGEST = 1 << 29                                   # bytes of the unpacked tests of one row
# What a program may take for granted: LeetCode's stubs say List[int] and import nothing.
MODULES = """string re datetime collections heapq bisect copy math random statistics itertools functools
    operator io sys json builtins typing""".split()
PRELUDE = "\n".join([f"from {name} import *" for name in MODULES] + [f"import {name}" for name in MODULES]
                    + ["sys.setrecursionlimit(50_000)"])


def window(days):
    """A function of rows that keeps those with a contest in `days`: "2024-08-01:2025-01-31", "2024-08-01:".

    Both days are included. Raises ValueError if `days` is nothing like that; the function, if no row is left.
    """
    if not re.fullmatch(r"(\d{4}-\d\d-\d\d)?:(\d{4}-\d\d-\d\d)?", days):
        raise ValueError(f"livecodebench@{days}: say livecodebench@FROM:TO, as in @2024-08-01:2025-01-31")
    first, last = days.split(":")

    def within(rows):
        kept = [row for row in rows if first <= str(row.get("contest_date"))[:10] <= (last or "9999")]
        if not kept:
            raise ValueError(f"livecodebench@{days}: none of {len(rows)} rows has a contest_date of then")
        return kept
    return within


def read(row):
    """(text, "", level, tests) of a row. Raises KeyError if a column is missing, or what `unpack` raises."""
    tests = row["metadata"], row["public_test_cases"], row["private_test_cases"]
    unpack(*tests)
    starter = row["starter_code"].strip()
    task = (f"Complete this code:\n\n```python\n{starter}\n```" if starter
            else "Write a program that reads its input from stdin and writes the answer to stdout.")
    return f"{row['question_content'].strip()}\n\n{task}", "", row.get("difficulty") or "", tests


def unpack(metadata, public, private):
    """(name of the function, or None for a program; [(input, output), ...]) from the columns of a row.

    Tests are JSON, or base64 of zlib of a pickle of such a text. Nothing is unpickled: the text is read off
    the pickle's first instructions. Raises ValueError, or what the decoders raise, for anything else.
    """
    cases = []
    for text in (public, private):
        if not text.lstrip().startswith("["):
            inflater = zlib.decompressobj()
            pickled = inflater.decompress(base64.b64decode(text), LARGEST)
            if not inflater.eof:
                raise ValueError("tests that are too large, or cut off")
            parts = [(op.name, value) for op, value, _ in islice(pickletools.genops(pickled), 8)
                     if op.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "PUT", "STOP")]
            if len(parts) != 1 or "UNICODE" not in parts[0][0]:
                raise ValueError("a pickle of something else than a text")
            text = parts[0][1]
        cases += [(case.get("input"), case.get("output")) for case in json.loads(text)]
    if not cases or not all(isinstance(part, str) for case in cases for part in case):
        raise ValueError("no tests")
    return json.loads(metadata).get("func_name"), cases


def passes(code, *tests):
    """Does `code` pass all tests (the columns that `unpack` takes)? Executes it, each test in a process."""
    function, cases = unpack(*tests)

    def right(given, wanted):
        if not function:
            written = sandbox.run([PRELUDE, code], given, **LIMITS)
            return written is not None and same_lines(written, wanted)
        check = (f"import json\ncall = Solution().{function} if 'Solution' in globals() else {function}\n"
                 f"result = call(*map(json.loads, {given.strip()!r}.split('\\n')))\n"
                 f"assert (list(result) if isinstance(result, tuple) else result) == json.loads({wanted!r})")
        return sandbox.run([PRELUDE, code, check], **LIMITS) is not None
    return all(right(*case) for case in cases)


def same_lines(written, wanted):
    """Are two outputs equal line by line, apart from white space at the ends? Numbers are equal by value."""
    def same(a, b):
        try:
            return a == b or list(map(Decimal, a.split())) == list(map(Decimal, b.split()))
        except ArithmeticError:                     # not all are numbers
            return False
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (written, wanted))
    return len(ours) == len(theirs) and all(map(same, ours, theirs))
