"""Two processes with gloo take the same steps as one, and `torchrun masa.py` runs, writes once and resumes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from test_masa import SMALL, save_chat_model

ROOT = Path(__file__).parent.parent
TRAIN = r"""
import sys; sys.path[:0] = [{root!r}, {tests!r}]
import torch, parallel
from lab.flags import Config
from conftest import make_policy
from grpo import group_advantages
from rollout import generate
from update import imitate, update

model, tokenizer = make_policy()
torch.manual_seed(0)
rollouts = generate(model, tokenizer, [[5 + i // 4, 6, 7][:1 + i % 3] for i in range(16)], 7)
parallel.start(torch.device("cpu"))
rewards = torch.tensor([1., 0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0.5, 0, 0, 1])
config = Config(beta=0.1, inner_epochs=2, micro_batch_tokens=60)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
reference = make_policy()[0]
metrics = update(model, reference, optimizer, rollouts, group_advantages(rewards, 4), config)
metrics["clone"] = imitate(model, optimizer, rollouts.select([0, 4, 7]), 2, 0.1, config)
part = rollouts.select([0])                     # fewer rows than processes
imitate(model, optimizer, part, 1, 0.1, config)
weights = {{name: value.clone() for name, value in model.state_dict().items()}}
adamw = torch.optim.AdamW(model.parameters(), lr=0.01)
config = Config(micro_batch_tokens=60)
update(model, None, adamw, rollouts, group_advantages(rewards, 4), config)
before = [p.clone() for p in model.parameters()]
update(model, None, adamw, rollouts, torch.zeros(16), config)                   # no gradient anywhere: no step
assert all(map(torch.equal, before, model.parameters()))
torch.manual_seed(1)
greedy = parallel.generate(model, tokenizer, [[5], [6, 7], [8]], [4, 9, 2], 0)
drawn = parallel.generate(model, tokenizer, [[5]] * 8, 6)
assert len(set(drawn.texts)) > 4                # the processes do not draw the same numbers
torch.save((metrics, weights, greedy.texts, greedy.lengths, drawn.texts, torch.rand(1)),
           f"{out}{{parallel.rank()}}.pt")
"""


def launch(processes, *command):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *command],
                          cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch comes without gloo")
def test_two_processes_take_the_steps_of_one(tmp_path):
    script, saved = tmp_path / "train.py", {}
    for processes in (1, 2):
        script.write_text(TRAIN.format(root=str(ROOT), tests=str(ROOT / "tests"), out=str(tmp_path / f"{processes}-")))
        done = launch(processes, str(script))
        assert done.returncode == 0, done.stderr
        for rank in range(processes):
            saved[processes, rank] = torch.load(tmp_path / f"{processes}-{rank}.pt")
    one, first, second = saved[1, 0], saved[2, 0], saved[2, 1]
    assert all(saved[key][0].pop("padding") < 0.2 for key in saved)         # that depends on who has which rows
    assert first[0] == pytest.approx(one[0], rel=1e-4, abs=1e-6) and one[0]["grad_norm"] > 0
    for name, value in one[1].items():
        torch.testing.assert_close(first[1][name], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(first[1][name], second[1][name])
    assert first[2:4] == second[2:4] == one[2:4]
    assert first[4] == second[4] and torch.equal(first[5], second[5])       # all have all rows, and go on alike


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch comes without gloo")
def test_a_run_with_two_processes_is_written_once_and_resumed(tmp_path):
    (tmp_path / "problems.jsonl").write_text("".join(f'{{"problem": "{i} + 1?", "answer": "7"}}\n' for i in range(9)))
    command = ["masa.py", "--model", save_chat_model(tmp_path / "model"), "--data", str(tmp_path / "problems.jsonl"),
               *SMALL, "--algo", "masa-efficient", "--gate-start", "1", "--beta", "0.1", "--device", "cpu",
               "--output", str(tmp_path / "run")]
    for more in (["--steps", "2"], ["--steps", "3", "--resume"]):
        done = launch(2, *command, *more)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("steps, ") == 1 and done.stdout.count("held-out problems ") >= 1
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2] and (tmp_path / "run/curves.png").exists()
    assert all(line["sampling/logp_difference"] < 1e-4 for line in lines)
