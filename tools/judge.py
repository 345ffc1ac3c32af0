"""How right are the gate and the cutoff of a run, judged by solving fresh problems many times?

    python tools/judge.py runs/toy-masa-efficient-0        200 problems, 64 solutions of each

In a run only audits tell, a few looks per step, and a group of 8 that is all wrong may be bad luck. Here the
last policy of a finished run flags problems that it has not seen, sets their limits, and solves all in full:
precision and recall against groups of --group-size and against problems that are always or never solved, what
a flagged problem would have taught, and how many of the stopped solutions were right. For a gate that reads,
also what allocation would save: two pilot solutions of each problem that is not flagged, and the rest only
where, after them, the mass of a silent group is below a threshold.
"""

import argparse
import sys
from math import comb
from pathlib import Path
from statistics import fmean

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gating import silent_mass
from lab.command import command_line
from lab.flags import Config
from lab.folder import read_json
from lab.metrics import precision_recall
from lab.reading import FEATURES
from lab.run import Run
from masa import PILOT, cutoff, draw, evaluate, flag, predict


def judge(folder: Path, problems: int, samples: int) -> None:
    """Print how the rules of the finished run of masa-efficient in `folder` do on new problems."""
    config = Config(**read_json(folder / "config.json"))
    if config.algo != "masa-efficient":
        raise ValueError(f"{folder} is a run of {config.algo}, which skips and stops nothing")
    config.output, config.resume, size = str(folder), True, config.group_size
    with Run(config, evaluate) as run, run.sampling():
        groups = draw(run, problems)
        flag(run.sampler, groups, run)
        predict(run.sampler, [group for group in groups if not group.metas], config)
        limits = [cutoff(group, run, cutting=False) for group in groups]
        for start in range(0, len(groups), 4):
            run.sampler.solve(groups[start:start + 4], samples)
    flagged = [group.flagged for group in groups]
    rates = [sum(group.correct) / len(group.correct) for group in groups]
    for against, actual in ((f"groups of {size}", [len(set(group.correct[:size])) < 2 for group in groups]),
                            (f"all {samples} alike", [rate in (0, 1) for rate in rates])):
        found = {name: "-" if value is None else f"{value:.2f}"
                 for name, value in precision_recall(flagged, actual).items()}
        print(f"gate against {against}: {', '.join(map(' '.join, found.items()))}")
    mixed = [1 - rate ** size - (1 - rate) ** size for rate in rates]
    for name, rows in (("flagged", flagged), ("other", [not f for f in flagged])):
        chances = [chance for chance, row in zip(mixed, rows) if row]
        print(f"{len(chances)} {name} problems: chance of a mixed group {fmean(chances or [0]):.2f}")
    stopped = [right for group, limit in zip(groups, limits)
               for length, right in zip(group.solutions.lengths, group.correct) if length > limit]
    share = len(stopped) / sum(len(group.correct) for group in groups)
    print(f"cutoff: stops {share:.1%} of solutions; {sum(stopped)} of these {len(stopped)} are right")
    if config.gate_by in FEATURES and run.reader.weights is not None:
        unflagged = [group for group in groups if not group.flagged]
        for mass in (0.7, 0.8, 0.9):
            share = allocation(run.reader, unflagged, size, mass)
            print(f"allocation at {mass}: {share:.2f} of the tokens per mixed group")


def allocation(reader, groups, size, mass) -> float:
    """Sampled tokens per mixed group if a group ends after its first PILOT solutions, where these leave a
    mass of at least `mass` that it is silent; over those of solving it all (nan: no group is mixed).

    Each run of `size` solutions of a problem is a group. That c of PILOT are right, out of k of `size`, has
    the hypergeometric probability C(k, c) C(size - k, PILOT - c) / C(size, PILOT), which updates the
    reader's distribution over k.
    """
    whole, ours, mixed, kept = 0, 0, 0, 0
    for group in groups:
        prior = reader.probabilities(group.features)[0]
        for start in range(0, len(group.correct) - size + 1, size):
            correct, lengths = group.correct[start:start + size], group.solutions.lengths[start:start + size]
            c = sum(correct[:PILOT])
            posterior = prior * torch.tensor([comb(k, c) * comb(size - k, PILOT - c)
                                              for k in range(size + 1)])
            ends = silent_mass(posterior) >= mass * posterior.sum()
            whole, ours = whole + sum(lengths), ours + sum(lengths[:PILOT] if ends else lengths)
            mixed, kept = mixed + (0 < sum(correct) < size), kept + (0 < sum(correct) < size and not ends)
    return (ours / kept) / (whole / mixed) if kept else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=64)
    args = parser.parse_args()
    command_line("judge.py", lambda: judge(args.folder, args.problems, args.samples))


if __name__ == "__main__":
    main()
