"""The study: algorithms, controls and ablations over paired seeds, against plain GRPO, with 95 % intervals.

    python tools/compare.py                                    the study of docs/results.md: hours, see --jobs
    python tools/compare.py --seeds 0 1 --arms grpo masa state     a part of it
    python tools/compare.py --report                           tables and pictures of what there is
    python tools/compare.py --report --base "short budget"     beside another arm than grpo
    python tools/compare.py --flags "--model FOLDER --data FILE --steps 50"    any model, any problems

Every run is `python masa.py` in a folder of its own below --output; what it says is kept in --results, so
that another machine can go on: a run that is in there is not run again, a stopped one goes on, one with other
flags is refused. Ctrl-C stops the runs after their step, saved. Tokens are sampled ones, predictions and
audits included, and prompt tokens that were read. A ratio is the cost of reaching the accuracy that GRPO ends
with, by mean curves over paired seeds.
"""

import argparse
import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import NormalDist

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lab.command import command_line
from lab.flags import Config
from lab.folder import read_json, write_whole
from lab.metrics import summarise
from lab.report import cell

ASKING = "--algo masa-efficient --cutoff-by said --meta-group-size"      # so many predictions
READING = "--algo masa-efficient --meta-group-size 0"                    # none
ARMS = {
    "grpo": "--algo grpo",
    "dynamic": "--algo grpo --dynamic-sampling",
    "masa": "--algo masa",
    "said": f"{ASKING} 4 --gate-by said",
    "said, cloned": f"{ASKING} 4 --gate-by said --clone",
    "number": f"{ASKING} 4 --gate-by number",
    "state": f"{ASKING} 4",
    "state, no predictions": f"{READING} --no-cutoff",
    "state, read cutoff": READING,
    # Controls: without what is claimed to matter.
    "words": f"{ASKING} 4 --gate-by words",
    "words, no predictions": f"{READING} --gate-by words --no-cutoff",
    "words, read cutoff": f"{READING} --gate-by words",
    "level": f"{ASKING} 4 --gate-by level",
    "pilot": f"{READING} --gate-by pilot",
    "shuffled": f"{ASKING} 4 --meta-reward shuffled",
    "said, always": f"{ASKING} 4 --gate-by said --gate-trust 0 --cutoff-trust 0",     # as in the paper
    "number, always": f"{ASKING} 4 --gate-by number --gate-trust 0",
    "pilot, always": f"{READING} --gate-by pilot --gate-trust 0",
    "oracle": f"{READING} --gate-by oracle",       # knows pass rates; hindsight (in `report`) outcomes
    "short budget": "--algo grpo --max-new-tokens 96",
    # Parts.
    "state, read cutoff, always": f"{READING} --cutoff-trust 0",
    "state, mass 0.8": f"{READING} --no-cutoff --gate-mass 0.8",
    "state, short budget": f"{READING} --no-cutoff --max-new-tokens 96",
    "state, M = 2": f"{ASKING} 2",
    "state, M = 8": f"{ASKING} 8",
    "state, weight 0.3": f"{ASKING} 4 --meta-weight 0.3",
    "state, no refill": f"{ASKING} 4 --no-refill",
    "state, lean": f"{READING} --no-cutoff --no-refill",
    "words, lean": f"{READING} --no-cutoff --no-refill --gate-by words",
    "state, no cutoff": f"{ASKING} 4 --no-cutoff",
    "state, masked cuts": f"{ASKING} 4 --mask-cut",
    "state, always cut": f"{ASKING} 4 --cutoff-trust 0",
    "state, always cut, masked": f"{ASKING} 4 --cutoff-trust 0 --mask-cut",
    "state, cloned": f"{ASKING} 4 --clone",
    "masa, M = 4": "--algo masa --meta-group-size 4",
    "masa, shuffled": "--algo masa --meta-reward shuffled",
    "masa, weight 0": "--algo masa --meta-weight 0",
    "masa, weight 0.3": "--algo masa --meta-weight 0.3",
    "masa, hints": "--algo masa --hints",
    "masa, rate": "--algo masa --notion-variant rate",
    "masa, length": "--algo masa --meta-reward length",
    "masa, difficulty": "--algo masa --meta-reward difficulty",
    "masa, notion": "--algo masa --meta-reward notion",
}
STUDY = "--steps 60 --eval-every 10"
PICTURED = ("grpo", "dynamic", "hindsight", "masa", "said", "state", "state, no predictions",
            "state, read cutoff", "words, read cutoff", "short budget")


# --- Running ----------------------------------------------------------------------------------------------

