"""Compare algorithms on the toy world over several seeds: accuracy, tokens, seconds, gating, with 95 % intervals.

    python tests/compare.py                             5 seeds of all, the README's table: over an hour on 2 cores
    python tests/compare.py --seeds 2 --algos grpo masa                  a part of it
    python tests/compare.py --algos grpo grpo-dynamic masa-efficient-{m4,k5,blind,no-clone,no-refill}

Every run is `python masa.py` with the flags in FLAGS, in a folder of its own below --output; what is there already is
not run again, and a run that was stopped goes on. Run by hand, not part of the test suite.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
ALGOS = {"grpo": "--algo grpo", "grpo-dynamic": "--algo grpo --dynamic-sampling", "masa": "--algo masa",
         "masa-efficient": "--algo masa-efficient",
         "masa-efficient-lean": "--algo masa-efficient --no-refill --no-clone --meta-group-size 4"}
VARIANTS = {"masa-efficient-m4": "--meta-group-size 4", "masa-efficient-k5": "--gate-start 5",
            "masa-efficient-blind": "--gate-trust 0", "masa-efficient-no-clone": "--no-clone",
            "masa-efficient-no-refill": "--no-refill"}
FLAGS = ALGOS | {name: f"--algo masa-efficient {flags}" for name, flags in VARIANTS.items()}
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}        # Student's t for n values
COUNTS = {"solution tokens": "tokens", "meta tokens": "meta/tokens", "tokens thrown away": "tokens_wasted",
          "audit tokens": "audit/tokens"}
SHARES = {"problems gated": "gate/share", "solutions cut": "cutoff/share"}
LAST = {"gating precision": "gate/precision", "gating recall": "gate/recall", "gating F1": "gate/f1",
        "cut solutions that were wrong": "cutoff/precision"}


def interval(values):
    """Mean and half-width of the 95 % interval of the mean; both nan without values."""
    values = [value for value in values if value is not None and np.isfinite(value)]
    if len(values) < 2:
        return (values[0] if values else np.nan), np.nan
    return float(np.mean(values)), T_95.get(len(values), 2.0) * float(np.std(values, ddof=1)) / len(values) ** 0.5


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def figures(folder):
    """What one run has to say: a dict of numbers (None where it does not apply), and its held-out curve."""
    rows = metrics(folder)
    found = {name: sum(row.get(key) or 0 for row in rows) for name, key in COUNTS.items()}
    found["all tokens"] = sum(found.values())
    found["seconds"] = rows[-1]["seconds_total"]
    predicted = [row["meta/completions/mean_length"] for row in rows if "meta/completions/mean_length" in row]
    found["tokens of a prediction"] = float(np.mean(predicted)) if predicted else None
    for name, key in SHARES.items():
        shares = [row[key] for row in rows if key in row]
        found[name] = float(np.mean(shares)) if shares else None
    found |= {name: rows[-1].get(key) for name, key in LAST.items()}
    sys.path.insert(0, str(ROOT))
    from eval import summarise
    for when in ("before", "after"):
        summary = summarise(json.loads((folder / f"{when}.json").read_text()))
        for name in ("accuracy", "meta/reward", "meta/correlation/pass_rate", "meta/correlation/length"):
            found[f"{name}, {when}"] = summary[name]
    spent, curve = 0, [(0, 0, 0.0, found["accuracy, before"])]
    for row in rows:
        spent += sum(row.get(key) or 0 for key in COUNTS.values())
        if row.get("eval/accuracy") is not None:
            curve.append((row["step"] + 1, spent, row["seconds_total"], row["eval/accuracy"]))
    return found, [*curve, (len(rows), spent, found["seconds"], found["accuracy, after"])]


def cost_to_reach(curve, accuracy):
    """(tokens, seconds) at which a held-out curve first reaches `accuracy`, interpolated; (None, None) if never."""
    for (_, *before, low), (_, *after, high) in zip(curve, curve[1:]):
        if high >= accuracy:
            share = 0 if low >= accuracy else (accuracy - low) / (high - low)
            return tuple(a + share * (b - a) for a, b in zip(before, after))
    return None, None


def ideal_gate(folder, curve, prediction_tokens):
    """The held-out curve of a dynamic-sampling run, had a perfect predictor named the groups it threw away.

    Then a drawn problem costs its predictions, and only those that were kept cost solutions: the least that any
    gate in front of the same steps can spend.
    """
    spent = [0, *np.cumsum([row["tokens"] + row["problems_drawn"] * prediction_tokens for row in metrics(folder)])]
    return [(step, spent[step], seconds, accuracy) for step, _, seconds, accuracy in curve]


def plot(curves, path):
    """Held-out accuracy against steps and against tokens, a mean curve per algorithm over thin ones per seed."""
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, constrained_layout=True)
    for colour, (algo, runs) in enumerate(curves.items()):
        for axis, column, scale in ((axes[0], 0, 1), (axes[1], 1, 1e3)):
            for run in runs:
                axis.plot([p[column] / scale for p in run], [p[3] for p in run], color=f"C{colour}", alpha=0.2, lw=0.8)
            mean = np.mean(np.array(runs), axis=0)
            axis.plot(mean[:, column] / scale, mean[:, 3], color=f"C{colour}", label=algo, lw=2)
    axes[0].set(xlabel="training step", ylabel="held-out accuracy")
    axes[1].set(xlabel="thousand generated tokens, audits included")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--algos", nargs="+", choices=FLAGS, default=list(ALGOS))
    parser.add_argument("--output", default="runs/compare")
    parser.add_argument("--flags", default="--steps 100 --eval-every 10", help="further flags of masa.py, for every run")
    arguments = parser.parse_args()
    folder, results, curves = Path(arguments.output), {}, {}
    for seed in range(arguments.seeds):         # seed by seed, so that a load of the machine hits all algorithms
        for algo in arguments.algos:
            run = folder / f"{algo}-{seed}"
            if not (run / "curves.png").exists():
                started = (run / "before.json").exists()
                print(f"{algo}, seed {seed}", flush=True)
                subprocess.run([sys.executable, "masa.py", *FLAGS[algo].split(), "--seed", str(seed), "--output", str(run),
                                "--show-every", "0", *arguments.flags.split(), *(["--resume"] if started else [])],
                               cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            found, curve = figures(ROOT / run)
            results.setdefault(algo, []).append(found)
            curves.setdefault(algo, []).append(curve)
    for algo in arguments.algos:
        for seed, (found, curve) in enumerate(zip(results[algo], curves[algo])):
            if "grpo" in curves:                # to the final accuracy of GRPO with the same seed
                goal = curves["grpo"][seed][-1][3]
                wholes = cost_to_reach(curves["grpo"][seed], goal)
                for name, cost, whole in zip(("tokens", "seconds"), cost_to_reach(curve, goal), wholes):
                    found[f"{name} to GRPO's final accuracy / GRPO's, where reached"] = (
                        cost / whole if cost is not None else None)
                found["seeds that reached it"] = float(cost is not None)
                if algo == "grpo-dynamic" and "masa" in results:
                    length = results["masa"][seed]["tokens of a prediction"]
                    for size in (0, 2, 4, 8):
                        cost, _ = cost_to_reach(ideal_gate(ROOT / folder / f"{algo}-{seed}", curve, size * length), goal)
                        found[f"the same, had a perfect gate cost {size} predictions a problem"] = (
                            cost / wholes[0] if cost is not None else None)
    names = list(dict.fromkeys(name for runs in results.values() for found in runs for name in found))
    print(f"\n| mean and 95 % interval over {arguments.seeds} seeds | " + " | ".join(arguments.algos) + " |")
    print("|---|" + "---|" * len(arguments.algos))
    for name in names:
        cells = []
        for algo in arguments.algos:
            mean, half = interval([found.get(name) for found in results[algo]])
            digits = ",.0f" if abs(mean) >= 10 else ".2f"
            cells.append("-" if np.isnan(mean) else f"{mean:{digits}} ± {half:{digits}}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    (ROOT / folder / "compare.json").write_text(json.dumps({"results": results, "curves": curves}, indent=1))
    plot(curves, ROOT / folder / "compare.png")
    print(f"\nEvery seed's figures are in {folder}/compare.json, the curves in {folder}/compare.png")


if __name__ == "__main__":
    main()
