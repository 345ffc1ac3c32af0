"""Kill a training run at random moments, resume it each time, and compare its end with a run left alone.

    python tools/kill.py --kills 20     minutes on 2 cores; by hand: the test suite has a short form

SIGKILL, so that nothing can be tidied up; every second kill waits for a checkpoint that is being written.
Weights, optimisers, audits, experts, metrics but for clocks, and sampled texts must be the same, bit for bit.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from conftest import ROOT, logged, save_chat_model, weights

FLAGS = ("--algo masa-efficient --gate-start 3 --gate-trust 0 --steps 40 --checkpoint-every 1 --show-every 1 "
         "--max-new-tokens 24 --max-meta-tokens 24 --max-prompt-tokens 700 --problems-per-step 4 --beta 0.1 "
         "--eval-problems 4 --eval-samples 2 --eval-every 5 --learning-rate 0.001 --minibatches 2").split()


def same(a, b):
    """Are nested dicts and lists of tensors and plain values equal?"""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def start(output):
    command = [sys.executable, "masa.py", *FLAGS, "--model", model, "--data", data, "--output", output]
    command += ["--resume"] if (output / "before.json").exists() else []
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


parser = argparse.ArgumentParser()
parser.add_argument("--kills", type=int, default=20)
kills, folder, found, writing = parser.parse_args().kills, Path(tempfile.mkdtemp()), [], 0
data, alone, killed, metrics = map(folder.joinpath, ("data.jsonl", "alone", "killed", "killed/metrics.jsonl"))
steps = lambda: metrics.read_text().count("\n") if metrics.exists() else 0
data.write_text("".join(f'{{"problem": "What is {i} + {i}?", "answer": "{2 * i}"}}\n' for i in range(20)))
model, began = save_chat_model(folder / "model"), time.perf_counter()
assert start(alone).wait() == 0
pause = (time.perf_counter() - began) / 20                          # about two steps
for kill in range(kills):
    process, goal = start(killed), steps() + random.randrange(4)
    while process.poll() is None and steps() < goal:
        time.sleep(0.01)
    time.sleep(random.uniform(0, pause))
    while kill % 2 and process.poll() is None and not (killed / "checkpoint.new").exists():
        time.sleep(0.001)
    process.kill()
    assert process.wait() in (0, -9)
    found.append(steps())
    writing += (killed / "checkpoint.new").exists()
print(f"{kills} kills, after steps {found}; {writing} of them while a checkpoint was written", flush=True)
assert start(killed).wait() == 0
for name in ("rollouts.jsonl", "before.json", "after.json"):
    assert (alone / name).read_bytes() == (killed / name).read_bytes(), f"{name} differs"
states = [torch.load(path / "checkpoint/trainer.pt") for path in (alone, killed)]
assert all(state["state"].pop("seconds") for state in states) and same(*states), "trainer.pt differs"
assert same(weights(alone / "checkpoint"), weights(killed / "checkpoint")), "weights differ"
assert same(logged(alone), logged(killed)), "metrics differ"
print(f"{steps()} steps: the same weights, metrics, texts, {', '.join(states[0])}")
