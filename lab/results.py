r"""The files of an evaluation: what it has done until now, and what came out.

    NAME.jsonl      while it runs: its flags, then a line for each batch of problems, so that it can be interrupted
    NAME.json       when it is done, in place of the other: flags, figures, intervals, every completion with its grade
"""

import json
from pathlib import Path
from zlib import crc32

from lab.folder import read_json, write_whole
from lab.metrics import intervals, summarise


class Results:
    """The result file `path` of an evaluation, begun or continued.

    identity: what the numbers depend on, as a dict that JSON can hold. content: what the finished file holds.
    Raises ValueError with one line if the file belongs to another evaluation or cannot be written.
    """

    def __init__(self, path, identity):
        self.path, self.identity, self.content = Path(path), json.loads(json.dumps(identity)), None
        self.progress, self.batches = self.path.with_suffix(".jsonl"), []
        if self.path.exists():
            self.content = read_json(self.path)
            self.check(self.content.get("config") if isinstance(self.content, dict) else None, self.path)
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.open_progress()
        except OSError as error:
            raise ValueError(f"{self.progress} cannot be written: {error.strerror}") from None

    @property
    def finished(self):
        return self.content is not None

    def open_progress(self):
        """Read the batches that an interrupted run has left, or begin the file."""
        lines = self.progress.read_text().splitlines(keepends=True) if self.progress.exists() else []
        whole = [line for line in lines if line.endswith("\n")]             # the last line may be torn
        try:
            rows = [json.loads(line) for line in whole]
        except ValueError:
            raise ValueError(f"{self.progress} is damaged: remove it to start over") from None
        if rows:
            self.check(rows[0], self.progress)
            self.batches = rows[1:]
        write_whole(self.progress, "".join(whole) or json.dumps(self.identity) + "\n")

    def check(self, stored, path):
        """Raises ValueError if `stored` is not the identity of this evaluation."""
        stored = stored if isinstance(stored, dict) else {}
        changed = [f"{name} was {stored.get(name)!r}, now {value!r}" for name, value in self.identity.items()
                   if stored.get(name) != value]
        if changed:
            raise ValueError(f"{path} holds another evaluation: {'; '.join(changed)}. Choose another file with "
                             "--output")

    def append(self, name, records, seconds):
        """Keep the records of a batch of the data set `name`, which took so many seconds."""
        self.batches.append({"data": name, "seconds": seconds, "records": records})
        with open(self.progress, "a") as file:
            file.write(json.dumps(self.batches[-1]) + "\n")

    def records(self, name):
        """All records of a data set until now."""
        return [record for batch in self.batches if batch["data"] == name for record in batch["records"]]

    def finish(self):
        """Write the result file, and remove the other one."""
        sets = {}
        for name in dict.fromkeys(batch["data"] for batch in self.batches):
            records, seconds = self.records(name), sum(b["seconds"] for b in self.batches if b["data"] == name)
            tokens = sum(c["length"] for record in records for part in ("completions", "predictions", "hinted")
                         for c in record.get(part, ()))
            sets[name] = {"summary": summarise(records), "intervals": intervals(records), "tokens": tokens,
                          "seconds": seconds, "tokens_per_second": tokens / seconds,
                          "seconds_per_problem": seconds / len(records), "records": records}
        self.content = {"config": self.identity, "data": sets}
        write_whole(self.path, json.dumps(self.content))
        self.progress.unlink()


def read_results(path):
    """{data set: records} of a result file, or of the before.json and after.json that a training run
    leaves."""
    content = read_json(path)
    try:
        sets = ({name: part["records"] for name, part in content["data"].items()} if isinstance(content, dict)
                else {"held-out problems": content})
        for records in sets.values():
            if not all(record["completions"] for record in records):
                raise ValueError("a problem without completions")
            summarise(records)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise ValueError(f"{path} is no result of an evaluation") from None
    return sets


def fingerprint(model):
    """A number that tells checkpoints apart: a checksum of a few weights of each tensor."""
    return crc32(b"".join(p.detach().flatten()[:8].float().cpu().numpy().tobytes() for p in model.parameters()))
