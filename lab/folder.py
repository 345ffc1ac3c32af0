"""The folder of a run: config, metrics, checkpoints. Whatever moment a run is killed at, it can be resumed.

    runs/NAME/config.json       the flags of the run
    runs/NAME/metrics.jsonl     one line per step
    runs/NAME/rollouts.jsonl    now and then one solution and one meta rollout in full, with their rewards
    runs/NAME/checkpoint/       the newest checkpoint: a Hugging Face model folder and trainer.pt
    runs/NAME/*.png, *.json     what the run shows at its end

A checkpoint is written beside the old one and takes its place by renaming: there is always a whole one.
"""

import json
import math
import os
import shutil
from pathlib import Path

import torch

try:
    import fcntl
except ImportError:             # Windows: a folder in use is not noticed there
    fcntl = None

# Flags that may change when a run is resumed.
FREE = {"steps", "resume", "checkpoint_every", "report_to", "show_every", "preset", "output", "device",
        "max_tokens", "micro_batch_tokens", "gradient_checkpointing"}


def write_whole(path, text):
    """Write a file that is either the old one or the whole new one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def read_json(path):
    """The content of a JSON file; raises ValueError with one line that says what is wrong with it."""
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} cannot be read: it is not JSON") from None


def open_alone(path, name):
    """Open a file, and make its folder, to read and to append bytes; no other process can until it is closed.

    Raises ValueError with one line about `name` if another process has it open so, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab+")
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
    except BlockingIOError:
        raise ValueError(f"{name} is in use by another process") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be written: {error.strerror}") from None
    return file


def json_line(row):
    """`row` (a dict) as one line of a .jsonl file. What is not finite becomes null."""
    return json.dumps({key: None if isinstance(value, float) and not math.isfinite(value) else value
                       for key, value in row.items()}) + "\n"


class RunFolder:
    """Claims `path` for one process, until `close`; `config` is a dict of the run's flags.

    Raises ValueError with one line if it is in use, cannot be written, already holds a run (without
    `resume`), holds none (with it), or one with other flags.
    """

    def __init__(self, path, config, resume=False):
        self.path, self.lock = Path(path), None
        self.checkpoint, self.previous = self.path / "checkpoint", self.path / "checkpoint.previous"
        started = any((self.path / name).exists() for name in ("before.json", "metrics.jsonl", "checkpoint",
                                                               "checkpoint.previous"))
        if started and not resume:
            raise ValueError(f"{path} already holds a run: add --resume to go on with it, or choose another "
                             "folder with --output")
        if resume and not started:
            raise ValueError(f"{path} holds no run to resume: leave out --resume, or name its folder with "
                             "--output")
        try:
            self.claim(config, resume)
        except BaseException:
            self.close()
            raise

    def claim(self, config, resume):
        self.lock = open_alone(self.path / ".lock", self.path)
        if not self.checkpoint.exists() and self.previous.exists():     # killed between the two renames
            self.previous.rename(self.checkpoint)
        if not resume:
            self.write_json("config.json", config)
            return
        stored = read_json(self.path / "config.json")           # other flags would continue another run
        stored = stored if isinstance(stored, dict) else {}
        for name in ("max_tokens", "micro_batch_tokens"):
            if stored.get(name) != config[name]:
                print(f"--{name.replace('_', '-')} was {stored.get(name)}, now {config[name]}: the run goes "
                      "on, but not bit for bit")
        changed = [f"{name} was {stored.get(name)!r}, now {value!r}" for name, value in config.items()
                   if name not in FREE and stored.get(name) != value]
        if changed:
            raise ValueError(f"{self.path} was started with other flags: {'; '.join(changed)}. Give the same "
                             "ones, or start another run with --output")
        self.write_json("config.json", config)

    def close(self):
        """Leave the folder to others; the end of the process does so too."""
        if self.lock:
            self.lock.close()

    def write_json(self, name, content):
        write_whole(self.path / name, json.dumps(content, indent=1) + "\n")

    def write_once(self, name, content):
        """Write a JSON file; raises ValueError if a resumed run wrote something else."""
        stored = read_json(self.path / name) if (self.path / name).exists() else content
        if stored != content:
            raise ValueError(f"{self.path / name}: the problems are not those that this run began with: "
                             f"{stored}, now {content}. Give the same data, or start another run with "
                             "--output")
        self.write_json(name, content)

    # Metrics: appended line by line. Resuming cuts off what a killed run logged after its last checkpoint.

    def append(self, name, row):
        """Add a line to a .jsonl file; `row` has its step under "step"."""
        try:
            with open(self.path / name, "a") as file:
                file.write(json_line(row))
        except OSError as error:
            raise OSError(f"{self.path / name} cannot be written: {error.strerror}. Make room, and go on "
                          "with the same command and --resume") from None

    def read(self, name):
        """All rows of a .jsonl file, up to a line that is torn or no row."""
        rows, path = [], self.path / name
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not isinstance(row, dict) or "step" not in row:
                break
            rows.append(row)
        return rows

    def rewind(self, step):
        """Drop what was logged from `step` on, after the checkpoint that the run goes on from."""
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            write_whole(self.path / name, "".join(json_line(r) for r in self.read(name) if r["step"] < step))

    # Checkpoints

    def save(self, model, tokenizer, trainer):
        """Write a checkpoint: the model for `from_pretrained`, and `trainer`, a dict of tensors and values.

        Raises OSError with one line if it cannot be written, as on a full disk; the one before it stays.
        """
        new = self.path / "checkpoint.new"
        shutil.rmtree(new, ignore_errors=True)
        try:
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
            torch.save(trainer, new / "trainer.pt")
        except Exception as error:      # a full disk: safetensors, torch and python have errors of their own
            shutil.rmtree(new, ignore_errors=True)
            reason = str(error).strip().partition("\n")[0]
            raise OSError(f"the checkpoint cannot be written to {self.path}: {reason}. The one before it, if "
                          "any, is whole: make room, and go on with the same command and --resume") from None
        shutil.rmtree(self.previous, ignore_errors=True)
        if self.checkpoint.exists():
            self.checkpoint.rename(self.previous)
        new.rename(self.checkpoint)
        shutil.rmtree(self.previous, ignore_errors=True)

    def load_trainer(self):
        """The `trainer` of the newest checkpoint, or None if there is no checkpoint yet."""
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
        except Exception as error:      # missing, truncated or of another kind: torch has many names for it
            raise ValueError(f"{self.checkpoint} is damaged ({type(error).__name__}): remove it to start "
                             "over") from None
