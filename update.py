"""One GRPO update on a batch of rollouts: micro-batches, optimiser steps, and what is logged of them."""

import math

import torch

import parallel
from grpo import grpo_loss, loss_total, token_logprobs
from lab.policy import precision


def update(policy, reference, optimizer, rollouts, advantages, config, weight=1.0):
    """Train `policy` on B Rollouts with advantages [B]; `reference` is needed for config.beta > 0.

    One optimiser step, unless config.inner_epochs or config.minibatches ask for more. Rows of zero advantage have
    no gradient but that of the KL penalty, and are not computed without it; but they count in the denominator of
    the loss, which `weight` multiplies: a batch of which a part was skipped weighs as if that part had been there
    with zero advantages. If a gradient is not finite the optimiser step is left out, and grad_norm says so. Returns
    the metrics of the update; where there was such a gradient, under "not_finite" the rows that it came from.
    """
    device, lengths = policy.device, rollouts.lengths
    policy.train()
    updates = config.inner_epochs * config.minibatches
    active = [row for row in range(len(rollouts)) if config.beta or advantages[row] != 0]
    mine = parallel.share(sorted(active, key=lambda row: lengths[row]))
    old = ref = None
    if updates > 1:                                             # a single update is on policy: the ratio is 1
        old = frozen_logprobs(policy, rollouts, mine, config)
    if config.beta:
        ref = frozen_logprobs(reference, rollouts, mine, config)
    sums = dict.fromkeys(["clip_low", "clip_high", "entropy", "sampling/logp_difference", *["kl"] * (config.beta > 0)], 0)
    loss_sum, norm_sum, tokens, used, computed = 0.0, 0.0, 0, 0, 0
    suspects = set()
    for _ in range(config.inner_epochs):
        order = torch.randperm(len(rollouts)).tolist()
        for k in range(config.minibatches):
            rows = order[k::config.minibatches]
            total = weight * loss_total([lengths[row] for row in rows], config.aggregation, config.max_new_tokens)
            for batch in rollouts.micro_batches(set(rows) & set(mine), config.micro_batch_tokens):
                part = rollouts.select(batch)
                logprobs, entropy = logprobs_of(policy, part, config)
                width = logprobs.shape[1]
                before = logprobs.detach() if old is None else old[batch, :width]
                loss, counts = grpo_loss(
                    logprobs, before, advantages[batch].to(device), part.mask, total, config.clip_low, config.clip_high,
                    config.aggregation, config.beta, None if ref is None else ref[batch, :width])
                loss.backward()
                counts["entropy"] = (entropy * part.mask).sum()
                counts["sampling/logp_difference"] = ((before - part.logprobs).abs() * part.mask).sum()
                sums = {name: count + counts[name].item() for name, count in sums.items()}
                loss_sum += loss.item()
                suspects.update([] if math.isfinite(loss.item()) else batch)
                tokens += int(part.mask.sum())
                used += int(part.prompt_mask.sum()) + int(part.mask.sum())
                computed += part.prompt_mask.numel() + part.mask.numel()
            norm_sum += apply_gradients(policy, optimizer, config.max_grad_norm)
    not_finite = {}
    if not math.isfinite(norm_sum):
        flags = parallel.add([row in suspects for row in range(len(rollouts))])
        rows = [row for row, flag in enumerate(flags) if flag]
        not_finite = {"not_finite": rows or active}             # or: finite losses, whose gradients add up to inf
    loss_sum, tokens, used, computed, *counts = parallel.add([loss_sum, tokens, used, computed, *sums.values()])
    sums = dict(zip(sums, counts)) if tokens else {}
    return {"loss": loss_sum / updates, "grad_norm": norm_sum / updates, "padding": 1 - used / max(computed, 1),
            **{name.replace("clip_", "clip_ratio/"): count / max(tokens, 1) for name, count in sums.items()}, **not_finite}


class OffloadedAdamW(torch.optim.AdamW):
    """AdamW on the CPU for parameters elsewhere: on the card are only weights and gradients, 8 bytes per parameter.

    It steps on copies of the parameters, and the same numbers come out as from an AdamW on the CPU alone.
    """

    def __init__(self, parameters, **settings):
        self.elsewhere = list(parameters)
        self.copies = [p.detach().to("cpu", copy=True) for p in self.elsewhere]
        super().__init__(self.copies, **settings)

    @torch.no_grad()
    def step(self):
        for copy, parameter in zip(self.copies, self.elsewhere):
            copy.grad = None if parameter.grad is None else parameter.grad.to("cpu")
        super().step()
        for copy, parameter in zip(self.copies, self.elsewhere):
            parameter.copy_(copy)

    def zero_grad(self):
        super().zero_grad()
        for parameter in self.elsewhere:
            parameter.grad = None


def imitate(policy, optimizer, rollouts, updates, learning_rate, config):
    """Supervised updates on B Rollouts, each on all of them: the mean loss per token (nats) before the last one.

    The optimiser is the policy's, with a learning rate of its own. nan if a gradient was not finite; that update is
    left out.
    """
    finite = True
    policy.train()
    tokens = int(rollouts.mask.sum())
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    for _ in range(updates):
        loss_sum = 0.0
        for batch in rollouts.micro_batches(parallel.share(range(len(rollouts))), config.micro_batch_tokens):
            part = rollouts.select(batch)
            logprobs, _ = logprobs_of(policy, part, config)
            loss = -(logprobs * part.mask).sum() / tokens
            loss.backward()
            loss_sum += loss.item()
        finite &= math.isfinite(apply_gradients(policy, optimizer, config.max_grad_norm))
    return parallel.add([loss_sum])[0] if finite else math.nan


def logprobs_of(model, part, config):
    """`token_logprobs` of some Rollouts in the precision of the run."""
    with precision(model.device, config.bf16):
        return token_logprobs(model, part.prompt_ids, part.prompt_mask, part.completion_ids, part.mask,
                              config.temperature)


@torch.no_grad()
def frozen_logprobs(model, rollouts, rows, config):
    """The log-probabilities of some rows before the update, [B, T]; zero in the others."""
    result = torch.zeros(rollouts.mask.shape, device=model.device)
    for batch in rollouts.micro_batches(rows, config.micro_batch_tokens):
        logprobs, _ = logprobs_of(model, rollouts.select(batch), config)
        result[batch, :logprobs.shape[1]] = logprobs
    return result


def apply_gradients(policy, optimizer, max_grad_norm):
    """Clip, take an optimiser step unless a gradient is not finite, clear. Returns the norm before clipping."""
    parallel.add_gradients(policy)
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm).item()
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm
