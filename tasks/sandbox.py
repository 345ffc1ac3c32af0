r"""Executes what a model wrote: in a process of its own, with as little around it as needs no container.

    passes("def double(n):\n    return 2 * n", "assert double(4) == 8")   ->  True
    run(["print(2 * int(input()))"], stdin="4\n")                         ->  "8\n"

What stands in its way, on Linux:

- a separate `python -I`, without our environment variables, in an empty temporary folder that is deleted;
- limits of the kernel on memory, CPU seconds, files and their size, and (unless we are root) processes;
- `unshare`, if the system allows it: no network, and no sight of other processes, all of which die with it;
- an audit hook in the interpreter, which refuses sockets, new processes, signals to others, foreign
  functions, reading outside python's own folders, and nearly all ways of changing files;
- a wall clock, after which the whole group of processes is killed.

That is for accidents, not attackers: past the audit hook, which is no security boundary, only the kernel's
limits and `unshare` hold; and a program could look for the password by which success is reported, or give its
results an `__eq__` that says yes. Run the evaluation of a hostile model in a container without network.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import lru_cache

SECONDS = 10                    # wall clock and CPU
MEMORY = 1 << 30                # bytes of address space; numpy alone takes 400 MB of it
FILE_SIZE, OUTPUT_SIZE = 1 << 16, 1 << 24           # bytes of a file; of stdout, where that is read
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]

# Runs in the other process: reads the job from stdin, locks itself in, executes, and reports to stdout.
DRIVER = r'''
import json, os, resource, sys, types
job = json.load(open(0, closefd=False))
report = os.dup(1)
stdin = stdout = nowhere = os.open(os.devnull, os.O_RDWR)
if job["stdin"] is not None:
    with open("stdin", "wb") as file:
        file.write(job["stdin"].encode())
    stdin, stdout = os.open("stdin", os.O_RDONLY), report
    os.remove("stdin")
for descriptor, target in enumerate((stdin, stdout, nowhere)):
    os.dup2(target, descriptor)
if any("numpy" in part for part in job["parts"]):       # loads libraries, which the hook would refuse
    import numpy
for name, value in job["limits"].items():
    resource.setrlimit(getattr(resource, name), (value, value))

def lock(abspath=os.path.abspath, fsdecode=os.fsdecode, separator=os.sep):
    home = os.getcwd()
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    readable = (home, os.devnull, *{sys.prefix, sys.base_prefix, sys.exec_prefix})
    written = [0]
    refused = tuple("""socket. subprocess. ctypes. resource. signal. shutil. pty. fcntl. syslog.
        os.fork os.exec os.posix_spawn os.spawn os.system os.kill os.link os.symlink os.ch os.lch os.truncate
        os.fchdir os.remove os.rename os.rmdir os.mkdir os.setxattr sys.remote_exec""".split())

    def inside(path, folders):
        path = home if path is None else abspath(fsdecode(path))
        return any((path + separator).startswith(folder.rstrip(separator) + separator) for folder in folders)

    def hook(event, args):
        if event.startswith(refused):
            raise PermissionError(event)
        path = args[0] if event in ("open", "os.listdir", "os.scandir") else 0
        if isinstance(path, int):               # no path, or a file that is open already
            return
        write = event == "open" and args[2] & writing
        written[0] += bool(write)
        if not inside(path, (home,) if write else readable) or write and written[0] > 16:
            raise PermissionError(event)

    sys.addaudithook(hook)

lock()
name = "answer" if job["stdin"] is None else "__main__"
module = sys.modules[name] = types.ModuleType(name)         # dataclasses look their module up
try:
    for part in job["parts"]:
        exec(compile(part, "part", "exec"), vars(module))
except SystemExit:
    if job["stdin"] is None:
        raise
sys.stdout.flush()
os.write(report, job["password"].encode())
os._exit(0)
'''


def passes(code, check, seconds=SECONDS, memory=MEMORY):
    """Does `code` run, and after it `check`, without an exception and in time? Limits as in `run`."""
    return run([code, check], None, seconds, memory) is not None


def run(parts, stdin=None, seconds=SECONDS, memory=MEMORY):
    """What a program writes to stdout, or None if it fails: an exception, or too much time, memory or output.

    parts: python sources, executed one after another with the same names. stdin: a text; the program is then
    `__main__` and may end by sys.exit. With None there is nothing to read, what it writes is lost (the result
    is ""), and ending early is a failure. seconds: wall clock. memory: bytes. Never raises for what a program
    does; raises ValueError where code cannot be executed at all, as on Windows.
    """
    prefix, nobody = confinement()
    password = secrets.token_hex()
    limits = {"RLIMIT_AS": memory, "RLIMIT_CPU": seconds + 1, "RLIMIT_NOFILE": 32, "RLIMIT_CORE": 0,
              "RLIMIT_FSIZE": FILE_SIZE if stdin is None else OUTPUT_SIZE, "RLIMIT_NPROC": 0}
    job = json.dumps({"parts": parts, "stdin": stdin, "password": password, "limits": limits})
    output = execute(prefix, nobody, DRIVER, job, seconds)
    return output.removesuffix(password) if output.endswith(password) else None


def execute(prefix, nobody, driver, job, seconds):
    """What a driver, started behind the words of `prefix`, wrote to stdout until it ended or was killed."""
    with tempfile.TemporaryDirectory(prefix="masa-", ignore_cleanup_errors=True) as folder, \
            tempfile.TemporaryFile() as output:             # a file, because a pipe could be flooded
        user = {"user": nobody, "group": nobody, "extra_groups": []} if nobody else {}
        if nobody:
            os.chown(folder, nobody, nobody)
        process = subprocess.Popen(
            [*prefix, sys.executable, "-I", "-c", driver], stdin=subprocess.PIPE, stdout=output,
            stderr=subprocess.DEVNULL, cwd=folder, start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "OPENBLAS_NUM_THREADS": "1"}, **user)
        try:
            with suppress(subprocess.TimeoutExpired, BrokenPipeError):      # what is reported by now counts
                process.communicate(job.encode("utf-8", "surrogatepass"), timeout=seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)      # and whoever it has left behind
            process.wait()
        output.seek(0)
        return output.read().decode(errors="replace")


@lru_cache
def confinement():
    """The strongest way to start a process: (words to start it with, user id or None), or a ValueError."""
    users = [65534, None] if hasattr(os, "geteuid") and os.geteuid() == 0 else [None]
    for prefix in ([UNSHARE] if shutil.which("unshare") else []) + [[]]:
        for user in users:
            try:
                if execute(prefix, user, "import resource; print('ready')", "", SECONDS).strip() == "ready":
                    return tuple(prefix), user
            except (OSError, subprocess.SubprocessError, AttributeError, ValueError):
                continue
    raise ValueError("code cannot be executed here: it takes Linux or macOS and the right to start processes")
