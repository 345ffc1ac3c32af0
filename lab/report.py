"""What a run shows: tables and rollouts on the screen, pictures, and the services of others."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from lab.metrics import TERMS, awareness, bootstrap, calibration, correlation, difference, per_problem, summarise

COLOURS = {"solution": "#2a6f97", "meta": "#c8553d", "length": "#6a994e", "difficulty": "#bc6c25",
           "notion": "#7b2d8b"}
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "font.size": 10,
         "axes.titlesize": 11, "savefig.dpi": 150, "figure.constrained_layout.use": True}
DETAILS = ("pass@", "meta/valid", "meta/spearman", "meta/error", "meta/gating", "meta/length_in_range")
LINES = ["#2a6f97", "#c8553d", "#6a994e", "#7b2d8b", "#bc6c25", "#444444"]       # of evaluations in one picture


# --- On the screen ----------------------------------------------------------------------------------------

def cell(value, ends=None):
    """A figure as text, with its interval if it has one."""
    form = "{:.2f}" if value is None or abs(value) < 1000 else "{:,.0f}"
    text = "-" if value is None else form.format(value)
    return text if ends is None else f"{text} [{form.format(ends[0])}, {form.format(ends[1])}]"


def print_columns(title, columns, width):
    """A table from {heading: {name: text}}; a name that a column does not have is shown as -."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    first = max(map(len, [*names, title]))
    print(f"\n{title:{first}}" + "".join(f"  {heading:>{width - 2}}" for heading in columns))
    for name in names:
        print(f"{name:{first}}" + "".join(f"{column.get(name, '-'):>{width}}" for column in columns.values()))
    print(flush=True)


def print_table(evaluations, title="held-out problems"):
    """The main figures of evaluations side by side. evaluations: {heading: records of `evaluate`}."""
    print_columns(title, {heading: {name: cell(value) for name, value in summarise(records).items()
                                    if not name.startswith(DETAILS)}
                          for heading, records in evaluations.items()}, 10)


def show_results(results):
    """The tables of an evaluation (a finished `results.Results`) on the screen, and its pictures beside its file."""
    sets, stem = results.content["data"], results.path.with_suffix("")
    for name, part in sets.items():
        ends = part["intervals"]
        print_columns(name, {"value [95 % interval]": {figure: cell(value, ends.get(figure))
                                                       for figure, value in part["summary"].items()}}, 30)
        print(f"{len(part['records'])} problems, {part['tokens']:,} tokens in {part['seconds']:.0f} seconds: "
              f"{part['tokens_per_second']:,.0f} tokens per second, {part['seconds_per_problem']:.2f} s per problem")
    if len(sets) > 1:
        mean = np.mean([part["summary"]["pass@1"] for part in sets.values()])
        print(f"pass@1, mean of the {len(sets)} sets: {mean:.3f}")
    records = {name: part["records"] for name, part in sets.items()}
    pictures = draw(stem, {name: {stem.name: part} for name, part in records.items()})
    print(f"Completions, grades and pictures are in {', '.join([str(results.path), *pictures])}")


def show_comparison(files, output=None):
    """Paired differences of evaluations on the screen, and pictures of them side by side.

    files: a list of (path, {data set: records}); each is compared with the first. output: beginning of the names of
    the pictures. Raises ValueError with one line if the files do not hold the same problems.
    """
    paths = [Path(path) for path, _ in files]
    full = len({path.stem for path in paths}) < len(paths)
    labels = [f"{path.parent.name} {path.stem}" if full else path.stem for path in paths]
    if len(set(labels)) < len(labels):
        raise ValueError(f"--compare {labels[0]}: two files with the same name and folder")
    (_, first), drawn = files[0], {}
    for name, records in first.items():
        for label, (path, sets) in zip(labels[1:], files[1:]):
            if name not in sets:
                raise ValueError(f"{path} holds no {name}, only {', '.join(sets)}")
            try:
                gained = difference(records, sets[name])
            except ValueError as error:
                raise ValueError(f"{paths[0]} and {path}, {name}: {error}") from None
            columns = {heading: {figure: cell(value) for figure, value in summarise(part).items()}
                       for heading, part in ((labels[0], records), (label, sets[name]))}
            change = {figure: cell(*pair) for figure, pair in gained.items()}
            print_columns(name, columns | {"difference [95 % interval]": change}, 30)
        drawn[name] = dict(zip(labels, (sets[name] for _, sets in files)))
    pictures = draw(Path(output).with_suffix("") if output else paths[-1].with_name("compare"), drawn)
    if pictures:
        print(f"Pictures are in {', '.join(pictures)}")


