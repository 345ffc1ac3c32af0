"""The recipe: a pretrained model of 135 million parameters learns to box, to add and to predict, on a laptop.

    python examples/recipe.py --model FOLDER                an hour or two per seed on two cores
    python examples/recipe.py --model FOLDER --seeds 0      one seed

For each seed a cold start, and from its checkpoint one run of each arm, all evaluated on the same problems;
and what gates by hidden states and by words would know of the started model. The same command goes on where
it was interrupted, and prints the table of docs/real_models.md after each seed. Other flags are masa.py's,
such as --bf16 True: half the time on a CPU that computes in bfloat16.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parent.parent))

import masa  # isort: skip  (first: it sets what torch reads when it is loaded)
import numpy as np
import torch

from gating import silent_mass
from lab.cold_start import in_batches
from lab.command import command_line
from lab.flags import Config
from lab.folder import RunFolder, read_json, write_whole
from lab.metrics import summarise
from lab.policy import load_policy, pick_device
from lab.reading import FEATURES, Reader
from rewards import ATTEMPTS
from rollout import Group, Sampler
from tasks.problems import load_problems

ARMS = {"grpo": "--algo grpo", "masa": "--algo masa", "masa-0.3": "--algo masa --meta-weight 0.3"}
COMMON = ("--max-new-tokens 48 --max-meta-tokens 64 --max-prompt-tokens 256 --problems-per-step 6 "
          "--group-size 8 --meta-group-size 4 --learning-rate 1e-5 --weight-decay 0 --warmup-steps 5 "
          "--eval-problems 48 --eval-every 0 --eval-samples 8 --show-every 10 --max-tokens 32768 "
          "--micro-batch-tokens 4096").split()
LEVELS = {"up to 15": (1, 15), "up to 40": (1, 40), "10 to 99": (10, 99)}       # of both numbers
SIZES = {"start": 60, "train": 120, "held-out": 16}                             # problems of each level
ROWS = {"boxed": "completions/boxed", "accuracy": "accuracy",
        "groups without variance": "frac_reward_zero_std",
        "predictions with a pass rate": "meta/valid/pass_rate", "notion reward": "meta/reward/notion",
        "r of pass rate": "meta/correlation/pass_rate", "r of length": "meta/correlation/length"}


def write_problems(out):
    """Random sums and differences, all different: out/start.jsonl, train.jsonl and held-out.jsonl."""
    rng, seen = random.Random(0), set()
    for name, count in SIZES.items():
        rows = []
        for level, ends in LEVELS.items():
            while len(rows) < count * (1 + list(LEVELS).index(level)):
                a, b = rng.randint(*ends), rng.randint(*ends)
                text, answer = rng.choice([(f"What is {a} + {b}?", a + b), (f"What is {a + b} - {b}?", a)])
                if text not in seen:
                    rows.append({"problem": text, "answer": str(answer), "level": level})
                seen.add(text)
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder, done, *flags):
    """The run in `folder`, begun or continued, unless the file `done` and its steps say that it has ended.

    Raises ValueError with one line if a run that has ended had other flags.
    """
    flags, steps = [*flags, "--output", str(folder)], folder / "metrics.jsonl"
    taken = steps.read_text().count("\n") if steps.exists() else None
    config = Config.parse(flags)
    if taken is None or taken < config.steps or not (folder / done).exists():
        return masa.main([*flags, *["--resume"] * (taken is not None)])
    if taken > config.steps:
        raise ValueError(f"{folder} has {taken} steps already: choose another --output, or --steps {taken}")
    RunFolder(folder, asdict(config), resume=True).close()


def foretell(sampler, problems, seed):
    """How well do hidden states, and words, say which problems a policy always or never solves?

    sampler: a Sampler; problems: a list of Problem. Each is solved 8 times; a `Reader` of four fifths
    of them gives z of the fifth. Returns the share of silent groups, and of either reader: the AUC of z and
    its 95 % interval (resampled problems), the share of problems with a z of at least 0.9, and the share of
    these that are silent (None: there are none).
    """
    torch.manual_seed(seed)
    groups, rng = [Group(problem, [sampler.budget]) for problem in problems], np.random.default_rng(seed)
    for batch in in_batches(groups, 6, "solving to judge gates", sampler):
        sampler.solve(batch, ATTEMPTS)
    counts, silent = [sum(group.correct) for group in groups], np.array([group.silent for group in groups])
    fold, found = rng.permutation(len(groups)) % 5, {"silent": silent.mean()}

    def auc(rows):
        above = z[rows][silent[rows]][:, None] - z[rows][~silent[rows]]
        return (above > 0).mean() + (above == 0).mean() / 2

    for name in ("state", "words"):
        features, z = FEATURES[name](sampler, groups), np.zeros(len(groups))
        for part in range(5):
            reader, known = Reader(ATTEMPTS), np.flatnonzero(fold != part).tolist()
            reader.add(features[known], [counts[i] for i in known], [groups[i].right_length for i in known])
            reader.fit(200)
            z[fold == part] = silent_mass(reader.probabilities(features[fold == part]))
        resampled = [auc(rows) for rows in rng.integers(0, len(z), (1000, len(z)))]
        flagged = z >= 0.9
        found[name] = {"AUC": auc(slice(None)), "interval": [*np.nanquantile(resampled, [0.025, 0.975])],
                       "flagged": flagged.mean(), "right": silent[flagged].mean() if any(flagged) else None}
    return found


def judge_gates(path, model, problems, flags):
    """The figures of `foretell` for the policy in the folder `model`, from the file `path` if it is there."""
    if not path.exists():
        config = Config.parse(["--model", str(model), *flags])
        device = pick_device(config.device)
        bf16 = device.type == "cuda" if config.bf16 is None else config.bf16
        policy, tokenizer = load_policy(config.model, device)
        sampler = Sampler(policy, tokenizer, config.max_new_tokens, config.max_meta_tokens,
                          max_tokens=config.max_tokens)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            write_whole(path, json.dumps(foretell(sampler, problems, config.seed)))
    return read_json(path)


def figures(path):
    """The figures of ROWS from one evaluation."""
    summary = summarise(read_json(path))
    return {row: summary[name] for row, name in ROWS.items()}


def table(columns):
    """A table in markdown: the mean over seeds, and each seed. columns: {heading: a dict of each seed}."""
    def cell(values):
        known = [value for value in values if value is not None]
        each = ", ".join("-" if value is None else f"{value:.2f}" for value in values)
        return f"**{mean(known):.2f}** ({each})" if known else "-"

    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[row, *(cell([seed[row] for seed in seeds]) for seeds in columns.values())] for row in ROWS]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder or hub id, such as SmolLM2-135M-Instruct")
    parser.add_argument("--output", default="runs/recipe", type=Path)
    parser.add_argument("--seeds", default=[0, 1, 2], type=int, nargs="+")
    parser.add_argument("--arms", default=["masa", "grpo"], choices=ARMS, nargs="+")
    parser.add_argument("--cold-start", default=90, type=int, help="problems of the cold start, twice")
    parser.add_argument("--gate", default=210, type=int, help="problems to judge gates with; 0: none")
    parser.add_argument("--steps", default=40, type=int)
    args, others = parser.parse_known_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    write_problems(args.output)
    columns = {"before": [], "after the cold start": [], **{arm: [] for arm in args.arms}}
    for seed in args.seeds:
        common = [*COMMON, "--seed", str(seed), "--eval-data", str(args.output / "held-out.jsonl"), *others]
        start = args.output / f"start-{seed}"
        run(start, "started.json", "--model", args.model, "--data", str(args.output / "start.jsonl"),
            "--cold-start", str(args.cold_start), "--steps", "0", *common)
        columns["before"].append(figures(start / "before.json"))
        columns["after the cold start"].append(figures(start / "started.json"))
        for arm in args.arms:
            folder = args.output / f"{arm}-{seed}"
            run(folder, "after.json", "--model", str(start / "checkpoint"), "--data",
                str(args.output / "train.jsonl"), "--steps", str(args.steps), *ARMS[arm].split(), *common)
            columns[arm].append(figures(folder / "after.json"))
        print(f"\n{table(columns)}\n", flush=True)
        if args.gate:
            problems = load_problems(str(args.output / "train.jsonl"), limit=args.gate)
            found = judge_gates(args.output / f"gate-{seed}.json", start / "checkpoint", problems, common)
            print(f"gates of the started model: {found}\n", flush=True)


if __name__ == "__main__":
    command_line("recipe.py", main)
