r"""GRPO in four functions: group advantages, log-probabilities, the clipped loss, and its denominator.

    A_i    = (r_i - mean(r)) / (std(r) + 1e-6)                        within a group, unbiased std
    rho_t  = pi(o_t | q, o_<t) / pi_sampling(o_t | q, o_<t)           per token
    loss_t = -min(rho_t A, clip(rho_t, 1 - low, 1 + high) A) + beta * k3_t

(DeepSeekMath, arXiv 2402.03300, with DAPO's clip-higher and token mean, arXiv 2503.14476.) MASA uses the same
update for both paths: solutions are compared with solutions of the same problem, meta rollouts with meta
rollouts of the same problem, and neither reward is ever added to the other.

With one optimiser step per batch of rollouts the ratio is exactly 1 and the loss near 0: that is no sign of
trouble, its *gradient* is the policy gradient. Plain values in, plain values out: copy the file as it is.
"""

import torch
from torch.utils.checkpoint import checkpoint


def group_advantages(rewards, group_size, keep=None):
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
    varied = groups.where(kept, -torch.inf).amax(1, keepdim=True) > groups.where(kept, torch.inf).amin(1, keepdim=True)
    centred = (groups - (groups * kept).sum(1, keepdim=True) / count.clamp(min=1)) * kept
    std = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return torch.where(varied, centred / (std + 1e-6), 0.0).flatten()


def token_logprobs(model, prompt_ids, prompt_mask, completion_ids, mask, temperature=1.0, chunk=512):
    """Log-probability of each completion token and entropy of the distribution it was drawn from.

    prompt_ids, prompt_mask: [B, P], left-padded. completion_ids, mask: [B, T], right-padded, the mask True on
    sampled tokens. Returns two [B, T] tensors in float32, 0 where the mask is False; only the first one carries
    gradients. `temperature` must be the sampler's, or the ratios are not of the policy.

    With a vocabulary of 151,936 the logits of 8,192 tokens take 5 GB, and several copies of them are needed. So the
    LM head is applied to `chunk` tokens at a time, and once more in the backward pass instead of keeping them.
    """
    input_ids = torch.cat([prompt_ids, completion_ids], dim=1)
    attention_mask = torch.cat([prompt_mask, mask], dim=1).long()
    position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)         # padding must not shift a position
    hidden = model.base_model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                              use_cache=False).last_hidden_state
    hidden = hidden[:, -completion_ids.shape[1] - 1:-1][mask]           # position t predicts t + 1: [tokens, H]
    parts = [checkpoint(head_logprobs, model.get_output_embeddings(), hidden[i:i + chunk],
                        completion_ids[mask][i:i + chunk], temperature, use_reentrant=False)
             for i in range(0, max(1, len(hidden)), chunk)]
    logprobs, entropy = (torch.cat(column) for column in zip(*parts))
    empty = torch.zeros(mask.shape, dtype=logprobs.dtype, device=mask.device)
    return empty.masked_scatter(mask, logprobs), empty.masked_scatter(mask, entropy)


def head_logprobs(lm_head, hidden, token_ids, temperature):
    """Log-probabilities of `token_ids` [N] and entropies [N], in float32 or better, from hidden states [N, H]."""
    logits = lm_head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    logprobs = logits.log_softmax(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, token_ids[:, None]).squeeze(-1), entropy


def loss_total(lengths, aggregation, max_tokens):
    """The denominator of the loss, from the whole batch, so that no split into micro-batches changes it.

    lengths: tokens of every rollout of the batch, those of zero advantage included.
    "token": the number of tokens; every token weighs the same (DAPO, and the released code of MASA).
    "sequence": the number of rollouts; every rollout weighs the same (the formula of GRPO and of the paper).
    "constant": rollouts times `max_tokens`; long rollouts weigh more (Dr. GRPO, arXiv 2503.20783).
    """
    return {"token": sum(lengths), "sequence": len(lengths), "constant": len(lengths) * max_tokens}[aggregation]


def grpo_loss(logprobs, old_logprobs, advantages, mask, total, clip_low=0.2, clip_high=0.28,
              aggregation="token", beta=0.0, ref_logprobs=None):
    """The clipped policy loss of some rows of a batch; the sum over all micro-batches is the loss of the batch.

    logprobs, old_logprobs, ref_logprobs: [B, T], under the policy, under the policy that sampled, and under the
    reference (needed if beta > 0). advantages: [B]. mask: [B, T]. total: see `loss_total`. Returns the loss (a
    scalar) and a dict of sums over the tokens of the mask: "clip_low" and "clip_high" (tokens whose gradient is
    clipped away at either bound) and "kl" (the k3 estimate of KL(policy || reference), in nats).
    """
    advantages = advantages[:, None]
    ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    losses = -torch.minimum(ratio * advantages, clipped * advantages)
    sums = {"clip_low": ((ratio < 1 - clip_low) & (advantages < 0) & mask).sum(),
            "clip_high": ((ratio > 1 + clip_high) & (advantages > 0) & mask).sum()}
    if beta:
        gap = (ref_logprobs - logprobs).masked_fill(~mask, 0.0)
        k3 = gap.exp() - gap - 1                                # unbiased for tokens of the policy, never negative
        losses = losses + beta * k3
        sums["kl"] = (k3 * mask).sum().detach()
    losses = (losses * mask).sum(1)
    if aggregation == "sequence":
        losses = losses / mask.sum(1).clamp(min=1)
    return losses.sum() / max(total, 1), sums
