"""Engines for rollouts, and the seconds of a training step, on a randomly initialised Qwen3-1.7B. By hand, on a card.

    python tests/benchmark_gpu.py engines        tokens per second of each engine, against the bound of the memory
    python tests/benchmark_gpu.py steps          seconds, tokens per second and peak memory of training steps
    python tests/benchmark_gpu.py engines --shape tiny --sequences 8 --tokens 32           that it runs, on a CPU

Speed needs no weights and no data: the prompts are random ids, and no completion ends before its budget.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from tokenizers import Tokenizer, models

import rollout
from config import Config
from grpo import group_advantages
from policy import pick_device, precision
from rollout import concat
from update import update

SHAPES = {"qwen3-1.7b": dict(vocab_size=151_936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28,
                             num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
          "tiny": dict(vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, head_dim=16)}
PROMPT = 128                # tokens
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
    return torch.randint(1, model.config.vocab_size, (count, PROMPT)).tolist()


def clock(function, device):
    """Seconds of one call, after one that is not counted."""
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def engines(arguments, device):
    """Plain `generate` (ours), a static cache that is compiled, and transformers' continuous batching."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model, tokenizer = make(arguments.shape, device, dtype)
    rollout.eos_ids = lambda *_: [SHAPES[arguments.shape]["vocab_size"] + 1]     # no token ends a completion
    sampling = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=arguments.tokens, pad_token_id=0,
                    eos_token_id=-1)
    for count in arguments.sequences:
        prompts = prompts_of(count, model)
        ids = torch.tensor(prompts, device=device)

        def static():
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=GenerationConfig(
                **sampling, cache_implementation="static"))

        candidates = {
            "plain generate, rows that end leave": lambda: rollout.generate(model, tokenizer, prompts, arguments.tokens),
            "static cache, compiled": static,
            "continuous batching": lambda: model.generate_batch(prompts, GenerationConfig(**sampling))}
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        config = model.config
        per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize
        read = weights + count * per_token * (PROMPT + arguments.tokens / 2)      # bytes for a token of each sequence
        bandwidth = figure_of_card(BANDWIDTH, device)
        for name, function in candidates.items():
            try:
                rate = count * arguments.tokens / clock(function, device)
            except Exception as error:          # an engine that this machine does not have is no reason to stop
                print(f"{count:4} sequences  {name:36} failed: {type(error).__name__}: {str(error)[:100]}", flush=True)
                continue
            share = f", {rate / (count * bandwidth / read):.2f} of the memory bound" if bandwidth else ""
            print(f"{count:4} sequences  {name:36} {rate:9,.0f} tokens/s{share}", flush=True)


def steps(arguments, device):
    """One step of GRPO, MASA and MASA-efficient (a third of the problems skipped), 16 problems, G = M = 8."""
    model, tokenizer = make(arguments.shape, device, torch.float32)
    rollout.eos_ids = lambda *_: [SHAPES[arguments.shape]["vocab_size"] + 1]
    if device.type == "cuda":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    config = Config(minibatches=1, micro_batch_tokens=8192, max_new_tokens=arguments.tokens)
    matmuls, parameters = figure_of_card(MATMULS, device), sum(p.numel() for p in model.parameters())
    for name, solved, predicted in (("grpo", 16, 0), ("masa", 16, 16), ("masa-efficient", 11, 16)):
        def sample():
            with precision(device):
                parts = [rollout.generate(model, tokenizer, prompts_of(8 * n, model), tokens, max_tokens=131_072)
                         for n, tokens in ((solved, arguments.tokens), (predicted, arguments.tokens // 3)) if n]
            return concat(parts)

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        rollouts = sample()
        advantages = group_advantages(torch.rand(len(rollouts)).round(), 8)
        train = clock(lambda: update(model, None, optimizer, rollouts, advantages, config), device)
        generate = clock(sample, device)
        rate = sum(rollouts.lengths) / train
        peak = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if device.type == "cuda" else ""
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
    {"engines": engines, "steps": steps}[arguments.what](arguments, pick_device("auto"))
