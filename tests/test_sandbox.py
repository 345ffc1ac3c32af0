"""What model code can and cannot do in its process. The code under test runs in the sandbox, never here."""

import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from tasks import sandbox
from tasks.sandbox import passes, run


def test_right_and_wrong_code():
    double = "import math\ndef double(n):\n    return 2 * n"
    assert passes(double, "assert double(4) == 8")
    assert not passes(double, "assert double(4) == 9")
    assert not passes("def double(n) return", "pass") and not passes("raise ValueError", "pass")
    assert passes("", "") and not passes("", "double(4)")
    assert passes("from collections import *", "import datetime, decimal, heapq, itertools, random, typing")
    assert passes("def f():\n    return [1.0]", "import numpy as np\nassert np.allclose(f(), [1])")
    assert passes("import sys\nprint('x' * 10**6)\nsys.stdin.read()", "")           # to nowhere, from nowhere


@pytest.mark.parametrize("code", [
    "import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit", "quit()",
    "raise KeyboardInterrupt",
    "def f(): f()\nf()", "(" * 100_000, "\0", "x = '\ud800'.encode()", "x = 9 ** 9 ** 9 ** 9 if 0 else 1 / 0",
    "import os; os.abort()", "import os; os.close(1); os.close(2); 1 / 0",
    "import faulthandler; faulthandler._sigsegv()"])
def test_ending_early_is_no_pass(code):
    assert not passes(code, "assert False")


def test_success_is_not_claimed_by_writing():
    assert not passes("import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b'passed')\n"
                      "    except OSError:\n        pass\nos._exit(0)", "")


@pytest.mark.parametrize("code", [
    "while True: pass", "import time; time.sleep(60)",
    "import threading; threading.Thread(target=threading.Event().wait).start(); threading.Event().wait()",
    "import atexit\natexit.register(lambda: [0 for _ in iter(int, 1)])\nraise SystemExit"])
def test_endless_code_is_killed(code):
    started = time.monotonic()
    assert not passes(code, "assert False", seconds=1)
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("code, written", [
    ("print(2 * int(input()))", "8\n"), ("import sys\nsys.stdout.write(sys.stdin.read())", "4\né\n"),
    ("import os\nos.write(1, os.read(0, 9))", "4\né\n"), ("print(len(open(0, 'rb').read()))", "5\n"),
    ("print(1)\nraise SystemExit(1)\nprint(2)", "1\n"), ("print(__name__, end='')", "__main__"), ("", ""),
    ("import sys\nprint(1, file=sys.stderr)", ""), ("import os\nprint(os.listdir())", "[]\n"),
    ("print('x' * 10**6)", "x" * 10**6 + "\n"),
    ("print(1)\n1 / 0", None), ("print(1)\nimport os\nos._exit(0)", None), ("print(1)\nwhile 1: pass", None),
    ("for _ in range(40): print('x' * 10**6)", None), ("x = bytearray(1 << 31)", None),
    ("open('a', 'w').write('1')\nprint(open('a').read())", "1\n"), ("open('/etc/passwd')", None),
    ("import socket\nsocket.socket()", None), ("import os\nos.fork()", None)])
def test_programs_that_read_and_write(code, written):
    assert run([code], "4\né\n", seconds=2) == written


@pytest.mark.parametrize("stdin", [None, ""])
def test_a_part_is_a_module(stdin):
    code = "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: 'int' = 1\nPoint()"
    assert run([code, "import sys\nassert sys.modules[__name__].Point is Point"], stdin) == ""
    assert run(["import __main__\nassert not hasattr(__main__, 'job') and 'job' not in globals()"], "") == ""


def test_parts_share_their_names():
    future = "from __future__ import annotations\nx = f()"                # may begin any part
    assert run(["def f():\n    return 1", future, "print(x)"], "") == "1\n"
    assert run(["x = 1", "print(x)"]) == "" and run(["x = 1", "raise SystemExit"]) is None
    assert run(["import sys\nassert sys.stdin.read() == ''"]) == ""
    assert run(["import sys\nprint(len(sys.stdin.read()))"], "1" * 10**7) == "10000000\n"
    assert run(["print(input())"], "\ud800") is None and run(["print('\ud800')"], "") is None


def test_memory_and_files_are_limited():
    assert passes("x = bytearray(10**8)", "") and not passes("x = bytearray(10**8)", "", memory=10**8)
    assert not passes("x = [0] * 10**10", "")
    assert passes("open('a', 'w').write('hello')", "assert open('a').read() == 'hello'")
    assert not passes("open('a', 'wb').write(bytes(10**6))", "")
    assert not passes("for i in range(100): open(str(i), 'w')", "")


