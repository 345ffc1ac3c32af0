"""The recipe: a pretrained model of 135 million parameters learns to box, to add and to predict, on a laptop.

    python examples/recipe.py --model FOLDER                an hour or two per seed on two cores
    python examples/recipe.py --model FOLDER --seeds 0      one seed

For each seed a cold start, and from its checkpoint one run of each arm, all evaluated on the same problems.
The same command goes on where it was interrupted, and prints the table of docs/real_models.md after each
seed. Other flags are masa.py's, such as --bf16 True: half the time on a CPU that computes in bfloat16.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parent.parent))

import masa
from lab.command import command_line
from lab.flags import Config
from lab.folder import RunFolder, read_json
from lab.metrics import summarise

ARMS = {"grpo": "--algo grpo", "masa": "--algo masa", "gate-state": "--algo masa-efficient --gate-by state",
        "gate-words": "--algo masa-efficient --gate-by words"}
COMMON = ("--max-new-tokens 48 --max-meta-tokens 64 --max-prompt-tokens 256 --problems-per-step 6 "
          "--group-size 8 --meta-group-size 4 --learning-rate 1e-5 --weight-decay 0 --warmup-steps 5 "
          "--eval-problems 48 --eval-every 0 --eval-samples 8 --show-every 10 --max-tokens 32768 "
          "--micro-batch-tokens 4096 --cutoff-min 24").split()
LEVELS = {"up to 15": (1, 15), "up to 40": (1, 40), "10 to 99": (10, 99)}       # of both numbers
SIZES = {"start": 60, "train": 120, "held-out": 16}                             # problems of each level
ROWS = {"boxed": "completions/boxed", "accuracy": "accuracy", "groups without variance": None,
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


def figures(path):
    """The figures of ROWS from one evaluation."""
    summary = summarise(read_json(path))
    silent = summary["frac_always_right"] + summary["frac_never_right"]
    return {row: silent if name is None else summary[name] for row, name in ROWS.items()}


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


if __name__ == "__main__":
    command_line("recipe.py", main)
