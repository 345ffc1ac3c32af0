r"""Predictive gating and length cutoff: spend rollouts only where the predictions promise something to learn.

    skip a problem   if  std(p) < 0.1  and  (mean(p) < 1/16  or  mean(p) > 15/16)     p: its predicted pass rates
    stop a solution  at  2 * mean(l) tokens                                           l: its predicted lengths

(MASA, arXiv 2510.03259, Algorithm 1.) A group whose solutions are all right or all wrong has no variance, so no
gradient: leaving it out saves its tokens and costs nothing, provided that the prediction is right. The paper
does not say how near to 0 or 1 the mean has to be; 1/16 is where it rounds to 0 or 8 of 8 attempts.

Both rules hide the evidence against them, since nobody sees what a skipped problem or the rest of a stopped
solution would have been. `Audit` does the arithmetic for a random share that is looked at nevertheless, and
`Audit.trusted` says whether the evidence suffices to follow the rule at all: a predictor that has collapsed to
one constant answer, as the paper's own does for a while, would have every problem thrown away.
"""

import statistics
from collections import deque


def should_skip(pass_rates, std=0.1, margin=1 / 16):
    """Do the predictions agree that every solution will be right, or every one wrong?

    pass_rates: the valid predictions of one problem, in [0, 1]. Fewer than two never skip. `std` is the unbiased
    standard deviation below which they agree, `margin` how near to 0 or 1 their mean has to be.

    >>> should_skip([1, 1, 1, 0.875]), should_skip([1, 1, 1, 0.5]), should_skip([0.5, 0.5]), should_skip([0])
    (True, False, False, False)
    """
    if len(pass_rates) < 2 or statistics.stdev(pass_rates) >= std:
        return False
    mean = statistics.fmean(pass_rates)
    return mean < margin or mean > 1 - margin


def length_budget(lengths, cap, factor=2.0, minimum=1):
    """How many tokens a solution may take: `factor` times the mean of the predicted ones.

    lengths: the valid predictions of one problem, in tokens. The budget is an integer, at least `minimum` and at
    most `cap`, which is also the budget where there is no valid prediction.

    >>> length_budget([30, 50], cap=96), length_budget([60], cap=96), length_budget([], cap=96)
    (80, 96, 96)
    """
    if not lengths:
        return cap
    return min(cap, max(minimum, round(factor * statistics.fmean(lengths))))


def lower_bound(hits, trials, z=1.645):
    """The lower end of Wilson's interval for a share, of which `hits` in `trials` is a sample; 0.0 for no trials.

    With z = 1.645 the true share is higher with 95 % confidence.
    """
    if not trials:
        return 0.0
    share, spread = hits / trials, z * z / trials
    root = (share * (1 - share) * spread + spread * spread / 4) ** 0.5
    return max(0.0, (share + spread / 2 - root) / (1 + spread))


class Audit:
    """How right is a rule that flags cases and never sees what would have become of most of them?

    Gating flags problems as groups without variance, the cutoff flags solutions as wrong. Of the flagged cases a
    random share s is looked at, and each of these looks stands for 1/s cases; of the others everything is known:

        precision = hits / flagged        recall = hits / (hits + missed)        f1 = their harmonic mean

    where `missed` are the unflagged cases that should have been flagged. `trusted` rests on the newest `window`
    looks, since an old one tells little of a policy that has learned since.
    """

    def __init__(self, window=64):
        self.flagged = self.hits = self.missed = 0.0
        self.recent = deque(maxlen=window)

    def add(self, looks, missed, share=1.0):
        """Add a step. looks: was the rule right, for each case of a sample of this share? missed: how many."""
        self.flagged += len(looks) / share
        self.hits += sum(looks) / share
        self.missed += missed
        self.recent.extend(map(bool, looks))

    def trusted(self, threshold):
        """Is the rule's precision above `threshold`, with 95 % confidence, by the newest looks? 0 trusts blindly."""
        return threshold <= 0 or lower_bound(sum(self.recent), len(self.recent)) > threshold

    def figures(self):
        """precision, recall, f1 (None while there is nothing to tell from) and `trusted`'s bound, precision_lower."""
        return ratios(self.hits, self.flagged, self.missed) | {
            "precision_lower": lower_bound(sum(self.recent), len(self.recent))}

    def state_dict(self):
        """What `load_state_dict` needs to go on, as plain values."""
        return {"counts": [self.flagged, self.hits, self.missed], "recent": list(self.recent)}

    def load_state_dict(self, state):
        self.flagged, self.hits, self.missed = state["counts"]
        self.recent.extend(state["recent"])


def ratios(hits, flagged, missed):
    """precision, recall and f1 of so many right ones among so many flagged cases; None where undefined."""
    precision = hits / flagged if flagged else None
    recall = hits / (hits + missed) if hits + missed else None
    f1 = 2 * hits / (flagged + hits + missed) if flagged + hits + missed else None
    return {"precision": precision, "recall": recall, "f1": f1}


def precision_recall(flagged, actual):
    """precision, recall, f1 and base_rate of a rule where everything is known: two lists of booleans.

    >>> precision_recall([True, True, True, False], [True, True, False, True])["precision"]
    0.6666666666666666
    """
    hits = sum(f and a for f, a in zip(flagged, actual))
    base_rate = sum(actual) / len(actual) if actual else None
    return ratios(hits, sum(flagged), sum(actual) - hits) | {"base_rate": base_rate}
