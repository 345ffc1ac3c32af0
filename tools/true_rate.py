"""How right is a run's gate by reading, judged by the true pass rates of fresh problems?

    python tools/true_rate.py runs/toy-masa-efficient-0        200 problems, 64 solutions of each

A group of 8 that is all wrong may be bad luck. So problems that the run has not seen are flagged by its last
policy and regression, and solved many times: precision and recall against groups of --group-size, against
problems that are always or never solved, and the chance that a flagged problem would have taught something.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from eval import evaluate
from gating import precision_recall, silent_mass
from lab.command import command_line
from lab.flags import Config
from lab.folder import read_json
from lab.reading import FEATURES
from lab.run import Run
from rollout import Group


def judge(folder: Path, problems: int, samples: int) -> None:
    """Print how the gate of the finished run in `folder` does on `problems` new ones, `samples` each."""
    config = Config(**read_json(folder / "config.json"))
    if config.algo != "masa-efficient" or config.gate_by not in FEATURES:
        raise ValueError(f"{folder} is no run of masa-efficient that gates by {' or '.join(FEATURES)}")
    config.output, config.resume, size = str(folder), True, config.group_size
    with Run(config, evaluate) as run, run.sampling():
        groups = [Group(problem, [config.max_new_tokens]) for problem in run.stream.draw(problems)]
        mass = silent_mass(run.reader.probabilities(FEATURES[config.gate_by](run.sampler, groups)))
        for start in range(0, len(groups), 4):
            run.sampler.solve(groups[start:start + 4], samples)
    flagged = (mass >= config.gate_mass).tolist()
    rates = [sum(group.correct) / samples for group in groups]
    for against, actual in ((f"groups of {size}", [len(set(group.correct[:size])) < 2 for group in groups]),
                            (f"all {samples} alike", [rate in (0, 1) for rate in rates])):
        found = precision_recall(flagged, actual)
        found = {name: f"{value:.2f}" for name, value in found.items() if value is not None}
        print(f"{against}: {', '.join(map(' '.join, found.items()))}")
    mixed = [1 - rate ** size - (1 - rate) ** size for rate in rates]
    for name, rows in (("flagged", flagged), ("others", [not flag for flag in flagged])):
        chances = [chance for chance, row in zip(mixed, rows) if row]
        print(f"{name}: {len(chances)} problems, chance of a mixed group {fmean(chances or [0]):.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=64)
    args = parser.parse_args()
    command_line("true_rate.py", lambda: judge(args.folder, args.problems, args.samples))


if __name__ == "__main__":
    main()
