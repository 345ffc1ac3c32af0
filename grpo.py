r"""GRPO: group advantages, log-probabilities, the clipped loss, and one update with it.

    A_i    = (r_i - mean(r)) / (std(r) + 1e-6)                        within a group, unbiased std
    rho_t  = pi(o_t | q, o_<t) / pi_sampling(o_t | q, o_<t)           per token
    loss_t = -min(rho_t A, clip(rho_t, 1 - low, 1 + high) A) + beta * k3_t

(DeepSeekMath, arXiv 2402.03300, with DAPO's clip-higher and token mean, arXiv 2503.14476.) MASA uses the same
update for both paths: solutions are compared with solutions of the same problem, meta rollouts with meta
rollouts of the same problem, and neither reward is ever added to the other.

With one optimiser step per batch of rollouts the ratio is exactly 1 and the loss near 0: that is no sign of
trouble, its *gradient* is the policy gradient. Plain values in, plain values out: copy the file as it is.
"""

import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

MAX_GRAD_NORM = 1.0             # the paper's
MAX_GAP = 20.0                  # nats; exp of more, from a token that the policy has all but given up, is inf
Tokens = tuple[Tensor, Tensor, Tensor, Tensor]  # prompt_ids, prompt_mask [B, P], completion_ids, mask [B, T]


class NotFinite(ArithmeticError):
    """A gradient was not finite, and no optimiser step was taken. rows: where it came from."""

    def __init__(self, rows: list[int]):
        super().__init__(f"the gradient of rows {rows} is not finite")
        self.rows = rows


def group_advantages(rewards: Tensor, group_size: int, keep: Tensor | None = None) -> Tensor:
    """Rewards relative to their group, in units of its standard deviation.

    rewards: [N * G], rows i*G to (i+1)*G - 1 being group i. Returns the advantages, [N * G], exactly 0 in a
    group of equal rewards (no rounding noise is blown up) and in a group of one. keep: [N * G] booleans; rows
    where it is False get 0 and have no part in the mean and the standard deviation of their group.

    >>> group_advantages(torch.tensor([1., 0., 0., 1.,   1., 1., 1., 1.]), 4)
    tensor([ 0.8660, -0.8660, -0.8660,  0.8660,  0.0000,  0.0000,  0.0000,  0.0000])
    """
    groups = rewards.float().view(-1, group_size)
    kept = torch.ones_like(groups, dtype=torch.bool) if keep is None else keep.view(-1, group_size)
    count = kept.sum(1, keepdim=True)
    varied = (groups.where(kept, -torch.inf).amax(1) > groups.where(kept, torch.inf).amin(1))[:, None]
    centred = (groups - (groups * kept).sum(1, keepdim=True) / count.clamp(min=1)) * kept
    std = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return torch.where(varied, centred / (std + 1e-6), 0.0).flatten()


def token_logprobs(model: Module, prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor,
                   mask: Tensor, temperature: float = 1.0, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """Log-probability of each completion token and entropy of the distribution it was drawn from.

    prompt_ids, prompt_mask: [B, P], left-padded. completion_ids, mask: [B, T], right-padded, the mask True on
    sampled tokens. Returns two [B, T] tensors in float32, 0 where the mask is False; only the first one
    carries gradients. `temperature` must be the sampler's, or the ratios are not of the policy.

    With a vocabulary of 151,936 the logits of 8,192 tokens take 5 GB, and several copies of them are needed.
    So the LM head is applied to `chunk` tokens at a time, and once more in the backward pass.
    """
    input_ids = torch.cat([prompt_ids, completion_ids], dim=1)
    attention_mask = torch.cat([prompt_mask, mask], dim=1).long()
    position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)         # padding must not shift a position
    hidden = model.base_model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                              use_cache=False).last_hidden_state
    hidden = hidden[:, -completion_ids.shape[1] - 1:-1][mask]     # [tokens, H]; position t predicts t + 1
    parts = [checkpoint(head_logprobs, head_of(model), *part, temperature, use_reentrant=False)
             for part in zip(hidden.split(chunk), completion_ids[mask].split(chunk))]
    logprobs, entropy = (torch.cat(column) for column in zip(*parts))
    empty = torch.zeros(mask.shape, dtype=logprobs.dtype, device=mask.device)
    return empty.masked_scatter(mask, logprobs), empty.masked_scatter(mask, entropy)