def draw(stem, sets):
    """The pictures of evaluations, {data set: {heading: records}}, as files that begin with `stem`: their names."""
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


def one_of_each(problems, solutions, correct, metas, aligned):
    """The first solution and the first meta rollout (if `metas` is not None) of a step, in full, as a dict."""
    problem, group_size = problems[0], len(solutions) // len(problems)
    row = {"problem": problem.text, "answer": problem.answer, "solution": solutions.texts[0],
           "solution_tokens": solutions.lengths[0], "solution_reward": float(correct[0]),
           "pass_rate": sum(correct[:group_size]) / group_size}
    if metas:
        row |= {"meta": metas.texts[0], "meta_rewards": aligned[0]}
    return row


def print_rollouts(row, bar):
    """Print a row of `one_of_each`, which also has its step. A model's control characters are spelled out."""
    lines = [f"--- step {row['step']} ---", f"problem     {row['problem']}",
             f"solution    {row['solution']}", f"            reward {row['solution_reward']:.0f} (gold answer "
             f"{row['answer']}), {row['solution_tokens']} tokens; {row['pass_rate']:.0%} of its group are right"]
    if "meta" in row:
        rewards = ", ".join(f"{name} {value:.2f}" for name, value in row["meta_rewards"].items())
        lines += [f"prediction  {row['meta']}", f"            rewards: {rewards}"]
    text = "\n".join(line.replace("\n", "\n            ") for line in lines)
    bar.write("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text), file=sys.stdout)


# --- Pictures ---------------------------------------------------------------------------------------------

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
        held_out = [(row["step"] + 1, row["eval/accuracy"]) for row in rows if row.get("eval/accuracy") is not None]
        if evaluations:
            before, after = (summarise(evaluations[when])["accuracy"] for when in ("before", "after"))
            held_out = [(0, before), *held_out, (len(rows), after)]
        if held_out:
            accuracy.plot(*zip(*held_out), "o-", color="black", markersize=4, linewidth=1, label="held-out problems")
        for name in TERMS:
            curve(rewards, f"meta/reward/{name}", name, COLOURS[name])
        for prefix, label, name in (("", "solutions", "solution"), ("meta/", "predictions", "meta")):
            curve(lengths, f"{prefix}completions/mean_length", label, COLOURS[name])
            curve(variance, f"{prefix}frac_reward_zero_std", label, COLOURS[name])
        accuracy.set(title="Share of solutions that are right", ylim=(0, 1))
        rewards.set(title="Rewards of meta predictions", ylim=(0, 1))
        lengths.set(title="Tokens per rollout", xlabel="step", ylim=(0, None))
        variance.set(title="Share of groups without variance", xlabel="step", ylim=(0, 1))
        for axis, name, title in [(gate[0], "gate", "Gating: share skipped, and its audit"),
                                  (cutoff[0], "cutoff", "Cutoff: share cut, and its audit")] if gated else []:
            for part, colour in (("share", "solution"), ("precision", "length"), ("recall", "notion"), ("f1", "difficulty")):
                curve(axis, f"{name}/{part}", part, COLOURS[colour])
            axis.set(title=title, ylim=(0, 1))
        for axis in axes.flat:
            if axis.get_legend_handles_labels()[0]:
                axis.legend(frameon=False, fontsize=9)
        figure.suptitle(title)
        figure.savefig(path)
        plt.close(figure)


def plot_awareness(evaluations, path):
    """Predicted against actual pass rate and length, a column for each evaluation, as in the paper's Figure 1.

    A point is a problem. The line with marks is the calibration: how often problems are solved about which one
    and the same pass rate was predicted; the mark's area is the share of predictions.
    evaluations: {heading: records of `evaluate`}. Writes a PNG file.
    """
    pairs = {heading: awareness(records) for heading, records in evaluations.items()}
    longest = max([1.0, *(max(pair) for _, lengths in pairs.values() for pair in lengths)])
    jitter = np.random.default_rng(0)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, len(pairs), figsize=(4.2 * len(pairs), 8), squeeze=False)
        for column, (heading, both) in enumerate(pairs.items()):
            for axis, points, limit, name in zip(
                    axes[:, column], both, (1.0, longest), ("pass rate", "length in tokens")):
                axis.plot([0, limit], [0, limit], color="black", alpha=0.3, linewidth=1)
                if points:              # points on the coarse scale would hide each other
                    noisy = np.array(points) + jitter.uniform(-0.01, 0.01, (len(points), 2)) * limit
                    axis.scatter(*noisy.T, s=18, alpha=0.5, color=COLOURS["solution"], edgecolors="none", zorder=2)
                r = correlation(points)
                axis.set(title=f"{heading}: r = {'-' if r is None else f'{r:.2f}'}", xlabel=f"predicted {name}",
                         ylabel=f"actual {name}", xlim=(-0.04 * limit, 1.04 * limit),
                         ylim=(-0.04 * limit, 1.04 * limit), aspect="equal")
            cells, error = calibration(evaluations[heading])
            if cells:
                predicted, actual, counts = np.transpose(cells)
                axes[0, column].plot(predicted, actual, color=COLOURS["meta"], linewidth=1, zorder=3,
                                     label=f"calibration (mean gap {error:.2f})")
                axes[0, column].scatter(predicted, actual, s=10 + 150 * counts / counts.sum(), color=COLOURS["meta"],
                                        zorder=3)
                axes[0, column].legend(frameon=False, fontsize=8, loc="upper left")
        figure.savefig(path)
        plt.close(figure)


