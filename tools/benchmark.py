"""Memory and speed within one run, by hand; the first five compare what we do with the alternative.

    python tools/benchmark.py memory      the LM head in chunks, or at once: forward and backward of the loss
    python tools/benchmark.py step        a MASA step by masa.py, or by TRL and examples/masa_trl.py: of the
                                          toy model, or of --model with 48 tokens in every rollout
    python tools/benchmark.py leaving     finished rows leave the batch, or wait for its longest row
    python tools/benchmark.py prefill     a prompt is read once per problem, or once per row
    python tools/benchmark.py adapter     updates of a LoRA adapter of --model, or of all its weights
    python tools/benchmark.py engines     tokens per second of three ways to generate
    python tools/benchmark.py steps       seconds, tokens per second and peak memory of whole steps

All but `step` and `adapter` need neither weights nor data: the model is a random Qwen3 (on a CPU add --shape
small), 16 prompts are random ids with 8 rows each, a completion takes its budget, `leaving` 1 to --tokens.
"""

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from types import SimpleNamespace
from unittest.mock import patch

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "examples")]
import masa  # isort: skip  (it sets what torch reads when it is loaded)
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

import grpo
import rollout
from lab.adapter import halve_frozen
from lab.flags import Config
from lab.policy import load_policy

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
V = 151_936             # the vocabulary of Qwen3: beyond all tokens, so that none ends a completion
TOKENIZER = SimpleNamespace(pad_token_id=0, eos_token_id=V, batch_decode=lambda rows, **_: len(rows) * [""])
SHAPES = {"qwen3-1.7b": (V, 2048, 28, 16), "small": (8192, 512, 8, 4), "head": (V, 64, 1, 2)}


def make(shape):
    """A random model, in float32."""
    torch.manual_seed(0)
    vocabulary, hidden, layers, heads = SHAPES[shape]
    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2, tie_word_embeddings=True)).to(DEVICE)


def prompts_of(count, longest, rows=1):
    """Random ids: `count` prompts of half of `longest` to `longest` tokens, each `rows` times."""
    lengths = torch.randint(longest // 2, longest + 1, (count,)).tolist()
    return [ids for n in lengths for ids in [torch.randint(1, 8192, (n,)).tolist()] * rows]


def generate(model, prompts, budgets):      # as masa.py does
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=CUDA):
        return rollout.generate(model, TOKENIZER, prompts, budgets, max_tokens=262_144)


def measure(function, *arguments, **settings):
    """What a call returns, its seconds, and the peak of this process in MB: of the card, or resident."""
    started, result = time.perf_counter(), function(*arguments, **settings)
    if CUDA:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_reserved() if CUDA else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    return result, time.perf_counter() - started, peak / 2**20


def compare(case, flags):
    """Seconds and MB of case(flags, False), ours, and of case(flags, True), each in a process of its own."""
    ratios = []
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as children:
        for _ in range(flags.repeats):
            found = list(children.map(case, [flags] * 2, [False, True]))
            print("ours {:.2f} s, {:,.0f} MB; other {:.2f} s, {:,.0f} MB".format(*found[0], *found[1]))
            ratios.append([ours / other for ours, other in zip(*found)])
    print("{:.2f} of the seconds, {:.2f} of the memory".format(*map(statistics.median, zip(*ratios))))


