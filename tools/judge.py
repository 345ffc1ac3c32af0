"""How right are the gate and the cutoff of a run, judged by solving fresh problems many times?

    python tools/judge.py runs/toy-masa-efficient-0        200 problems, 64 solutions of each

In a run only audits tell, a few looks per step, and a group of 8 that is all wrong may be bad luck. Here the
last policy of a finished run flags problems that it has not seen, sets their limits, and solves all in full:
precision and recall against groups of --group-size and against problems that are always or never solved, what
a flagged problem would have taught, and how many of the stopped solutions were right.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gating import precision_recall
from lab.command import command_line
from lab.flags import Config
from lab.folder import read_json
from lab.run import Run
from masa import cutoff, draw, evaluate, flag, predict


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
    rates = [sum(group.correct) / samples for group in groups]
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
    share = len(stopped) / (samples * problems)
    print(f"cutoff: stops {share:.1%} of solutions; {sum(stopped)} of these {len(stopped)} are right")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=64)
    args = parser.parse_args()
    command_line("judge.py", lambda: judge(args.folder, args.problems, args.samples))


if __name__ == "__main__":
    main()
