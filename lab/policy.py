"""Where a policy comes from, and what it runs on: the toy model, a local folder, or the Hugging Face hub."""

import re
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from grpo import token_logprobs
from prompts import PHRASES, encode, meta_messages, solution_messages
from tasks.problems import notice_offline, one_line

# The default on Hopper cards since torch 2.11; its gradients can be nan with a mask (pytorch issue 196678).
torch.backends.cuda.enable_cudnn_sdp(False)


def check_name(name):
    """Raises ValueError with one line if `name` can be no model; what is seen without loading it.

    Before anything else is asked of the hub, since it notices that there is no network.
    """
    path, fault = Path(name), None
    if name == "toy":
        return
    if not name or not path.exists() and (str(name).startswith((".", "/", "~")) or str(name).count("/") > 1):
        fault = "neither toy, nor a folder, nor a model id of the hub (owner/name)"
    elif path.suffix == ".gguf" or any(path.glob("*.gguf")):
        fault = "in GGUF, the format of llama.cpp: give the folder or hub id that it was made from"
    elif (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        fault = "a LoRA adapter: merge it into its model (peft's merge_and_unload), and save that"
    elif path.exists() and not ((path / "config.json").exists() and any(path.glob("*.safetensors"))):
        fault = "no folder with config.json and weights (*.safetensors)"
        fault += "".join(f": did you mean {file.parent}?" for file in sorted(path.glob("*/config.json"))[-1:])
    elif path.exists() and not any(path.glob("*token*")) and not any(path.glob("*vocab*")):
        fault = "a folder without a tokenizer: add the tokenizer files of the model that it was trained from"
    if fault:
        raise ValueError(f"model {name} is {fault}")
    if not path.exists():
        notice_offline()


def load_policy(name, device="cpu", trust_remote_code=False):
    """The model, in float32 on `device`, and the tokenizer: "toy", a local folder, or a model id of the hub.

    Weights are read from safetensors only. Raises ValueError with one line that says what is wrong.
    """
    if name == "toy":
        from tasks import toy, toy_model

        def render(tokenizer, text, meta):
            return encode(tokenizer, meta_messages(text, toy.BUDGET) if meta else solution_messages(text))
        model, tokenizer = toy_model.load(PHRASES, render)
        return model.to(device), tokenizer
    check_name(name)
    try:
        config = without_noise(AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code))
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        model, report = AutoModelForCausalLM.from_pretrained(
            name, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True,
            trust_remote_code=trust_remote_code)
        transformers.logging.disable_progress_bar()     # writing checkpoints must not break the run's own bar
        fault = fault_of(model.to(device), tokenizer, sorted(report["missing_keys"]))
    except Exception as error:              # no such model, unknown type, damaged weights, no network
        raise ValueError(f"model {name} cannot be loaded: {one_line(error)}") from None
    if fault:
        raise ValueError(f"model {name} cannot be used: {fault}")
    return model, tokenizer


def without_noise(config):
    """`config` without dropout and router jitter: the policy that is trained is the one that samples."""
    for field, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            without_noise(value)
        elif isinstance(value, float) and re.search("drop|jitter", field):
            setattr(config, field, 0.0)
    return config


@torch.no_grad()
def fault_of(model, tokenizer, missing):
    """What keeps a policy from being used, or None. missing: names of weights that its checkpoint lacks."""
    kinds = " ".join(model.config.architectures or ["something else"])
    if missing or "Classification" in kinds:
        return f"it is no language model but {kinds}{missing and f', without weights for {missing[0]}' or ''}"
    if tokenizer.eos_token_id is None and model.generation_config.eos_token_id is None:
        return "neither its tokenizer nor its generation config has a token that ends a text (eos_token)"
    asked, blank = ([encode(tokenizer, chat) for chat in (solution_messages(text), meta_messages(text, 100))]
                    for text in ("1 + 2", ""))
    if asked[0] == blank[0] or asked[1] == blank[1]:
        return "its chat template, or its tokenizer, makes the same prompt of every problem"
    rows, device = len(model.get_input_embeddings().weight), model.device
    if (tokenizer.pad_token_id or 0) >= rows:
        tokenizer.pad_token = None                                      # then another token pads
    control = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}   # in no problem
    used = {*tokenizer.get_vocab().values()} - control | {*asked[0], *asked[1], tokenizer.eos_token_id or 0}
    if max(used) >= rows:
        return f"its tokenizer has {max(used) + 1} tokens, its embedding {rows}: call resize_token_embeddings"
    ids = torch.arange(8, device=device)[None]
    mask = ids > 1                                                      # the first two tokens are padding
    model.train()
    first, second = (token_logprobs(model, ids[:, :3], mask[:, :3], ids[:, 3:], mask[:, 3:])[0]
                     for _ in range(2))
    model.eval()
    own = model(input_ids=ids[:, 2:], attention_mask=ids[:, 2:] > 0).logits[:, :-1].log_softmax(-1)
    if not torch.allclose(first, second, rtol=0, atol=1e-3):
        return "two passes in train mode differ: set its dropout to 0 in config.json"
    if not torch.allclose(first, own.gather(2, ids[:, 3:, None])[..., 0], rtol=0, atol=1e-3):
        return "it ignores padding, or changes logits after its LM head in a way that grpo.py does not know"
    return None


def pick_device(name):
    """The torch.device of --device; raises ValueError if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name != "auto" and (not there.get(name.partition(":")[0]) or not re.fullmatch(r"\w+(:\d+)?", name)):
        found = ", ".join(n for n in there if there[n])
        raise ValueError(f"--device {name} is not available here; there is {found}")
    return torch.device(next(n for n in there if there[n]) if name == "auto" else name)


def precision(device, bf16=None):
    """The context to compute in: bfloat16 if wanted (None: on cuda); weights and gradients stay float32."""
    if bf16 or bf16 is None and device.type == "cuda":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
