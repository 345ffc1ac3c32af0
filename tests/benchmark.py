"""Memory and speed, as ratios within one run. By hand, not part of the test suite.

    python tests/benchmark.py memory          the loss at a vocabulary of 151,936, with chunks and without
    python tests/benchmark.py memory --tokens 8192          needs 30 GB for the version without
    python tests/benchmark.py batches         one batch of solutions and predictions against two

Memory is the peak of resident memory of a child process, less that of a child which only loads the same things.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

import grpo

VOCABULARY = 151_936            # of Qwen3


def logprobs_in_chunks(lm_head, hidden, token_ids, temperature, chunk=512):
    """As in grpo.token_logprobs, without the model below the LM head."""
    parts = [grpo.checkpoint(grpo.head_logprobs, lm_head, hidden[i:i + chunk], token_ids[i:i + chunk], temperature,
                             use_reentrant=False) for i in range(0, len(hidden), chunk)]
    return tuple(torch.cat(column) for column in zip(*parts))


def one_loss(version, tokens):
    """In a child: forward and backward of the loss; prints seconds and the peak of resident memory in MB."""
    torch.manual_seed(0)
    lm_head = torch.nn.Linear(64, VOCABULARY, bias=False)
    hidden = torch.randn(tokens, 64, requires_grad=True)
    token_ids = torch.randint(VOCABULARY, (tokens,))
    lm_head.weight.grad = torch.zeros_like(lm_head.weight)
    started = time.perf_counter()
    if version != "nothing":
        compute = {"plain": grpo.head_logprobs, "chunked": logprobs_in_chunks}[version]
        logprobs, _ = compute(lm_head, hidden, token_ids, 1.0)
        logprobs.sum().backward()
    print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory(tokens):
    found = {}
    for version in ("nothing", "plain", "chunked"):
        said = subprocess.run([sys.executable, __file__, "one-loss", "--version", version, "--tokens", str(tokens)],
                              check=True, capture_output=True, text=True).stdout
        found[version] = [float(word) for word in said.split()]
        print(f"{version:8} {found[version][1]:8,.0f} MB {found[version][0]:6.1f} s", flush=True)
    base = found["nothing"][1]
    print(f"{tokens} tokens: chunks take 1/{(found['plain'][1] - base) / (found['chunked'][1] - base):.1f} of the memory "
          f"and {found['chunked'][0] / found['plain'][0]:.2f} of the seconds")


def batches(repeats):
    """Solution and meta prompts of a step in one batch of `generate`, or in two: median ratio of the seconds."""
    from data import load_problems
    from policy import load_policy
    from rollout import encode, generate, meta_messages, solution_messages
    model, tokenizer = load_policy("toy")
    problems = load_problems("toy")[:16]
    solve = [encode(tokenizer, solution_messages(p.text)) for p in problems for _ in range(8)]
    predict = [encode(tokenizer, meta_messages(p.text, 96)) for p in problems for _ in range(8)]
    ratios = []
    for _ in range(repeats):
        times = [time.perf_counter()]
        generate(model, tokenizer, solve + predict, [96] * 128 + [32] * 128)
        times.append(time.perf_counter())
        generate(model, tokenizer, solve, 96)
        generate(model, tokenizer, predict, 32)
        times.append(time.perf_counter())
        ratios.append((times[1] - times[0]) / (times[2] - times[1]))
    print(f"one batch takes {statistics.median(ratios):.2f} of the seconds of two (from {min(ratios):.2f} to "
          f"{max(ratios):.2f} in {repeats} repeats)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["memory", "batches", "one-loss"])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--version", choices=["nothing", "plain", "chunked"], default="chunked")
    arguments = parser.parse_args()
    {"memory": lambda: memory(arguments.tokens), "batches": lambda: batches(arguments.repeats),
     "one-loss": lambda: one_loss(arguments.version, arguments.tokens)}[arguments.what]()
