"""Pictures of runs and evaluations, as PNG files. matplotlib is loaded only by those who draw."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from lab.metrics import awareness, bootstrap, calibration, correlation, pass_at_k, summarise
from rewards import REWARDS

COLOURS = {"solution": "#2a6f97", "meta": "#c8553d", "length": "#6a994e", "difficulty": "#bc6c25",
           "notion": "#7b2d8b"}
LINES = [*COLOURS.values(), "#444444"]          # of evaluations in one picture
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
         "axes.titlesize": 11, "font.size": 10, "savefig.dpi": 150, "figure.constrained_layout.use": True}
NEVER = "no solution is right"
ABSENT = {"pass rate": "no valid prediction", "length in tokens": "no valid prediction of a solved problem"}


def draw(stem, sets):
    """Draw evaluations, {data set: {heading: records}}, into files STEM-SET-WHAT.png; returns their names."""
    written = []
    for name, evaluations in sets.items():
        all_records = [record for records in evaluations.values() for record in records]
        for plot, what, possible in (
                (plot_pass_at_k, "pass-at-k", min(len(record["completions"]) for record in all_records) > 1),
                (plot_awareness, "awareness", any(record["predictions"] for record in all_records))):
            if possible:
                written.append(f"{stem}-{name.replace(' ', '-')}-{what}.png")
                Path(written[-1]).parent.mkdir(parents=True, exist_ok=True)
                plot(evaluations, written[-1])
    return written


def note(axis, *lines):
    """Say in the middle of a picture why there is nothing to see. Lines that are False are left out."""
    text = "\n".join(line for line in lines if line)
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", color="#555555")


def smooth(values, window):
    """Moving average over `window` values, shorter at both ends; gaps (nan) are left out."""
    values = np.asarray(values, dtype=float)
    parts = [values[max(0, i - window // 2):i + window // 2 + 1] for i in range(len(values))]
    return [np.nanmean(part) if np.isfinite(part).any() else np.nan for part in parts]


def plot_curves(rows, path, title="", evaluations=None):
    """Training curves from the rows of metrics.jsonl (dicts), as a PNG file.

    evaluations: the records of held-out problems "before" and "after" these steps, if there are any.
    """
    steps = [row["step"] for row in rows]

    def curve(axis, name, label, colour):
        values = [np.nan if row.get(name) is None else row[name] for row in rows]
        if np.isfinite(values).any():
            axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
            axis.plot(steps, smooth(values, max(1, len(rows) // 12)), color=colour, label=label)

    with plt.rc_context(STYLE):
        gated = any("gate/share" in row for row in rows)
        figure, axes = plt.subplots(2, 2 + gated, figsize=(10 + 5 * gated, 6.4), sharex=True)
        (accuracy, rewards, *gate), (lengths, variance, *cutoff) = axes
        curve(accuracy, "reward", "training problems", COLOURS["solution"])
        known = [row for row in rows if row.get("eval/accuracy") is not None]
        points = [(row["step"] + 1, row["eval/accuracy"]) for row in known]
        if evaluations:
            before, after = (summarise(evaluations[when])["accuracy"] for when in ("before", "after"))
            points = [(0, before), *points, (len(rows), after)]
        if points:
            accuracy.plot(*zip(*points), "o-", color="black", markersize=4, label="held-out problems")
        for name in REWARDS:
            curve(rewards, f"meta/reward/{name}", name, COLOURS.get(name))
        for prefix, label, name in (("", "solutions", "solution"), ("meta/", "predictions", "meta")):
            curve(lengths, f"{prefix}completions/mean_length", label, COLOURS[name])
            curve(variance, f"{prefix}frac_reward_zero_std", label, COLOURS[name])
        accuracy.set(title="Share of solutions that are right", ylim=(0, 1))
        rewards.set(title="Rewards of meta predictions", ylim=(0, 1))
        lengths.set(title="Tokens per rollout", xlabel="step", ylim=(0, None))
        variance.set(title="Share of groups without variance", xlabel="step", ylim=(0, 1))
        for axis, name, what in zip(gate + cutoff, ("gate", "cutoff"), ("Gating: skipped", "Cutoff: cut")):
            for part, colour in zip(("share", "precision", "recall", "f1"), LINES):
                curve(axis, f"{name}/{part}", part, colour)
            axis.set(title=f"{what} share, and its audit", ylim=(0, 1))
        for axis in axes.flat:
            if axis.get_legend_handles_labels()[0]:
                axis.legend(frameon=False, fontsize=9)
            else:
                note(axis, "none in this run")
        figure.suptitle(title)
        figure.savefig(path)
        plt.close(figure)


def plot_awareness(evaluations, path):
    """Predicted against actual pass rate and length, a column per evaluation, as in the paper's Figure 1.

    A point is a problem. The line with marks is the calibration: how often problems are solved about which
    one and the same pass rate was predicted; the mark's area is the share of predictions. evaluations:
    {heading: records of `evaluate`}. Writes a PNG file.
    """
    pairs = {heading: awareness(records) for heading, records in evaluations.items()}
    longest = max([1.0, *(max(pair) for _, lengths in pairs.values() for pair in lengths)])
    jitter = np.random.default_rng(0)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, len(pairs), figsize=(4.2 * len(pairs), 8), squeeze=False)
        for column, (heading, both) in enumerate(pairs.items()):
            right = any(c["correct"] for record in evaluations[heading] for c in record["completions"])
            for axis, points, limit, name in zip(axes[:, column], both, (1.0, longest), ABSENT):
                r, ends = correlation(points), (-0.04 * limit, 1.04 * limit)
                axis.set(title=f"{heading}: r is not defined" if r is None else f"{heading}: r = {r:.2f}",
                         xlabel=f"predicted {name}", ylabel=f"actual {name}", xlim=ends, ylim=ends)
                axis.set_aspect("equal")
                note(axis, not right and NEVER, not points and ABSENT[name])
                if points:              # points on the coarse scale would hide each other
                    axis.plot([0, limit], [0, limit], color="black", alpha=0.3, linewidth=1)
                    noisy = np.array(points) + jitter.uniform(-0.01, 0.01, (len(points), 2)) * limit
                    axis.scatter(*noisy.T, s=18, alpha=0.5, color=LINES[0], edgecolors="none", zorder=2)
                else:
                    axis.set(xticks=[], yticks=[])
            cells, error = calibration(evaluations[heading])
            if cells:
                (predicted, actual, counts), axis = np.transpose(cells), axes[0, column]
                axis.plot(predicted, actual, color=LINES[1], label=f"calibration (gap {error:.2f})", zorder=3)
                axis.scatter(predicted, actual, s=10 + 150 * counts / counts.sum(), color=LINES[1], zorder=3)
                axis.legend(frameon=False, fontsize=8, loc="upper left")
        figure.savefig(path)
        plt.close(figure)


def plot_pass_at_k(evaluations, path):
    """pass@k with its 95 % interval for k up to n, a line for each evaluation, as a PNG file.

    evaluations: {heading: records of `evaluate`}. Of a large n, some 25 k are drawn, evenly on the log scale.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 4))
        ticks, best = set(), 0
        for (heading, records), colour in zip(evaluations.items(), LINES * len(evaluations)):
            rows = [[completion["correct"] for completion in record["completions"]] for record in records]
            n = min(map(len, rows))
            sizes = np.unique(np.geomspace(1, n, 33).round().astype(int))
            columns = [np.array([pass_at_k(len(row), sum(row), k) for row in rows]) for k in sizes.tolist()]
            axis.plot(sizes, np.mean(columns, 1), "o-", color=colour, markersize=3, label=heading)
            ends = list(map(bootstrap, columns))
            if None not in ends:
                axis.fill_between(sizes, *np.transpose(ends), color=colour, alpha=0.15, linewidth=0)
            ticks |= {n, *(2 ** i for i in range(n.bit_length()))}
            best = max(best, np.max(columns))
        note(axis, best == 0 and NEVER)
        axis.set(xlabel="k", ylabel="pass@k", ylim=(0, 1), xscale="log", title="Solved by at least one of k")
        axis.set_xticks(sorted(ticks), sorted(ticks))
        axis.minorticks_off()
        axis.legend(frameon=False)
        figure.savefig(path)
        plt.close(figure)
