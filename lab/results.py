r"""The files of an evaluation: what it has done until now, and what came out.

    NAME.jsonl      while it runs: its flags, then a line for each batch of problems; it can be interrupted
    NAME.json       when it is done, in place of the other: flags, figures, intervals, all completions, graded
"""

import json
from pathlib import Path
from zlib import crc32

from lab.folder import open_alone, read_json, write_whole
from lab.metrics import intervals, summarise

PARTS = "completions", "predictions", "hinted"          # of a record: what was sampled


class Results:
    """The result file `path` of an evaluation, begun or continued; this process's own until `close`.

    identity: what the numbers depend on, as a dict that JSON can hold. content: what the finished file holds,
    None before. Raises ValueError with one line if the file belongs to another evaluation, another process is
    writing it, or it cannot be written.
    """

    def __init__(self, path, identity):
        self.path, self.identity, self.content = Path(path), json.loads(json.dumps(identity)), None
        self.progress, self.file, self.batches = self.path.with_suffix(".jsonl"), None, []
        if self.path.exists():
            self.content = read_json(self.path)
            self.check(self.content.get("config") if isinstance(self.content, dict) else None, self.path)
            return
        self.file = open_alone(self.progress, self.progress)
        try:
            self.go_on()
        except BaseException:
            self.close()
            raise

    def close(self):
        """Leave the file to others; the end of the process does so too."""
        if self.file:
            self.file.close()

    def go_on(self):
        """Read the batches that an interrupted run has left, or begin the file."""
        self.file.seek(0)
        whole = [line for line in self.file if line.endswith(b"\n")]        # the last line may be torn
        try:
            rows = [json.loads(line) for line in whole]
        except ValueError:
            raise ValueError(f"{self.progress} is damaged: remove it to start over") from None
        if rows:
            self.check(rows[0], self.progress)
        self.batches = rows[1:]
        self.file.truncate(sum(map(len, whole)))
        if not rows:
            self.write(self.identity)

    def check(self, stored, path):
        """Raises ValueError if `stored` is not the identity of this evaluation."""
        stored = stored if isinstance(stored, dict) else {}
        changed = [f"{name} was {stored.get(name)!r}, now {value!r}" for name, value in self.identity.items()
                   if stored.get(name) != value]
        if changed:
            raise ValueError(f"{path} holds another evaluation: {'; '.join(changed)}. Choose another file "
                             "with --output")

    def write(self, row):
        self.file.write(json.dumps(row).encode() + b"\n")
        self.file.flush()

    def append(self, name, records, seconds):
        """Keep the records of a batch of the data set `name`, which took so many seconds."""
        self.batches.append({"data": name, "seconds": seconds, "records": records})
        self.write(self.batches[-1])

    def records(self, name):
        """All records of a data set until now."""
        return [record for batch in self.batches if batch["data"] == name for record in batch["records"]]

    def finish(self):
        """Write the result file, and remove the other one."""
        sets = {}
        for name in dict.fromkeys(batch["data"] for batch in self.batches):
            records = self.records(name)
            seconds = sum(batch["seconds"] for batch in self.batches if batch["data"] == name)
            tokens = sum(row["length"] for record in records for part in PARTS
                         for row in record.get(part, ()))
            sets[name] = {"summary": summarise(records), "intervals": intervals(records), "tokens": tokens,
                          "seconds": seconds, "tokens_per_second": tokens / seconds,
                          "seconds_per_problem": seconds / len(records), "records": records}
        self.content = {"config": self.identity, "data": sets}
        write_whole(self.path, json.dumps(self.content))
        self.progress.unlink()


def read_results(path):
    """{data set: records} of a result file, or of the before.json or after.json of a training run."""
    content = read_json(path)
    try:
        sets = ({name: part["records"] for name, part in content["data"].items()} if isinstance(content, dict)
                else {"held-out problems": content})
        for records in sets.values():
            summarise(records)                                              # has it all?
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError):
        raise ValueError(f"{path} is no result of an evaluation") from None
    return sets


def fingerprint(model):
    """A number that tells checkpoints apart: a checksum of a few weights of each tensor."""
    parts = (weights.detach().flatten()[:8].float() for weights in model.parameters())
    return crc32(b"".join(part.cpu().numpy().tobytes() for part in parts))
