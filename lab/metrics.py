r"""What an evaluation says: figures made from records, with intervals.

A record is what `eval.evaluate` keeps of one problem: its completions, graded, and the meta predictions about
them. Of n completions, c right, the probability that at least one of k is right is estimated without bias by

    pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n-c+1}^{n} (1 - k/i)

(Chen et al. 2021, arXiv 2107.03374), averaged over problems. Problems are what is sampled from a larger set,
so intervals come from a bootstrap over problems: the figure of many sets drawn from them with replacement.
"""

import numpy as np

from gating import GATE_MARGIN, GATE_STD, ratios, should_skip
from rewards import ATTEMPTS, REWARDS
from tasks.grader import last_boxed

RESAMPLES = 2000
MOST_LEVELS = 8                 # whose accuracies are told; more say little of each, and fill the screen
FIELDS = ("notions", "pass_rate", "solution_length")       # of a prediction
FORM = ("boxed", "right_unboxed")       # of a completion, see `eval.completions_of`; older records lack them


def pass_at_k(n, c, k):
    """The unbiased estimate of pass@k from n completions, c of them right: a number in [0, 1].

    Raises ValueError unless 0 <= c <= n and 1 <= k <= n.

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
    (0.25, 0.5, 1.0)
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {c} right in {n} is not defined")
    return 1.0 if n - c < k else float(1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)))


def bootstrap(*sets, statistic=np.mean, resamples=RESAMPLES, seed=0):
    """The 95 % percentile interval of a statistic, or of its mean over data sets: (low, high).

    sets: arrays [N] or [N, ...], a row for each problem; problems are drawn within their set. statistic: from
    such an array to a number, or None where it is not defined; such resamples are left out. Returns None if a
    set has fewer than two problems, or if no resample is defined.
    """
    rng, drawn = np.random.default_rng(seed), np.zeros(resamples)
    if min(map(len, sets)) < 2:
        return None
    for values in map(np.asarray, sets):
        rows = rng.integers(len(values), size=(resamples, len(values)))
        drawn += np.array([statistic(values[row]) for row in rows], dtype=float) / len(sets)    # None is nan
    drawn = drawn[np.isfinite(drawn)]
    return tuple(np.percentile(drawn, [2.5, 97.5]).tolist()) if len(drawn) else None


# --- Predicted against actual -----------------------------------------------------------------------------

def mean(rows, name):
    """The mean of one field of dicts."""
    return sum(row[name] for row in rows) / len(rows)


def valid(record, field):
    """The valid predictions of a record in one of FIELDS."""
    return [p[field] for p in record["predictions"] if p[field] is not None]


def awareness(records):
    """Predicted against actual, per problem: two lists of pairs, for the pass rate and for the length.

    Predicted is the mean of the valid predictions. The actual length is the mean of the correct solutions,
    which is what the reward is about; problems without a correct solution have none.
    """
    rates, lengths = [], []
    for record in records:
        rate, length = (valid(record, field) for field in ("pass_rate", "solution_length"))
        right = [c for c in record["completions"] if c["correct"]]
        if rate:
            rates.append((float(np.mean(rate)) / ATTEMPTS, mean(record["completions"], "correct")))
        if length and right:
            lengths.append((float(np.mean(length)), mean(right, "length")))
    return rates, lengths


def correlation(pairs):
    """Pearson's r of a list of pairs; None where it is not defined, as when every prediction is the same."""
    if len(pairs) < 2 or min(np.std(pairs, axis=0)) < 1e-9:
        return None
    return float(np.corrcoef(np.transpose(pairs))[0, 1])


def calibration(records):
    """How often problems are solved about which the same pass rate was predicted, and the mean gap.

    Returns (cells, error). cells: a list of (predicted rate, actual rate, number of predictions), one for
    each rate that was predicted. error: the mean of |predicted - actual| over predictions, or None.
    """
    actual = {}
    for record in records:
        for prediction in valid(record, "pass_rate"):
            actual.setdefault(prediction / ATTEMPTS, []).append(mean(record["completions"], "correct"))
    cells = [(rate, float(np.mean(rates)), len(rates)) for rate, rates in sorted(actual.items())]
    gaps = [abs(rate - solved) for rate, solved, count in cells for _ in range(count)]
    return cells, float(np.mean(gaps)) if gaps else None