def head_of(model: Module):
    """Hidden states [N, H] to logits [N, V]: the LM head, its scale (Cohere, Granite) and cap (Gemma 2)."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    scale = (getattr(config, "logit_scale", None) or 1) / (getattr(config, "logits_scaling", None) or 1)
    cap = getattr(config, "final_logit_softcapping", None)

    def logits(hidden):
        scaled = head(hidden) if scale == 1 else head(hidden) * scale
        return torch.tanh(scaled / cap) * cap if cap else scaled
    return logits


def head_logprobs(lm_head: Module, hidden: Tensor, token_ids: Tensor,
                  temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `token_ids` [N] and entropies [N], float32 or better; hidden: [N, H]."""
    logits = lm_head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    logprobs = logits.log_softmax(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, token_ids[:, None]).squeeze(-1), entropy


def loss_total(lengths: list[int], aggregation: str, max_tokens: int) -> int:
    """The denominator of the loss, from the whole batch, so that no split into micro-batches changes it.

    lengths: tokens of every rollout of the batch, those of zero advantage included.
    "token": the number of tokens; every token weighs the same (DAPO, and the released code of MASA).
    "sequence": the number of rollouts; every rollout weighs the same (the formula of GRPO and of the paper).
    "constant": rollouts times `max_tokens`; long rollouts weigh more (Dr. GRPO, arXiv 2503.20783).
    """
    rows = len(lengths)
    return {"token": sum(lengths), "sequence": rows, "constant": rows * max_tokens}[aggregation]