def memory(flags, other):
    model, _, loaded = measure(make, "head")
    ids = torch.randint(V, (8, flags.tokens // 8), device=DEVICE)
    mask, chunk = torch.ones_like(ids, dtype=torch.bool), flags.tokens if other else 512
    at_once = patch.object(grpo, "checkpoint", lambda head, *inputs, use_reentrant: head(*inputs))
    with at_once if other else nullcontext():
        _, seconds, most = measure(lambda: grpo.token_logprobs(
            model, ids[:, :1], mask[:, :1], ids, mask, chunk=chunk)[0].sum().backward())
    return seconds, most - loaded


def endless(name, folder):
    """Save a copy of a policy that never ends a text: its end is a new token, which it does not write."""
    model, tokenizer = load_policy(name)
    tokenizer.add_special_tokens({"eos_token": "<never>"})
    end = tokenizer.eos_token_id
    model.resize_token_embeddings(max(end + 1, model.vocab_size), mean_resizing=False)
    with torch.no_grad():               # its logit is 0, where those of tokens that are written are over 10
        model.get_output_embeddings().weight[end] = 0
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def step(flags, other):
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, steps = "--minibatches 1", "", 8
        if flags.model:                 # the same number of tokens on both sides
            endless(flags.model, f"{folder}/model")
            ours = (f"--model {folder}/model --data {flags.data} --max-new-tokens 48 --max-meta-tokens 48 "
                    "--max-prompt-tokens 512 --problems-per-step 4 --group-size 8 --meta-group-size 8")
            theirs, steps = (f"--model {folder}/model --data {flags.data} --max_completion_length 48 "
                             "--per_device_train_batch_size 64"), 2
        if other:
            import masa_trl
            given = f"--max_steps {steps} --use_cpu {not CUDA} --bf16 {CUDA} --output_dir {folder} {theirs}"
            trained, _, most = measure(masa_trl.main, given.split())
            return trained.metrics["train_runtime"] / steps, most
        config = Config.parse(f"--steps {steps} --eval-problems 0 --output {folder}/run {ours}".split())
        run, _, most = measure(masa.train, config)
        print(f"{run.state['tokens'] / steps:,.0f} tokens sampled per step")
        return run.state["seconds"] / steps, most


def sample(flags, other):
    model, prompts, budgets = make(flags.shape), prompts_of(16, flags.prompt, rows=8), [flags.tokens] * 128
    patched = patch.object(torch, "unique", lambda rows, **_: (rows, torch.arange(len(rows), device=DEVICE)))
    if flags.command == "leaving":
        budgets = torch.randint(1, flags.tokens + 1, (128,)).tolist()
        patched = patch.object(rollout, "STRIDE", flags.tokens)
    with patched if other else nullcontext():
        generate(model, prompts[:2], [2, 1])                                    # not counted
        return measure(generate, model, prompts, budgets)[1:]


def adapter(flags, other):
    """Two updates with 8 rows of 32 prompt tokens and --tokens / 8 completion tokens, loading not counted."""
    _, _, before = measure(int)                                                 # of the libraries
    model = load_policy(flags.model, DEVICE, lora_rank=0 if other else flags.rank)[0]
    trained, started = [w for w in model.parameters() if w.requires_grad], time.perf_counter()
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    half = CUDA or flags.bf16
    if half:
        halve_frozen(model)
    ids = torch.randint(8192, (8, 32 + flags.tokens // 8), device=DEVICE)
    mask, advantages = torch.ones_like(ids, dtype=torch.bool), torch.tensor([1.0, -1.0] * 4, device=DEVICE)
    rollouts = ids[:, :32], mask[:, :32], ids[:, 32:], mask[:, 32:]
    for _ in range(2):
        _, _, most = measure(grpo.update, model, optimizer, rollouts, advantages,
                             micro_batch_tokens=flags.micro, dtype=torch.bfloat16 if half else torch.float32)
    return (time.perf_counter() - started) / 2, most - before


def engines(flags):
    model = make(flags.shape)
    sampling = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=flags.tokens,
                    pad_token_id=0, eos_token_id=V)
    static, plain = (GenerationConfig(**sampling, cache_implementation=kind) for kind in ("static", None))

    def static_cache(prompts):
        ids, mask = rollout.pad_rows(prompts, left=True, device=DEVICE)
        model.generate(ids, static, attention_mask=mask.long())

    def continuous_batching(prompts):
        pages = None if CUDA else len(prompts) * (1 + (flags.prompt + flags.tokens) // 256)
        model.generate_batch(prompts, plain, ContinuousBatchingConfig(num_blocks=pages))

    def ours(prompts):
        generate(model, prompts, [flags.tokens] * len(prompts))

    for engine in (ours, static_cache, continuous_batching):
        for count in flags.sequences:
            prompts = prompts_of(count, flags.prompt)
            engine(prompts)                                                     # not counted: it may compile
            rate = count * flags.tokens / measure(engine, prompts)[1]
            print(f"{engine.__name__:20}{count:5} sequences {rate:9,.0f} tokens/s", flush=True)
        model.to(torch.bfloat16 if CUDA else torch.float32)                     # ours gets there by autocast


def steps(flags):
    """masa-efficient skips five problems by their predictions, as in the paper."""
    model, dtype = make(flags.shape), torch.bfloat16 if CUDA else torch.float32
    if CUDA:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=CUDA)
    for name, solved, predicted in (("grpo", 16, 0), ("masa", 16, 16), ("masa-efficient", 11, 16)):
        budgets = [flags.tokens] * 8 * solved + [flags.tokens // 4] * 8 * predicted
        batch, seconds, _ = measure(generate, model, prompts_of(solved + predicted, flags.prompt, 8), budgets)
        advantages = grpo.group_advantages(torch.rand(len(batch)).round(), 8).to(DEVICE)
        _, more, most = measure(grpo.update, model, optimizer, batch.tokens, advantages, dtype=dtype)
        print(f"{name:15}{seconds:7.1f} s for rollouts, {more:.1f} s for the update, "
              f"{sum(batch.lengths) / (seconds + more):,.0f} tokens/s, peak {most:,.0f} MB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = {"memory": partial(compare, memory), "step": partial(compare, step), "engines": engines,
                "leaving": partial(compare, sample), "prefill": partial(compare, sample), "steps": steps,
                "adapter": partial(compare, adapter)}
    parser.add_argument("command", choices=commands)
    parser.add_argument("--shape", choices=["qwen3-1.7b", "small"], default="qwen3-1.7b", help="of the model")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the longest prompts")
    parser.add_argument("--tokens", type=int, default=1024, help="of a completion; with memory: in all")
    parser.add_argument("--sequences", type=int, nargs="+", default=[64, 512], help="with engines: at once")
    parser.add_argument("--model", help="with adapter and step: a folder, or an id of the hub")
    parser.add_argument("--data", default="toy", help="with step and a model: what it solves sometimes")
    parser.add_argument("--rank", type=int, default=16, help="with adapter: R")
    parser.add_argument("--bf16", action="store_true", help="with adapter: in bfloat16 on a CPU, too")
    parser.add_argument("--micro", type=int, default=64, help="with adapter: tokens of a micro-batch")
    parser.add_argument("--repeats", type=int, default=5, help="of a comparison; medians are printed")
    flags = parser.parse_args()
    commands[flags.command](flags)