def precision_recall(flagged: list[bool], actual: list[bool]) -> dict:
    """precision, recall, f1 and base_rate of a rule where everything is known: two lists of booleans.

    >>> precision_recall([True, True, True, False], [True, True, False, True])["precision"]
    0.6666666666666666
    """
    hits = sum(f and a for f, a in zip(flagged, actual))
    base_rate = sum(actual) / len(actual) if actual else None
    return ratios(hits, sum(flagged), sum(actual) - hits) | {"base_rate": base_rate}


# --- All figures of an evaluation -------------------------------------------------------------------------

def figures(record, sizes):
    """The figures of one problem that are averaged over problems, pass@k for k in `sizes`: {name: number}."""
    done, hinted, said = (record.get(part) for part in ("completions", "hinted", "predictions"))
    rate, right = mean(done, "correct"), sum(completion["correct"] for completion in done)
    values = {"accuracy": rate, "frac_always_right": float(rate == 1), "frac_never_right": float(rate == 0),
              "frac_reward_zero_std": float(rate in (0, 1))}
    values |= {f"completions/{name}": mean(done, name) for name in FORM if name in done[0]}
    values |= {f"pass@{k}": pass_at_k(len(done), right, k) for k in sizes}
    values["completions/mean_length"] = mean(done, "length")
    values["completions/clipped_ratio"] = 1 - mean(done, "finished")
    if hinted:
        values |= {"hints/accuracy": mean(hinted, "correct"), "hints/gain": mean(hinted, "correct") - rate,
                   "hints/mean_length": mean(hinted, "length")}
    if said:
        terms = {f"meta/reward/{name}": mean([p["rewards"] for p in said], name) for name in REWARDS}
        values |= terms | {"meta/reward": sum(terms.values()) / len(terms)}
        values["meta/completions/mean_length"] = mean(said, "length")
        for field in FIELDS:
            values[f"meta/valid/{field}"] = len(valid(record, field)) / len(said)
    return values


def per_problem(records):
    """The figures that are means over problems and that every record has: {name: array [N]}.

    pass@k is of k = 1, 2, 4, ... up to the number n of completions, and of n.
    """
    n = min(len(record["completions"]) for record in records)
    rows = [figures(record, sorted({n, *(2 ** i for i in range(n.bit_length()))})) for record in records]
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: np.array([row[name] for row in rows]) for name in shared}


def summarise(records, gate_std=GATE_STD, gate_margin=GATE_MARGIN):
    """The figures of an evaluation, of one record or more: names as in metrics.jsonl, plain numbers or None.

    gate_std, gate_margin: of the gate that meta/gating/* judges, see `gating.should_skip`.
    """
    values, accuracy = per_problem(records), {}
    for record, rate in zip(records, values["accuracy"]):
        accuracy.setdefault(record["level"] or "all", []).append(rate)
    summary = {"accuracy": float(values["accuracy"].mean())}
    summary |= {f"accuracy/{level}": float(np.mean(accuracy[level])) for level in sorted(accuracy)
                if len(accuracy) <= MOST_LEVELS}
    summary |= {name: float(column.mean()) for name, column in values.items()}
    if "meta/reward" in values:
        for name, pairs in zip(("pass_rate", "length"), awareness(records)):
            summary[f"meta/correlation/{name}"] = correlation(pairs)
            summary[f"meta/error/{name}"] = float(np.mean([abs(p - a) for p, a in pairs])) if pairs else None
        summary["meta/error/calibration"] = calibration(records)[1]
        gates = [should_skip(valid(record, "pass_rate"), gate_std, gate_margin) for record in records]
        gating = precision_recall(gates, [rate in (0, 1) for rate in values["accuracy"]])
        summary |= {f"meta/gating/{name}": value for name, value in gating.items()}
    return summary


def intervals(records):
    """95 % intervals over problems of figures of `summarise`: {name: (low, high) or None}."""
    ends = {name: bootstrap(column) for name, column in per_problem(records).items()}
    return ends | {f"meta/correlation/{name}": bootstrap(pairs, statistic=correlation)
                   for name, pairs in zip(("pass_rate", "length"), awareness(records))}


