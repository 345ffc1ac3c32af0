"""Rollouts: sampling from the policy with Hugging Face's `generate`, and the batches that training takes.

Prompts come as token ids, and ids are kept from sampling to training: text that is decoded for the graders is never
tokenised again. Rows are grouped by problem: rows i*G to (i+1)*G - 1 belong to problem i. Prompts are padded on the
left, completions on the right, and `mask` marks by position, not by value, the tokens that were sampled, with the
terminating EOS: pad may equal EOS, and several tokens may end a completion.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import (DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria,
                          StoppingCriteriaList)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


@dataclass
class Rollouts:
    """B sampled completions and what they were sampled from.

    prompt_ids, prompt_mask: [B, P], left-padded, True on prompt tokens.
    completion_ids, mask:    [B, T], right-padded, True on sampled tokens, the terminating EOS included.
    logprobs:                [B, T], under the sampler, at its temperature and before top-p; anything where the mask is False.
    finished:                [B], True where the policy ended by itself, False where its budget ran out.
    texts:                   B strings, without special tokens.
    """
    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    mask: torch.Tensor
    logprobs: torch.Tensor
    finished: torch.Tensor
    texts: list

    def __len__(self):
        return len(self.texts)

    @property
    def lengths(self):
        """Tokens of each completion, as a list of B integers."""
        return self.mask.sum(1).tolist()

    def select(self, rows):
        """The rollouts at `rows` (a list of indices), without the columns that only others used."""
        prompt_mask, mask = self.prompt_mask[rows], self.mask[rows]
        left = self.prompt_mask.shape[1] - int(prompt_mask.sum(1).max()) if rows else 0
        right = int(mask.sum(1).max()) if rows else 0
        return Rollouts(self.prompt_ids[rows, left:], prompt_mask[:, left:], self.completion_ids[rows, :right],
                        mask[:, :right], self.logprobs[rows, :right], self.finished[rows],
                        [self.texts[row] for row in rows])

    def micro_batches(self, rows, max_tokens):
        """Lists of `rows` (indices) of similar width, each of at most `max_tokens` tokens with its padding."""
        prompts, completions = self.prompt_mask.sum(1).tolist(), self.lengths
        batch, left, right = [], 0, 0                           # and the longest prompt and completion in it
        for row in sorted(rows, key=lambda row: prompts[row] + completions[row]):
            left, right = max(left, prompts[row]), max(right, completions[row])
            if batch and (len(batch) + 1) * (left + right) > max_tokens:
                yield batch
                batch, left, right = [], prompts[row], completions[row]
            batch.append(row)
        if batch:
            yield batch


def concat(parts):
    """Several Rollouts as one, padded to the widest of them."""
    def stack(name, pad):               # what stands in padding does not matter: the masks are False there
        width = max(getattr(part, name).shape[1] for part in parts)
        return torch.cat([F.pad(tensor, pad(width - tensor.shape[1]))
                          for tensor in (getattr(part, name) for part in parts)])

    left, right = (lambda n: (n, 0)), (lambda n: (0, n))
    return Rollouts(stack("prompt_ids", left), stack("prompt_mask", left), stack("completion_ids", right),
                    stack("mask", right), stack("logprobs", right), torch.cat([part.finished for part in parts]),
                    [text for part in parts for text in part.texts])


def as_rollouts(prompts, completions, device):
    """Rollouts of given prompts and completions (B lists of token ids each), with log-probability 0 and no texts."""
    def pad(rows, left):
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row if left else row + [0] * (width - len(row)) for row in rows])
        lengths = torch.tensor([[len(row)] for row in rows])
        places = torch.arange(width)
        return ids.to(device), (places >= width - lengths if left else places < lengths).to(device)

    completion_ids, mask = pad(completions, False)
    return Rollouts(*pad(prompts, True), completion_ids, mask, torch.zeros(mask.shape, device=device),
                    torch.ones(len(prompts), dtype=torch.bool, device=device), [""] * len(prompts))


def eos_ids(model, tokenizer):
    """All token ids that end a completion: those of the tokenizer and of the checkpoint's generation config."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*configured, tokenizer.eos_token_id] if token is not None})


STRIDE = 16         # tokens that are sampled before the rows that have ended leave the batch


class KeepLogits(LogitsProcessor):
    """Changes nothing; `generate` hands it the logits of the next token, before temperature and top-p."""

    def __call__(self, input_ids, scores):
        self.logits = scores
        return scores


class EndOfRow(StoppingCriteria):
    """Ends row b after budgets[b] sampled tokens (`generate` pads it from there on), and notes log-probabilities."""

    def __init__(self, prompt_length, budgets, kept, temperature):
        self.limits, self.kept, self.temperature = prompt_length + budgets, kept, temperature
        self.logprobs = []          # of each token that was sampled, a [B] tensor

    def __call__(self, input_ids, scores, **kwargs):
        logprobs = (self.kept.logits.float() / self.temperature).log_softmax(-1)
        self.logprobs.append(logprobs.gather(1, input_ids[:, -1:]).squeeze(1))
        return input_ids.shape[1] >= self.limits


