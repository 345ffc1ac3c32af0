"""The folder of a run: config, metrics, checkpoints. Whatever moment a run is killed at, it can be resumed.

    runs/NAME/config.json       the flags of the run
    runs/NAME/metrics.jsonl     one line per step
    runs/NAME/rollouts.jsonl    now and then one solution and one meta rollout in full, with their rewards
    runs/NAME/checkpoint/       the newest checkpoint: a Hugging Face model folder and trainer.pt
    runs/NAME/*.png, *.json     what the run shows at its end

A checkpoint is written beside the old one and takes its place by renaming, so that there is always a whole one.
"""

import json
import math
import os
import shutil
import signal
from pathlib import Path

import torch

from lab.results import read_json

try:
    import fcntl
except ImportError:             # Windows: a folder in use is not noticed there
    fcntl = None


TRAINER = ("optimizer", "state", "experts", "gate_audit", "cutoff_audit")       # what trainer.pt holds


class RunFolder:
    """Opens `path` for one process, until `close`. Raises ValueError with one line if it is in use or already holds
    a run.

    Without `writes` it only reads: another process writes (see parallel.py).
    """

    def __init__(self, path, config, resume=False, writes=True):
        self.path, self.writes = Path(path), writes
        self.checkpoint, self.previous = self.path / "checkpoint", self.path / "checkpoint.previous"
        started = any((self.path / name).exists() for name in ("before.json", "metrics.jsonl", "checkpoint",
                                                               "checkpoint.previous"))
        if started and not resume:
            raise ValueError(f"{path} already holds a run: add --resume to go on with it, or choose another "
                             "folder with --output")
        if resume and not started:
            raise ValueError(f"{path} holds no run to resume: leave out --resume, or name its folder with --output")
        if resume and not writes:
            self.check(config)
        self.lock = None
        if writes:
            try:
                self.claim(config, resume)
            except BaseException:
                self.close()
                raise

    def claim(self, config, resume):
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock = open(self.path / ".lock", "w")
            if fcntl:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.path} is in use by another process") from None
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error.strerror}") from None
        if not self.checkpoint.exists() and self.previous.exists():     # killed between the two renames
            self.previous.rename(self.checkpoint)
        if resume:
            self.check(config)
        else:
            self.write_json("config.json", config)

    def close(self):
        """Leave the folder to others; the end of the process does so too."""
        if self.lock:
            self.lock.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def check(self, config):
        """Resuming with another model, data or method would continue another run."""
        stored = self.read_json("config.json")
        stored = stored if isinstance(stored, dict) else {}
        free = {"steps", "resume", "checkpoint_every", "report_to", "max_tokens", "show_every", "device", "preset",
                "output", "micro_batch_tokens", "gradient_checkpointing", "offload_optimizer"}
        changed = [f"{name} was {stored.get(name)!r}, now {value!r}" for name, value in config.items()
                   if name not in free and stored.get(name) != value]
        if changed:
            raise ValueError(f"{self.path} was started with other flags: {'; '.join(changed)}. Give the same ones, or "
                             "start another run with --output")

    def write_json(self, name, content):
        """Write a JSON file that is either the old one or the whole new one."""
        if not self.writes:
            return
        part = self.path / f"{name}.part"
        part.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n")
        os.replace(part, self.path / name)

    def read_json(self, name):
        return read_json(self.path / name)

    # Metrics: appended line by line. What a killed run logged after its last checkpoint is cut off on resuming.

    def append(self, name, row):
        """Add one JSON line to a .jsonl file; `row` has its step under "step". What is not finite becomes null."""
        if not self.writes:
            return
        row = {key: None if isinstance(value, float) and not math.isfinite(value) else value
               for key, value in row.items()}
        with open(self.path / name, "a") as file:
            file.write(json.dumps(row, ensure_ascii=True) + "\n")

    def read(self, name):
        """All rows of a .jsonl file, up to a line that is torn or no row."""
        rows = []
        path = self.path / name
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
        if not self.writes:
            return
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            rows = [row for row in self.read(name) if row["step"] < step]
            part = self.path / f"{name}.part"
            part.write_text("".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))
            os.replace(part, self.path / name)

    # Checkpoints

    def save(self, model, tokenizer, trainer):
        """Write a checkpoint: the model for `from_pretrained`, and `trainer` (tensors and plain values by TRAINER).

        Raises OSError with one line if it cannot be written, as on a full disk; the one before it stays.
        """
        if not self.writes:
            return
        new = self.path / "checkpoint.new"
        shutil.rmtree(new, ignore_errors=True)
        try:
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
            torch.save(trainer, new / "trainer.pt")
        except Exception as error:          # safetensors, torch and python each have their own for a full disk
            shutil.rmtree(new, ignore_errors=True)
            reason = str(error).strip().partition("\n")[0]
            raise OSError(f"the checkpoint cannot be written to {self.path}: {reason}. The one before it, if any, is "
                          "whole: make room, and go on with the same command and --resume") from None
        shutil.rmtree(self.previous, ignore_errors=True)
        if self.checkpoint.exists():
            self.checkpoint.rename(self.previous)
        new.rename(self.checkpoint)
        shutil.rmtree(self.previous, ignore_errors=True)

    def restore(self, trainer, **parts):
        """Give each part of `trainer` to the object of its name; the moments of "optimizer" have to fit its weights."""
        try:
            for name, part in parts.items():
                part.load_state_dict(trainer[name])
            if any(moments["exp_avg"].shape != weight.shape for weight, moments in parts["optimizer"].state.items()):
                raise ValueError("it is another model's")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(f"{self.checkpoint} cannot be gone on from: trainer.pt does not fit ({error}). Remove the "
                             "checkpoint to start over") from None

    def load_trainer(self):
        """The `trainer` of the newest checkpoint, or None if there is no checkpoint yet."""
        if not self.checkpoint.exists():
            return None
        try:
            trainer = torch.load(self.checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
            return {name: trainer[name] for name in TRAINER}
        except Exception as error:          # missing, truncated or of another kind: torch has many names for it
            raise ValueError(f"{self.checkpoint} is damaged ({type(error).__name__}): remove it to start "
                             "over") from None


class StopRequest:
    """Notes Ctrl-C and SIGTERM, so that a step is finished and saved; a second Ctrl-C quits at once."""

    def __init__(self):
        self.requested = False
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(self, number, frame):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nFinishing this step, then saving; press Ctrl-C again to quit at once", flush=True)

    def restore(self):
        for number, handler in self.before.items():
            signal.signal(number, handler)
