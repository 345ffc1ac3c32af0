r"""How well does a policy solve, and how well does it know how well it solves?

    python eval.py --model runs/toy-masa/checkpoint                                         on the built-in problems
    python eval.py --model Qwen/Qwen3-1.7B --data math500,aime24,amc23 --samples 32         on benchmarks
    python eval.py --model runs/toy-masa/checkpoint --hints                                 does it help itself?
    python eval.py --compare runs/toy-masa/before.json runs/toy-masa/after.json             paired differences

`evaluate` samples n solutions and M meta predictions of each problem, grades them, and keeps everything in records,
one per problem; metrics.py turns records into figures. The command line stores each batch as soon as it is
done: the same command goes on where it was interrupted, and draws what it would have drawn.
"""

import os
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "1000")     # a waiting thread must not spin for long on a busy core
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")     # growing caches must not fragment a card

import dataclasses
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional
from zlib import crc32

import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, HfArgumentParser

from tasks.benchmarks import BENCHMARKS, PLAIN, load_benchmark
from lab.flags import flag
from lab.metrics import awareness, correlation, summarise       # noqa: F401, others import them from here
from parallel import generate
from lab.policy import load_policy, pick_device
from lab.results import Results, fingerprint, read_results
from rewards import meta_rewards, parse_meta
from prompts import SOLUTION, encode, hint_messages, hintable, keep_fitting, meta_messages

LARGE = 1e9                     # parameters, from which on a CPU is no use
FREE = {"device", "max_tokens", "output", "compare", "allow_code_execution", "trust_remote_code"}   # may change


@dataclass
class EvalConfig:
    model: str = flag("toy", "the policy: toy (built in), a folder such as runs/toy-masa/checkpoint, or a hub id")
    data: str = flag("toy", "problems, separated by commas: toy, benchmarks (README.md lists them), NAME=FILE for a "
                     "local copy of one, other files, or dataset ids of the hub")
    samples: int = flag(8, "n, solutions per problem; the paper has 32")
    metas: int = flag(8, "M, meta predictions per problem; 0 for none")
    hints: bool = flag(False, "solve also with predicted notions in the prompt, and report the paired difference")
    temperature: float = flag(0.6, "of sampling; 0 takes the likeliest token")
    top_p: float = flag(1.0, "probability of the tokens that are sampled from")
    max_new_tokens: Optional[int] = flag(None, "budget of a solution; by default 96 for toy, 3072 else")
    max_meta_tokens: Optional[int] = flag(None, "budget of a meta prediction; by default 32 for toy, 768 else")
    limit: Optional[int] = flag(None, "problems of each set, always the same sample; by default all, or 200 toy")
    seed: int = flag(0, "of sampling")
    thinking: bool = flag(False, "use the thinking mode of chat templates that have one")
    output: Optional[str] = flag(None, "the .json file to write; by default runs/eval/MODEL-DATA.json")
    compare: Optional[List[str]] = flag(None, "no sampling: compare result files, each with the first one")
    allow_code_execution: bool = flag(False, "allow benchmarks that execute code which the model writes")
    device: str = flag("auto", "cuda, mps, cpu, or auto: the first of them there is")
    bf16: Optional[bool] = flag(None, "weights in bfloat16; by default on cuda")
    max_tokens: Optional[int] = flag(None, "tokens that are generated at once, 262144 by default on cuda, else 32768; "
                                     "less needs less memory")
    trust_remote_code: bool = flag(False, "run the python code that comes with a model of the hub")

    def check(self):
        """Raises ValueError with one line if a value makes no sense."""
        least = {"samples": 1, "metas": int(self.hints), "max_new_tokens": 1, "max_meta_tokens": 1, "limit": 1,
                 "max_tokens": 1, "temperature": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not low <= value < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} is {value}, it must be at least {low}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p is {self.top_p}, it must be above 0 and at most 1")
        if self.seed >= 2**31:
            raise ValueError(f"--seed is {self.seed}, it must be below 2^31")
        if self.output and not self.compare and Path(self.output).suffix != ".json":
            raise ValueError(f"--output {self.output} must end in .json")
        if self.compare and len(self.compare) < 2:
            raise ValueError("--compare takes two result files or more")


# --- Sampling and grading ---------------------------------------------------------------------------------