def grpo_loss(logprobs: Tensor, old_logprobs: Tensor | None, advantages: Tensor, mask: Tensor, total: float,
              clip_low: float = 0.2, clip_high: float = 0.28, aggregation: str = "token", beta: float = 0.0,
              ref_logprobs: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped policy loss of some rows; the sum over all micro-batches is the loss of the batch.

    logprobs, old_logprobs, ref_logprobs: [B, T], under the policy, under the policy that sampled (None: the
    same, so that the ratio is 1), and under the reference (needed if beta > 0). advantages: [B]. mask: [B,
    T]. total: see `loss_total`. Returns the loss (a scalar) and a dict of sums over the tokens of the mask:
    "clip_low" and "clip_high" (tokens whose gradient is clipped away at either bound) and "kl" (k3, an
    estimate of KL(policy || reference) in nats).
    """
    advantages = advantages[:, None]
    old_logprobs = logprobs.detach() if old_logprobs is None else old_logprobs
    ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    losses = -torch.minimum(ratio * advantages, clipped * advantages)
    sums = {"clip_low": ((ratio < 1 - clip_low) & (advantages < 0) & mask).sum(),
            "clip_high": ((ratio > 1 + clip_high) & (advantages > 0) & mask).sum()}
    if beta:
        gap = (ref_logprobs - logprobs).masked_fill(~mask, 0.0).clamp(max=MAX_GAP)
        k3 = gap.exp() - gap - 1        # never negative; unbiased for the policy's own tokens up to the clamp
        losses = losses + beta * k3
        sums["kl"] = (k3 * mask).sum().detach()
    losses = (losses * mask).sum(1)
    if aggregation == "sequence":
        losses = losses / mask.sum(1).clamp(min=1)
    return losses.sum() / max(total, 1), sums


def update(policy: Module, optimizer: Optimizer, rollouts: Tokens, advantages: Tensor, *, epochs: int = 1,
           minibatches: int = 1, weight: float = 1.0, max_tokens: int = 1, aggregation: str = "token",
           beta: float = 0.0, reference: Module | None = None, micro_batch_tokens: int = 8192,
           progress: Callable[[int, int], None] | None = None, temperature: float = 1.0,
           dtype: torch.dtype = torch.float32, **clip: float) -> dict[str, float]:
    """Train `policy` on B rollouts with advantages [B]: epochs * minibatches steps. Returns metrics.

    Rows of zero advantage count in the denominator, which `weight` multiplies, but have no gradient without
    beta and are not computed. micro_batch_tokens: see `forward`; progress: told the rows and the tokens of
    each micro-batch; dtype: of autocast; the rest: of `grpo_loss`. Raises NotFinite in place of an optimiser
    step that would spoil the weights.
    """
    lengths, sums, norms = rollouts[3].sum(1).tolist(), Counter(), []
    active = {row for row, advantage in enumerate(advantages.tolist()) if beta or advantage != 0}
    settings = (micro_batch_tokens, temperature, dtype)
    # With a single optimiser step the policy is still the one that sampled.
    old = frozen_logprobs(policy, rollouts, active, *settings) if epochs * minibatches > 1 else None
    ref = frozen_logprobs(reference, rollouts, active, *settings) if beta else None
    policy.train()
    for _ in range(epochs):
        order = torch.randperm(len(lengths)).tolist()
        for chosen in (order[k::minibatches] for k in range(minibatches)):
            total = weight * loss_total([lengths[row] for row in chosen], aggregation, max_tokens)
            chosen, spoiled = active.intersection(chosen), []
            for rows, logprobs, entropy, mask in forward(policy, rollouts, chosen, *settings):
                before, initial = (x if x is None else x[rows, :mask.shape[1]] for x in (old, ref))
                loss, counts = grpo_loss(logprobs, before, advantages[rows], mask, total, beta=beta,
                                         aggregation=aggregation, ref_logprobs=initial, **clip)
                loss.backward()
                spoiled += [] if loss.isfinite() else rows
                counts |= {"loss": loss.detach(), "entropy": entropy.sum(), "tokens": mask.sum()}
                sums.update({name: count.item() for name, count in counts.items()})
                if progress:
                    progress(len(rows), int(mask.sum()))
            norms.append(apply_gradients(policy, optimizer))
            if not math.isfinite(norms[-1]):        # if all losses are finite, gradients added up to inf
                raise NotFinite(sorted(spoiled or chosen))
    tokens, loss = sums.pop("tokens", 0), sums.pop("loss", 0.0)
    return {"loss": loss / len(norms), "grad_norm": sum(norms) / len(norms),
            **{name.replace("clip_", "clip_ratio/"): count / tokens for name, count in sums.items()}}


def imitate(policy: Module, optimizer: Optimizer, examples: Tokens, updates: int = 1,
            micro_batch_tokens: int = 8192, dtype: torch.dtype = torch.float32) -> float:
    """Next-token prediction on B examples: `updates` optimiser steps, each on all of them.

    Returns the mean loss per token before the last step, in nats. Raises NotFinite like `update`.
    """
    policy.train()
    for _ in range(updates):
        loss_sum, rows = 0.0, range(len(examples[3]))
        for _, logprobs, _, _ in forward(policy, examples, rows, micro_batch_tokens, 1.0, dtype):
            loss = -logprobs.sum() / examples[3].sum()
            loss.backward()
            loss_sum += loss.item()
        if not math.isfinite(apply_gradients(policy, optimizer)):
            raise NotFinite(list(rows))
    return loss_sum


def forward(model, rollouts, rows, micro_batch_tokens, temperature, dtype):
    """`token_logprobs` in micro-batches of similar width: (rows, logprobs, entropy, mask) of each.

    A micro-batch has at most `micro_batch_tokens` tokens with its padding, or one row.
    """
    prompts, completions = (rollouts[i].sum(1).tolist() for i in (1, 3))
    batches, left, right = [], 0, 0     # left, right: the longest prompt and completion of the last batch
    for row in sorted(rows, key=lambda row: (prompts[row] + completions[row], row)):
        left, right = max(left, prompts[row]), max(right, completions[row])
        if not batches or (len(batches[-1]) + 1) * (left + right) > micro_batch_tokens:
            batches.append([])
            left, right = prompts[row], completions[row]
        batches[-1].append(row)
    for batch in batches:
        part = take(rollouts, batch)
        with torch.autocast(part[0].device.type, dtype, enabled=dtype != torch.float32):
            logprobs, entropy = token_logprobs(model, *part, temperature)
        yield batch, logprobs, entropy, part[3]


@torch.no_grad()
def frozen_logprobs(model, rollouts, rows, *settings):
    """Log-probabilities of some rows under the model as it is, [B, T]; 0 in the others."""
    dtype = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    result = torch.zeros(rollouts[3].shape, dtype=dtype, device=rollouts[3].device)
    for batch, logprobs, _, mask in forward(model, rollouts, rows, *settings):
        result[batch, :mask.shape[1]] = logprobs
    return result


def take(rollouts: Tokens, rows: list[int]) -> Tokens:
    """Some rows of a batch, without the columns that only others used."""
    prompt_ids, prompt_mask, completion_ids, mask = (tensor[rows] for tensor in rollouts)
    left = prompt_mask.shape[1] - int(prompt_mask.sum(1).max()) if rows else 0
    right = int(mask.sum(1).max()) if rows else 0
    return prompt_ids[:, left:], prompt_mask[:, left:], completion_ids[:, :right], mask[:, :right]


def apply_gradients(policy, optimizer):
    """Clip, step unless a gradient is not finite, clear. Returns the norm before clipping."""
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), MAX_GRAD_NORM).item()
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm
