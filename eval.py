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

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")     # a waiting thread must not spin for long on a busy core
# Growing caches must not fragment a card.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import dataclasses
import re
import time
from collections.abc import Callable
from contextlib import closing
from zlib import crc32

import torch

from lab.command import command_line
from lab.flags import EvalConfig
from lab.policy import check_name, check_size, keep_fitting, load_policy, pick_device, room, tokens_at_once
from lab.report import SampledCount, progress_bar
from lab.results import Results, fingerprint, read_results
from rewards import meta_rewards
from rollout import Group, Sampler
from tasks.grader import last_boxed
from tasks.problems import Problem
from tasks.prompts import hintable

# Flags that may differ when an evaluation goes on; what bf16 comes to on this device may not.
FREE = {"device", "max_tokens", "output", "compare", "check_gold", "allow_code_execution", "bf16",
        "trust_remote_code"}
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
        sampler.progress = SampledCount(bar)
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
        {"text": group.metas.texts[i], "length": group.metas.lengths[i],
         "notions": None if p.notions is None else list(p.notions), "pass_rate": p.pass_rate,
         "solution_length": p.solution_length,
         "rewards": meta_rewards(p, problem.text, solutions.texts, solutions.lengths, group.correct)}
        for i, p in enumerate(group.predictions)]
    return {"id": problem.id, "level": problem.level, "problem": problem.text, "answer": problem.answer,
            "completions": completions_of(group, sampler), "predictions": predictions}


# --- The command ------------------------------------------------------------------------------------------

def run(config: EvalConfig) -> Results:
    """Evaluate as the flags say, or go on where the same command was interrupted."""
    from tasks.benchmarks import load_sets  # training does without the sandbox
    check_name(config.model)                                # first, since it notices a missing network
    device = pick_device(config.device)
    sets = load_sets(config.data, config.limit, config.allow_code_execution)
    bf16 = device.type == "cuda" if config.bf16 is None else config.bf16
    check_size(config.model, config, device, 2 if bf16 else 4, "its weights alone")
    model, tokenizer = load_policy(config.model, trust_remote_code=config.trust_remote_code)
    longest = room(model, config.model, config.max_new_tokens, config.max_meta_tokens, config.hints)
    for name, (benchmark, problems) in sets.items():
        fitting = keep_fitting(problems, tokenizer, longest, config.max_new_tokens, config.thinking)
        if not fitting:
            raise ValueError(f"no problem of {name} is left: lower --max-new-tokens, or leave the set out")
        sets[name] = benchmark, fitting
    identity = {"weights": fingerprint(model), "bf16": bf16}
    identity |= {"problems": {name: crc32(repr(problems).encode()) for name, (_, problems) in sets.items()}}
    identity |= {name: value for name, value in dataclasses.asdict(config).items() if name not in FREE}
    name = re.sub(r"[^\w.-]+", "-", f"{config.model.removeprefix('runs/')}-{'-'.join(sets)}").strip("-.")
    with closing(Results(config.output or f"runs/eval/{name}.json", identity)) as results:
        if results.content is not None:
            return results
        for parameter in model.parameters() if bf16 else ():        # not the buffers: angles of positions
            parameter.data = parameter.data.bfloat16()              # would be off by radians
        model.to(device).eval()
        max_tokens = tokens_at_once(config.max_tokens, device)
        before, total = 0, sum(len(problems) for _, problems in sets.values())
        for number, (name, (benchmark, problems)) in enumerate(sets.items(), 1):
            clock = time.perf_counter()

            def keep(records, name=name):
                nonlocal clock
                results.append(name, records, time.perf_counter() - clock)
                clock = time.perf_counter()

            sampler = Sampler(model, tokenizer, config.max_new_tokens, config.max_meta_tokens,
                              config.temperature, config.top_p, config.thinking, max_tokens,
                              benchmark.instruction, benchmark.grade)
            evaluate(sampler, problems, config.samples, config.metas, hints=config.hints, seed=config.seed,
                     done=results.records(name), keep=keep, description=f"{name} ({number} of {len(sets)})",
                     others=(before, total - before - len(problems)))
            before += len(problems)
        results.finish()
    return results


def main(arguments: list[str] | None = None) -> None:
    """The command line; `arguments` are those of sys.argv by default."""
    from lab.report import show_comparison, show_gold, show_results

    def command():
        config = EvalConfig.parse(arguments)
        if config.compare:
            show_comparison([(path, read_results(path)) for path in config.compare], config.output)
        elif config.check_gold:
            show_gold(config.data, config.limit, config.allow_code_execution)
        else:
            show_results(run(config))
    command_line("eval.py", command)


if __name__ == "__main__":
    main()