def evaluate(model, tokenizer, problems, samples=8, metas=8, budget=96, meta_budget=32, temperature=1.0, top_p=1.0,
             thinking=False, max_tokens=32_768, description="evaluation", benchmark=PLAIN, hints=False, seed=None,
             done=(), keep=None):
    """Sample `samples` solutions and `metas` meta predictions for each Problem; returns a record for each.

    budget, meta_budget: tokens. max_tokens: how many tokens are generated at once. benchmark: how to ask and to
    grade. hints: solve a second time, solution i with the notions of prediction i (in turn) in its prompt. seed:
    makes each batch depend on nothing but it and the batch; None draws from torch's global generator. done: the
    records of the first problems, from a run that was interrupted between batches; keep: called with those of
    each batch. A record is a dict that JSON can hold: id, level, problem, answer; completions (and hinted): dicts
    of text, length (tokens), finished, correct; predictions: dicts of text, length, notions, pass_rate,
    solution_length, rewards.
    """
    records = list(done)
    per_batch = max(1, max_tokens // (max(samples, metas) * (budget + 128)))

    def sample(chats, budget):
        """A completion of each chat, as a dict."""
        prompts = [encode(tokenizer, chat, thinking) for chat in chats]
        rollouts = generate(model, tokenizer, prompts, budget, temperature, top_p, max_tokens)
        return [{"text": text, "length": length, "finished": finished} for text, length, finished
                in zip(rollouts.texts, rollouts.lengths, rollouts.finished.tolist())]

    def solve(batch, notions):
        """`samples` graded solutions of each problem; notions(i, j): what problem i's solution j is told."""
        places = [(i, j) for i in range(len(batch)) for j in range(samples)]
        graded = sample([ask(benchmark, batch[i].text, notions(i, j)) for i, j in places], budget)
        for (i, _), completion in zip(places, graded):
            completion["correct"] = benchmark.grade(completion["text"], batch[i])
        return [graded[i * samples:(i + 1) * samples] for i in range(len(batch))]

    with tqdm(total=len(problems), initial=len(records), desc=description, unit="problem", file=sys.stdout,
              dynamic_ncols=True, leave=False) as bar:
        while len(records) < len(problems):
            batch = problems[len(records):len(records) + per_batch]
            if seed is not None:
                torch.manual_seed(crc32(f"{seed} {batch[0].id} {batch[0].text}".encode()))
            solutions = solve(batch, lambda i, j: [])
            predicted = sample([meta_messages(p.text, budget) for p in batch for _ in range(metas)],
                               meta_budget) if metas else []
            new = []
            for i, problem in enumerate(batch):
                texts, lengths, correct = ([c[key] for c in solutions[i]] for key in ("text", "length", "correct"))
                predictions = []
                for prediction in predicted[i * metas:(i + 1) * metas]:
                    p = parse_meta(prediction["text"], budget)
                    predictions.append({
                        "text": prediction["text"], "length": prediction["length"],
                        "notions": None if p.notions is None else list(p.notions),
                        "pass_rate": p.pass_rate, "solution_length": p.solution_length,
                        "rewards": meta_rewards(p, problem.text, texts, lengths, correct)})
                new.append({"id": problem.id, "level": problem.level, "problem": problem.text,
                            "answer": problem.answer, "completions": solutions[i], "predictions": predictions})
            if hints:
                hinted = solve(batch, lambda i, j: hintable(new[i]["predictions"][j % metas]["notions"], tokenizer))
                for record, completions in zip(new, hinted):
                    record["hinted"] = completions
            records += new
            if keep:
                keep(new)
            bar.update(len(new))
    return records


def ask(benchmark, text, notions):
    """The chat that asks for a solution in the way of this benchmark, with predicted notions if there are any."""
    *before, last = hint_messages(text, notions)
    return [*before, last | {"content": last["content"].removesuffix(SOLUTION) + benchmark.instruction}]


def room(model, config):
    """How many tokens the model can read before it writes. Raises ValueError if the budgets leave none."""
    longest = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    left = longest - max(config.max_new_tokens + config.hints * config.max_meta_tokens, config.max_meta_tokens)
    if left < 1:
        raise ValueError(f"{config.model} reads at most {longest} tokens: lower --max-new-tokens (now "
                         f"{config.max_new_tokens}) or --max-meta-tokens (now {config.max_meta_tokens})")
    return left


# --- The command ------------------------------------------------------------------------------------------

def run(config):
    """Evaluate as the flags say, or go on where the same command was interrupted; returns the Results."""
    device, sources = pick_device(config.device), config.data.split(",")
    names = [label(source) for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"--data {config.data} names a set twice")
    sets = {name: load_benchmark(source, config.limit, config.allow_code_execution)     # first, since mistakes show
            for name, source in zip(names, sources)}                                    # before long work
    default = f"{slug(config.model.removeprefix('runs/'))}-{slug('-'.join(sets))}.json"
    output = Path(config.output or Path("runs/eval", default))
    check_size(config, device)
    model, tokenizer = load_policy(config.model, trust_remote_code=config.trust_remote_code)
    identity = {"weights": fingerprint(model), "bf16": device.type == "cuda" if config.bf16 is None else config.bf16}
    identity |= {"problems": {name: crc32(repr(problems).encode()) for name, (_, problems) in sets.items()}}
    identity |= {name: value for name, value in dataclasses.asdict(config).items() if name not in FREE | {"bf16"}}
    results = Results(output, identity)
    if results.finished:
        return results
    for name, (benchmark, problems) in sets.items():
        fitting = keep_fitting(problems, tokenizer, room(model, config), config.max_new_tokens, config.thinking)
        if not fitting:
            raise ValueError(f"no problem of {name} is left: lower --max-new-tokens, or leave the set out")
        sets[name] = benchmark, fitting
    for parameter in model.parameters() if identity["bf16"] else ():        # not the buffers: angles of positions
        parameter.data = parameter.data.bfloat16()                          # would be off by radians
    model.to(device).eval()
    max_tokens = config.max_tokens or (262_144 if device.type == "cuda" else 32_768)
    for name, (benchmark, problems) in sets.items():
        clock = time.perf_counter()

        def keep(records):
            nonlocal clock
            results.append(name, records, time.perf_counter() - clock)
            clock = time.perf_counter()

        evaluate(model, tokenizer, problems, config.samples, config.metas, config.max_new_tokens,
                 config.max_meta_tokens, config.temperature, config.top_p, config.thinking, max_tokens, name,
                 benchmark, config.hints, config.seed, results.records(name), keep)
    results.finish()
    return results


def label(source):
    """The short name of a data set: of a benchmark its own, of a file or a hub id the last part."""
    name = source.partition("=")[0].strip()
    return name if name in BENCHMARKS else Path(name).stem


def slug(text):
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def check_size(config, device):
    """Refuses, with a ValueError of one line, a model that is too large for the device. Reads no weights."""
    if config.model == "toy" or device.type == "mps" or config.device == "cpu":         # cpu: it was asked for
        return
    try:
        shape = AutoConfig.from_pretrained(config.model, trust_remote_code=config.trust_remote_code)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(shape).parameters())
    except Exception:           # load_policy will say what is wrong with it
        return
    if device.type == "cpu" and parameters > LARGE:
        raise ValueError(f"{config.model} has {parameters / 1e9:.1f} billion parameters and there is no GPU: choose "
                         "a smaller model, or add --device cpu and have patience")
    if device.type == "cuda":
        size = parameters * (4 if config.bf16 is False else 2)
        memory = torch.cuda.get_device_properties(device).total_memory
        if size > 0.9 * memory:
            raise ValueError(f"{config.model} needs {size / 2**30:.0f} GiB for its weights alone, and the GPU has "
                             f"{memory / 2**30:.0f}: choose a smaller model")


def refuse(message):
    raise ValueError(f"{message} (python eval.py --help explains every flag)")


def parse_config(arguments=None):
    """The EvalConfig of a command line."""
    parser = HfArgumentParser(EvalConfig, allow_abbrev=False, description="Evaluate a policy. README.md tells more.")
    parser.error = refuse
    config, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        refuse(f"unknown flag {unknown[0]}")
    on_toy = config.data == "toy"
    config.max_new_tokens = (96 if on_toy else 3072) if config.max_new_tokens is None else config.max_new_tokens
    config.max_meta_tokens = (32 if on_toy else 768) if config.max_meta_tokens is None else config.max_meta_tokens
    config.check()
    return config


def main(arguments=None):
    from lab.report import show_comparison, show_results        # drawing is no business of those who import evaluate
    try:
        config = parse_config(arguments)
        if config.compare:
            show_comparison([(path, read_results(path)) for path in config.compare], config.output)
        else:
            show_results(run(config))
    except (ValueError, OSError) as error:
        sys.exit(f"eval.py: {error}")
    except torch.OutOfMemoryError:
        sys.exit("eval.py: out of the card's memory; the same command with a lower --max-tokens goes on from here")
    except KeyboardInterrupt:
        sys.exit("\neval.py: stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
