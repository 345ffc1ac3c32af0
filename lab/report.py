"""What a run shows on the screen, and passes on to the services of others. Pictures are in pictures.py."""

import math
import sys
import time
from pathlib import Path

from tqdm import tqdm

from lab.metrics import averages, bootstrap, paired, per_problem, summarise

DETAILS = ("pass@", "meta/error", "meta/gating")            # not in the table of a training run
CURE = ("--cold-start 250, in another --output, first teaches these formats from the model's own text (on "
        "twice 250 problems: with fewer than 500, give less)")
FEW = 0.5       # share of boxed solutions, or of readable predictions, below which a run says what to do


# --- On the screen ----------------------------------------------------------------------------------------

def cell(value, ends=None, form=None):
    """A figure as text, with its interval if it has one; inf is "never", and no number "-"."""
    if value is None or math.isnan(value):
        return "-"
    form = form or (",.0f" if 1000 <= abs(value) < math.inf else ".2f")
    text, *ends = ("never" if math.isinf(x) else f"{x:{form}}" for x in (value, *(ends or ())))
    return f"{text} [{', '.join(ends)}]" if ends else text


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


def print_averages(title, columns):
    """A figure of several data sets, and its means over groups of them; {heading: {data set: array [N]}}."""
    from tasks.benchmarks import group_of  # training does without the sandbox
    print_columns(title, {heading: {row: cell(*pair) for row, pair in averages(sets, group_of).items()}
                          for heading, sets in columns.items()}, 30)


def show_gold(sources, limit, allow_code_execution):
    """Say how many answers of data sets pass their own graders; the arguments are those of `load_sets`."""
    from tasks.benchmarks import check_gold, load_sets
    for name, (benchmark, problems) in load_sets(sources, limit, allow_code_execution).items():
        passed, total, failed = check_gold(benchmark, problems)
        print(f"{name}: " + (f"{passed:,} of {total:,} answers pass their own grader" if total
                             else "has no answers of its own"), flush=True)
        for problem in failed:
            print(f"    {problem.id} does not: {problem.answer[:80]!r}")


def show_results(results):
    """The tables of a finished `results.Results` on the screen, and its pictures beside its file."""
    sets, stem = results.content["data"], results.path.with_suffix("")
    for name, part in sets.items():
        ends = part["intervals"]
        print_columns(name, {"value [95 % interval]": {figure: cell(value, ends.get(figure))
                                                       for figure, value in part["summary"].items()}}, 30)
        print(f"{len(part['records'])} problems, {part['tokens']:,} tokens in {part['seconds']:.0f} seconds: "
              f"{part['tokens_per_second']:,.0f} tokens/s, {part['seconds_per_problem']:.2f} s per problem")
    records = {name: part["records"] for name, part in sets.items()}
    if len(sets) > 1:
        print_averages("all sets", {"pass@1 [95 % interval]": {name: per_problem(part)["accuracy"]
                                                               for name, part in records.items()}})
    from lab.pictures import draw
    pictures = draw(stem, {name: {stem.name: part} for name, part in records.items()})
    print(f"Completions, grades and pictures are in {', '.join([str(results.path), *pictures])}")


def show_comparison(files, output=None):
    """Paired differences of evaluations on the screen, and pictures of them side by side.

    files: a list of (path, {data set: records}); each is compared with the first. output: beginning of the
    names of the pictures. Raises ValueError with one line if the files do not hold the same problems.
    """
    paths = [Path(path) for path, _ in files]
    full = len({path.stem for path in paths}) < len(paths)
    labels = [f"{path.parent.name} {path.stem}" if full else path.stem for path in paths]
    if len(set(labels)) < len(labels):
        raise ValueError(f"--compare {labels[0]}: two files with the same name and folder")
    (_, first), changes = files[0], {label: {} for label in labels[1:]}
    for name, records in first.items():
        for label, (path, sets) in zip(labels[1:], files[1:]):
            if name not in sets:
                raise ValueError(f"{path} holds no {name}, only {', '.join(sets)}")
            try:
                change = paired(records, sets[name])
            except ValueError as error:
                raise ValueError(f"{paths[0]} and {path}, {name}: {error}") from None
            columns = {heading: {figure: cell(value) for figure, value in summarise(part).items()}
                       for heading, part in ((labels[0], records), (label, sets[name]))}
            columns["difference [95 % interval]"] = {figure: cell(values.mean(), bootstrap(values))
                                                     for figure, values in change.items()}
            print_columns(name, columns, 30)
            changes[label][name] = change["accuracy"]
    if len(first) > 1:
        print_averages(f"pass@1, difference to {labels[0]}", changes)
    drawn = {name: dict(zip(labels, (sets[name] for _, sets in files))) for name in first}
    from lab.pictures import draw
    pictures = draw(Path(output).with_suffix("") if output else paths[-1].with_name("compare"), drawn)
    if pictures:
        print(f"Pictures are in {', '.join(pictures)}")


def one_of_each(batch):
    """The first solution of a step and, if there is one, the first meta rollout, in full, as a dict."""
    group = batch.groups[0]
    row = {"problem": group.problem.text, "answer": group.problem.answer,
           "solution": group.solutions.texts[0], "solution_tokens": group.solutions.lengths[0],
           "solution_reward": float(group.correct[0]), "pass_rate": sum(group.correct) / len(group.correct)}
    if batch.terms:
        row |= {"meta": group.metas.texts[0], "meta_rewards": batch.terms[0]}
    return row


