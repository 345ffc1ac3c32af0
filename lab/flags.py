"""Every flag of masa.py and eval.py: its default on the laptop, its help, its bounds; and the presets.

A new flag is one line here. `tools/reference.py` writes docs/flags.md from this file.
"""

import re
from argparse import SUPPRESS, Action
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from transformers import HfArgumentParser

from tasks.problems import short_name

SEEDS = 2**31 - 1
LORA_RATE = 10                  # learning rates of adapters, in units of those of all weights


class Help(str):
    """The help of a flag, which carries the flag's bounds: HfArgumentParser takes nothing else along."""
    bounds = None, None, None


def flag(default, text, least=None, above=None, most=None, **named):
    """A field of a dataclass with its help and bounds: least <= value, above < value, value <= most.

    named: what argparse's `add_argument` takes besides.
    """
    text = Help(text)
    text.bounds = least, above, most
    return field(default=default, metadata={"help": text} | named)


class Switch(Action):
    """--NAME, --NAME true, --no-NAME and --NAME false."""

    def __call__(self, parser, namespace, value, option_string=None):
        setattr(namespace, self.dest, value != option_string.startswith("--no"))


def switch(name, text):
    """A flag that is None, for "it depends", unless it is switched on or off."""
    return flag(None, text, action=Switch, nargs="?", const=True,
                aliases=[f"--no-{name}", f"--no_{name.replace('-', '_')}"])


@dataclass
class Essentials:
    _argument_group_name = "what most runs need"
    model: str = flag("toy", "the policy: toy (built in), a local folder, or a model id of the hub")
    data: str | None = flag(None, "problems: toy, a file (.parquet, .jsonl, .json, .csv), a hub id, or "
                            "reasoning-gym:TASK,option=value,... (a package that makes problems)")
    data_split: str = flag("train", "split of a dataset of the hub")
    eval_data: str | None = flag(None, "held-out problems; by default some that are taken out of --data")
    algo: Literal["grpo", "masa", "masa-efficient"] = flag("masa", "grpo: train on solutions; masa: on "
        "predictions too; masa-efficient: and skip, and stop, what is expected to teach nothing")
    preset: Literal["toy", "gpu", "paper"] | None = flag(
        None, "values for flags that are not given: gpu (one card), paper; toy goes with the toy model")
    steps: int = flag(40, "training steps; 0 for a cold start alone", least=0)
    seed: int = flag(0, "of the order of problems and of sampling", least=0, most=SEEDS)
    output: str | None = flag(None, "folder of the run; by default runs/MODEL-DATA-ALGO-SEED")
    resume: bool = flag(False, "go on with the run in the output folder")


@dataclass
class Sampling:
    _argument_group_name = "sampling"
    problems_per_step: int = flag(16, "problems per training step", least=1)
    group_size: int = flag(8, "G, solutions per problem", least=2)
    meta_group_size: int = flag(8, "M, meta predictions per problem; masa-efficient may have 0", least=0)
    max_new_tokens: int = flag(192, "budget of a solution, in tokens", least=1)
    max_meta_tokens: int = flag(32, "budget of a meta prediction, in tokens", least=1)
    max_prompt_tokens: int = flag(128, "problems with longer prompts are left out", least=1)
    temperature: float = flag(1.0, "of sampling, and of the log-probabilities in the loss", above=0)
    thinking: bool = flag(False, "use the thinking mode of chat templates that have one")
    hints: bool = flag(False, "predict first, and put the predicted notions into the prompt of the solutions")


