r"""Predictive gating and length cutoff: spend rollouts only where there is something to learn.

    said    skip a problem   if  std(p) < 0.1  and  (mean(p) < 1/16  or  mean(p) > 15/16)
    read    skip a problem   if  z = P(0 of G right) + P(G of G right) >= 0.9               (ours)
    cutoff  stop a solution  at  2 * mean(l) tokens

for predicted pass rates p and lengths l of the problem (MASA, arXiv 2510.03259, Algorithm 1). A group whose
solutions are all right or all wrong has no variance, so no gradient: leaving it out saves its tokens and
costs nothing, if the prediction is right. The paper asks the policy and lets unanimity decide; how near to 0
or 1 the mean has to be it does not say, and 1/16 is where it rounds to 0 or 8 of 8. Ours is to read z off the
policy: off its probabilities where it names a number, or off its hidden states (lab/reading.py gets both).
Hidden states also foretell l, how long right solutions are (`fit_lengths`).

All rules hide the evidence against them, since nobody sees what a skipped problem or the rest of a stopped
solution would have been. `Audit` does the arithmetic for a random share that is looked at nevertheless, and
`Audit.trusted` says whether the evidence suffices to follow the rule at all: a predictor that has collapsed
to one constant answer, as the paper's own does for a while, would have every problem thrown away.
"""

import statistics
from collections import deque
from collections.abc import Iterable
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

ATTEMPTS = 8                                # a predicted pass rate is a count of right attempts out of 8
GATE_STD, GATE_MARGIN = 0.1, 1 / 16         # of pass rates as shares, in [0, 1]


def should_skip(pass_rates: Iterable[int | None], std: float = GATE_STD, margin: float = GATE_MARGIN) -> bool:
    """Do the predictions of one problem agree that every solution will be right, or every one wrong?

    pass_rates: right attempts out of 8, as `rewards.parse_meta` gives them; None, an invalid prediction, is
    left out. Fewer than two never skip. `std` is the unbiased standard deviation of the shares (k/8) below
    which they agree, `margin` how near to 0 or 1 their mean has to be. Raises ValueError for other numbers.

    >>> should_skip([8, 8, 8, 7]), should_skip([8, 8, 8, 4]), should_skip([4, 4, 4]), should_skip([0, None])
    (True, False, False, False)
    """
    counts = [rate for rate in pass_rates if rate is not None]
    if not all(isinstance(count, Integral) and 0 <= count <= ATTEMPTS for count in counts):
        raise ValueError(f"pass rates are counts of right attempts out of {ATTEMPTS}, not {counts}")
    shares = [int(count) / ATTEMPTS for count in counts]
    if len(shares) < 2 or statistics.stdev(shares) >= std:
        return False
    mean = statistics.fmean(shares)
    return mean < margin or mean > 1 - margin


def silent_mass(probabilities: Tensor) -> Tensor:
    """z = P(none of G is right) + P(all are), [...], of P(k of G right) [..., G + 1], however it was read."""
    return probabilities[..., 0] + probabilities[..., -1]


def number_mass(logits: Tensor, numbers: Tensor) -> Tensor:
    """z where M predictions of a problem name its pass rate: the mean over M, a scalar.

    logits: [M, V], of the token that names it. numbers: [M, 9], the ids of the tokens that would name 0..8.
    """
    return silent_mass(logits.gather(1, numbers).softmax(-1)).mean()


def fit_counts(inputs: Tensor, counts: Tensor, weight: Tensor, start: Tensor, ridge: float = 5.0,
               iterations: int = 20) -> Tensor:
    """Softmax regression from what is read of a problem to how many of its G solutions will be right.

    inputs: [N, D + 1], D standardised features and a one, such as hidden states of the policy at the last
    token of a prompt. counts: [N], of right solutions; each counts `weight` [N]. start: [D + 1, G + 1], the
    last result, or zeros. Returns weights of that shape by L-BFGS: P(k of G right) is softmax(inputs @ them).
    Groups without variance are labels like others: cross-entropy on the count is a proper score, where
    r_difficulty elicits little more than the mode. `ridge` is a prior: few groups are not to say much.
    """
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weight @ F.cross_entropy(inputs @ weights, counts, reduction="none")
        loss = (loss + ridge * weights[:-1].square().sum()) / weight.sum()
        loss.backward()
        return loss

    with torch.enable_grad(), torch.autocast("cpu", enabled=False):     # bfloat16 is too coarse for it
        optimizer.step(closure)
    return weights.detach()