def run_all(arms, seeds, flags, output, results, jobs, timed):
    """Run what is not finished, `jobs` at a time, seed by seed: a load of the machine hits all arms."""
    todo = [(arm, seed) for seed in seeds for arm in arms if seed not in known(results, arm, flags)]
    running, environment = {}, os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    try:
        while todo or running:
            while todo and len(running) < jobs:
                arm, seed = todo.pop(0)
                folder = output / f"{'-'.join(arm.replace(',', '').replace('=', '').split())}-{seed}"
                folder.parent.mkdir(parents=True, exist_ok=True)
                command = [sys.executable, str(ROOT / "masa.py"), *shlex.split(f"{ARMS[arm]} {flags}"),
                           "--seed", str(seed), "--output", str(folder), "--show-every", "0"]
                if (folder / "metrics.jsonl").exists():
                    command += ["--resume"]
                    check_steps(folder, command)
                print(f"{time.strftime('%H:%M')} {arm}, seed {seed}", flush=True)
                log = open(folder.with_suffix(".log"), "a")
                process = subprocess.Popen(command, stdout=log, stderr=log, env=environment,
                                           start_new_session=True)
                running[process] = arm, seed, folder
            for process in [process for process in running if process.poll() is not None]:
                arm, seed, folder = running.pop(process)
                if process.returncode:
                    log = folder.with_suffix(".log")
                    raise ValueError(f"{arm}, seed {seed} ended with {process.returncode}: see {log}")
                keep(results, arm, seed, flags, figures(folder, timed))
            time.sleep(0.5)
    finally:
        for process in running:                 # each is a session of its own, and saves after its step
            process.terminate()
        for process in running:
            process.wait()


def check_steps(folder, command):
    """Raises ValueError if a run would go on to another number of steps: its curve would be another one."""
    began, steps = read_json(folder / "config.json")["steps"], Config.parse(command[2:]).steps
    if began != steps:
        raise ValueError(f"{folder} was begun with --steps {began}, not {steps}: choose another --output")


def known(results, arm, flags):
    """The finished seeds of an arm in the file `results`: {seed: figures}."""
    stored = (read_json(results) if results.exists() else {}).get(arm, {})
    if stored and stored["flags"] != f"{ARMS[arm]} {flags}":
        raise ValueError(f"{results} holds runs of {arm} with {stored['flags']}, not {ARMS[arm]} {flags}: "
                         "choose other --results, or give the same --flags")
    return {int(seed): found for seed, found in stored.get("seeds", {}).items()}


def keep(results, arm, seed, flags, found):
    seeds = known(results, arm, flags) | {seed: found}
    stored = read_json(results) if results.exists() else {}
    ordered = {str(seed): seeds[seed] for seed in sorted(seeds)}
    stored[arm] = {"flags": f"{ARMS[arm]} {flags}", "seeds": ordered}
    results.parent.mkdir(parents=True, exist_ok=True)
    write_whole(results, json.dumps(stored, indent=1) + "\n")


# --- Reading ----------------------------------------------------------------------------------------------

