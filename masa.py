r"""MASA: meta-awareness via self-alignment (arXiv 2510.03259), from scratch.

    python masa.py                                  the whole method on a laptop, in minutes, nothing downloaded
    python masa.py --algo grpo                      the same without meta predictions: plain GRPO
    python masa.py --model Qwen/Qwen3-1.7B          any causal language model of the hub, on one GPU

For every problem the policy writes G solutions and, on a second path, M predictions of how its solutions will
go: pass rate, length, concepts. A prediction is rewarded for agreeing with the policy's own solutions, and one
GRPO update trains both paths, each compared within its own group. Left out of GRPO, as in the paper: the KL
penalty (--beta brings it back), the value model, any reward for format. Start reading at `train`.
"""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")     # a waiting thread must not spin on a core that others need
if not sys.stdout.isatty():
    os.environ.setdefault("TQDM_MININTERVAL", "15")     # a log file needs no line per step

import dataclasses
import functools
import random
import time

import torch
from tqdm import tqdm

from config import parse_config
from data import draw, load_problems
from eval import evaluate, summarise
from grader import grade
from grpo import group_advantages, grpo_loss, loss_total, token_logprobs
from policy import load_policy, pick_device, precision
from report import Reporter, one_of_each, plot_awareness, plot_curves, print_rollouts, print_table
from rewards import meta_rewards, parse_meta
from rollout import concat, encode, generate, meta_messages, solution_messages
from run_folder import RunFolder, StopRequest