def print_rollouts(row, bar):
    """Print a row of `one_of_each`, which also has its step. A model's control characters are spelled out."""
    lines = [f"--- step {row['step']} ---", f"problem     {row['problem']}", f"solution    {row['solution']}",
             f"            reward {row['solution_reward']:.0f} (gold answer {row['answer']}), "
             f"{row['solution_tokens']} tokens; {row['pass_rate']:.0%} of its group are right"]
    if "meta" in row:
        rewards = ", ".join(f"{name} {value:.2f}" for name, value in row["meta_rewards"].items())
        lines += [f"prediction  {row['meta']}", f"            rewards: {rewards}"]
    text = "\n".join(line.replace("\n", "\n            ") for line in lines)
    bar.write("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text), file=sys.stdout)


# --- While it runs ----------------------------------------------------------------------------------------

def progress_bar(total, description, unit, **settings):
    """A bar of tqdm on the screen; in a file, a line every 15 seconds."""
    return tqdm(total=total, desc=description, unit=unit, file=sys.stdout, dynamic_ncols=True,
                mininterval=0.1 if sys.stdout.isatty() else 15, **settings)


class TokenCount:
    """Shows in a bar how many rollouts and tokens are done, so that a slow model gives signs of life.

    It is what `Sampler.progress` and `grpo.update` call. doing: in words; total: rollouts to come, if known.
    """

    def __init__(self, bar, doing="", total=None):
        self.bar, self.rollouts, self.tokens = bar, 0, 0
        self.doing, self.of = doing, f" of {total:,}" if total else ""
        self.started = self.shown = time.perf_counter()

    def __call__(self, rollouts, tokens):
        now, self.rollouts, self.tokens = time.perf_counter(), self.rollouts + rollouts, self.tokens + tokens
        if not self.bar.disable and now - self.shown >= self.bar.mininterval:
            self.shown = now
            self.bar.set_postfix_str(f"{self.doing}{self.rollouts:,}{self.of} rollouts, {self.tokens:,} "
                                     f"tokens, {self.tokens / (now - self.started):,.0f} tokens/s")


def step_line(metrics):
    """The figures of a step that stand in the bar, as text; docs/troubleshooting.md explains them."""
    shown = {"accuracy": metrics["reward"], "boxed": metrics["completions/boxed"],
             "mixed groups": 1 - metrics["frac_reward_zero_std"]}
    if "meta/reward" in metrics:
        shown |= {"meta reward": metrics["meta/reward"], "readable": metrics["meta/valid/pass_rate"]}
    return ", ".join(f"{name} {value:.2f}" for name, value in shown.items())


def span(seconds):
    """A duration in the two units that matter: 8 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def outlook(step, steps, evaluation, evaluations):
    """How long a run will take. step, evaluation: seconds of one (None: not known); then, how many are left.
    """
    rest, besides = step * steps, ""
    if evaluations and evaluation is not None:
        rest += evaluation * evaluations
        besides = f" and {evaluations} evaluation{'s' * (evaluations > 1)} of {span(evaluation)}"
    elif evaluations:
        besides = ", evaluations not counted,"
    return f"A step takes about {span(step)}; the other {steps}{besides} will take about {span(rest)}"


def missing_formats(figures, config):
    """What to do if the policy does not keep the formats: a list of one line, or of none if it does.

    figures: of an evaluation, or the metrics of a step.
    """
    boxed, readable = figures.get("completions/boxed"), figures.get("meta/valid/pass_rate")
    parts = []
    if boxed is not None and boxed < FEW:
        parts.append(f"{boxed:.0%} of the solutions put their answer in \\boxed{{}}")
    if readable is not None and readable < FEW and config.algo != "grpo" and config.meta_group_size:
        parts.append(f"{readable:.0%} of the predictions have a readable pass rate")
    if not parts or config.model == "toy":      # which knows the formats, and has no cold start
        return []
    clipped = figures["completions/clipped_ratio"]
    return [f"Only {' and '.join(parts)}, and the others earn nothing. "
            f"{f'Raise --cold-start (now {config.cold_start})' if config.cold_start else CURE}. "
            f"If texts break off, raise --max-new-tokens (now {config.max_new_tokens}; {clipped:.0%} of the "
            f"solutions do) or --max-meta-tokens (now {config.max_meta_tokens})"]


def silence(steps, metrics, config):
    """What to do when no group of solutions has had variance for some steps; metrics: of the last one."""
    right, missing = metrics["reward"], " ".join(missing_formats(metrics, config))
    cure = ("all were right. Take harder problems" if right == 1 else
            "each problem was solved always or never. Take others, or raise --group-size" if right else
            f"none was right. {missing or 'Take easier problems or a better model'}")
    return (f"No group of solutions had any variance in {steps} steps, so that nothing was learned about "
            f"solving. In the last one {cure} (docs/troubleshooting.md)")


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
            raise ValueError(f"--report-to {service}: it is not installed, try pip install "
                             f"{service}") from None

    def log(self, metrics, step):
        self.send({name: value for name, value in metrics.items() if value is not None}, step)