def paired(before, after):
    """The differences after - before of two evaluations of the same problems: {name: array [N]}.

    Pairs are made by id, so that what makes a problem hard for both cancels out. Raises ValueError with one
    line if they are not the same problems.
    """
    ours, theirs = ({(r["id"], r["problem"], r["answer"]): r for r in part} for part in (before, after))
    if len({r["id"] for r in before}) < len(before) or len({r["id"] for r in after}) < len(after):
        raise ValueError("several problems have the same id")
    if ours.keys() != theirs.keys():
        raise ValueError(f"these are not the same problems: {len(ours.keys() - theirs.keys())} are only in "
                         f"the first and {len(theirs.keys() - ours.keys())} only in the second")
    first, second = per_problem(before), per_problem([theirs[key] for key in ours])
    return {name: second[name] - first[name] for name in first if name in second}


def averages(sets, group_of):
    """The mean of a figure in each data set, in each group of sets, and in all: {heading: (mean, interval)}.

    sets: {name: array [N], the figure of each problem}. group_of: from a name to its group. Sets count alike.
    """
    parts = {name: [values] for name, values in sets.items()}
    for group in [*dict.fromkeys(map(group_of, sets)), "all"]:
        part = [values for name, values in sets.items() if group in (group_of(name), "all")]
        parts[f"{group} ({len(part)} set{'s' * (len(part) > 1)})"] = part
    return {heading: (float(np.mean([values.mean() for values in part])), bootstrap(*part))
            for heading, part in parts.items()}


# --- The metrics of a training step -----------------------------------------------------------------------

def path_metrics(batch):
    """What is logged of both paths of a step (a `masa.Batch`)."""
    paths = {"": ([group.solutions for group in batch.groups], batch.rewards)}
    boxes = [last_boxed(text) is not None for group in batch.groups for text in group.solutions.texts]
    metrics = {"completions/boxed": sum(boxes) / len(boxes)}
    if batch.terms:
        paths["meta/"] = [group.metas for group in batch.groups], batch.meta_rewards
        metrics |= {f"meta/reward/{name}": mean(batch.terms, name) for name in REWARDS}
        said = [prediction for group in batch.groups for prediction in group.predictions]
        metrics |= {f"meta/valid/{field}": sum(getattr(p, field) is not None for p in said) / len(said)
                    for field in FIELDS}
    for prefix, (parts, rewards) in paths.items():
        lengths = [length for part in parts for length in part.lengths]
        groups, finished = rewards.view(len(parts), -1), sum(part.finished.sum().item() for part in parts)
        metrics |= {f"{prefix}reward": rewards.mean().item(),
                    f"{prefix}frac_reward_zero_std": (groups.amax(1) == groups.amin(1)).float().mean().item(),
                    f"{prefix}completions/mean_length": sum(lengths) / len(lengths),
                    f"{prefix}completions/max_length": max(lengths),
                    f"{prefix}completions/clipped_ratio": 1 - finished / len(lengths),
                    f"{prefix}tokens": sum(lengths)}
    return metrics


# --- What each of them means ------------------------------------------------------------------------------