def figures(folder, timed=True):
    """What a finished run has to say: {name: number or None}; "curve" is a list of (step, tokens, seconds,
    accuracy of the held-out problems, tokens thrown away with their problems); seconds only if `timed`."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    before, after = (summarise(read_json(folder / f"{when}.json")) for when in ("before", "after"))
    sampled = np.cumsum([row["tokens"] + row.get("meta/tokens", 0) + row["tokens_wasted"] for row in rows])
    tokens = sampled + np.cumsum([row["tokens_prefilled"] for row in rows])
    wasted = np.cumsum([row["tokens_wasted"] for row in rows])
    rows[-1]["eval/accuracy"] = after["accuracy"]
    points = [(0, 0, 0.0, before["accuracy"], 0)]
    points += [(row["step"] + 1, tokens[i], row["seconds_total"], row["eval/accuracy"], wasted[i])
               for i, row in enumerate(rows) if row.get("eval/accuracy") is not None]

    def mean(name):
        values = [row[name] for row in rows if row.get(name) is not None]
        return float(np.mean(values)) if values else None

    found = {"accuracy": after["accuracy"], "tokens": float(tokens[-1]), "sampled tokens": float(sampled[-1]),
             "tokens thrown away": float(wasted[-1]),
             "seconds": rows[-1]["seconds_total"], "groups without variance": mean("frac_reward_zero_std"),
             "skipped": mean("gate/share"), "stopped": mean("cutoff/share")}
    for rule in ("gate", "cutoff"):
        found |= {f"{rule} {figure}": rows[-1].get(f"{rule}/{figure}") for figure in ("precision", "recall")}
    found |= {name: after.get(name) for name in ("meta/reward", "meta/correlation/pass_rate",
                                                 "meta/correlation/length")}
    records = read_json(folder / "after.json")
    found |= {f"R2 of {name}": share for name, share in shapley(records).items()}
    curve = [[None if column == 2 and not timed else float(x) for column, x in enumerate(point)]
             for point in points]
    return found | {"seconds": found["seconds"] if timed else None, "curve": curve}


def cost_to_reach(curve, accuracy, column):
    """Tokens (column 1) or seconds (2) at which a curve first reaches `accuracy`, interpolated, or inf."""
    for low, high in itertools.pairwise(curve):
        if high[3] >= accuracy:
            share = 0 if low[3] >= accuracy else (accuracy - low[3]) / (high[3] - low[3])
            return low[column] + share * (high[column] - low[column])
    return np.inf


def ratio_to(arm, grpo, column, resamples=2000):
    """What `arm`'s mean curve costs to reach the end of GRPO's, over what that costs: (ratio, interval).

    arm, grpo: curves [seeds, points, 5] of the same seeds, resampled in pairs (None: one); pairs that were
    not timed are left out. inf: not reached; nan: no pair, or GRPO's did not rise. Percentiles are expanded
    (Hesterberg 2015): of few seeds the plain ones are too narrow, by sqrt(1 - 1 / n) and t.
    """
    timed = ~np.isnan(arm[:, -1, column] + grpo[:, -1, column])
    arm, grpo = arm[timed], grpo[timed]

    def ratio(rows):
        ours, theirs = arm[rows].mean(0), grpo[rows].mean(0)
        whole = cost_to_reach(theirs, theirs[-1, 3], column)
        return cost_to_reach(ours, theirs[-1, 3], column) / whole if whole else np.nan

    everyone, rng = np.arange(len(arm)), np.random.default_rng(0)
    if len(everyone) < 2:
        return ratio(everyone) if len(everyone) else np.nan, None
    ratios = np.sort([ratio(rng.choice(everyone, len(everyone))) for _ in range(resamples)])
    tail = NormalDist().cdf(-student(len(everyone)) * math.sqrt(len(everyone) / (len(everyone) - 1)))
    below = int(tail * resamples)
    return ratio(everyone), (ratios[below], ratios[-1 - below])


def interval(values):
    """The mean and its 95 % interval by Student's t: (mean, (low, high)), or (mean, None) of one value."""
    values = np.array([value for value in values if value is not None and np.isfinite(value)], dtype=float)
    if len(values) < 2:
        return (float(values[0]) if len(values) else None), None
    half = student(len(values)) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean(), (values.mean() - half, values.mean() + half)


def student(count):
    """The 97.5 % quantile of Student's t for the mean of 2 to 16 values; for more, that of 16 (wider)."""
    return [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14,
            2.13][min(count, 16) - 2]


def shapley(records):
    """{reward: the share of the variance of problems' pass rates that it explains}: Shapley values of R2.

    records: of `eval.evaluate`. The shares sum to the R2 of all three rewards together.
    """
    names = list(records[0]["predictions"][0]["rewards"])
    columns = np.array([[np.mean([p["rewards"][name] for p in record["predictions"]]) for name in names]
                        for record in records])
    rates = np.array([np.mean([c["correct"] for c in record["completions"]]) for record in records])

    def explained(chosen):
        inputs = np.column_stack([columns[:, chosen], np.ones(len(rates))])
        rest = rates - inputs @ np.linalg.lstsq(inputs, rates, rcond=None)[0]
        return 1 - rest.var() / max(rates.var(), 1e-12)

    orders, values = list(itertools.permutations(range(len(names)))), dict.fromkeys(names, 0.0)
    for order in orders:
        for i, name in enumerate(order):
            values[names[name]] += (explained(list(order[:i + 1])) - explained(list(order[:i]))) / len(orders)
    return values


# --- Reporting --------------------------------------------------------------------------------------------

COSTS = {"skipped": "skipped", "gate precision": "gate precision", "gate recall": "gate recall",
         "stopped": "stopped", "cutoff precision": "cutoff precision"}
PREDICTIONS = {"meta reward": "meta/reward", "r of pass rates": "meta/correlation/pass_rate",
               "r of lengths": "meta/correlation/length",
               **{f"R2 of {name}": f"R2 of {name}" for name in ("length", "difficulty", "notion")}}


