"""Engines for rollouts, and the seconds of a training step, on a randomly initialised Qwen3-1.7B. By hand, on a card.

    python tests/benchmark_gpu.py engines        tokens per second of each engine, against the bound of the memory
    python tests/benchmark_gpu.py steps          seconds, tokens per second and peak memory of training steps
    python tests/benchmark_gpu.py engines --shape small --sequences 4 16 64 --tokens 128            on a CPU, 4 minutes

Speed needs no weights and no data: the prompts are random ids, and no completion ends before its budget.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")         # as masa.py does

import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import (ContinuousBatchingConfig, GenerationConfig, PreTrainedTokenizerFast, Qwen3Config,
                          Qwen3ForCausalLM)
from transformers.utils import is_flash_attn_2_available

import rollout
from lab.flags import GPU, Config
from grpo import group_advantages
from lab.policy import pick_device, precision
from rollout import as_rollouts, concat
from update import update

SHAPES = {"qwen3-1.7b": dict(vocab_size=151_936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28,
                             num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
          "small": dict(vocab_size=8192, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
                        num_attention_heads=8, num_key_value_heads=4, head_dim=64),
          "tiny": dict(vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, head_dim=16)}
PROMPT = 128                # tokens of the longest prompts
BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.0e12}       # bytes per second, of the data sheets
MATMULS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}          # bfloat16 operations per second


def figure_of_card(table, device):
    """The entry of this card in a table, or None."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((value for card, value in table.items() if card in name), None)


def make(shape, device, dtype):
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPES[shape], max_position_embeddings=8192, eos_token_id=None,
                                         pad_token_id=0)).to(device, dtype).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>")),
                                        pad_token="<pad>")
    return model, tokenizer


def prompts_of(count, model):
    """Token ids of `count` prompts of 64 to 128 tokens: real batches are padded too."""
    return [torch.randint(1, model.config.vocab_size, (length,)).tolist()
            for length in torch.randint(PROMPT // 2, PROMPT + 1, (count,)).tolist()]


def clock(function, device):
    """Seconds of one call, after one that is not counted."""
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - started


def engines(arguments, device):
    """Plain `generate` as masa.py calls it, a static cache (which cuda compiles), and continuous batching."""
    model, tokenizer = make(arguments.shape, device, torch.float32)
    size, tokens = SHAPES[arguments.shape], arguments.tokens
    rollout.eos_ids = lambda *_: [size["vocab_size"] + 1]               # no token ends a completion
    sampling = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=tokens, pad_token_id=0,
                    eos_token_id=-1)

    def plain(prompts):
        with precision(device):
            rollout.generate(model, tokenizer, prompts, tokens)

    def static(prompts):
        padded = as_rollouts(prompts, prompts, device)
        model.generate(input_ids=padded.prompt_ids, attention_mask=padded.prompt_mask.long(),
                       generation_config=GenerationConfig(**sampling, cache_implementation="static"))

    def continuous(prompts):
        pages = None if device.type == "cuda" else len(prompts) * (1 + (PROMPT + tokens) // 256)    # None: all memory
        outputs = model.generate_batch(prompts, GenerationConfig(**sampling),
                                       ContinuousBatchingConfig(num_blocks=pages, return_logprobs=True))
        assert len(outputs) == len(prompts) and not any(output.error for output in outputs.values())

    flash = "with" if is_flash_attn_2_available() else "without"
    print(f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}, "
          f"transformers {transformers.__version__}, {flash} flash attention, {arguments.shape}, {tokens} tokens")
    bandwidth = figure_of_card(BANDWIDTH, device)
    for name, engine in (("plain generate", plain), ("static cache", static), ("continuous batching", continuous)):
        if device.type == "cuda" and engine is not plain:
            model.bfloat16()                    # plain generate gets there by autocast
        for count in arguments.sequences:
            prompts = prompts_of(count, model)
            torch.cuda.empty_cache()
            try:
                rate = count * tokens / clock(lambda: engine(prompts), device)
            except Exception as error:          # an engine that this machine does not have is no reason to stop
                print(f"{name:20} {count:4} sequences  failed: {type(error).__name__}: {str(error)[:200]}", flush=True)
                continue
            read = bytes_per_token(model, count, tokens, 2 if device.type == "cuda" else 4)
            share = f", {rate / (count * bandwidth / read):.2f} of the memory bound" if bandwidth else ""
            print(f"{name:20} {count:4} sequences  {rate:9,.0f} tokens/s{share}", flush=True)


def bytes_per_token(model, count, tokens, itemsize):
    """What must be read for one more token of each of `count` sequences: the weights, and half-grown caches."""
    config = model.config
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return itemsize * (sum(p.numel() for p in model.parameters()) + count * cache * (PROMPT + tokens / 2))


def steps(arguments, device):
    """One step of GRPO, MASA and MASA-efficient (a third of the problems skipped), 16 problems, G = M = 8."""
    model, tokenizer = make(arguments.shape, device, torch.float32)
    rollout.eos_ids = lambda *_: [SHAPES[arguments.shape]["vocab_size"] + 1]
    if device.type == "cuda":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device.type == "cuda")
    config = Config(minibatches=1, micro_batch_tokens=8192, max_new_tokens=arguments.tokens)
    matmuls, parameters = figure_of_card(MATMULS, device), sum(p.numel() for p in model.parameters())
    for name, solved, predicted in (("grpo", 16, 0), ("masa", 16, 16), ("masa-efficient", 11, 16)):
        def sample():
            with precision(device):
                parts = [rollout.generate(model, tokenizer, prompts_of(8 * n, model), tokens, max_tokens=GPU["max_tokens"])
                         for n, tokens in ((solved, arguments.tokens), (predicted, arguments.tokens // 3)) if n]
            return concat(parts)

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        rollouts = sample()
        advantages = group_advantages(torch.rand(len(rollouts)).round(), 8)
        train = clock(lambda: update(model, None, optimizer, rollouts, advantages, config), device)
        generate = clock(sample, device)
        rate = sum(rollouts.lengths) / train
        peak = (f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB, of the allocator "
                f"{torch.cuda.max_memory_reserved() / 1e9:.1f} GB" if device.type == "cuda" else "")
        share = f" ({6 * parameters * rate / matmuls:.2f} of the matrix-multiply rate)" if matmuls else ""
        print(f"{name:15} {generate + train:7.1f} s per step: rollouts {generate:.1f} s, update {train:.1f} s, "
              f"{rate:,.0f} tokens/s in training{share}{peak}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["engines", "steps"])
    parser.add_argument("--shape", choices=list(SHAPES), default="qwen3-1.7b")
    parser.add_argument("--sequences", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--tokens", type=int, default=1024)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    {"engines": engines, "steps": steps}[arguments.what](arguments, pick_device("auto"))
