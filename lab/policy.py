"""Where a policy comes from, and what it runs on: the toy model, a local folder, or the Hugging Face hub."""

import os
import re
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from grpo import token_logprobs
from lab.adapter import add_adapter, base_of, load_adapter, need_peft
from tasks.problems import notice_offline, one_line
from tasks.prompts import PHRASES, control_tokens, encode, meta_messages, solution_messages

LARGE = 1e9                     # parameters, from which on a CPU is no use

# The default on Hopper cards since torch 2.11; its gradients can be nan with a mask (pytorch issue 196678).
torch.backends.cuda.enable_cudnn_sdp(False)
transformers.logging.disable_progress_bar()     # that of writing a checkpoint would break the bar of the run
transformers.logging.set_verbosity_error()      # missing weights are an error here, and told in one line

HUB_ID = r"[^./~][^/]*(/[^/]*)?"


def check_name(name, lora_rank=0):
    """Raises ValueError with one line if `name` can be no model, without loading it.

    For an id of the hub it also notices that there is no network: call it before anything asks the hub.
    lora_rank: of the adapter that will be trained, 0 for none.
    """
    folder, fault = Path(name), None
    if lora_rank:
        need_peft("--lora-rank")
    if name == "toy":
        return
    weights = any(folder.glob("*.safetensors"))
    if folder.suffix == ".gguf" or (any(folder.glob("*.gguf")) and not weights):
        fault = "in GGUF, the format of llama.cpp: give the folder or hub id that it was made from"
    elif (not folder.is_dir() and (folder.is_file() or not re.fullmatch(HUB_ID, str(name)))) or not name:
        fault = "neither toy, nor a folder, nor a model id of the hub (owner/name)"
    elif not folder.exists():
        notice_offline()
    elif base_of(name):
        need_peft(f"model {name}, an adapter,")
        try:
            check_name(base_of(name))
        except ValueError as error:
            raise ValueError(f"model {name} is an adapter, and its base {error}") from None
        return
    elif any(folder.glob("*.bin")) and not weights:
        fault = ("a folder with weights in *.bin, which may hold code and are not read: save them with "
                 "transformers' save_pretrained, as *.safetensors")
    elif not (folder / "config.json").exists() or not weights:
        inside = [f": did you mean {found}?" for found in sorted(folder.glob("checkpoint*"))]
        lacks = "weights (*.safetensors)" if (folder / "config.json").exists() else "config.json"
        fault = f"a folder without {lacks}{''.join(inside[-1:])}"
    elif not any(folder.glob("*token*")) and not any(folder.glob("*vocab*")):
        fault = "a folder without a tokenizer: add the tokenizer files of the model that it was trained from"
    if fault:
        raise ValueError(f"model {name} is {fault}")


def load_policy(name, device="cpu", trust_remote_code=False, lora_rank=0, seed=0):
    """The model, in float32 on `device`, and the tokenizer: "toy", a local folder, or a model id of the hub.

    A folder with a LoRA adapter is its base model with the adapter merged into it. With a lora_rank, all
    weights are frozen but those of an adapter of that rank: the folder's, or a new one drawn with `seed`.
    Weights are read from safetensors only. Raises ValueError with one line that says what is wrong.
    """
    if name == "toy":
        from tasks import toy, toy_model

        def render(tokenizer, text, meta):
            return encode(tokenizer, meta_messages(text, toy.BUDGET) if meta else solution_messages(text))
        # Two threads do the warm-up in three quarters of the time, bit for bit. They make sampling from so
        # small a model slower, and much slower on a busy machine, since threads that wait spin.
        torch.set_num_threads(min(2, torch.get_num_threads()))
        model, tokenizer = toy_model.load(PHRASES, render)
        if torch.device(device).type == "cpu":
            torch.set_num_threads(1)
        return model.to(device), tokenizer
    check_name(name, lora_rank)
    base = base_of(name)
    source, words = base or name, name if any(Path(name).glob("tokenizer*")) else base or name
    try:
        config = without_noise(AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code))
        if type(config) not in AutoModelForCausalLM._model_mapping and not trust_remote_code:
            raise ValueError(f"it is of type {config.model_type!r}, which is no causal language model")
        tokenizer = AutoTokenizer.from_pretrained(words, trust_remote_code=trust_remote_code)
        model, report = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True,
            trust_remote_code=trust_remote_code)
        if base:
            load_adapter(model, name, lora_rank)
        elif lora_rank:
            add_adapter(model, name, lora_rank, seed)
        check(model.to(device), tokenizer, sorted(report["missing_keys"]))
    except Exception as error:              # no such model, unknown type, damaged weights, no network
        raise ValueError(f"model {name} cannot be loaded: {one_line(error)}") from None
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
def check(model, tokenizer, missing):
    """Raises ValueError if this cannot be a policy. missing: names of weights that its checkpoint lacks."""
    kinds = " ".join(model.config.architectures or ["something else"])
    if missing or "Classification" in kinds:
        lost = f", without weights for {missing[0]}" if missing else ""
        raise ValueError(f"it is no language model but {kinds}{lost}")
    if tokenizer.eos_token_id is None and model.generation_config.eos_token_id is None:
        raise ValueError("neither tokenizer nor generation config has a token that ends a text (eos_token)")
    asked, blank = ([encode(tokenizer, chat) for chat in (solution_messages(text), meta_messages(text, 100))]
                    for text in ("1 + 2", ""))
    if asked[0] == blank[0] or asked[1] == blank[1]:
        raise ValueError("its chat template, or its tokenizer, makes the same prompt of every problem")

    rows, ids = len(model.get_input_embeddings().weight), torch.arange(8, device=model.device)[None]
    if (tokenizer.pad_token_id or 0) >= rows:
        tokenizer.pad_token = None                              # then another token pads
    control = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}   # in no problem
    used = {*tokenizer.get_vocab().values()} - control | {*asked[0], *asked[1], tokenizer.eos_token_id or 0}
    if max(used) >= rows:
        raise ValueError(f"{max(used) + 1} tokens in its tokenizer, {rows} in its embedding: resize that")

    batch = ids[:, :3], ids[:, :3] > 1, ids[:, 3:], ids[:, 3:] > 1          # the first two tokens are padding
    model.train()
    logprobs, again = token_logprobs(model, *batch)[0], token_logprobs(model, *batch)[0]
    model.eval()
    own = model(input_ids=ids[:, 2:], attention_mask=ids[:, 2:] > 1).logits[:, :-1].log_softmax(-1)
    if not torch.allclose(logprobs, again, rtol=0, atol=1e-3):
        raise ValueError("two passes in train mode differ: set its dropout to 0 in config.json or "
                         "adapter_config.json")
    if not torch.allclose(logprobs, own.gather(2, ids[:, 3:, None])[..., 0], rtol=0, atol=1e-3):
        raise ValueError("it ignores padding, or changes its LM head's logits in a way unknown to grpo.py")


