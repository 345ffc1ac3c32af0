"""Kill a training run at random moments, resume it each time, and compare its end with that of a run left
alone.

    python tools/kill.py --kills 20      about 6 minutes on 2 cores; run by hand, the tests have a short form

The kill is SIGKILL, so that nothing can be tidied up; the moments include evaluation, and every second one
waits for a checkpoint that is being written. Weights, optimiser state, metrics (but for seconds) and sampled
texts must be the same, bit for bit.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from conftest import ROOT, logged, same_weights, save_chat_model, weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, folder = random.Random(arguments.seed), Path(tempfile.mkdtemp())
    data = folder / "problems.jsonl"
    data.write_text("".join(f'{{"problem": "What is {i} + {i}?", "answer": "{2 * i}"}}\n' for i in range(20)))
    command = [sys.executable, "masa.py", "--model", save_chat_model(folder / "model"), "--data", str(data),
               *("--algo masa-efficient --gate-start 3 --gate-trust 0 --steps 40 --checkpoint-every 1 "
                 "--show-every 1 --max-new-tokens 60 --max-meta-tokens 40 --max-prompt-tokens 700 "
                 "--problems-per-step 4 --beta 0.1 --eval-problems 4 --eval-samples 2 --eval-every 5 "
                 "--learning-rate 0.001 --minibatches 2").split()]

    def start(name, *more):
        return subprocess.Popen([*command, "--output", str(folder / name), *more], cwd=ROOT,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    began = time.perf_counter()
    assert start("alone").wait() == 0
    whole = time.perf_counter() - began
    kills, steps, resumes = 0, [], []
    while kills < arguments.kills:
        begun = (folder / "killed/before.json").exists()
        process = start("killed", *(["--resume"] if begun else []))
        try:
            _, said = process.communicate(timeout=rng.uniform(0.3, 1.0) * min(whole, 12))
            assert process.returncode == 0, said
            print("the run ended before it could be killed again")
            break
        except subprocess.TimeoutExpired:
            if kills % 2:
                while process.poll() is None and not (folder / "killed/checkpoint.new").exists():
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            metrics = folder / "killed/metrics.jsonl"
            steps.append(len(metrics.read_text().splitlines()) if metrics.exists() else 0)
            resumes.append((folder / "killed/checkpoint.new").exists())
    else:
        process = start("killed", *(["--resume"] if (folder / "killed/before.json").exists() else []))
        _, said = process.communicate()
        assert process.returncode == 0, said
    print(f"{kills} kills, after steps {steps}; {sum(resumes)} of them while a checkpoint was written")
    alone, killed = folder / "alone", folder / "killed"
    assert logged(alone) == logged(killed), "metrics differ"
    for name in ("rollouts.jsonl", "before.json", "after.json"):
        assert (alone / name).read_bytes() == (killed / name).read_bytes(), f"{name} differs"
    assert same_weights(weights(alone / "checkpoint"), weights(killed / "checkpoint")), "weights differ"
    states = [torch.load(path / "checkpoint/trainer.pt")["optimizer"]["state"] for path in (alone, killed)]
    assert all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i])
    print(f"weights, optimiser, {len(logged(killed))} lines of metrics and all sampled texts are those of "
          "the run left alone")


if __name__ == "__main__":
    main()