@dataclass
class Method:
    _argument_group_name = "the method"
    cold_start: int = flag(0, "training problems on which a model first learns from its own text to box, and "
                           "others to predict; needed where few solutions are boxed before training", least=0)
    notion_variant: Literal["count", "rate"] = flag("count", "a notion is rewarded if more right than wrong "
        "solutions have it, by their number (count, the paper's) or by their share (rate)")
    meta_reward: Literal["aligned", "shuffled", "length", "difficulty", "notion"] = flag(
        "aligned", "what predictions earn; aligned: for agreeing with the solutions of their problem; the "
        "rest are controls: the same shuffled in the group, or one term of it")
    meta_weight: float = flag(1.0, "factor of the advantages of predictions (1 in the paper) beside those of "
                              "solutions", least=0)
    dynamic_sampling: bool = flag(False, "with grpo: solve problems until enough groups have variance (DAPO)")
    gate_start: int = flag(3, "first steps of masa-efficient, in which everything is still solved", least=0)
    gate: bool = flag(True, "skip problems that are predicted to be trivial or impossible")
    gate_by: Literal["said", "number", "state", "words", "level", "pilot", "oracle"] = flag(
        "state", "what gating goes by: said: M predictions (the paper's); number: the policy's probabilities "
        "where they name the pass rate; state: its hidden states after the prompt; the rest: controls")
    gate_mass: float = flag(0.9, "if not by said or pilot: skip where P(none right) + P(all right) is at "
                            "least this", above=0, most=1)
    gate_std: float = flag(0.1, "by said: skip where the M predicted pass rates agree, their std being below "
                           "this", least=0)
    gate_margin: float = flag(1 / 16, "and where their mean is this near to 0 or 1", least=0, most=1)
    gate_trust: float = flag(0.7, "skip only while audits show, with 95 %% confidence, that more than this "
                             "share of the skipped would have taught nothing; 0: always", least=0, most=1)
    refill: bool = flag(True, "draw more problems in place of the skipped ones")
    cutoff: bool = flag(True, "stop solutions that get much longer than foretold")
    cutoff_by: Literal["said", "read"] = flag("read", "what the cutoff goes by: said: M predicted lengths "
        "(the paper's); read: how long right solutions will be, by what gating reads (else said)")
    cutoff_factor: float = flag(2.0, "solutions stop at this many times the mean foretold length", above=0)
    cutoff_trust: float = flag(0.9, "stop only while audits show, with 95 %% confidence, that more than this "
                               "share of the stopped would have been wrong; 0: always", least=0, most=1)
    cutoff_min: int = flag(16, "tokens that a solution may always take", least=1)
    audit_fraction: float = flag(0.05, "share of what would be skipped or stopped that is solved in full all "
                                 "the same, for the audits", least=0, most=1)
    mask_cut: bool = flag(False, "leave stopped solutions out of the update; by default they count as wrong")
    clone: bool = flag(False, "expert cloning: imitate the best predictions, with their numbers corrected")
    clone_learning_rate: float = flag(4e-4, "of these supervised steps", above=0)


@dataclass
class Optimisation:
    _argument_group_name = "optimisation"
    lora_rank: int = flag(0, "train a LoRA adapter of this rank on all linear layers, not all weights; "
                          "needs peft", least=0)
    learning_rate: float = flag(4e-4, "of AdamW; with --lora-rank the defaults of both rates are ten times "
                                "those of all weights", above=0)
    weight_decay: float = flag(0.0, "of AdamW", least=0)
    warmup_steps: int = flag(5, "steps over which the learning rate rises to its constant value", least=0)
    inner_epochs: int = flag(1, "passes over the rollouts of a step", least=1)
    minibatches: int = flag(2, "optimiser steps per pass", least=1)
    clip_low: float = flag(0.2, "the ratio of new to old probabilities is clipped at 1 - clip_low", above=0)
    clip_high: float = flag(0.28, "and at 1 + clip_high", above=0)
    aggregation: Literal["token", "sequence", "constant"] = flag(
        "token", "mean of the loss over tokens (DAPO), rollouts (GRPO), or by a constant (Dr. GRPO)")
    beta: float = flag(0.0, "weight of the KL penalty against the initial policy", least=0)


@dataclass
class Reporting:
    _argument_group_name = "evaluation and reports"
    eval_problems: int = flag(64, "held-out problems of the evaluations; 0 for none", least=0)
    eval_samples: int = flag(8, "solutions, and meta predictions, per held-out problem", least=1)
    eval_every: int = flag(20, "steps between evaluations; 0 for only before and after", least=0)
    show_every: int = flag(20, "steps between rollouts shown in full; 0 for never", least=0)
    checkpoint_every: int = flag(20, "steps between checkpoints; 0 for only at the end", least=0)
    report_to: Literal["wandb", "tensorboard", "trackio"] | None = flag(None, "also log there, if installed")


