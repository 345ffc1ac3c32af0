"""The command eval.py around `evaluate`: what is checked and loaded, kept as it is done, and shown."""

import dataclasses
import re
import time
from contextlib import closing
from zlib import crc32

from lab.adapter import halve_frozen
from lab.policy import check_name, check_size, keep_fitting, load_policy, pick_device, room, tokens_at_once
from lab.report import show_comparison, show_gold, show_results
from lab.results import Results, fingerprint, read_results
from rollout import Sampler

# Flags that may differ when an evaluation goes on; what bf16 comes to on this device may not.
FREE = {"device", "max_tokens", "output", "compare", "check_gold", "allow_code_execution", "bf16",
        "trust_remote_code"}


def command(config, evaluate):
    """Do what the flags of eval.py say; `evaluate` is the function of that name there."""
    if config.compare:
        show_comparison([(path, read_results(path)) for path in config.compare], config.output)
    elif config.check_gold:
        show_gold(config.data, config.limit, config.allow_code_execution)
    else:
        show_results(run(config, evaluate))


def run(config, evaluate):
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
        if bf16:
            halve_frozen(model.requires_grad_(False))
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
