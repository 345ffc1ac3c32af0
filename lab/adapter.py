"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685), by peft, an optional package: W' = W + (alpha / R) B A.

The weights W of all linear layers but the LM head are frozen; A [R, in] and B [out, R] are trained, in
float32, and stored alone. Alpha is 32, so that the best learning rate hardly depends on R; it is about ten
times that of all weights, and a small R suffices for reinforcement learning ("LoRA Without Regret", Schulman
et al. 2025). Adapters are put into the layers of a model that stays of its class: whatever trains or samples
need not know.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file

from lab.folder import read_json

ALPHA = 32


def base_of(name):
    """The model (a folder, or an id of the hub) that the adapter in a folder is for; None without an adapter.

    Raises ValueError with one line if it is an adapter of a kind that is not known here.
    """
    folder = Path(name)
    if not (folder / "adapter_config.json").exists():
        return None
    config = read_json(folder / "adapter_config.json")
    config = config if isinstance(config, dict) else {}
    base, fault = config.get("base_model_name_or_path"), None
    if config.get("peft_type") != "LORA" or config.get("modules_to_save"):
        fault = "an adapter, but no plain LoRA: merge it into its model with peft's merge_and_unload"
    elif not isinstance(base, str) or not base:
        fault = "an adapter that does not name its model (base_model_name_or_path in its adapter_config.json)"
    elif (folder / "config.json").exists():
        fault = "a whole model and an adapter in one folder: move one of them"
    elif not (folder / "adapter_model.safetensors").exists():
        fault = "an adapter without its weights (adapter_model.safetensors)"
    elif (Path(base) / "adapter_config.json").exists() or base == "toy":
        fault = f"an adapter of {base}, which is no base model: merge that first (tools/merge.py)"
    if fault:
        raise ValueError(f"model {name} is {fault}")
    return base


def need_peft(what):
    """Raises ValueError with one line if peft is not installed."""
    if find_spec("peft") is None:
        raise ValueError(f"{what} needs a package that is not installed: pip install peft")


def add_adapter(model, base, rank, seed):
    """Freeze `model`, and put a new adapter into it, drawn with `seed`: it changes nothing until trained.

    base: what its folder will name as its base model; a relative path is made absolute.
    """
    from peft import LoraConfig
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(LoraConfig(r=rank, lora_alpha=ALPHA, target_modules="all-linear"))
    folder = Path(base)
    model.peft_config["default"].base_model_name_or_path = str(folder.resolve() if folder.is_dir() else base)


def load_adapter(model, folder, rank=0):
    """Put the adapter of a folder into `model`: to be trained on if it is of this rank, merged if rank is 0.

    Raises ValueError with one line if it does not fit.
    """
    from peft import LoraConfig, set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    config, base = LoraConfig.from_pretrained(folder), base_of(folder)
    config.inference_mode = False
    model.add_adapter(config)                   # which overwrites the name of the base model
    model.peft_config["default"].base_model_name_or_path = base
    stored = load_file(Path(folder) / "adapter_model.safetensors")
    found = set_peft_model_state_dict(model, {name.removeprefix("base_model.model."): weights
                                              for name, weights in stored.items()})
    wrong = [*found.unexpected_keys, *(name for name in found.missing_keys if "lora_" in name)]
    if wrong:
        raise ValueError(f"the adapter does not fit its base model, as to {wrong[0]}")
    if any(isinstance(part, BaseTunerLayer) for part in (model.get_input_embeddings(),
                                                         model.get_output_embeddings())):
        raise ValueError("its adapter changes the embedding or the LM head: merge it with peft's "
                         "merge_and_unload")
    if rank not in (0, model.peft_config["default"].r):
        raise ValueError(f"its adapter has rank {model.peft_config['default'].r}: give that as --lora-rank, "
                         "or merge it first (tools/merge.py)")
    if rank == 0:
        for name, module in list(model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge()
                model.set_submodule(name, module.get_base_layer())
        model.delete_adapter("default")
        model.requires_grad_(True)


def halve_frozen(model):
    """Keep what is not trained in bfloat16. No update is lost to its rounding, since there is none.

    Buffers stay as they are: angles of positions would be off by radians.
    """
    for weights in model.parameters():
        if not weights.requires_grad:
            weights.data = weights.data.bfloat16()


class WithoutAdapter(torch.nn.Module):
    """`policy` without its adapter, for `grpo.update`: the reference of --beta, at no memory of its own."""

    def __init__(self, policy):
        super().__init__()
        self.policy, self.config = policy, policy.config
        self.get_output_embeddings = policy.get_output_embeddings           # no adapter is in there

    def base_model(self, **inputs):
        self.policy.disable_adapters()
        try:
            return self.policy.base_model(**inputs)
        finally:
            self.policy.enable_adapters()