@dataclass
class Machine:
    _argument_group_name = "the machine"
    device: str = flag("auto", "cuda, mps, cpu, or auto: the first of them there is")
    bf16: bool | None = switch("bf16", "compute in bfloat16, with float32 weights; by default on cuda")
    max_tokens: int | None = flag(65_536, "tokens of rollouts, prompts included, that are in memory at once; "
                                  "preset gpu: 262144 on cuda, else 32768", least=1)
    micro_batch_tokens: int = flag(4096, "tokens per forward and backward pass", least=1)
    gradient_checkpointing: bool | None = switch(
        "gradient-checkpointing", "recompute activations: less memory; by default on cuda")
    trust_remote_code: bool = flag(False, "run the python code that comes with a model of the hub")


GROUPS = (Essentials, Sampling, Method, Optimisation, Reporting, Machine)
ABOUT = (
    "MASA, from scratch. For each problem the policy samples a group of G solutions, which are compared with "
    "one another, and M predictions of how they will go: the pass rate (of 8 attempts, how many will be "
    "right), the length in tokens, and notions (concepts that they will use and the problem does not "
    "mention). masa-efficient skips a problem (the gate) or stops a solution (the cutoff) by what it "
    "expects; audits solve some of these all the same, and so find how often the two are right. "
    "docs/flags.md is a table of the flags, with the values of the presets.")

# Flags that do nothing unless something else is set: (when they work, in words, their names).
NEEDS = (
    (lambda c: c.algo == "masa-efficient", "--algo masa-efficient",
     "gate_start gate gate_by gate_mass gate_trust refill cutoff cutoff_by cutoff_factor cutoff_trust "
     "cutoff_min audit_fraction mask_cut clone"),
    (lambda c: c.algo != "grpo", "--algo masa or masa-efficient", "meta_group_size"),
    (lambda c: c.algo != "grpo" and c.meta_group_size, "predictions to train on",
     "notion_variant meta_reward meta_weight clone"),
    (lambda c: c.meta_group_size or (c.cutoff_by == "read" and
                                     c.gate_by not in ("said", "number", "pilot", "oracle")),
     "predictions, or --cutoff-by read and a gate that reads",
     "cutoff cutoff_by cutoff_factor cutoff_trust cutoff_min mask_cut"),
    (lambda c: c.gate, "the gate", "gate_trust refill"),
    (lambda c: c.cutoff, "the cutoff", "cutoff_by cutoff_factor cutoff_trust cutoff_min mask_cut"),
    (lambda c: c.gate_by not in ("said", "pilot"), "another --gate-by", "gate_mass"),
    (lambda c: c.clone, "--clone", "clone_learning_rate"),
    (lambda c: c.inner_epochs * c.minibatches > 1, "several optimiser steps on the same rollouts, by "
     "--minibatches or --inner-epochs", "clip_low clip_high"),
    (lambda c: c.eval_problems, "--eval-problems", "eval_data eval_samples eval_every"),
)


def idle(config, defaults):
    """What to say of flags that do nothing in this run, or harm: lines. defaults: a dict of all flags."""
    lines, said = [], set()
    for works, needs, names in NEEDS:
        names = [name for name in names.split() if getattr(config, name) != defaults[name]]
        names = [] if works(config) else [name for name in names if name not in said]
        said.update(names)
        flags = ", ".join(f"--{'no_' * (defaults[name] is True)}{name}".replace("_", "-") for name in names)
        lines += [f"{flags} {'do' if names[1:] else 'does'} nothing here: only with {needs}"] * bool(names)
    if config.algo == "masa-efficient" and config.steps <= config.gate_start:
        lines.append(f"--steps {config.steps} is not above --gate-start {config.gate_start}: nothing will be "
                     "skipped or stopped")
    if config.algo == "masa-efficient" and not config.audit_fraction:
        lines.append("--audit-fraction 0: what is skipped or stopped is never looked at, so that a rule that "
                     "is trusted once is trusted for ever")
    return lines