def fit_lengths(inputs: Tensor, lengths: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """Ridge regression from what is read of a problem to the mean length of its right solutions, in tokens.

    inputs: [N, D + 1] and weight: [N], as in `fit_counts`. lengths: [N], N >= 1. Returns weights [D + 1]:
    what is foretold is inputs @ them. Solved in the dual, N equations, since D may be the larger; the one has
    no ridge.
    """
    with torch.autocast("cpu", enabled=False):
        middle, mean = weight @ lengths / weight.sum(), weight @ inputs[:, :-1] / weight.sum()
        centred = inputs[:, :-1] - mean
        dual = torch.linalg.solve(centred @ centred.T + torch.diag(ridge / weight), lengths - middle)
        slopes = centred.T @ dual
        return torch.cat([slopes, (middle - mean @ slopes)[None]])


def length_budget(lengths: Iterable[float | None], cap: int, factor: float = 2.0, minimum: int = 1) -> int:
    """How many tokens a solution may take: `factor` times the mean of the predicted ones.

    lengths: the predictions of one problem, in tokens; None is left out, and what is over `cap`, the budget
    of a solution, counts as `cap`, so that no absurd number spoils the mean. The budget is at least `minimum`
    and at most `cap`, which is also the budget where there is no prediction.

    >>> length_budget([30, 50], cap=96), length_budget([60, None], cap=96), length_budget([], cap=96)
    (80, 96, 96)
    """
    valid = [min(length, cap) for length in lengths if length is not None]
    return min(cap, max(minimum, round(factor * statistics.fmean(valid)))) if valid else cap


def lower_bound(hits: int, trials: int, z: float = 1.645) -> float:
    """The lower end of Wilson's interval for a share with `hits` in `trials`; 0.0 for no trials.

    With z = 1.645 the true share is higher with 95 % confidence.
    """
    if not trials:
        return 0.0
    share, spread = hits / trials, z * z / trials
    root = (share * (1 - share) * spread + spread * spread / 4) ** 0.5
    return max(0.0, (share + spread / 2 - root) / (1 + spread))


class Audit:
    """How right is a rule that flags cases and never sees what would have become of most of them?

    Gating flags problems as groups without variance, the cutoff flags solutions as wrong. Of the flagged
    cases a random share s is looked at, each look standing for 1/s cases; of the others all is known:

        precision = hits / flagged        recall = hits / (hits + missed)        f1 = their harmonic mean

    `trusted` rests on the newest `window` looks, since old ones tell little of a policy that has learned.
    """

    def __init__(self, window: int = 64):
        self.flagged = self.hits = self.missed = 0.0
        self.recent = deque(maxlen=window)

    def add(self, looks: list, missed: int, share: float = 1.0, independent: list | None = None) -> None:
        """Add a step. looks: booleans, was the rule right? for each case of a sample of this share.

        missed: how many unflagged cases should have been flagged. independent: what `trusted` may count, one
        look of each problem where a problem has several, which agree too often; by default all looks.
        """
        self.flagged += len(looks) / share
        self.hits += sum(looks) / share
        self.missed += missed
        self.recent.extend(map(bool, looks if independent is None else independent))

    def trusted(self, threshold: float) -> bool:
        """Is the precision of the newest looks above `threshold`, with 95 % confidence? 0: always."""
        return threshold <= 0 or lower_bound(sum(self.recent), len(self.recent)) > threshold

    def figures(self) -> dict:
        """precision, recall, f1 (None while undefined) and precision_lower, the bound of `trusted`."""
        return ratios(self.hits, self.flagged, self.missed) | {
            "precision_lower": lower_bound(sum(self.recent), len(self.recent))}

    def state_dict(self) -> dict:
        """What `load_state_dict` needs to go on, as plain values."""
        return {"counts": [self.flagged, self.hits, self.missed], "recent": list(self.recent)}

    def load_state_dict(self, state: dict) -> None:
        self.flagged, self.hits, self.missed = state["counts"]
        self.recent.extend(state["recent"])


def ratios(hits: float, flagged: float, missed: float) -> dict:
    """precision, recall and f1 of so many right ones among so many flagged cases; None where undefined."""
    precision = hits / flagged if flagged else None
    recall = hits / (hits + missed) if hits + missed else None
    f1 = 2 * hits / (flagged + hits + missed) if flagged + hits + missed else None
    return {"precision": precision, "recall": recall, "f1": f1}
