r"""MASA: meta-awareness via self-alignment (arXiv 2510.03259), from scratch.

    python masa.py                                  the whole method on a laptop, in minutes, nothing downloaded
    python masa.py --algo grpo                      the same without meta predictions: plain GRPO
    python masa.py --algo masa-efficient            predict first, and solve only what promises to teach something
    python masa.py --model Qwen/Qwen3-1.7B          any causal language model of the hub, on one GPU

For every problem the policy writes G solutions and, on a second path, M predictions of how its solutions will
go: pass rate, length, concepts. A prediction is rewarded for agreeing with the policy's own solutions, and one
GRPO update trains both paths, each compared within its own group. Left out of GRPO, as in the paper: the KL
penalty (--beta brings it back), the value model, any reward for format. Start reading at `train`.
"""

import os
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "1000")     # a waiting thread must not spin for long on a busy core
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")     # growing caches must not fragment a card
if not sys.stdout.isatty():
    os.environ.setdefault("TQDM_MININTERVAL", "15")     # a log file needs no line per step

import dataclasses
import functools
import math
import random
import time

import torch
from tqdm import tqdm

import parallel
from cloning import correct_expert, expert_ids
from collect import Collector
from lab.flags import parse_config
from tasks.problems import ProblemStream, load_problems
from eval import evaluate, summarise
from gating import Audit
from grpo import group_advantages
from lab.policy import check_name, load_policy, pick_device, precision
from lab.report import Reporter, one_of_each, plot_awareness, plot_curves, print_rollouts, print_table
from rewards import meta_rewards
from prompts import keep_fitting
from rollout import as_rollouts, concat
from lab.run import RunFolder, StopRequest
from update import OffloadedAdamW, imitate, update


def train(config):
    """Train as the flags say, in a folder that nobody else may write to meanwhile. Returns the RunFolder."""
    device = parallel.start(pick_device(config.device))
    first = parallel.rank() == 0                                # of several processes one writes; see parallel.py
    with RunFolder(config.output, dataclasses.asdict(config), config.resume, writes=first) as run:
        parallel.wait()
        take_steps(config, run, device, first)
    return run