@dataclass
class Config(*reversed(GROUPS)):
    """All flags of a training run."""

    def check(self):
        """Raises ValueError with one line if values make no sense together."""
        if not self.steps and not self.cold_start:
            raise ValueError("--steps 0 is for a cold start alone: give --cold-start, or steps")
        if self.cold_start and self.model == "toy":
            raise ValueError("--cold-start is for pretrained models: the toy model boxes and predicts")
        if self.cold_start and self.beta:
            raise ValueError("--beta would hold the policy near the model before its cold start: start it "
                             "alone (--steps 0), and give the checkpoint of that as --model")
        if self.algo == "masa" and not self.meta_group_size:
            raise ValueError("--algo masa needs predictions: give --meta-group-size, or use --algo grpo")
        if self.algo == "masa-efficient" and not self.meta_group_size and self.gate_by in ("said", "number"):
            raise ValueError(f"--gate-by {self.gate_by} needs predictions: give --meta-group-size")
        if self.meta_group_size == 1:
            raise ValueError("--meta-group-size is 1: predictions are compared with one another, so give 2 "
                             "or 0")
        if self.gate_by == "pilot" and (self.group_size < 3 or self.meta_group_size):
            raise ValueError("--gate-by pilot solves 2 of --group-size first: give at least 3, and "
                             "--meta-group-size 0")
        if self.hints and (self.algo == "grpo" or not self.meta_group_size):
            raise ValueError("--hints need predictions: --algo masa or masa-efficient, and --meta-group-size")
        if self.lora_rank and self.model == "toy":
            raise ValueError("--lora-rank is for models from folders or the hub: the toy model is small "
                             "enough")
        if self.algo != "grpo" and self.dynamic_sampling:
            raise ValueError("--dynamic-sampling is for --algo grpo; masa-efficient refills by prediction")

    @classmethod
    def parse(cls, arguments=None):
        """The Config of a command line; a preset fills in the flags that are not given."""
        given = parse_groups(GROUPS, ABOUT, arguments)
        name = given["preset"] or ("toy" if given["model"] == "toy" else "gpu")
        rates = {rate: LORA_RATE * PRESETS[name].get(rate, getattr(cls, rate))
                 for rate in ("learning_rate", "clone_learning_rate") if given["lora_rank"]}
        config = cls(**parse_groups(GROUPS, "", arguments, PRESETS[name] | rates))
        config.data = config.data or "toy"
        path = Path(config.model)
        names = [path.parent.name if path.name == "checkpoint" else path.name,
                 re.sub(r"[^\w.]+", "-", short_name(config.data))]
        names = [*dict.fromkeys(names), "grpo-dynamic" if config.dynamic_sampling else config.algo]
        config.output = config.output or f"runs/{'-'.join(names).lower()}-{config.seed}"
        config.check()
        for line in idle(config, parse_groups(GROUPS, "", [], PRESETS[name] | rates)):
            print(line)
        return config


