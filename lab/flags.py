"""Every flag of masa.py, with the laptop's values as defaults, and the presets for larger runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

from transformers import HfArgumentParser


def flag(default, text):
    return field(default=default, metadata={"help": text})


@dataclass
class Config:
    model: str = flag("toy", "the policy: toy (built in), a local folder, or a model id of the hub")
    data: Optional[str] = flag(None, "problems: toy, a .parquet/.jsonl/.json/.csv file, or a dataset id of the hub")
    data_split: str = flag("train", "split of a dataset of the hub")
    eval_data: Optional[str] = flag(None, "held-out problems; by default some that are taken out of --data")
    algo: Literal["grpo", "masa", "masa-efficient"] = flag(
        "masa", "grpo: solutions; masa: and predictions; masa-efficient: predictions decide what is solved")
    preset: Optional[Literal["toy", "gpu", "paper"]] = flag(
        None, "values for the flags that are not given: toy, gpu (one card), paper; toy goes with the toy model")
    output: Optional[str] = flag(None, "folder of the run; by default runs/MODEL-ALGO")
    resume: bool = flag(False, "go on with the run in the output folder")
    seed: int = flag(0, "of the order of problems and of sampling")
    device: str = flag("auto", "cuda, mps, cpu, or auto: the first of them there is")

    steps: int = flag(60, "training steps")
    problems_per_step: int = flag(16, "problems per training step")
    group_size: int = flag(8, "G, solutions per problem")
    meta_group_size: int = flag(8, "M, meta predictions per problem")
    max_new_tokens: int = flag(192, "budget of a solution, in tokens")
    max_meta_tokens: int = flag(32, "budget of a meta prediction, in tokens")
    max_prompt_tokens: int = flag(128, "problems with longer prompts are left out")
    temperature: float = flag(1.0, "of sampling and of the log-probabilities")
    thinking: bool = flag(False, "use the thinking mode of chat templates that have one")
    notion_variant: Literal["count", "rate"] = flag("count", "of the notion reward; count is the paper's")

    learning_rate: float = flag(4e-4, "of AdamW")
    weight_decay: float = flag(0.0, "of AdamW")
    warmup_steps: int = flag(5, "steps over which the learning rate rises to its constant value")
    max_grad_norm: float = flag(1.0, "norm to which gradients are clipped")
    clip_low: float = flag(0.2, "the ratio is clipped at 1 - clip_low")
    clip_high: float = flag(0.28, "the ratio is clipped at 1 + clip_high")
    aggregation: Literal["token", "sequence", "constant"] = flag(
        "token", "mean of the loss over tokens (DAPO), over rollouts (GRPO), or by a constant length (Dr. GRPO)")
    mask_cut: bool = flag(False, "leave cut solutions out of gradient and baseline; by default they count as wrong")
    beta: float = flag(0.0, "weight of the KL penalty against the initial policy")
    inner_epochs: int = flag(1, "passes over the rollouts of a step")
    minibatches: int = flag(2, "optimiser steps per pass")
    micro_batch_tokens: int = flag(4096, "tokens per forward and backward pass; does not change the gradient")
    max_tokens: int = flag(65_536, "tokens of rollouts that are generated at once")
    bf16: Optional[bool] = flag(None, "compute in bfloat16, with float32 weights; by default on cuda")
    offload_optimizer: bool = flag(False, "keep AdamW's moments in the CPU's memory: slower, and fits a smaller card")
    gradient_checkpointing: Optional[bool] = flag(None, "recompute activations to save memory; by default on cuda")

    gate_start: int = flag(20, "k, steps of masa-efficient in which everything is still solved")
    gate: bool = flag(True, "skip problems that are predicted to be trivial or impossible")
    gate_std: float = flag(0.1, "predicted pass rates agree if their standard deviation is below this")
    gate_margin: float = flag(1 / 16, "and are trivial or impossible if their mean is this near to 1 or 0")
    gate_trust: float = flag(0.7, "skip only while the audited precision is above this with 95 %% confidence; 0: always")
    refill: bool = flag(True, "draw and predict more problems in place of the skipped ones")
    max_draws: int = flag(4, "rounds of drawing problems in a step, of refilling and of dynamic sampling")
    cutoff: bool = flag(True, "stop solutions that get much longer than predicted")
    cutoff_factor: float = flag(2.0, "times the mean predicted length is where")
    cutoff_min: int = flag(16, "tokens that a solution may always take")
    audit_fraction: float = flag(0.1, "share of skipped problems and of cut solutions that are looked at after all")
    dynamic_sampling: bool = flag(False, "with grpo: solve problems until enough groups have variance (DAPO)")
    clone: bool = flag(True, "imitate the best predictions, with their numbers corrected")
    clone_size: int = flag(128, "experts that are collected before they are imitated")
    clone_updates: int = flag(5, "supervised optimiser steps on them")
    clone_learning_rate: float = flag(4e-4, "of these steps")
    hints: bool = flag(False, "predict first, and put the predicted notions into the prompt of the solutions")
    meta_reward: Literal["aligned", "shuffled", "length", "difficulty", "notion", "none"] = flag(
        "aligned", "reward of predictions: the method's, or a control: shuffled within the group, one term, none")

    eval_problems: int = flag(64, "held-out problems of the evaluations before, during and after; 0 for none")
    eval_samples: int = flag(8, "solutions, and meta predictions, per held-out problem")
    eval_every: int = flag(20, "steps between evaluations; 0 for only before and after")
    show_every: int = flag(20, "steps between rollouts shown in full; 0 for never")
    checkpoint_every: int = flag(20, "steps between checkpoints; 0 for only at the end")
    report_to: Optional[Literal["wandb", "tensorboard", "trackio"]] = flag(None, "also log there, if installed")
    trust_remote_code: bool = flag(False, "run the python code that comes with a model of the hub")

    def check(self):
        """Raises ValueError with one line if a value makes no sense."""
        least = {"steps": 1, "problems_per_step": 1, "group_size": 2, "meta_group_size": 2, "max_new_tokens": 1,
                 "max_meta_tokens": 1, "max_prompt_tokens": 1, "inner_epochs": 1, "minibatches": 1,
                 "micro_batch_tokens": 1, "max_tokens": 1, "eval_samples": 1, "warmup_steps": 0, "eval_problems": 0,
                 "eval_every": 0, "show_every": 0, "checkpoint_every": 0, "weight_decay": 0, "beta": 0, "seed": 0,
                 "gate_start": 0, "max_draws": 1, "cutoff_min": 1, "clone_size": 1, "clone_updates": 1, "gate_std": 0,
                 "gate_margin": 0, "gate_trust": 0, "audit_fraction": 0}
        for name, low in least.items():
            if not low <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, it must be at least {low}")
        for name in ("temperature", "learning_rate", "max_grad_norm", "clip_low", "clip_high", "cutoff_factor",
                     "clone_learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, it must be above 0")
        for name in ("audit_fraction", "gate_trust", "gate_margin"):
            if getattr(self, name) > 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, it must be at most 1")
        if self.seed >= 2**31:
            raise ValueError(f"--seed is {self.seed}, it must be below 2^31")
        if self.algo == "grpo" and self.hints:
            raise ValueError("--hints need predictions: use them with --algo masa or masa-efficient")
        if self.algo != "grpo" and self.dynamic_sampling:
            raise ValueError("--dynamic-sampling is for --algo grpo; masa-efficient refills by prediction")


GPU = dict(data="agentica-org/DeepScaleR-Preview-Dataset", steps=200, problems_per_step=16, max_new_tokens=3072,
           max_meta_tokens=768, max_prompt_tokens=1024, learning_rate=1e-6, weight_decay=0.1, warmup_steps=20,
           minibatches=1, clone_learning_rate=1e-6, cutoff_min=256, micro_batch_tokens=8_192, max_tokens=262_144,
           eval_problems=32, eval_samples=4, checkpoint_every=10, show_every=1)
PRESETS = {
    "toy": {},                  # the defaults above
    "gpu": GPU,
    "paper": GPU | dict(model="Qwen/Qwen3-8B-Base", steps=314, problems_per_step=128, group_size=16, meta_group_size=16,
                        max_new_tokens=16_384, max_meta_tokens=4096, max_prompt_tokens=2048)}


def refuse(message):
    raise ValueError(f"{message} (python masa.py --help explains every flag)")


def parse_config(arguments=None):
    """The Config of a command line; a preset fills in the flags that are not given."""
    parser = HfArgumentParser(Config, allow_abbrev=False, description="MASA, from scratch. README.md explains every flag.")
    parser.error = refuse
    config, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        refuse(f"unknown flag {unknown[0]}")
    name = config.preset or ("toy" if config.model == "toy" else "gpu")
    parser.set_defaults(**PRESETS[name])
    config, = parser.parse_args_into_dataclasses(arguments)
    config.data = config.data or "toy"
    path = Path(config.model)
    name = (path.parent.name if path.name == "checkpoint" else path.name).lower()
    config.output = config.output or f"runs/{name}-{config.algo}{'-dynamic' * config.dynamic_sampling}"
    config.check()
    return config
