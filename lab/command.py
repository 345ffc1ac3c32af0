"""What both commands share: mistakes end in one line, stops in an exit code, `| head` quietly."""

import os
import signal
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "1000")     # a waiting thread must not spin for long on a busy core
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")     # caches that grow: no fragments

import torch


def command_line(name, run):
    """Call `run()` as the command `name`, and exit with its `exit_code` if it has one that is not 0."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")   # a model may say what no terminal can show
    sys.stdout = Pipe(sys.stdout)
    try:
        code = getattr(run(), "exit_code", 0)
    except (ValueError, OSError) as error:
        code = f"{name}: {error}"
    except torch.OutOfMemoryError:
        code = (f"{name}: out of the card's memory. Lower --max-tokens if it was while sampling, "
                "--micro-batch-tokens if while training. The same command goes on from what was saved "
                "(masa.py with --resume)")
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted. The same command goes on from what was saved (masa.py with --resume)",
              file=sys.stderr)
        code = 128 + signal.SIGINT
    finally:
        sys.stdout = sys.stdout.stream
    if code:
        sys.exit(code)


class Pipe:
    """A stream whose reader may leave, as in `| head`: that counts as a closed terminal, not as an error."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self.closed_by_reader()
            return len(text)

    def flush(self):
        try:
            self.stream.flush()
        except BrokenPipeError:
            self.closed_by_reader()

    def closed_by_reader(self):
        self.stream = open(os.devnull, "w")
        os.kill(os.getpid(), getattr(signal, "SIGHUP", signal.SIGTERM))

    def __getattr__(self, name):
        return getattr(self.stream, name)