# Whatever is logged has a row here; tools/reference.py writes docs/metrics.md from it. LEVEL and K stand for
# names. meta/NAME and eval/NAME without a row are NAME of the predictions and of the held-out problems.
METRICS = {
    "step": "number of the step, from 0",
    "reward": "share of the step's solutions that are right, of the problems that were solved and kept",
    "frac_reward_zero_std": "share of groups whose rewards are all equal: no gradient comes from them",
    "completions/mean_length": "mean length of a rollout",
    "completions/max_length": "length of the longest one",
    "completions/clipped_ratio": "share of rollouts that did not end by themselves: out of budget, or cut",
    "completions/boxed": "share of solutions with an answer to grade, in `\\boxed{}`",
    "completions/right_unboxed": "share that would be right with the last number or letter in a box: lost to "
                                 "the format; of evaluations",
    "tokens": "sampled tokens of the step's batch: of its solutions; `meta/tokens`: of its predictions",
    "meta/reward": "mean of what predictions are trained on: r_meta (eq. 4), or the control of --meta-reward",
    "meta/reward/length": "mean length reward (eq. 1 of the paper)",
    "meta/reward/difficulty": "mean difficulty reward (eq. 2)",
    "meta/reward/notion": "mean notion reward (eq. 3)",
    "loss": "policy loss, mean over the step's optimiser steps; near 0 is normal (docs/troubleshooting.md)",
    "grad_norm": "before clipping, mean over the optimiser steps; null where an update was left out",
    "entropy": "of the policy at a token, in nats; mean over the tokens trained on",
    "clip_ratio/low": "share of the tokens trained on whose gradient is clipped away at 1 - clip_low",
    "clip_ratio/high": "the same at 1 + clip_high",
    "kl": "k3 estimate of KL(policy, initial policy) per token, in nats; with --beta",
    "clone/loss": "loss per token of expert cloning, in nats, at the steps where it happens",
    "problems_drawn": "problems looked at in the step, where some are skipped or thrown away",
    "problems_kept": "those of them in the batch",
    "gate/share": "share of drawn problems that were skipped",
    "gate/precision": "since the start: share of flagged groups that had no variance, by the audit",
    "gate/recall": "since the start: share of groups without variance that were flagged",
    "gate/f1": "harmonic mean of the two",
    "gate/precision_lower": "lower 95 % bound by the newest 64 looks; above --gate-trust, gating is on",
    "cutoff/share": "share of solutions that were stopped before their answer",
    "cutoff/mean_budget": "mean limit of a solution, in tokens",
    "cutoff/precision": "since the start: share of solutions over their limit that were wrong, by the audit",
    "cutoff/recall": "since the start: share of wrong solutions that were over their limit",
    "cutoff/f1": "harmonic mean of the two",
    "cutoff/precision_lower": "as of the gate; above --cutoff-trust, the cutoff is on",
    "learning_rate": "of AdamW in this step",
    "tokens_wasted": "sampled tokens of problems that are not in the batch: predictions and pilots of "
                     "skipped ones, and solutions that dynamic sampling threw away",
    "tokens_total": "sampled tokens since the start: both paths, with audits and with wasted ones",
    "tokens_prefilled": "tokens read in the step: a prompt once for all its rollouts (also where "
                        "--max-tokens splits them, and each part reads it), and what gating reads",
    "tokens_prefilled_total": "the same since the start",
    "tokens_per_second": "sampled tokens per second of the whole step",
    "seconds": "of the step, without evaluation and checkpoints",
    "seconds/generate": "of it, until all rollouts were there",
    "seconds_total": "of all steps since the start",
    "accuracy": "share of solutions that are right",
    "accuracy/LEVEL": "the same of the problems of one level of difficulty",
    "pass@K": "probability that at least one of K solutions is right: 1 - C(n-c, K)/C(n, K), without bias",
    "frac_always_right": "share of problems whose solutions are all right",
    "frac_never_right": "share of problems without a right solution",
    "meta/valid/notions": "share of predictions with a readable math_notion",
    "meta/valid/pass_rate": "share with a readable pass_rate",
    "meta/valid/solution_length": "share with a readable solution_length",
    "meta/correlation/pass_rate": "Pearson's r, over problems, of mean predicted and actual pass rate",
    "meta/correlation/length": "the same of mean predicted length and mean length of the right solutions",
    "meta/error/pass_rate": "mean absolute difference of these two rates",
    "meta/error/length": "mean absolute difference of these two lengths",
    "meta/error/calibration": "mean gap between a predicted rate and the actual rate of such problems",
    "meta/gating/precision": "of the problems that --gate-by said would skip, the share without variance",
    "meta/gating/recall": "of the problems without variance, the share that it would skip",
    "meta/gating/f1": "harmonic mean of the two",
    "meta/gating/base_rate": "share of problems without variance, and so the precision of skipping at random",
    "hints/accuracy": "accuracy with predicted notions in the prompt; with --hints",
    "hints/gain": "paired difference to accuracy",
    "hints/mean_length": "mean length of these solutions",
}