def take_steps(config, run, device, first):
    """All of a run; the body of its loop is Algorithm 1 of the paper."""
    reporter = Reporter(config.report_to if first else None, run.path, dataclasses.asdict(config))
    checkpoint = run.load_trainer() if config.resume else None
    source = run.checkpoint if checkpoint else config.model
    check_name(source)                                          # first, since mistakes show before long work
    problems, held_out = read_problems(config)
    load = functools.partial(load_policy, device=device, trust_remote_code=config.trust_remote_code)
    policy, tokenizer = load(source)
    parallel.same_weights(policy)
    reference = load(config.model)[0].eval() if config.beta else None
    check_room(policy, config)
    problems, held_out = (keep_fitting(part, tokenizer, config.max_prompt_tokens, config.max_new_tokens,
                                       config.thinking) for part in (problems, held_out))
    if len(problems) < config.problems_per_step:
        raise ValueError(f"{config.data} leaves {len(problems)} problems to train on, fewer than --problems-per-step "
                         f"{config.problems_per_step}; {len(held_out)} are held out")
    if config.gradient_checkpointing or config.gradient_checkpointing is None and device.type == "cuda":
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    fused = device.type == "cuda" or None                       # what is the default there copies all weights for a moment
    adamw = OffloadedAdamW if config.offload_optimizer else functools.partial(torch.optim.AdamW, fused=fused)
    optimizer = adamw(policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    gate_audit, cutoff_audit, experts = Audit(), Audit(), []
    state = {"step": 0, "position": 0, "tokens": 0, "audit_tokens": 0, "seconds": 0.0, "broken": 0}
    if checkpoint:
        run.restore(checkpoint, optimizer=optimizer, gate_audit=gate_audit, cutoff_audit=cutoff_audit)
        state, experts = checkpoint["state"] | {"broken": 0}, checkpoint["experts"]
    fresh, checkpoint = checkpoint is None, None                # its moments would fill the memory for the whole run
    stream = ProblemStream(problems, config.seed, state["position"])
    run.rewind(state["step"])

    def examine(description):
        """Records of the held-out problems, drawn with the same numbers every time."""
        torch.manual_seed(config.seed)
        with precision(device, config.bf16):
            return evaluate(policy, tokenizer, held_out, config.eval_samples, config.eval_samples,
                            config.max_new_tokens, config.max_meta_tokens, config.temperature,
                            thinking=config.thinking, max_tokens=config.max_tokens, description=description)

    def save():
        run.save(policy, tokenizer, {
            "optimizer": optimizer.state_dict(), "state": state, "experts": experts,
            "gate_audit": gate_audit.state_dict(), "cutoff_audit": cutoff_audit.state_dict()})

    if held_out and fresh:
        before = examine("before training")
        run.write_json("before.json", before)
        print_table({"before": before})
    stop = StopRequest()
    bar = tqdm(total=config.steps, initial=state["step"], desc=config.algo, unit="step", file=sys.stdout,
               dynamic_ncols=True)

    while state["step"] < config.steps and state["broken"] < 2 and not any(parallel.add([stop.requested])):
        step, started = state["step"], time.perf_counter()
        torch.manual_seed(1_000_003 * config.seed + step)       # a resumed step draws what it would have drawn
        collector = Collector(policy, tokenizer, config, stream.draw, random.Random(f"{config.seed} {step}"))

        # 1. Roll out: G solutions of every problem, and M predictions of how they will go.
        with precision(device, config.bf16):
            if config.algo == "masa-efficient" and step >= config.gate_start:
                batch = collector.predict_first(gate_audit, cutoff_audit)
            elif config.dynamic_sampling:
                batch = collector.sample_dynamically()
            else:
                batch = collector.solve_all(gate_audit)
        generate_seconds = time.perf_counter() - started

        # 2. Reward solutions for being right, and predictions for agreeing with the solutions.
        rewards = torch.tensor(batch.correct, dtype=torch.float)
        aligned = self_alignment(batch, config) if batch.metas else []

        # 3. Compare within each path's own groups, and take one GRPO step on both together.
        learning_rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        advantages = group_advantages(rewards, config.group_size, ~batch.cut if config.mask_cut else None)
        rollouts, scores = batch.solutions, meta_scores(aligned, config)
        if batch.metas:
            advantages = torch.cat([advantages, group_advantages(scores, config.meta_group_size)])
            rollouts = concat([batch.solutions, batch.metas])
        metrics = update(policy, reference, optimizer, rollouts, advantages, config,
                         weight=config.problems_per_step / len(batch.problems))
        suspects = [batch.problems[i].id for i in problems_of(metrics.pop("not_finite", []), batch, config)]
        if config.algo == "masa-efficient" and config.clone:
            experts += find_experts(tokenizer, batch, aligned, config)
            if len(experts) >= config.clone_size:
                metrics["clone/loss"] = imitate(policy, optimizer, as_rollouts(*zip(*experts), device),
                                                config.clone_updates, config.clone_learning_rate, config)
                experts = []
        broken = not math.isfinite(metrics["grad_norm"] + metrics.get("clone/loss", 0))     # the weights are whole
        if broken:
            bar.write(f"step {step}: a gradient is not finite, that optimiser step is left out. It came from "
                      f"{', '.join(suspects) or 'expert cloning'}", file=sys.stdout)

        # 4. Report and keep.
        seconds, tokens = time.perf_counter() - started, sum(rollouts.lengths) + batch.wasted
        state = {"step": step + 1, "position": stream.position, "tokens": state["tokens"] + tokens,
                 "audit_tokens": state["audit_tokens"] + batch.metrics.get("audit/tokens", 0),
                 "seconds": state["seconds"] + seconds, "broken": state["broken"] + 1 if broken else 0}
        metrics |= batch.metrics | path_metrics(batch.solutions, rewards, config.group_size, "")
        if batch.metas:
            metrics |= path_metrics(batch.metas, scores, config.meta_group_size, "meta/")
            metrics |= {f"meta/reward/{name}": sum(terms[name] for terms in aligned) / len(aligned)
                        for name in aligned[0]}
        if held_out and config.eval_every and (step + 1) % config.eval_every == 0 and step + 1 < config.steps:
            metrics |= {f"eval/{name}": value for name, value in summarise(examine("held-out problems")).items()}
        metrics |= {"learning_rate": learning_rate, "tokens_wasted": batch.wasted,
                    "tokens_total": state["tokens"], "tokens_audit_total": state["audit_tokens"],
                    "tokens_per_second": tokens / seconds, "seconds": seconds, "seconds/generate": generate_seconds,
                    "seconds_total": state["seconds"]}
        run.append("metrics.jsonl", {"step": step} | metrics)
        reporter.log(metrics, step)
        bar.set_postfix_str(f"accuracy {metrics['reward']:.2f}, meta reward {metrics.get('meta/reward', 0):.2f}, "
                            f"{tokens / seconds:,.0f} tokens/s", refresh=False)
        bar.update()
        if config.show_every and step % config.show_every == 0:
            row = {"step": step} | one_of_each(
                batch.problems, batch.solutions, batch.correct, batch.metas, aligned)
            run.append("rollouts.jsonl", row)
            print_rollouts(row, bar)
        if config.checkpoint_every and (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
            save()
    bar.close()
    stop.restore()
    save()
    if state["broken"] == 2:
        raise ValueError("the gradients of two steps in a row were not finite. Try a lower --learning-rate")
    if state["step"] < config.steps:
        print(f"Stopped after {state['step']} of {config.steps} steps. Go on with the same command and --resume")
    else:
        if held_out:
            run.write_json("after.json", examine("after training"))
        evaluations = {when: run.read_json(f"{when}.json") for when in ("before", "after")} if held_out and first else {}
        if evaluations:
            print_table(evaluations)
            plot_awareness(evaluations, run.path / "awareness.png")
        if first:
            plot_curves(run.read("metrics.jsonl"), run.path / "curves.png", f"{config.algo} on {config.model}",
                        evaluations)
        print(f"{state['step']} steps, {state['tokens']:,} tokens and {state['seconds']:.0f} seconds of training. "
              f"Metrics, pictures and the checkpoint are in {run.path}/")


# --- The parts of a step ----------------------------------------------------------------------------------

def self_alignment(batch, config):
    """The three rewards of each prediction, from the solutions of the same problem: N * M dicts."""
    aligned = []
    for i, (problem, predictions) in enumerate(zip(batch.problems, batch.predictions)):
        group = slice(i * config.group_size, (i + 1) * config.group_size)
        aligned += [meta_rewards(prediction, problem.text, batch.solutions.texts[group], batch.solutions.lengths[group],
                                 batch.correct[group], config.notion_variant) for prediction in predictions]
    return aligned


def meta_scores(aligned, config):
    """What each prediction is trained on, [N * M]: the mean of the three rewards, or a control that is asked for."""
    if config.meta_reward in ("length", "difficulty", "notion"):
        return torch.tensor([terms[config.meta_reward] for terms in aligned])
    scores = torch.tensor([sum(terms.values()) / 3 for terms in aligned])
    if config.meta_reward == "shuffled":        # the same rewards, handed to the wrong rollouts of the group
        groups = scores.view(-1, config.meta_group_size)
        return groups.gather(1, torch.rand(groups.shape).argsort(1)).flatten()
    return torch.zeros_like(scores) if config.meta_reward == "none" else scores


def find_experts(tokenizer, batch, aligned, config):
    """The step's experts, as (prompt ids, completion ids); see cloning.py."""
    found = []
    for i, predictions in enumerate(batch.predictions):
        group = slice(i * config.group_size, (i + 1) * config.group_size)
        metas = slice(i * config.meta_group_size, (i + 1) * config.meta_group_size)
        expert = correct_expert(predictions, [terms["notion"] for terms in aligned[metas]],
                                batch.solutions.lengths[group], batch.correct[group])
        if expert:
            prompt = batch.metas.prompt_ids[metas.start][batch.metas.prompt_mask[metas.start]]
            found.append((prompt.tolist(), expert_ids(tokenizer, expert)))
    return found


def problems_of(rows, batch, config):
    """The indices of the problems that some rows of solutions and predictions, in this order, belong to."""
    first_meta = len(batch.solutions)
    return sorted({row // config.group_size if row < first_meta else (row - first_meta) // config.meta_group_size
                   for row in rows})


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
        source = config.eval_data or "toy"
        held_out = load_problems(source, "test", config.eval_problems) if config.eval_problems else []
    else:
        random.Random(0).shuffle(problems)                      # the same are held out whatever the seed
        held_out, problems = problems[:config.eval_problems], problems[config.eval_problems:]
    texts = {problem.text for problem in held_out}
    return [problem for problem in problems if problem.text not in texts], held_out


def check_room(policy, config):
    """Raises ValueError if prompt and budget together are longer than the policy can read."""
    longest = getattr(policy.config, "max_position_embeddings", None)
    budget = max(config.max_new_tokens + config.hints * config.max_meta_tokens, config.max_meta_tokens)
    if longest and config.max_prompt_tokens + budget > longest:
        raise ValueError(f"{config.model} reads at most {longest} tokens: lower --max-prompt-tokens (now "
                         f"{config.max_prompt_tokens}) or --max-new-tokens (now {config.max_new_tokens})")


def main(arguments=None):
    """The command line; `arguments` are those of sys.argv by default. A user's mistake ends in one line."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")       # a model may say what the terminal cannot show
    try:
        config = parse_config(arguments)
        train(config)
    except (ValueError, OSError) as error:
        sys.exit(f"masa.py: {error}")
    except torch.OutOfMemoryError:
        sys.exit("masa.py: out of the card's memory. Lower --max-tokens if it was while sampling, --micro-batch-tokens if "
                 "while training, or add --offload-optimizer, and --resume to go on from the last checkpoint")
    except KeyboardInterrupt:
        sys.exit("masa.py: interrupted. What was saved goes on with the same command and --resume; if that says there "
                 "is nothing to resume, leave it out")


if __name__ == "__main__":
    main()