def train(config):
    """Train as the flags say; the body of the loop is Algorithm 1 of the paper. Returns the RunFolder."""
    device = pick_device(config.device)
    run = RunFolder(config.output, dataclasses.asdict(config), config.resume)
    checkpoint = run.load_trainer() if config.resume else None
    problems, held_out = read_problems(config)                  # first, since mistakes show before long work
    load = functools.partial(load_policy, device=device, trust_remote_code=config.trust_remote_code)
    policy, tokenizer = load(run.checkpoint if checkpoint else config.model)
    reference = load(config.model)[0].eval() if config.beta else None
    problems, held_out = (keep_fitting(part, policy, tokenizer, config) for part in (problems, held_out))
    if len(problems) < config.problems_per_step:
        raise ValueError(f"{config.data} leaves {len(problems)} problems to train on, fewer than --problems-per-step "
                         f"{config.problems_per_step}; {len(held_out)} are held out")
    if config.gradient_checkpointing or config.gradient_checkpointing is None and device.type == "cuda":
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    state = {"step": 0, "tokens": 0, "seconds": 0.0}
    if checkpoint:
        optimizer.load_state_dict(checkpoint["optimizer"])
        state = checkpoint["state"]
    run.rewind(state["step"])

    def examine(description):
        """Records of the held-out problems, drawn with the same numbers every time."""
        torch.manual_seed(config.seed)
        with precision(device, config.bf16):
            return evaluate(policy, tokenizer, held_out, config.eval_samples, config.eval_samples,
                            config.max_new_tokens, config.max_meta_tokens, config.temperature,
                            thinking=config.thinking, max_tokens=config.max_tokens, description=description)

    def save():
        run.save(policy, tokenizer, {"optimizer": optimizer.state_dict(), "state": state})

    if held_out and not checkpoint:
        run.write_json("before.json", examine("before training"))
        print_table({"before": run.read_json("before.json")})
    stop, reporter = StopRequest(), Reporter(config.report_to, run.path, dataclasses.asdict(config))
    bar = tqdm(total=config.steps, initial=state["step"], desc=config.algo, unit="step", file=sys.stdout,
               dynamic_ncols=True)

    while state["step"] < config.steps and not stop.requested:
        step, started = state["step"], time.perf_counter()
        torch.manual_seed(1_000_003 * config.seed + step)       # a resumed step draws what it would have drawn
        batch = draw(problems, step * config.problems_per_step, config.problems_per_step, config.seed)

        # 1. Roll out: G solutions of every problem, and M predictions of how they will go.
        with precision(device, config.bf16):
            solutions = roll_out(policy, tokenizer, batch, "solution", config)
            metas = roll_out(policy, tokenizer, batch, "meta", config) if config.algo != "grpo" else None
        generate_seconds = time.perf_counter() - started

        # 2. Reward solutions for being right, and predictions for agreeing with the solutions.
        correct = [grade(text, batch[row // config.group_size].answer) for row, text in enumerate(solutions.texts)]
        aligned = self_alignment(batch, solutions, correct, metas, config) if metas else []

        # 3. Compare within each path's own groups, and take one GRPO step on both together.
        rewards = {"solution": torch.tensor(correct, dtype=torch.float)}
        advantages = [group_advantages(rewards["solution"], config.group_size)]
        if metas:
            rewards["meta"] = torch.tensor([sum(terms.values()) / 3 for terms in aligned])
            advantages.append(group_advantages(rewards["meta"], config.meta_group_size))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        rollouts = concat([solutions, metas]) if metas else solutions
        metrics = update(policy, reference, optimizer, rollouts, torch.cat(advantages), config)

        # 4. Report and keep.
        seconds = time.perf_counter() - started
        tokens = sum(rollouts.lengths)
        state = {"step": step + 1, "tokens": state["tokens"] + tokens, "seconds": state["seconds"] + seconds}
        metrics |= path_metrics(solutions, rewards["solution"], config.group_size, "")
        if metas:
            metrics |= path_metrics(metas, rewards["meta"], config.meta_group_size, "meta/")
            metrics |= {f"meta/reward/{name}": sum(terms[name] for terms in aligned) / len(aligned)
                        for name in aligned[0]}
        if held_out and config.eval_every and (step + 1) % config.eval_every == 0 and step + 1 < config.steps:
            metrics |= {f"eval/{name}": value for name, value in summarise(examine("held-out problems")).items()}
        metrics |= {"learning_rate": optimizer.param_groups[0]["lr"], "tokens_total": state["tokens"],
                    "tokens_per_second": tokens / seconds, "seconds": seconds, "seconds/generate": generate_seconds,
                    "seconds_total": state["seconds"]}
        run.append("metrics.jsonl", {"step": step} | metrics)
        reporter.log(metrics, step)
        bar.set_postfix_str(f"accuracy {metrics['reward']:.2f}, meta reward {metrics.get('meta/reward', 0):.2f}, "
                            f"{tokens / seconds:,.0f} tokens/s", refresh=False)
        bar.update()
        if config.show_every and step % config.show_every == 0:
            row = {"step": step} | one_of_each(batch, solutions, correct, metas, aligned)
            run.append("rollouts.jsonl", row)
            print_rollouts(row, bar)
        if config.checkpoint_every and (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
            save()
    bar.close()
    stop.restore()
    save()
    if state["step"] < config.steps:
        print(f"Stopped after {state['step']} of {config.steps} steps. Go on with the same command and --resume")
    else:
        if held_out:
            run.write_json("after.json", examine("after training"))
            tables = {name: run.read_json(f"{name}.json") for name in ("before", "after")}
            print_table(tables)
            plot_awareness(tables, run.path / "awareness.png")
        plot_curves(run.read("metrics.jsonl"), run.path / "curves.png", f"{config.algo} on {config.model}")
        print(f"{config.steps} steps, {state['tokens']:,} tokens and {state['seconds']:.0f} seconds of training. "
              f"Metrics, pictures and the checkpoint are in {run.path}/")
    return run


# --- The parts of a step ----------------------------------------------------------------------------------

def roll_out(policy, tokenizer, problems, path, config):
    """Sample each problem's group on one path ("solution" or "meta"): Rollouts of N * G or N * M rows."""
    solving = path == "solution"
    size, budget = ((config.group_size, config.max_new_tokens) if solving
                    else (config.meta_group_size, config.max_meta_tokens))
    prompts = [encode(tokenizer, solution_messages(problem.text) if solving
                      else meta_messages(problem.text, config.max_new_tokens), config.thinking)
               for problem in problems]
    return generate(policy, tokenizer, [prompt for prompt in prompts for _ in range(size)], budget,
                    config.temperature, max_tokens=config.max_tokens)


def self_alignment(problems, solutions, correct, metas, config):
    """The three rewards of each meta rollout, from the solutions of the same problem: N * M dicts."""
    aligned = []
    for row, text in enumerate(metas.texts):
        i = row // config.meta_group_size
        group = slice(i * config.group_size, (i + 1) * config.group_size)
        aligned.append(meta_rewards(parse_meta(text), problems[i].text, solutions.texts[group],
                                    solutions.lengths[group], correct[group], config.notion_variant))
    return aligned


def update(policy, reference, optimizer, rollouts, advantages, config):
    """The GRPO update on B rollouts with advantages [B]: one optimiser step, unless more are asked for.

    Rows of zero advantage have no gradient and are not computed, but they count in the denominator of the loss.
    Returns the metrics of the update.
    """
    device, lengths = policy.device, rollouts.lengths
    widths = (rollouts.prompt_mask.sum(1) + rollouts.mask.sum(1)).tolist()

    def micro_batches(rows):
        """Lists of rows of similar length and non-zero advantage, of at most micro_batch_tokens with padding."""
        batch = []
        for row in sorted((row for row in rows if advantages[row] != 0), key=lambda row: widths[row]):
            if batch and (len(batch) + 1) * widths[row] > config.micro_batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def logprobs_of(model, part):
        with precision(device, config.bf16):
            return token_logprobs(model, part.prompt_ids, part.prompt_mask, part.completion_ids, part.mask,
                                  config.temperature)

    @torch.no_grad()
    def frozen_logprobs(model):
        result = torch.zeros(rollouts.mask.shape, device=device)
        for batch in micro_batches(range(len(rollouts))):
            logprobs, _ = logprobs_of(model, rollouts.select(batch))
            result[batch, :logprobs.shape[1]] = logprobs
        return result

    policy.train()
    updates = config.inner_epochs * config.minibatches
    old = frozen_logprobs(policy) if updates > 1 else None          # a single update is on policy: the ratio is 1
    ref = frozen_logprobs(reference) if reference else None
    sums, loss_sum, norm_sum, tokens = {}, 0.0, 0.0, 0
    for _ in range(config.inner_epochs):
        order = torch.randperm(len(rollouts)).tolist()
        for k in range(config.minibatches):
            rows = order[k::config.minibatches]
            total = loss_total([lengths[row] for row in rows], config.aggregation, config.max_new_tokens)
            for batch in micro_batches(rows):
                part = rollouts.select(batch)
                logprobs, entropy = logprobs_of(policy, part)
                width = logprobs.shape[1]
                loss, counts = grpo_loss(
                    logprobs, logprobs.detach() if old is None else old[batch, :width], advantages[batch].to(device),
                    part.mask, total, config.clip_low, config.clip_high, config.aggregation, config.beta,
                    None if ref is None else ref[batch, :width])
                loss.backward()
                counts["entropy"] = (entropy * part.mask).sum()
                sums = {name: sums.get(name, 0.0) + count.item() for name, count in counts.items()}
                loss_sum += loss.item()
                tokens += int(part.mask.sum())
            norm_sum += float(torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm))
            optimizer.step()
            optimizer.zero_grad()
    return {"loss": loss_sum / updates, "grad_norm": norm_sum / updates,
            **{name.replace("clip_", "clip_ratio/"): count / max(tokens, 1) for name, count in sums.items()}}


def path_metrics(rollouts, rewards, group_size, prefix):
    """What is logged of one path; `rewards` [N * group_size]."""
    groups = rewards.view(-1, group_size)
    lengths = rollouts.lengths
    return {f"{prefix}reward": rewards.mean().item(),
            f"{prefix}frac_reward_zero_std": (groups.amax(1) == groups.amin(1)).float().mean().item(),
            f"{prefix}completions/mean_length": sum(lengths) / len(lengths),
            f"{prefix}completions/max_length": max(lengths),
            f"{prefix}completions/clipped_ratio": 1 - rollouts.finished.float().mean().item(),
            f"{prefix}tokens": sum(lengths)}


# --- Setting up -------------------------------------------------------------------------------------------

def read_problems(config):
    """Problems to train on, and held-out ones: two lists."""
    problems = load_problems(config.data, config.data_split)
    if config.data == "toy" or config.eval_data:
        return problems, load_problems(config.eval_data or "toy", "test")[:config.eval_problems]
    random.Random(0).shuffle(problems)                          # the same are held out whatever the seed
    return problems[config.eval_problems:], problems[:config.eval_problems]


def keep_fitting(problems, policy, tokenizer, config):
    """The problems whose prompts are short enough and hold no control tokens; says how many are left out.

    Raises ValueError if prompt and budget together are longer than the policy can read.
    """
    longest = getattr(policy.config, "max_position_embeddings", None)
    if longest and config.max_prompt_tokens + max(config.max_new_tokens, config.max_meta_tokens) > longest:
        raise ValueError(f"{config.model} reads at most {longest} tokens: lower --max-prompt-tokens (now "
                         f"{config.max_prompt_tokens}) or --max-new-tokens (now {config.max_new_tokens})")

    def tokens(text):           # the meta prompt is the longest one
        return len(encode(tokenizer, meta_messages(text, config.max_new_tokens), config.thinking))

    overhead = tokens("")
    fits = [len(problem.text.encode()) + overhead <= config.max_prompt_tokens           # a token is a byte or more
            or tokens(problem.text) <= config.max_prompt_tokens for problem in problems]
    plain = [not any(token in problem.text for token in tokenizer.all_special_tokens) for problem in problems]
    kept = [problem for problem, short, clean in zip(problems, fits, plain) if short and clean]
    if len(kept) < len(problems):
        print(f"{len(problems) - len(kept)} of {len(problems)} problems left out: {fits.count(False)} with prompts "
              f"over {config.max_prompt_tokens} tokens, {plain.count(False)} with control tokens in them")
    return kept


def main(arguments=None):
    try:
        config = parse_config(arguments)
        train(config)
    except (ValueError, OSError) as error:
        sys.exit(f"masa.py: {error}")


if __name__ == "__main__":
    main()