class Cache(DynamicCache):
    """Keys and values in the precision that attention computes in.

    Under autocast attention rounds them to bfloat16, but they reach the cache as float32: twice the memory for the
    same numbers.
    """

    def update(self, key_states, value_states, *arguments, **named):
        kind = key_states.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        return super().update(key_states, value_states, *arguments, **named)


@contextmanager
def sampling_mode(model):
    """Evaluation mode, without the checkpoint's own generation config; both are put back afterwards.

    In train mode with gradient checkpointing `generate` returns wrong tokens, and a field that we leave unset
    would be taken from the checkpoint's generation config (top_k = 20, a repetition penalty, ...).
    """
    was_training, generation_config = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = generation_config
        model.train(was_training)


def sample_batch(model, ids, mask, limits, longest, temperature, top_p, pad, ends):
    """One batch of `generate`: ids, mask [B, P], limits [B] tokens. Returns ids and log-probabilities, [B, longest].

    Every STRIDE tokens the rows that have ended leave the batch and its cache: a row that is cut, or that is simply
    short, makes the others faster. Models with a recurrent state, from which no row can be taken, wait for the longest.
    """
    sampling = (dict(do_sample=True, temperature=temperature, top_p=top_p, top_k=0) if temperature
                else dict(do_sample=False))
    width, rows, done = ids.shape[1], torch.arange(len(ids), device=ids.device), 0
    completion_ids = torch.full((len(ids), longest), pad, device=ids.device)
    logprobs = torch.zeros(completion_ids.shape, device=ids.device)
    kept, ends_tensor = KeepLogits(), torch.tensor(ends, device=ids.device)
    cache = Cache(config=model.config)
    if model._is_stateful or {type(layer) for layer in cache.layers} - {DynamicLayer, DynamicSlidingWindowLayer}:
        cache = None                # the model makes its own
    while len(rows):
        left = int(limits[rows].max()) - done
        config = GenerationConfig(**sampling, repetition_penalty=1.0, num_beams=1, use_cache=True, pad_token_id=pad,
                                  eos_token_id=ends, max_new_tokens=min(STRIDE, left) if cache else left)
        end = EndOfRow(width, limits[rows], kept, temperature or 1.0)
        ids = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, **({"past_key_values": cache} if cache else {}),
            logits_processor=LogitsProcessorList([kept]), stopping_criteria=StoppingCriteriaList([end]))
        new = ids[:, width + done:]
        columns = slice(done, done + new.shape[1])
        completion_ids[rows, columns], logprobs[rows, columns] = new, torch.stack(end.logprobs, 1)
        done += new.shape[1]
        mask = F.pad(mask, (0, new.shape[1]), value=1)
        going_on = ~torch.isin(new, ends_tensor).any(1) & (limits[rows] > done)
        rows, ids, mask = rows[going_on], ids[going_on], mask[going_on]
        if cache and not going_on.all():
            cache.batch_select_indices(going_on.nonzero().squeeze(1))
    return completion_ids, logprobs


@torch.no_grad()
def generate(model, tokenizer, prompts, budgets, temperature=1.0, top_p=1.0, max_tokens=None):
    """Sample one completion for each prompt, from the plain distribution of the policy.

    prompts: B lists of token ids; repeat a prompt to get a group. budgets: the most tokens to sample, an
    integer or B of them. max_tokens: B * (P + T) is split into batches of at most this many tokens, to fit
    memory, rows of similar budget together. Draws from torch's generator; temperature 0 is greedy. Returns Rollouts.
    """
    device, pad = model.device, tokenizer.pad_token_id
    ends = eos_ids(model, tokenizer)
    pad = ends[0] if pad is None else pad
    budgets = [budgets] * len(prompts) if isinstance(budgets, int) else list(budgets)
    width, longest = max(map(len, prompts)), max(budgets)

    prompt_ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    prompt_mask = torch.arange(width, device=device) >= (width - lengths)[:, None]
    limits = torch.tensor(budgets, device=device)
    completion_ids = torch.full((len(prompts), longest), pad, device=device)
    logprobs = torch.zeros(completion_ids.shape, device=device)
    with sampling_mode(model):
        left = sorted(range(len(prompts)), key=lambda row: budgets[row])
        while left:
            size = max(1, max_tokens // (width + budgets[left[-1]])) if max_tokens else len(left)
            rows, left = left[-size:], left[:-size]
            completion_ids[rows], logprobs[rows] = sample_batch(
                model, prompt_ids[rows], prompt_mask[rows].long(), limits[rows], longest, temperature, top_p, pad, ends)

    positions = torch.arange(longest, device=device)
    is_end = torch.isin(completion_ids, torch.tensor(ends, device=device)) & (positions < limits[:, None])
    first_end = torch.where(is_end, positions, longest).amin(1)
    mask = positions < torch.minimum(first_end + 1, limits)[:, None]
    completions = [ids[keep].tolist() for ids, keep in zip(completion_ids, mask)]
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Rollouts(prompt_ids, prompt_mask, completion_ids, mask, logprobs, first_end < longest, texts)