def plot_pass_at_k(evaluations, path):
    """pass@k over k with its 95 % interval, a line for each evaluation, as a PNG file.

    evaluations: {heading: records of `evaluate`}.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 4))
        ticks = set()
        for (heading, records), colour in zip(evaluations.items(), LINES * len(evaluations)):
            values = per_problem(records)
            columns = {int(name[5:]): column for name, column in values.items() if name.startswith("pass@")}
            axis.plot(list(columns), [column.mean() for column in columns.values()], "o-", color=colour, markersize=4,
                      label=heading)
            ends = [bootstrap(column) for column in columns.values()]
            if None not in ends:
                axis.fill_between(list(columns), *np.transpose(ends), color=colour, alpha=0.15, linewidth=0)
            ticks |= columns.keys()
        axis.set(xlabel="k", ylabel="pass@k", ylim=(0, 1), xscale="log", title="Solved by at least one of k")
        axis.set_xticks(sorted(ticks), sorted(ticks))
        axis.minorticks_off()
        axis.legend(frameon=False)
        figure.savefig(path)
        plt.close(figure)


# --- Services ---------------------------------------------------------------------------------------------

class Reporter:
    """Passes metrics on to wandb, tensorboard or trackio; with None it does nothing."""

    def __init__(self, service, folder, config):
        self.send = lambda metrics, step: None
        try:
            if service == "tensorboard":
                from torch.utils.tensorboard import SummaryWriter
                writer = SummaryWriter(folder)
                self.send = lambda metrics, step: [writer.add_scalar(*item, step) for item in metrics.items()]
            elif service:
                tracker = __import__(service)
                tracker.init(project="masa", name=folder.name, config=config)
                self.send = lambda metrics, step: tracker.log(metrics, step=step)
        except ImportError:
            raise ValueError(f"--report-to {service}: it is not installed, try pip install {service}") from None

    def log(self, metrics, step):
        self.send({name: value for name, value in metrics.items() if value is not None}, step)
