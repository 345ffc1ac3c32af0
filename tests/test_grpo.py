"""Tests of grpo.py against hand-worked numbers and float64 references written with plain loops from the
formulas."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import logprobs_alone, make_policy, padded, same_weights
from transformers import GPT2Config, GPT2LMHeadModel

import grpo
from grpo import (
    NotFinite,
    forward,
    group_advantages,
    grpo_loss,
    imitate,
    loss_total,
    take,
    token_logprobs,
    update,
)

pytestmark = pytest.mark.filterwarnings("error")
AGGREGATIONS = ["token", "sequence", "constant"]


def test_advantages_by_hand():
    got = group_advantages(torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 1.0]), 3)  # std 1; mean 1/3, std sqrt(1/3)
    expected = [-1, 0, 1, -1 / 3 ** 0.5, -1 / 3 ** 0.5, 2 / 3 ** 0.5]
    assert got.shape == (6,) and got.tolist() == pytest.approx(expected, abs=1e-5)


def test_advantages_are_those_of_float64_in_interleaved_groups():
    rewards = np.random.default_rng(0).uniform(size=(40, 8)) * 10.0 ** np.arange(-3, 5).repeat(5)[:, None]
    expected = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-6)
    got = group_advantages(torch.tensor(rewards.flatten()), 8)
    np.testing.assert_allclose(got.numpy(), expected.flatten(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 1e-8, 1e6 + 0.1])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
def test_no_variance_no_advantage(value, size):
    got = group_advantages(torch.tensor([value] * size + list(range(size)), dtype=torch.float64), size)
    assert got[:size].tolist() == [0.0] * size and got.isfinite().all()
    assert size == 1 or (got[size] < 0 < got[-1])


def test_rows_that_are_not_kept_have_no_part():
    rewards = torch.tensor([9.0, 1, 2, 3, 5, 5, 7, 5, 1, 2, 3, 4, 1, 2, 3, 4])
    # left: 1, 2, 3; 5, 5, 5; 4; none
    keep = torch.tensor([0, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]).bool()
    assert group_advantages(rewards, 4, keep).tolist() == pytest.approx([0, -1, 0, 1] + [0] * 12, abs=1e-5)


def test_meta_rewards_never_move_solution_advantages():
    solutions, meta = torch.tensor([1.0, 0, 0, 1]), torch.tensor([0.9, 0.1, 0.5, 0.2])
    alone = group_advantages(solutions, 4)
    for other in (meta, meta * 100, -meta):
        assert torch.equal(group_advantages(torch.cat([solutions, other]), 4)[:4], alone)
        assert torch.equal(group_advantages(torch.cat([other, solutions]), 4)[4:], alone)


@pytest.mark.parametrize("temperature, kind", [(1.0, "rotary"), (0.6, "rotary"), (1.0, "absolute")])
def test_logprobs_of_a_padded_batch_are_those_of_each_row_alone(tiny_policy, temperature, kind):
    model = tiny_policy()[0]
    if kind == "absolute":              # rotary positions forgive a shift, GPT-2's do not
        model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=16, n_embd=16, n_layer=2, n_head=2,
                                           initializer_range=0.3, bos_token_id=1, eos_token_id=3)).eval()
    prompts, completions = [[10, 11, 12, 13, 14], [15], [16, 0]], [[20, 3], [21, 0, 22, 0, 24, 3], [25]]
    (prompt_ids, prompt_mask), (ids, mask) = padded(prompts, 1), padded(completions, 0)
    logprobs, entropy = token_logprobs(model, prompt_ids, prompt_mask, ids, mask, temperature)
    assert logprobs.shape == entropy.shape == mask.shape and logprobs.dtype == torch.float32
    assert logprobs.requires_grad and not entropy.requires_grad
    double = copy.deepcopy(model).double()
    for b, (prompt, completion) in enumerate(zip(prompts, completions)):
        logits = double(torch.tensor([prompt + completion])).logits[0] / temperature
        for t, token in enumerate(completion):
            row = [math.exp(x) for x in logits[len(prompt) + t - 1].tolist()]
            p = [x / sum(row) for x in row]
            assert logprobs[b, t].item() == pytest.approx(math.log(p[token]), abs=1e-4)
            assert entropy[b, t].item() == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-4)


def test_the_gradient_of_a_padded_batch_is_that_of_its_rows(tiny_policy):
    model, rows = tiny_policy()[0], [([10, 11, 12], [20, 3]), ([13], [21, 22, 23, 3]), ([14, 15], [])]

    def gradient(rows):
        model.zero_grad()
        prompts, completions = ([list(row) for row in column] for column in zip(*rows))
        (prompt_ids, prompt_mask), (ids, mask) = padded(prompts, 1), padded(completions, 0)
        (token_logprobs(model, prompt_ids, prompt_mask, ids, mask)[0] * mask).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(gradient(rows), gradient(rows[:1]) + gradient(rows[1:2]), atol=1e-4, rtol=1e-3)


def naive_loss(logprobs, old, advantages, mask, aggregation, low, high, beta, ref, longest):
    """The loss of a whole batch, as a float, and its derivative by each log-probability, from the formula."""
    lengths = [sum(row) for row in mask]
    weight = {"token": lambda n: 1 / sum(lengths), "sequence": lambda n: 1 / (n * len(lengths)),
              "constant": lambda n: 1 / (len(lengths) * longest)}[aggregation]
    loss, gradient = 0.0, [[0.0] * len(row) for row in mask]
    for b, row in enumerate(mask):
        for t in (t for t, on in enumerate(row) if on):
            rho, a = math.exp(logprobs[b][t] - old[b][t]), advantages[b]
            bounded = min(max(rho, 1 - low), 1 + high)
            # where the clipped term is less, it is constant
            slope = -rho * a if rho * a <= bounded * a else 0.0
            d = ref[b][t] - logprobs[b][t]
            loss += weight(lengths[b]) * (-min(rho * a, bounded * a) + beta * (math.exp(d) - d - 1))
            gradient[b][t] = weight(lengths[b]) * (slope + beta * (1 - math.exp(d)))
    return loss, gradient


def random_batch(seed=0, lengths=(5, 1, 7, 3, 0, 7)):
    generator = torch.Generator().manual_seed(seed)
    old, ref = (-torch.rand(len(lengths), 7, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    logprobs = old + torch.randn(old.shape, generator=generator, dtype=torch.float64) * 0.4
    advantages = torch.tensor([1.2, -0.7, -1.5, 0.4, 2.0, 0.0], dtype=torch.float64)[:len(lengths)]
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    return logprobs, old, ref, advantages, mask


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_loss_and_gradient_by_brute_force_whole_and_in_micro_batches(aggregation, beta):
    logprobs, old, ref, advantages, mask = random_batch()
    expected, slopes = naive_loss(logprobs.tolist(), old.tolist(), advantages.tolist(), mask.tolist(),
                                  aggregation,
                                  0.2, 0.28, beta, ref.tolist(), longest=9)
    total = loss_total(mask.sum(1).tolist(), aggregation, 9)
    for split in ([6], [1] * 6, [2, 4], [4, 1, 1]):                     # row 4 is empty, alone in one of them
        leaf, loss = logprobs.clone().requires_grad_(), 0.0
        for rows in torch.arange(6).split(split):
            part, sums = grpo_loss(leaf[rows], old[rows], advantages[rows], mask[rows], total, 0.2, 0.28,
                                   aggregation, beta, ref[rows] if beta else None)
            part.backward()
            loss += part.item()
            assert part.isfinite() and ("kl" in sums) == bool(beta)
        assert loss == pytest.approx(expected, abs=1e-12)
        torch.testing.assert_close(leaf.grad, torch.tensor(slopes, dtype=torch.float64), atol=1e-12, rtol=0)


def test_loss_total_by_hand():
    assert [loss_total([5, 1, 7, 3], name, 9) for name in AGGREGATIONS] == [16, 4, 36]


# ratio, advantage -> loss, d loss / d logprob, clipped at low, at high; bounds 1 - 0.1 and 1 + 0.5
@pytest.mark.parametrize("ratio, advantage, loss, slope, low, high", [
    (1.0, 2.0, -2.0, -2.0, 0, 0), (1.4, 2.0, -2.8, -2.8, 0, 0), (1.6, 2.0, -3.0, 0.0, 0, 1),
    (0.5, 2.0, -1.0, -1.0, 0, 0), (0.95, 2.0, -1.9, -1.9, 0, 0), (1.0, -2.0, 2.0, 2.0, 0, 0),
    (1.4, -2.0, 2.8, 2.8, 0, 0), (9.0, -2.0, 18.0, 18.0, 0, 0), (0.95, -2.0, 1.9, 1.9, 0, 0),
    (0.85, -2.0, 1.8, 0.0, 1, 0), (0.5, -2.0, 1.8, 0.0, 1, 0), (1.6, 0.0, 0.0, 0.0, 0, 0),
    (0.5, 0.0, 0.0, 0.0, 0, 0)])
def test_clipping_by_hand(ratio, advantage, loss, slope, low, high):
    old = torch.tensor([[-1.0, -5.0]], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    mask = torch.tensor([[True, False]])  # what is outside of the mask is not counted
    got, sums = grpo_loss(logprobs, old, torch.tensor([advantage]).double(), mask, 1, clip_low=0.1,
                          clip_high=0.5)
    got.backward()
    assert got.item() == pytest.approx(loss) and logprobs.grad.tolist() == [pytest.approx([slope, 0.0])]
    assert (int(sums["clip_low"]), int(sums["clip_high"])) == (low, high)


def test_the_k3_estimate_is_kl_of_policy_to_reference_and_its_gradient_pulls_to_the_reference():
    policy, reference = torch.tensor([[0.9, 0.06, 0.03, 0.01], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    kl = sum(p * math.log(p / r) for p, r in zip(policy.tolist(), reference.tolist()))
    assert abs(kl - sum(r * math.log(r / p) for p, r in zip(policy.tolist(), reference.tolist()))) > 0.3
    expectation, zero, mask = 0.0, torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    for p, r in zip(policy, reference):
        logprobs = p.log().view(1, 1).requires_grad_()
        loss, sums = grpo_loss(logprobs, logprobs.detach(), zero, mask, 1, beta=0.5,
                               ref_logprobs=r.log().view(1, 1))
        loss.backward()
        assert sums["kl"] >= 0 and not sums["kl"].requires_grad
        assert loss.item() == pytest.approx(0.5 * sums["kl"].item())
        assert (logprobs.grad.item() > 0) == bool(p > r)  # a step down makes too likely a token less so
        expectation += p.item() * sums["kl"].item()
    assert expectation == pytest.approx(kl, abs=1e-12)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_rubbish_outside_of_the_mask_changes_nothing_and_empty_batches_are_finite(aggregation):
    logprobs, old, ref, advantages, mask = random_batch()
    results = []
    for rubbish in (0.0, 1e4, -1e4, math.inf, -math.inf, math.nan):
        leaf = logprobs.masked_fill(~mask, rubbish).requires_grad_()
        loss, sums = grpo_loss(leaf, old, advantages, mask, 23, aggregation=aggregation, beta=0.1,
                               ref_logprobs=ref)
        loss.backward()
        results.append([loss.item(), *map(float, sums.values()), *leaf.grad.flatten().tolist()])
    assert all(result == results[0] for result in results) and np.isfinite(results[0]).all()
    loss, _ = grpo_loss(logprobs, old, advantages, mask & False,
                        loss_total([0] * 6, aggregation, 0), aggregation=aggregation)
    assert loss.item() == 0.0


def test_the_first_update_has_loss_near_zero_and_the_gradient_of_reinforce(tiny_policy):
    model = tiny_policy()[0]
    prompt_ids, prompt_mask = padded([[10, 11], [10, 11], [12], [12]], 1)
    ids, mask = padded([[20, 21, 3], [22, 23, 3], [24, 25, 26], [27, 28, 3]], 0)
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), 2)
    logprobs, _ = token_logprobs(model, prompt_ids, prompt_mask, ids, mask)
    loss, sums = grpo_loss(logprobs, logprobs.detach(), advantages, mask, 12)
    reinforce = -sum(advantages[b] * logprobs[b, t] for b in range(4) for t in range(3)) / 12
    assert abs(loss.item()) < 1e-6 < abs(reinforce.item()) and int(sums["clip_low"] + sums["clip_high"]) == 0
    got, expected = (torch.autograd.grad(x, [*model.parameters()], retain_graph=True)
                     for x in (loss, reinforce))
    assert any(g.abs().max() > 1e-3 for g in expected)
    for g, e in zip(got, expected):
        torch.testing.assert_close(g, e, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_chunks_and_recomputation_change_neither_values_nor_gradients(tiny_policy, chunk):
    """In float64, against the logits of the whole model at once, at a temperature, with padding on both
    sides."""
    model = tiny_policy()[0]
    model.double()
    torch.manual_seed(0)
    prompt_mask = torch.tensor([[False, True, True], [True, True, True]])
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    prompt_ids, completion_ids = torch.randint(5, 60, (2, 3)), torch.randint(5, 60, (2, 4))
    logprobs, entropy = token_logprobs(model, prompt_ids, prompt_mask, completion_ids, mask, 0.7, chunk)
    weights = torch.randn(2, 4, dtype=torch.float64)
    (logprobs * weights).sum().backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for row in range(2):
        prompt, completion = prompt_ids[row][prompt_mask[row]], completion_ids[row][mask[row]]
        logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1:-1] / 0.7
        plain = logits.log_softmax(-1)
        chosen = plain[range(len(completion)), completion]
        (chosen * weights[row][mask[row]]).sum().backward()
        torch.testing.assert_close(logprobs[row][mask[row]], chosen)
        torch.testing.assert_close(entropy[row][mask[row]], -(plain.exp() * plain).sum(-1).detach())
    for mine, p in zip(ours, model.parameters()):
        torch.testing.assert_close(mine, p.grad)
    assert logprobs.dtype == torch.float64 and not logprobs[~mask].any() and not entropy[~mask].any()


# --- One update -------------------------------------------------------------------------------------------

def batch_of_16(seed=0):
    """A float64 policy, rollouts of different lengths with padding on both sides, and advantages, some of
    them 0."""
    model, rng = make_policy()[0].double(), np.random.default_rng(seed)
    prompts = [[5 + i // 4, 6, 7][:1 + i % 3] for i in range(16)]
    completions = [rng.integers(5, 60, 1 + i * 5 % 8).tolist() for i in range(16)]
    advantages = group_advantages(torch.tensor([1., 0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0.5, 0, 0, 1]), 4)
    return model, (*padded(prompts, 1), *padded(completions, 0)), advantages


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("rows, most", [(range(16), 999), (range(16), 24), ([4, 3], 14), ([3, 1], 1),
                                        ([], 9)])
def test_micro_batches_hold_every_row_once_and_keep_to_their_size(rows, most):
    model, rollouts, _ = batch_of_16()
    lengths = [(int(p), int(c)) for p, c in zip(rollouts[1].sum(1), rollouts[3].sum(1))]
    batches = list(forward(model, rollouts, rows, most, 0.7, torch.float32))
    assert sorted(sum((batch for batch, *_ in batches), [])) == sorted(rows)
    assert most != 999 or len(batches) == 1
    for batch, logprobs, entropy, mask in batches:
        width = max(lengths[row][0] for row in batch) + max(lengths[row][1] for row in batch)
        assert len(batch) == 1 or len(batch) * width <= most
        assert logprobs.shape == entropy.shape == mask.shape
        for i, row in enumerate(batch):
            prompt, completion = (rollouts[k][row][rollouts[k + 1][row]].tolist() for k in (0, 2))
            expected = logprobs_alone(model, prompt, completion, 0.7)
            torch.testing.assert_close(logprobs[i][mask[i]], expected)


def test_take_keeps_the_columns_that_its_rows_use():
    _, rollouts, _ = batch_of_16()
    for rows in ([0, 3], [2, 7, 2], list(range(16)), []):
        part = take(rollouts, rows)
        for k in (0, 2):
            assert [ids[keep].tolist() for ids, keep in zip(part[k], part[k + 1])] == [
                rollouts[k][row][rollouts[k + 1][row]].tolist() for row in rows]
        if rows:
            assert part[1].any(0).all() and part[3].any(0).all() and part[1][:, -1].all()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("minibatches, beta", [(1, 0.0), (2, 0.0), (2, 0.2)])
def test_no_split_into_micro_batches_changes_the_update(monkeypatch, aggregation, minibatches, beta):
    monkeypatch.setattr(grpo, "MAX_GRAD_NORM", 1e9)
    results = []
    for micro_batch_tokens in (1, 20, 60, 10**6):
        model, rollouts, advantages = batch_of_16()
        torch.manual_seed(0)                                        # for the order of minibatches
        metrics = update(model, torch.optim.SGD(model.parameters(), lr=0.1), rollouts, advantages, beta=beta,
                         minibatches=minibatches, aggregation=aggregation, max_tokens=9, temperature=0.8,
                         reference=make_policy(1)[0].double(), micro_batch_tokens=micro_batch_tokens)
        results.append((metrics, flat(model)))
    for metrics, parameters in results[1:]:
        assert metrics == pytest.approx(results[0][0], rel=1e-6, abs=1e-9)
        torch.testing.assert_close(parameters, results[0][1], rtol=1e-8, atol=1e-8)
    names = {"loss", "grad_norm", "entropy", "clip_ratio/low", "clip_ratio/high", *["kl"] * (beta > 0)}
    assert set(results[0][0]) == names and results[0][0]["grad_norm"] > 0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("epochs, beta", [(1, 0.0), (1, 0.3), (3, 0.0), (2, 0.3)])
def test_the_update_is_that_of_the_loss_of_the_whole_batch(monkeypatch, aggregation, epochs, beta):
    """Against plain steps on all rows at once; later epochs compare with the policy that sampled."""
    monkeypatch.setattr(grpo, "MAX_GRAD_NORM", 1e9)
    model, rollouts, advantages = batch_of_16()
    metrics = update(model, torch.optim.SGD(model.parameters(), lr=0.5), rollouts, advantages, epochs=epochs,
                     beta=beta,
                     aggregation=aggregation, max_tokens=9, weight=1.5, reference=make_policy(1)[0].double())
    plain, reference = make_policy()[0].double(), make_policy(1)[0].double()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    total = loss_total(rollouts[3].sum(1).tolist(), aggregation, 9)
    with torch.no_grad():
        old, ref = (token_logprobs(which, *rollouts)[0] for which in (plain, reference))
    losses, clipped, entropies = [], [], []
    for _ in range(epochs):
        optimizer.zero_grad()
        logprobs, entropy = token_logprobs(plain, *rollouts)
        loss, sums = grpo_loss(logprobs, old, advantages, rollouts[3], 1.5 * total, aggregation=aggregation,
                               beta=beta,
                               ref_logprobs=ref)
        loss.backward()
        optimizer.step()
        used = rollouts[3] if beta else rollouts[3] & (advantages != 0)[:, None]
        losses.append(loss.item())
        clipped.append((sums["clip_high"].item(), used.sum().item()))
        entropies.append(entropy[used].sum().item())
    torch.testing.assert_close(flat(model), flat(plain), rtol=1e-8, atol=1e-8)
    hits, tokens = map(sum, zip(*clipped))
    assert metrics["loss"] == pytest.approx(sum(losses) / epochs, abs=1e-9)
    assert metrics["clip_ratio/high"] == pytest.approx(hits / tokens) and (hits > 0) == (epochs > 1)
    assert metrics["entropy"] == pytest.approx(sum(entropies) / tokens)


def test_the_weight_stands_for_rows_that_were_skipped(monkeypatch):
    """Half of the rows at weight 2 are the whole batch if the other half has no advantage."""
    monkeypatch.setattr(grpo, "MAX_GRAD_NORM", 1e9)
    results = []
    for rows, weight in ((range(16), 1.0), (range(8), 2.0)):
        model, rollouts, advantages = batch_of_16()
        advantages[8:] = 0
        rows = list(rows)
        update(model, torch.optim.SGD(model.parameters(), lr=1.0), take(rollouts, rows), advantages[rows],
               weight=weight, aggregation="sequence")
        results.append(flat(model))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_gradients_are_clipped_to_the_norm_of_the_paper():
    model, rollouts, advantages = batch_of_16()
    before = flat(model)
    metrics = update(model, torch.optim.SGD(model.parameters(), lr=1.0), rollouts, advantages * 1000)
    assert metrics["grad_norm"] > 10 and (flat(model) - before).norm().item() == pytest.approx(1.0, rel=1e-4)


def test_bf16_computes_nearly_the_same_gradient_into_float32_weights(monkeypatch):
    monkeypatch.setattr(grpo, "MAX_GRAD_NORM", 1e9)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        model, rollouts, advantages = batch_of_16()
        model.float()
        before = flat(model)
        update(model, torch.optim.SGD(model.parameters(), lr=1.0), rollouts, advantages, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        gradients.append(flat(model) - before)
    assert not torch.equal(*gradients) and torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.parametrize("advantages, rows", [
    ([1.0, -1.0, math.nan, 0, 1, -1], [2]), ([1.0, math.inf, math.nan, 0, 1, -1], [1, 2]),
    ([3e38, 3e38, -3e38, 0, 0, 0], [0, 1, 2])])  # finite losses, whose gradients add up to inf
def test_a_gradient_that_is_not_finite_is_an_error_with_its_rows(tiny_policy, advantages, rows):
    model = tiny_policy()[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rollouts = (*padded([[5, 6]] * 6, 1), *padded([[20 + i, 30, 3] for i in range(6)], 0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(NotFinite) as error:
        update(model, optimizer, rollouts, torch.tensor(advantages), micro_batch_tokens=1)
    assert error.value.rows == rows and str(rows) in str(error.value)
    assert same_weights(before, model.state_dict())
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())  # nothing of it is left
    told = []
    metrics = update(model, optimizer, rollouts, torch.tensor([1.0, -1, 0, 0, 0, 0]), micro_batch_tokens=1,
                     progress=lambda *counts: told.append(counts))
    assert told == [(1, 3)] * 2                             # of the two rows that have a gradient
    assert math.isfinite(metrics["grad_norm"]) and all(p.isfinite().all() for p in model.parameters())
    assert not same_weights(before, model.state_dict())


def test_a_batch_without_variance_leaves_the_weights_alone():
    model, rollouts, _ = batch_of_16()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    metrics = update(model, optimizer, rollouts, torch.zeros(16), minibatches=2)
    assert same_weights(before, model.state_dict()) and metrics == {"loss": 0, "grad_norm": 0}


def test_imitation_ends_in_the_example(tiny_policy):
    """After enough updates the policy says what it was shown, EOS included, and padding teaches nothing."""
    model = tiny_policy()[0]
    prompts, completions = [[5, 6, 7], [8]], [[10, 11, 3], [12, 13, 14, 15, 3]]
    examples = (*padded(prompts, 1), *padded(completions, 0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with torch.no_grad():
        by_hand = -sum(logprobs_alone(model, p, c).sum().item() for p, c in zip(prompts, completions)) / 8
    first = imitate(model, optimizer, examples, 1, micro_batch_tokens=8)
    assert first == pytest.approx(by_hand, rel=1e-5) and first > 1
    assert imitate(model, optimizer, examples, 60) < 0.05
    with torch.no_grad():
        model.get_output_embeddings().weight[0, 0] = math.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NotFinite):
        imitate(model, optimizer, examples, 2)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("micro_batch_tokens", [1, 12, 1000])
def test_imitation_does_not_depend_on_micro_batches(micro_batch_tokens):
    results = []
    for size in (micro_batch_tokens, 10**6):
        model, rollouts, _ = batch_of_16()
        results.append((imitate(model, torch.optim.SGD(model.parameters(), lr=0.1), rollouts, 3, size),
                        flat(model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-9)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-8, atol=1e-8)


def test_copyable_alone(run_alone):
    assert run_alone("grpo.py", "import grpo; print(grpo.loss_total([3, 4], 'token', 9))") == "7"


def test_k3_is_finite_where_the_policy_has_given_a_token_up():
    logprobs = torch.tensor([[-100.0, -1.0]], requires_grad=True)
    loss, sums = grpo_loss(logprobs, None, torch.zeros(1), torch.ones(1, 2, dtype=torch.bool), 2, beta=0.1,
                           ref_logprobs=torch.tensor([[-1.0, -1.0]]))
    loss.backward()
    assert loss.isfinite() and sums["kl"] > 1e8 and logprobs.grad.isfinite().all()


def test_a_reward_that_is_nan_stays_in_its_group():
    advantages = group_advantages(torch.tensor([float("nan"), 1.0, 1.0, 0.0]), 2)
    assert advantages[2:].tolist() == pytest.approx([2 ** -0.5, -(2 ** -0.5)], rel=1e-5)
