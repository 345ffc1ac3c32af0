"""How a command ends: with a code, or with one line."""

import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from lab.command import command_line


class Done:
    def __init__(self, exit_code):
        self.exit_code = exit_code


@pytest.mark.parametrize("result, code", [
    (None, None), (Done(0), None), (Done(143), 143), (ValueError("no\u00a0good"), "it.py: no\u00a0good"),
    (OSError("disk full"), "it.py: disk full"), (KeyboardInterrupt(), 130),
    (torch.OutOfMemoryError("x"), "it.py: out of the card's memory")])
def test_a_command_ends_in_a_code_or_in_one_line(result, code, capsys):
    def run():
        if isinstance(result, BaseException):
            raise result
        return result
    stdout = sys.stdout
    if code is None:
        command_line("it.py", run)
    else:
        with pytest.raises(SystemExit) as stopped:
            command_line("it.py", run)
        assert str(stopped.value.code).startswith(str(code)) and "\n" not in str(stopped.value.code)
    assert ("it.py: interrupted. The same command goes on" in capsys.readouterr().err) == (code == 130)
    assert sys.stdout is stdout


def test_what_is_no_mistake_of_the_user_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command_line("it.py", lambda: 1 / 0)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_a_reader_who_leaves_is_a_closed_terminal():
    code = f"""
import signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from lab.command import command_line
noted = []
signal.signal(signal.SIGHUP, lambda *_: noted.append(1))
class Done: exit_code = 0
def run():
    for i in range(100_000):
        print(i)
        if noted:
            Done.exit_code = 129
            return Done
command_line("it.py", run)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(60) == 129 and "Traceback" not in said
