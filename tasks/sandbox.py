r"""Executes what a model wrote: in a process of its own, with as little around it as can be had without a container.

    passes("def double(n):\n    return 2 * n", "assert double(4) == 8")   ->  True

What stands in its way, on Linux:

- a separate `python -I`, without our environment variables, in an empty temporary folder that is deleted;
- limits of the kernel on memory, CPU seconds, the size of a file, open files and core dumps; on processes too,
  unless we are root and cannot become "nobody";
- `unshare`, if the system allows it: no network at all, and no sight of other processes, all of which die with it;
- an audit hook in the interpreter, which refuses sockets, new processes, signals to others, foreign functions,
  reading outside python's own folders, and nearly all ways of changing files;
- a wall clock, after which the whole group of processes is killed.

What it does not guarantee: python's audit hooks are no security boundary, and a program that means to break out
of the interpreter may get past them; then only the kernel's limits and `unshare` hold, and where `unshare` is
not allowed the network is open. A program could also look for the password by which success is reported, or
give its results an `__eq__` that says yes. It is meant for the accidents of a model's code, not for attackers: if the
model may be hostile, run the whole evaluation in a container or a virtual machine without network.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import lru_cache

SECONDS = 10                    # wall clock and CPU, of one program with its tests
MEMORY = 1 << 30                # bytes of address space; numpy alone takes 400 MB of it
FILE_SIZE = 1 << 16             # bytes
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]

# Runs in the other process: reads the job from stdin, locks itself in, executes, and reports to stdout.
DRIVER = r'''
import json, os, sys
job = json.load(sys.stdin)
report = os.dup(1)
nowhere = os.open(os.devnull, os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(nowhere, descriptor)
if "numpy" in job["check"]:                     # loads libraries, which the hook would refuse
    import numpy
import resource
for name, value in job["limits"].items():
    resource.setrlimit(getattr(resource, name), (value, value))

def lock(abspath=os.path.abspath, fsdecode=os.fsdecode, separator=os.sep):
    home = os.getcwd()
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    readable = (home, os.devnull, *{sys.prefix, sys.base_prefix, sys.exec_prefix})
    files = [0]
    refused = ("socket.", "subprocess.", "ctypes.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system",
               "os.kill", "os.link", "os.symlink", "os.chmod", "os.chown", "os.lchown", "os.truncate", "os.remove",
               "os.rename", "os.rmdir", "os.mkdir", "os.setxattr", "os.chdir", "os.fchdir", "resource.", "signal.",
               "shutil.", "pty.", "fcntl.", "syslog.", "sys.remote_exec")

    def inside(path, folders):
        path = home if path is None else abspath(fsdecode(path))
        return any(path == folder or path.startswith(folder.rstrip(separator) + separator) for folder in folders)

    def hook(event, args):
        if event.startswith(refused):
            raise PermissionError(event)
        if event == "open" and not isinstance(args[0], int):
            write = args[2] & writing
            files[0] += bool(write)
            if write and (files[0] > 16 or not inside(args[0], (home,))) or not inside(args[0], readable):
                raise PermissionError(event)
        if event in ("os.listdir", "os.scandir") and not isinstance(args[0], int) and not inside(args[0], readable):
            raise PermissionError(event)

    sys.addaudithook(hook)

lock()
scope = {"__name__": "answer"}
for part in ("code", "check"):
    exec(compile(job[part], part, "exec"), scope)
os.write(report, job["password"].encode())
os._exit(0)
'''


def passes(code, check, seconds=SECONDS, memory=MEMORY):
    """Does `code` run, and after it `check`, without an exception and in time? Both are python source.

    seconds: wall clock. memory: bytes. Ending early, by sys.exit or os._exit, is no pass. Never raises for what
    the code does; raises ValueError where code cannot be executed at all, as on Windows.
    """
    prefix, nobody = confinement()
    password = secrets.token_hex()
    limits = {"RLIMIT_AS": memory, "RLIMIT_CPU": seconds + 1, "RLIMIT_FSIZE": FILE_SIZE, "RLIMIT_NOFILE": 32,
              "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0}
    job = json.dumps({"code": code, "check": check, "password": password, "limits": limits})
    return execute(prefix, nobody, DRIVER, job, seconds) == password


def execute(prefix, nobody, driver, job, seconds):
    """What a driver, started behind the words of `prefix`, has written to stdout when it ended or was killed."""
    with tempfile.TemporaryDirectory(prefix="masa-", ignore_cleanup_errors=True) as folder, \
            tempfile.TemporaryFile() as output:             # a file, because a pipe could be flooded
        user = {}
        if nobody:
            os.chown(folder, nobody, nobody)
            user = {"user": nobody, "group": nobody, "extra_groups": []}
        process = subprocess.Popen(
            [*prefix, sys.executable, "-I", "-c", driver], stdin=subprocess.PIPE, stdout=output,
            stderr=subprocess.DEVNULL, cwd=folder, start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "OPENBLAS_NUM_THREADS": "1"}, **user)
        try:
            process.communicate(job.encode("utf-8", "surrogatepass"), timeout=seconds)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            pass                                            # what it has reported until now is what counts
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)      # and whoever it has left behind
            except ProcessLookupError:
                pass
            process.wait()
        output.seek(0)
        return output.read(1000).decode(errors="replace")


@lru_cache
def confinement():
    """The strongest way to start a process that works here: (words to start it with, user id or None).

    Raises ValueError with one line if there is none.
    """
    users = [65534, None] if hasattr(os, "geteuid") and os.geteuid() == 0 else [None]
    for prefix in ([UNSHARE] if shutil.which("unshare") else []) + [[]]:
        for user in users:
            try:
                if execute(prefix, user, "import resource; print('ready')", "", SECONDS).strip() == "ready":
                    return tuple(prefix), user
            except (OSError, subprocess.SubprocessError, AttributeError, ValueError):
                continue
    raise ValueError("code cannot be executed here: it takes Linux or macOS, and the right to start processes")
