r"""How well does a policy solve, and how well does it know how well it solves?

    python eval.py --model runs/toy-masa-0/checkpoint                                 on the built-in problems
    python eval.py --model Qwen/Qwen3-1.7B --data math500,aime24,amc23 --samples 32   on benchmarks
    python eval.py --model runs/toy-masa-0/checkpoint --hints                         does it help itself?
    python eval.py --compare runs/toy-masa-0/before.json runs/toy-masa-0/after.json   paired differences
    python eval.py --check-gold --data math500=copy.parquet                           is a copy read rightly?

`evaluate` samples n solutions and M meta predictions of each problem, grades them, and keeps everything in
records, one per problem; lab/metrics.py turns records into figures. The command line stores each batch as
soon as it is done: the same command goes on where it was interrupted, and draws what it would have drawn.
"""

from lab.command import command_line  # isort: skip  (first: it sets what torch reads when it is loaded)

import re
from collections.abc import Callable
from zlib import crc32

import torch

from lab.evaluation import command
from lab.flags import EvalConfig
from lab.report import TokenCount, progress_bar
from rewards import meta_rewards
from rollout import Group, Sampler
from tasks.grader import last_boxed
from tasks.problems import Problem
from tasks.prompts import hintable

NUMBER = r"(?<!\w)[-−]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:/\d+)?"


def evaluate(sampler: Sampler, problems: list[Problem], samples: int, metas: int, *, hints: bool = False,
             seed: int | None = None, done: list[dict] = (), keep: Callable | None = None,
             description: str = "evaluation", others: tuple[int, int] = (0, 0)) -> list[dict]:
    """Sample `samples` solutions and `metas` meta predictions for each Problem; returns a record for each.

    hints: solve a second time, solution i with the notions of prediction i (in turn) in its prompt. seed:
    makes each batch depend on nothing but it and the batch; None draws from torch's global generator. done:
    the records of the first problems, from a run that was interrupted between batches; keep: called with
    those of each batch. others: how many problems there are before and after these, for the time left.

    A record is a dict that JSON can hold: id, level, problem, answer; completions (and hinted): dicts of
    text, length (tokens), finished, correct and, where a box was asked for, boxed and right_unboxed;
    predictions: dicts of text, length, notions, pass_rate, solution_length, rewards.
    """
    records = list(done)
    per_batch = max(1, (sampler.max_tokens or 32_768) // (max(samples, metas) * (sampler.budget + 128)))
    with progress_bar(len(problems) + sum(others), description, "problem", leave=False,
                      initial=len(records) + others[0]) as bar:
        sampler.progress = TokenCount(bar)
        while len(records) < len(problems):
            batch = problems[len(records):len(records) + per_batch]
            if seed is not None:
                torch.manual_seed(crc32(f"{seed} {batch[0].id} {batch[0].text}".encode()))
            groups = [Group(problem, [sampler.budget]) for problem in batch]
            sampler.solve(groups, samples)
            if metas:
                sampler.predict(groups, metas)
            new = [record_of(group, sampler) for group in groups]
            if hints:
                told = [Group(group.problem, group.budgets, [hintable(p.notions, sampler.tokenizer)
                                                             for p in group.predictions]) for group in groups]
                sampler.solve(told, samples)
                for record, group in zip(new, told):
                    record["hinted"] = completions_of(group, sampler)
            records += new
            if keep:
                keep(new)
            bar.update(len(new))
    return records


def completions_of(group: Group, sampler: Sampler) -> list[dict]:
    part = group.solutions
    columns = {"text": part.texts, "length": part.lengths, "finished": part.finished.tolist(),
               "correct": group.correct}
    if sampler.instruction is None:                         # else something else than a box was asked for
        columns["boxed"] = [last_boxed(text) is not None for text in part.texts]
        columns["right_unboxed"] = [
            finished and not boxed and right_unboxed(text, group.problem, sampler.grade)
            for text, finished, boxed in zip(part.texts, columns["finished"], columns["boxed"])]
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def right_unboxed(text: str, problem: Problem, grade: Callable) -> bool:
    """Would a completion be right if its last number, or its last capital letter, were in a box?"""
    ends = [end for pattern in (NUMBER, r"\b[A-Z]\b") for end in re.findall(pattern, text[-2000:])[-1:]]
    return any(grade(f"\\boxed{{{end}}}", problem) for end in ends)


def record_of(group: Group, sampler: Sampler) -> dict:
    """The record of a solved group; see `evaluate`."""
    problem, solutions = group.problem, group.solutions
    predictions = [
        {"text": group.metas.texts[i], "length": group.metas.lengths[i], "pass_rate": p.pass_rate,
         "notions": None if p.notions is None else list(p.notions), "solution_length": p.solution_length,
         "rewards": meta_rewards(p, problem.text, solutions.texts, solutions.lengths, group.correct)}
        for i, p in enumerate(group.predictions)]
    return {"id": problem.id, "level": problem.level, "problem": problem.text, "answer": problem.answer,
            "completions": completions_of(group, sampler), "predictions": predictions}


def main(arguments: list[str] | None = None) -> None:
    """The command line; `arguments` are those of sys.argv by default."""
    command_line("eval.py", lambda: command(EvalConfig.parse(arguments), evaluate))


if __name__ == "__main__":
    main()