@dataclass
class EvalConfig:
    """All flags of an evaluation."""
    model: str = flag("toy", "the policy: toy, a folder such as runs/toy-masa-0/checkpoint, or a hub id")
    data: str = flag("toy", "problems, separated by commas: toy, benchmarks (docs/benchmarks.md lists them), "
                     "NAME=FILE for a local copy of one, other files, hub ids, or "
                     "reasoning-gym:TASK,option=value,...")
    samples: int = flag(8, "n, solutions per problem; the paper has 32", least=1)
    metas: int = flag(8, "M, meta predictions per problem; 0 for none", least=0)
    hints: bool = flag(False, "solve also with predicted notions in the prompt, and compare")
    temperature: float = flag(0.6, "of sampling; 0 takes the likeliest token", least=0)
    top_p: float = flag(1.0, "probability of the tokens that are sampled from", above=0, most=1)
    max_new_tokens: int | None = flag(None, "budget of a solution; 192 for toy, 3072 else", least=1)
    max_meta_tokens: int | None = flag(None, "budget of a prediction; 32 for toy, 768 else", least=1)
    limit: int | None = flag(None, "problems of each set, always the same sample", least=1)
    seed: int = flag(0, "of sampling", least=0, most=SEEDS)
    thinking: bool = flag(False, "use the thinking mode of chat templates that have one")
    output: str | None = flag(None, "the .json file to write; by default runs/eval/MODEL-DATA.json")
    compare: list[str] | None = flag(None, "no sampling: compare result files, each with the first one")
    check_gold: bool = flag(False, "no sampling: grade the answers of each set by its grader")
    allow_code_execution: bool = flag(False, "allow benchmarks that execute code which the model writes")
    device: str = flag("auto", "cuda, mps, cpu, or auto: the first of them there is")
    bf16: bool | None = switch("bf16", "weights in bfloat16; by default on cuda")
    max_tokens: int | None = flag(None, "tokens generated at once: 262144 on cuda, else 32768", least=1)
    trust_remote_code: bool = flag(False, "run the python code that comes with a model of the hub")

    @classmethod
    def parse(cls, arguments=None):
        """The EvalConfig of a command line. Raises ValueError with one line if a value makes no sense."""
        config = cls(**parse_groups([cls], "Evaluate a policy. docs/evaluation.md tells more.", arguments))
        toy = "toy" in (config.model, config.data)
        for name in ("max_new_tokens", "max_meta_tokens"):
            setattr(config, name, getattr(config, name) or (getattr(Config, name) if toy else GPU[name]))
        if config.hints and not config.metas:
            raise ValueError("--hints need predictions: --metas must be at least 1")
        if config.output and not config.compare and Path(config.output).suffix != ".json":
            raise ValueError(f"--output {config.output} must end in .json")
        if config.compare and len(config.compare) < 2:
            raise ValueError("--compare takes two result files or more")
        return config


GPU = dict(data="agentica-org/DeepScaleR-Preview-Dataset", steps=200, problems_per_step=16,
           max_new_tokens=3072, max_meta_tokens=768, max_prompt_tokens=1024, cutoff_min=256,
           learning_rate=1e-6, clone_learning_rate=1e-6, weight_decay=0.1, warmup_steps=20, minibatches=1,
           micro_batch_tokens=8_192, max_tokens=None, eval_problems=32, eval_samples=4, show_every=1,
           checkpoint_every=10)
PRESETS = {
    "toy": {},                  # the defaults above
    "gpu": GPU,
    "paper": GPU | dict(model="Qwen/Qwen3-8B-Base", steps=314, problems_per_step=128, group_size=16,
                        meta_group_size=16, max_new_tokens=16_384, max_meta_tokens=4096,
                        max_prompt_tokens=2048, gate_by="said", cutoff_by="said", gate_start=20, clone=True)}


def parse_groups(groups, description, arguments=None, defaults=()):
    """The flags of some dataclasses as one dict. Raises ValueError with one line for what is wrong."""
    def refuse(message):
        raise ValueError(f"{message} (--help explains every flag)")

    parser = HfArgumentParser(groups, allow_abbrev=False, description=description,
                              usage="%(prog)s [--FLAG VALUE] ...")
    for action in parser._actions:              # --help names a flag once, by what one would type
        action.option_strings = [name for name in action.option_strings if "_" not in name]
        if action.default is True:
            action.help = SUPPRESS
        elif action.option_strings[0].startswith("--no-"):
            action.help = f"do not {action.help}"
    parser.error = refuse
    parser.set_defaults(**dict(defaults))
    *parts, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        refuse(f"unknown flag {unknown[0]}")
    values = {}
    for part in parts:
        for entry in fields(part):
            values[entry.name] = value = getattr(part, entry.name)
            least, above, most = entry.metadata["help"].bounds
            wrong = value is not None and (
                (least is not None and not least <= value < float("inf") and f"at least {least}")
                or (above is not None and not above < value < float("inf") and f"above {above}")
                or (most is not None and not value <= most and f"at most {most}"))
            if wrong:
                raise ValueError(f"--{entry.name.replace('_', '-')} is {value}, it must be {wrong}")
    return values