def report(results, arms, picture, base="grpo"):
    """The tables of docs/results.md on the screen, beside the arm `base`, and the picture of curves."""
    stored = read_json(results) if results.exists() else {}
    if base not in stored:
        raise ValueError(f"{results} holds no finished run of {base}, which all else is compared with")
    found = {arm: stored[arm]["seeds"] for arm in arms
             if arm in stored and stored[arm]["seeds"].keys() & stored[base]["seeds"].keys()}
    if not found:
        raise ValueError(f"{results} holds no finished run of these arms with a seed of {base}'s")
    if "dynamic" in found:      # the same groups, if one had known before which of the others to leave out
        found["hindsight"] = {seed: {"curve": [(step, tokens - thrown, np.nan, accuracy, 0)
                                            for step, tokens, _, accuracy, thrown in run["curve"]]}
                           for seed, run in found["dynamic"].items()}
    curves = {arm: {int(seed): np.array(run["curve"], dtype=float) for seed, run in seeds.items()}
              for arm, seeds in {**found, None: stored[base]["seeds"]}.items()}
    others = curves.pop(None)           # also where its rows are not asked for
    print(table({arm: comparison(runs, others, base) for arm, runs in curves.items()}))
    for names in (COSTS, PREDICTIONS):
        print(table({arm: {heading: cell(*interval([run.get(name) for run in seeds.values()]))
                           for heading, name in names.items()} for arm, seeds in found.items()}))
    for arm, runs in curves.items():
        print(f"- {arm}: {', '.join(f'{run[-1, 3]:.3f}' for run in runs.values())}")
    plot({arm: runs for arm, runs in curves.items() if arm in PICTURED}, picture)
    print(f"\nAll figures are in {results}, the picture in {picture}")


def comparison(runs, others, base):
    """The cells of an arm beside those of `base`, over the seeds that both have: {heading: text}."""
    common = [seed for seed in runs if seed in others]
    ours, theirs = (np.array([arm[seed] for seed in common]) for arm in (runs, others))
    spent = [min(a[-1, 1], b[-1, 1]) for a, b in zip(ours, theirs)]
    gained = [np.interp(n, a[:, 1], a[:, 3]) - np.interp(n, b[:, 1], b[:, 3])
              for a, b, n in zip(ours, theirs, spent)]
    return {"seeds": str(len(runs)), "accuracy": cell(*interval(run[-1, 3] for run in runs.values()), ".3f"),
            f"tokens to the accuracy of {base}": cell(*ratio_to(ours, theirs, 1)),
            "seconds": cell(*ratio_to(ours, theirs, 2)),
            f"accuracy above {base}, equal steps": cell(*interval(ours[:, -1, 3] - theirs[:, -1, 3]), "+.3f"),
            "equal tokens": cell(*interval(gained), "+.3f"),
            "thousand tokens": f"{np.mean([run[-1, 1] for run in runs.values()]) / 1e3:.0f}"}


def table(rows):
    """A table in markdown. rows: {name: {heading: text}}; rows of nothing but "-" are left out."""
    headings = list(next(iter(rows.values())))
    lines = [["arm", *headings], ["---"] * (1 + len(headings))]
    lines += [[name, *row.values()] for name, row in rows.items() if {*row.values()} != {"-"}]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(curves, path):
    """Held-out accuracy against steps and against tokens: the mean of the seeds over thin lines for each."""
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, constrained_layout=True)
    for colour, (arm, runs) in enumerate(curves.items()):
        for axis, column, scale in ((axes[0], 0, 1), (axes[1], 1, 1e3)):
            for run in runs.values():
                axis.plot(run[:, column] / scale, run[:, 3], color=f"C{colour}", alpha=0.15, lw=0.7)
            mean = np.mean(list(runs.values()), axis=0)
            axis.plot(mean[:, column] / scale, mean[:, 3], color=f"C{colour}", lw=2,
                      label=f"{arm} ({len(runs)} seeds)")
    axes[0].set(xlabel="training step", ylabel="held-out accuracy")
    axes[1].set(xlabel="thousand tokens, sampled and read, predictions and audits included")
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)), metavar="SEED")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM",
                        help=", ".join(ARMS))
    parser.add_argument("--output", type=Path, default=ROOT / "runs/study", help="where the runs are")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/study.json", help="where figures are")
    parser.add_argument("--flags", default=STUDY, help="further flags of masa.py, for every run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one thread each; 1 to time them")
    parser.add_argument("--untimed", action="store_true", help="the machine is shared: keep no seconds")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--base", choices=ARMS, default="grpo", metavar="ARM", help="what is compared with")
    args = parser.parse_args()
    for name in ("SIGTERM", "SIGHUP"):                                  # the runs must not go on alone
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)

    def study():
        if not args.report:
            run_all(args.arms, args.seeds, args.flags, args.output.resolve(), args.results, args.jobs,
                    timed=args.jobs == 1 and not args.untimed)
        report(args.results, args.arms, args.results.with_name("compare.png"), args.base)
    command_line("compare.py", study)


if __name__ == "__main__":
    main()
