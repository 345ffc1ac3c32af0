"""Where a policy comes from, and what it runs on: the toy model, a local folder, or the Hugging Face hub."""

import re
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks import toy_model
from tasks.problems import one_line
from prompts import PHRASES, encode, meta_messages, solution_messages
from tasks.toy import BUDGET

# The default on Hopper cards since torch 2.11, and with a mask its gradients can be nan (pytorch issue 196678).
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
    except Exception as error:          # no such model, no tokenizer, unknown type, damaged weights, no network
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


def precision(device, bf16=None):
    """The context to compute in: bfloat16 where it is wanted (None: on cuda); weights and gradients stay float32."""
    if bf16 or bf16 is None and device.type == "cuda":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
