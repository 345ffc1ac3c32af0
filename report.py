"""What a run shows: tables and rollouts on the screen, pictures, and the services of others."""

import sys

import matplotlib

matplotlib.use("Agg")           # files only: no screen is needed

import matplotlib.pyplot as plt
import numpy as np

from eval import awareness, correlation, summarise

COLOURS = {"solution": "#2a6f97", "meta": "#c8553d", "length": "#6a994e", "difficulty": "#bc6c25", "notion": "#7b2d8b"}
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "font.size": 10,
         "axes.titlesize": 11, "savefig.dpi": 150, "figure.constrained_layout.use": True}
TERMS = ("length", "difficulty", "notion")


# --- On the screen ----------------------------------------------------------------------------------------

def print_table(evaluations):
    """The figures of evaluations side by side. evaluations: {heading: records of `evaluate`}."""
    columns = {heading: summarise(records) for heading, records in evaluations.items()}
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    width = max(map(len, names))
    print(f"\n{'held-out problems':{width}}" + "".join(f"{heading:>10}" for heading in columns))
    for name in names:
        cells = [figures.get(name) for figures in columns.values()]
        print(f"{name:{width}}" + "".join(f"{'-' if cell is None else f'{cell:.2f}':>10}" for cell in cells))
    print(flush=True)


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
    """Print a row of `one_of_each`, which also has its step."""
    lines = [f"--- step {row['step']} ---", f"problem     {row['problem']}",
             f"solution    {row['solution']}", f"            reward {row['solution_reward']:.0f} (gold answer "
             f"{row['answer']}), {row['solution_tokens']} tokens; {row['pass_rate']:.0%} of its group are right"]
    if "meta" in row:
        rewards = ", ".join(f"{name} {value:.2f}" for name, value in row["meta_rewards"].items())
        lines += [f"prediction  {row['meta']}", f"            rewards: {rewards}"]
    bar.write("\n".join(line.replace("\n", "\n            ") for line in lines), file=sys.stdout)


# --- Pictures ---------------------------------------------------------------------------------------------

def smooth(values, window):
    """Moving average over `window` values, shorter at both ends; gaps (nan) are left out."""
    values = np.asarray(values, dtype=float)
    parts = [values[max(0, i - window // 2):i + window // 2 + 1] for i in range(len(values))]
    return [np.nanmean(part) if np.isfinite(part).any() else np.nan for part in parts]


def plot_curves(rows, path, title=""):
    """Training curves from the rows of metrics.jsonl (dicts), as a PNG file."""
    steps = [row["step"] for row in rows]

    def curve(axis, name, label, colour):
        values = [np.nan if row.get(name) is None else row[name] for row in rows]
        if np.isfinite(values).any():
            axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
            axis.plot(steps, smooth(values, max(1, len(rows) // 12)), color=colour, label=label)

    with plt.rc_context(STYLE):
        figure, ((accuracy, rewards), (lengths, variance)) = plt.subplots(2, 2, figsize=(10, 6.4), sharex=True)
        curve(accuracy, "reward", "training problems", COLOURS["solution"])
        held_out = [(row["step"], row["eval/accuracy"]) for row in rows if row.get("eval/accuracy") is not None]
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
        for axis in (accuracy, rewards, lengths, variance):
            if axis.get_legend_handles_labels()[0]:
                axis.legend(frameon=False, fontsize=9)
        figure.suptitle(title)
        figure.savefig(path)
        plt.close(figure)


def plot_awareness(evaluations, path):
    """Predicted against actual pass rate and length, a column for each evaluation, as in the paper's Figure 1.

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
                    axis.scatter(*noisy.T, s=18, alpha=0.6, color=COLOURS["solution"], edgecolors="none")
                r = correlation(points)
                axis.set(title=f"{heading}: r = {'-' if r is None else f'{r:.2f}'}", xlabel=f"predicted {name}",
                         ylabel=f"actual {name}", xlim=(-0.04 * limit, 1.04 * limit),
                         ylim=(-0.04 * limit, 1.04 * limit), aspect="equal")
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
