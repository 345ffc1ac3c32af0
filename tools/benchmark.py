"""Memory and speed, as ratios within one run. By hand, not part of the test suite.

    python tests/benchmark.py memory          the loss at a vocabulary of 151,936, with chunks and without
    python tests/benchmark.py memory --tokens 8192          the version without needs 19 GB
    python tests/benchmark.py batches         one batch of solutions and predictions against two
    python tests/benchmark.py leaving         rows that have ended leave the batch of `generate`, against waiting
    python tests/benchmark.py step            a GRPO step of ours against one of TRL's GRPOTrainer, if TRL is installed

Memory is the peak of resident memory of a child process: of `memory`, less that of a child which only loads the same
things; of `step`, with all that it imports.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
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


def leaving(repeats):
    """Solutions of a step where rows that have ended leave the batch, against a batch that waits for its longest row."""
    import rollout
    from tasks.problems import load_problems
    from lab.policy import load_policy
    from prompts import encode, solution_messages
    model, tokenizer = load_policy("toy")
    prompts = [encode(tokenizer, solution_messages(p.text)) for p in load_problems("toy")[:16] for _ in range(8)]
    rollout.generate(model, tokenizer, prompts, 96)             # not counted
    ratios, strides = [], [rollout.STRIDE, 96]
    for seed in range(repeats):
        seconds = {}
        for rollout.STRIDE in strides[::1 if seed % 2 else -1]:
            torch.manual_seed(seed)
            started = time.perf_counter()
            rollout.generate(model, tokenizer, prompts, 96)
            seconds[rollout.STRIDE] = time.perf_counter() - started
        ratios.append(seconds[strides[0]] / seconds[96])
    print(f"with rows that leave: {statistics.median(ratios):.2f} of the seconds (from {min(ratios):.2f} to "
          f"{max(ratios):.2f} in {repeats} repeats)")


def batches(repeats):
    """Solution and meta prompts of a step in one batch of `generate`, or in two: median ratio of the seconds."""
    from tasks.problems import load_problems
    from lab.policy import load_policy
    from prompts import encode, meta_messages, solution_messages
    from rollout import generate
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


def one_steps(version, steps):
    """In a child: GRPO steps on the toy world, one optimiser step each; prints seconds of each and the peak in MB."""
    import transformers
    from lab.flags import parse_config
    from tasks.problems import ProblemStream, load_problems
    from tasks.grader import grade
    from lab.policy import load_policy
    from prompts import solution_messages
    transformers.logging.set_verbosity_error()
    model, tokenizer = load_policy("toy")
    problems = load_problems("toy")[:16 * (steps + 2)]
    seconds = []
    if version == "ours":
        import collect
        from gating import Audit
        from grpo import group_advantages
        from update import update
        config = parse_config(["--algo", "grpo", "--minibatches", "1", "--learning-rate", "1e-6"])
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
        collector = collect.Collector(model, tokenizer, config, ProblemStream(problems, 0).draw, None)
        for _ in range(steps):
            started = time.perf_counter()
            batch = collector.solve_all(Audit())
            advantages = group_advantages(torch.tensor(batch.correct, dtype=torch.float), config.group_size)
            update(model, None, optimizer, batch.solutions, advantages, config)
            seconds.append(time.perf_counter() - started)
    else:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        class Clock(transformers.TrainerCallback):
            def on_step_begin(self, *_, **__):
                self.started = time.perf_counter()

            def on_step_end(self, *_, **__):
                seconds.append(time.perf_counter() - self.started)

        def solved(completions, answer, **columns):
            return [float(grade(c[0]["content"], a)) for c, a in zip(completions, answer)]

        rows = Dataset.from_list([{"prompt": solution_messages(p.text), "answer": p.answer} for p in problems])
        GRPOTrainer(model, solved, GRPOConfig(
            output_dir=tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=128, num_generations=8,
            max_completion_length=96, temperature=1.0, learning_rate=1e-6, loss_type="dapo", use_cpu=True, bf16=False,
            gradient_checkpointing=False, report_to=[], disable_tqdm=True, save_strategy="no", logging_strategy="no"),
            train_dataset=rows, processing_class=tokenizer, callbacks=[Clock()]).train()
    print("figures", *seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def step(repeats, steps=8):
    """A step of ours against TRL's: same policy, prompts, G, budget; median ratios of seconds and of peak memory."""
    ratios = []
    for _ in range(repeats):
        found = {}
        for version in ("ours", "trl"):
            child = subprocess.run([sys.executable, __file__, "one-steps", "--version", version, "--steps", str(steps)],
                                   capture_output=True, text=True)
            if child.returncode:
                sys.exit(f"{version} failed (is TRL installed?): {child.stderr.strip().splitlines()[-1]}")
            words = next(line for line in child.stdout.splitlines() if line.startswith("figures")).split()[1:]
            found[version] = statistics.median(map(float, words[1:-1])), float(words[-1])    # not the first step
            print(f"{version:5} {found[version][0]:.2f} s per step, peak {found[version][1]:,.0f} MB", flush=True)
        ratios.append([ours / trl for ours, trl in zip(found["ours"], found["trl"])])
    print("ours takes {:.2f} of TRL's seconds and {:.2f} of its memory (medians of {} repeats)".format(
        *map(statistics.median, zip(*ratios)), repeats))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["memory", "batches", "leaving", "step", "one-loss", "one-steps"])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--version", choices=["nothing", "plain", "chunked", "ours", "trl"], default="chunked")
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    {"memory": lambda: memory(arguments.tokens), "batches": lambda: batches(arguments.repeats),
     "leaving": lambda: leaving(arguments.repeats),
     "step": lambda: step(arguments.repeats, arguments.steps),
     "one-steps": lambda: one_steps(arguments.version, arguments.steps),
     "one-loss": lambda: one_loss(arguments.version, arguments.tokens)}[arguments.what]()