REFUSED = {
    "a socket": "import socket; socket.socket()",
    "a name server": "import socket; socket.getaddrinfo('example.org', 80)",
    "a url": "import urllib.request; urllib.request.urlopen('http://example.org')",
    "a process": "import subprocess; subprocess.run(['true'])",
    "a shell": "import os; assert os.system('true') == 0",
    "a fork": "import os; os.fork()",
    "an exec": "import os; os.execv('/bin/true', ['true'])",
    "a spawn": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "a pool": "import multiprocessing; multiprocessing.Process(target=print).start()",
    "a signal": "import os; os.kill(os.getppid(), 0)",
    "a library": "import ctypes; ctypes.CDLL(None)",
    "a read": "open('/etc/passwd')",
    "a low read": "import os; os.open('/etc/passwd', os.O_RDONLY)",
    "a read by detour": "import sys; open(sys.prefix + '/../../../../../../etc/passwd')",
    "its environment": "open('/proc/self/environ')",
    "a listing": "import os; os.listdir('/')",
    "a removal": "open('a', 'w'); import os; os.remove('a')",
    "a link": "import os; os.symlink('/etc/passwd', 'a')",
    "more memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
}


@pytest.mark.parametrize("code", REFUSED.values(), ids=REFUSED)
def test_refused(code):
    attempt = f"try:\n    {code}\nexcept (OSError, PermissionError):\n    refused = True"
    assert passes(attempt, "assert refused")


def test_it_sees_nothing_of_ours(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert passes("import os", "assert 'HF_TOKEN' not in os.environ and os.listdir('.') == []")
    ours = str(Path(sandbox.__file__).parent)
    assert passes("import sys", f"assert {ours!r} not in sys.path and '' not in sys.path")
    before = set(Path("/tmp").glob("masa-*"))
    assert passes("open('left', 'w').write('x')", "") and set(Path("/tmp").glob("masa-*")) <= before


def test_no_network_even_past_the_hook():
    """Beneath python: where `unshare` works, connecting to a socket fails though no hook refuses it."""
    prefix, nobody = sandbox.confinement()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()[:2]
        connect = f"import socket; socket.create_connection({address!r}, 2); print('connected')"
        assert sandbox.execute([], None, connect, "", 5).strip() == "connected"
        reached = sandbox.execute(list(prefix), nobody, connect, "", 5).strip() == "connected"
    assert reached == (not prefix)


@pytest.mark.parametrize("confined", [True, False])
def test_children_die_with_it(confined):
    """Without the hook: a child that left the group, if a namespace holds it. A pipe tells if it is alive."""
    prefix, nobody = sandbox.confinement() if confined else ((), None)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        pipe = os.path.join(folder, "pipe")
        os.mkfifo(pipe)
        os.chmod(pipe, 0o666)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        driver = ("import os, time\nready, go = os.pipe()\nif os.fork() == 0:\n"
                  f"    {'os.setsid()' if prefix else 'pass'}\n"
                  f"    os.write(os.open({pipe!r}, os.O_WRONLY), b'alive')\n    os.write(go, b'x')\n"
                  "    time.sleep(30)\n"
                  "os.read(ready, 1)\nprint('parent')")
        started = time.monotonic()
        assert sandbox.execute(list(prefix), nobody, driver, "", 5).strip() == "parent"
        os.set_blocking(reader, True)
        assert os.read(reader, 100) == b"alive" and os.read(reader, 100) == b""         # no writer is left
        assert time.monotonic() - started < 6
        os.close(reader)


def test_where_there_is_no_unshare(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    sandbox.confinement.cache_clear()
    try:
        assert sandbox.confinement()[0] == ()
        assert passes("x = 1", "assert x == 1") and not passes("import socket; socket.socket()", "")
        assert run(["print(input())"], "1\n") == "1\n"
        monkeypatch.setattr(sandbox.sys, "executable", "/nonexistent/python")
        sandbox.confinement.cache_clear()
        with pytest.raises(ValueError, match="code cannot be executed here"):
            passes("x = 1", "")
    finally:
        sandbox.confinement.cache_clear()


def test_it_stands_alone(run_alone):
    code = "import sandbox; print(sandbox.passes('x = 1', 'assert x == 1'))"
    assert run_alone("tasks/sandbox.py", code) == "True"
