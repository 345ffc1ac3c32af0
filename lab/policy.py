"""Where a policy comes from, and what it runs on: the toy model, a local folder, or the Hugging Face hub."""

import re
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tasks import toy_model
from tasks.problems import one_line
from rollout import PHRASES, control_tokens, encode, meta_messages, solution_messages
from tasks.toy import BUDGET

LARGE = 1e9                     # parameters, from which on a CPU is no use

# The default on Hopper cards since torch 2.11, and with a mask its gradients can be nan (pytorch issue
# 196678).
torch.backends.cuda.enable_cudnn_sdp(False)


def check_name(name):
    """Raises ValueError with one line if `name` can be no model; what is seen without loading it."""
    folder = Path(name)
    if name == "toy":
        return
    if not folder.is_dir() and (not name or str(name).startswith((".", "/", "~")) or str(name).count("/") > 1):
        raise ValueError(f"model {name} is neither toy, nor a folder, nor a model id of the hub (owner/name)")
    if folder.is_dir() and not ((folder / "config.json").exists() and any(folder.glob("*.safetensors"))):
        inside = f": did you mean {folder / 'checkpoint'}?" if (folder / "checkpoint").is_dir() else ""
        raise ValueError(f"model {name} is a folder without config.json or without weights (*.safetensors){inside}")


def load_policy(name, device="cpu", trust_remote_code=False):
    """The model, in float32 on `device`, and the tokenizer: "toy", a local folder, or a model id of the hub.

    Weights are read from safetensors only. Raises ValueError with one line that says what is wrong.
    """
    if name == "toy":
        def render(tokenizer, text, meta):
            return encode(tokenizer, meta_messages(text, BUDGET) if meta else solution_messages(text))
        model, tokenizer = toy_model.load(PHRASES, render)
        return model.to(device), tokenizer
    check_name(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, trust_remote_code=trust_remote_code)
    # no such model, no tokenizer, unknown type, damaged weights, no network
    except Exception as error:
        raise ValueError(f"model {name} cannot be loaded: {one_line(error)}") from None
    model = model.to(device)
    for module in model.modules():          # the policy that is trained is the one that samples: no dropout
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    ids = torch.arange(2, device=device)[None]
    with torch.no_grad():
        logits = model.get_output_embeddings()(model.base_model(ids).last_hidden_state)
        if not torch.allclose(logits, model(ids).logits, rtol=1e-3, atol=1e-3):     # as Gemma 2 and Cohere do
            raise ValueError(f"model {name} changes its logits after the LM head: grpo.token_logprobs cannot train it")
    return model, tokenizer


def pick_device(name):
    """The torch.device of --device; raises ValueError if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name != "auto" and (not there.get(name.partition(":")[0]) or not re.fullmatch(r"\w+(:\d+)?", name)):
        raise ValueError(f"--device {name} is not available here; there is {', '.join(n for n in there if there[n])}")
    return torch.device(next(n for n in there if there[n]) if name == "auto" else name)


def check_size(config, device):
    """Refuses, with a ValueError of one line, a model that is too large for the device. Reads no weights."""
    # cpu: it was asked for
    if config.model == "toy" or device.type == "mps" or config.device == "cpu":
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


def keep_fitting(problems, tokenizer, longest, budget, thinking=False):
    """The problems without control tokens whose meta prompts (the longest: they name the budget of a
    solution) take at most `longest` tokens; says how many are left out."""
    control, overhead = control_tokens(tokenizer), len(encode(tokenizer, meta_messages("", budget), thinking))
    clean = [problem for problem in problems if not any(token in problem.text for token in control)]
    kept = [problem for problem in clean
            if overhead + len(problem.text.encode()) <= longest             # a token is a byte or more
            or len(encode(tokenizer, meta_messages(problem.text, budget), thinking)) <= longest]
    if len(kept) < len(problems):
        print(f"{len(problems) - len(kept)} of {len(problems)} problems left out: {len(clean) - len(kept)} with "
              f"prompts over {longest} tokens, {len(problems) - len(clean)} with control tokens in them")
    return kept


def room(model, name, max_new_tokens, max_meta_tokens, hints):
    """How many tokens a prompt may have, so that it fits with what follows. Raises ValueError if there is no
    room."""
    longest = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    left = longest - max(max_new_tokens + hints * max_meta_tokens, max_meta_tokens)
    if left < 1:
        raise ValueError(f"{name} reads at most {longest} tokens: lower --max-new-tokens (now {max_new_tokens}) or "
                         f"--max-meta-tokens (now {max_meta_tokens})")
    return left