def pick_device(name):
    """The torch.device of --device; raises ValueError if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name != "auto" and (not there.get(name.partition(":")[0]) or not re.fullmatch(r"\w+(:\d+)?", name)):
        found = ", ".join(n for n in there if there[n])
        raise ValueError(f"--device {name} is not available here; there is {found}")
    return torch.device(next(n for n in there if there[n]) if name == "auto" else name)


def memory_of(device):
    """Bytes of memory of a device, used or not; inf where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):               # Windows
        return float("inf")


def tokens_at_once(given, device):
    """The value of --max-tokens where none is `given`: on a CPU 262,144 may take 12 GB of cache and more."""
    return given or (262_144 if device.type == "cuda" else 32_768)


def check_size(name, config, device, bytes_each, what):
    """Refuses, with a ValueError of one line, a model that is too large for the machine. Reads no weights.

    bytes_each: how many the device needs for a parameter, and `what` for: 16 for training, 2 or 4 for
    sampling. Main memory needs 4, since `load_policy` reads all weights in float32.
    """
    if name == "toy":
        return
    try:
        shape = AutoConfig.from_pretrained(base_of(name) or name, trust_remote_code=config.trust_remote_code)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(shape).parameters())
    except Exception:           # load_policy will say what is wrong with it
        return
    if device.type == "cpu" and parameters > LARGE and config.device != "cpu":      # else it was asked for
        raise ValueError(f"{name} has {parameters / 1e9:.1f} billion parameters and there is no GPU: "
                         "choose a smaller model, or add --device cpu and have patience")
    for place, each, why in ((device, bytes_each, what), (torch.device("cpu"), 4, "loading its weights")):
        size, memory = parameters * each, memory_of(place)
        if size > 0.9 * memory:
            raise ValueError(f"{name} needs {size / 2**30:.0f} GiB for {why} ({each} bytes for each of "
                             f"{parameters / 1e9:.1f} billion parameters), and there are "
                             f"{memory / 2**30:.0f}: choose a smaller model")


def keep_fitting(problems, tokenizer, longest, budget, thinking=False):
    """The problems without control tokens whose meta prompts (the longest) take at most `longest` tokens.

    They name `budget`, that of a solution. Says how many problems are left out.
    """
    control, overhead = control_tokens(tokenizer), len(encode(tokenizer, meta_messages("", budget), thinking))
    clean = [problem for problem in problems if not any(token in problem.text for token in control)]
    kept = [problem for problem in clean
            if overhead + len(problem.text.encode()) <= longest             # a token is a byte or more
            or len(encode(tokenizer, meta_messages(problem.text, budget), thinking)) <= longest]
    if len(kept) < len(problems):
        print(f"{len(problems) - len(kept)} of {len(problems)} problems left out: {len(clean) - len(kept)} "
              f"with prompts over {longest} tokens, {len(problems) - len(clean)} with control tokens in them")
    return kept


def room(model, name, max_new_tokens, max_meta_tokens, hints):
    """The most tokens a prompt may have, so that what follows fits. Raises ValueError for no room."""
    longest = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    left = longest - max(max_new_tokens + hints * max_meta_tokens, max_meta_tokens)
    if left < 1:
        raise ValueError(f"{name} reads at most {longest} tokens: lower --max-new-tokens (now "
                         f"{max_new_tokens}) or --max-meta-tokens (now {max_meta_tokens})")
    return left
