"""Rollouts: solutions and predictions of the policy, sampled with Hugging Face's `generate`.

Token ids are kept from sampling to training: text that is decoded for the graders is never tokenised again.
Prompts are padded on the left, completions on the right, and `mask` marks by position, not by value, the
tokens that were sampled, with the terminating EOS: pad may equal EOS, and several tokens may end a text.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grpo import Tokens, take
from rewards import MetaPrediction, parse_meta
from tasks.problems import Problem
from tasks.prompts import encode, meta_messages, solution_messages


@dataclass
class Rollouts:
    """B sampled completions and what they were sampled from."""
    prompt_ids: Tensor          # [B, P], left-padded
    prompt_mask: Tensor         # [B, P], True on prompt tokens
    completion_ids: Tensor      # [B, T], right-padded
    mask: Tensor                # [B, T], True on sampled tokens, the terminating EOS included
    finished: Tensor            # [B], True where the policy ended by itself, False where its budget ran out
    texts: list[str]            # B, without special tokens

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def tokens(self) -> Tokens:
        return self.prompt_ids, self.prompt_mask, self.completion_ids, self.mask

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion."""
        return self.mask.sum(1).tolist()

    def select(self, rows: list[int]) -> "Rollouts":
        """The rollouts at `rows`, without the columns that only others used."""
        return Rollouts(*take(self.tokens, rows), self.finished[rows], [self.texts[row] for row in rows])


def concat(parts: list[Rollouts]) -> Rollouts:
    """Several Rollouts as one, padded to the widest of them."""
    def stack(tensors, left):       # what stands in padding does not matter: the masks are False there
        width = max(tensor.shape[1] for tensor in tensors)
        gaps = [(width - tensor.shape[1], 0) for tensor in tensors]
        return torch.cat([F.pad(tensor, gap if left else gap[::-1]) for tensor, gap in zip(tensors, gaps)])

    columns = zip(*(part.tokens for part in parts))
    return Rollouts(*(stack(tensors, left) for tensors, left in zip(columns, (True, True, False, False))),
                    torch.cat([part.finished for part in parts]), sum((part.texts for part in parts), []))


def pad_rows(rows: list[list[int]], left: bool = False, pad: int = 0, device=None) -> tuple[Tensor, Tensor]:
    """B lists of token ids as ids and mask, [B, T], padded on the right, or on the left as prompts are."""
    width = max(map(len, rows))
    gaps = [[pad] * (width - len(row)) for row in rows]
    ids = [gap + row if left else row + gap for gap, row in zip(gaps, rows)]
    lengths, places = torch.tensor([[len(row)] for row in rows]), torch.arange(width)
    mask = places >= width - lengths if left else places < lengths
    return torch.tensor(ids, device=device), mask.to(device)


@dataclass
class Group:
    """A problem, the M predictions made about it, and its G solutions: what is compared with one another."""
    problem: Problem
    budgets: list[int]                                              # most tokens of solutions, in turn
    hints: list[list[str]] = field(default_factory=lambda: [[]])    # notions for their prompts, in turn
    metas: Rollouts | None = None                                   # M rows; None until they are sampled
    predictions: list[MetaPrediction] = field(default_factory=list)
    solutions: Rollouts | None = None                               # G rows; None until they are sampled
    correct: list[bool] = field(default_factory=list)               # their grades
    cut: list[bool] = field(default_factory=list)                   # stopped before their answer?
    features: Tensor | None = None                                  # [1, D], what gating reads
    flagged: bool | None = False    # would gating skip it? None: it would, but nothing else was left to solve

    @property
    def silent(self) -> bool:
        """Are all grades equal? Such a group has no gradient."""
        return len(set(self.correct)) < 2

    @property
    def right_length(self) -> float:
        """The mean length of the right solutions, in tokens; nan if there is none."""
        right = [length for length, c in zip(self.solutions.lengths, self.correct) if c]
        return sum(right) / len(right) if right else float("nan")


@dataclass
class Sampler:
    """How `policy` answers; training and evaluation sample through it alike."""
    policy: torch.nn.Module
    tokenizer: object
    budget: int                                             # tokens of a solution
    meta_budget: int                                        # tokens of a prediction
    temperature: float = 1.0
    top_p: float = 1.0
    thinking: bool = False
    max_tokens: int | None = None                           # see `generate`
    instruction: str | None = None                          # how a solution is asked for; None: SOLUTION
    grade: Callable = lambda text, problem: problem.solved_by(text)                 # is a completion right?
    prefilled: int = 0                                      # prompt tokens that were read
    progress: Callable[[int, int], None] | None = None      # see `generate`

    def predict(self, groups: list[Group], size: int) -> None:
        """Give each group `size` meta rollouts, and the predictions that they make."""
        chats = [meta_messages(group.problem.text, self.budget) for group in groups for _ in range(size)]
        rollouts = self.complete(chats, [self.meta_budget] * len(chats))
        for i, group in enumerate(groups):
            group.metas = rollouts.select(list(range(i * size, (i + 1) * size)))
            group.predictions = [parse_meta(text, self.budget) for text in group.metas.texts]

    def solve(self, groups: list[Group], size: int) -> None:
        """Give each group `size` more solutions within its budgets, and their grades."""
        chats = [solution_messages(group.problem.text, group.hints[j % len(group.hints)], self.instruction)
                 for group in groups for j in range(size)]
        budgets = [group.budgets[j % len(group.budgets)] for group in groups for j in range(size)]
        rollouts = self.complete(chats, budgets)
        for i, group in enumerate(groups):
            new = rollouts.select(list(range(i * size, (i + 1) * size)))
            right = [self.grade(text, group.problem) for text in new.texts]
            group.cut += [not c and not finished and budget < self.budget for c, finished, budget
                          in zip(right, new.finished.tolist(), budgets[i * size:(i + 1) * size])]
            group.correct += right
            group.solutions = new if group.solutions is None else concat([group.solutions, new])

    def complete(self, chats: list[list[dict]], budgets: list[int]) -> Rollouts:
        prompts = [encode(self.tokenizer, chat, self.thinking) for chat in chats]
        self.prefilled += sum(map(len, set(map(tuple, prompts))))
        return generate(self.policy, self.tokenizer, prompts, budgets, self.temperature, self.top_p,
                        self.max_tokens, self.progress)


STRIDE = 16         # tokens that are sampled before the rows that have ended leave the batch


def positions(mask: Tensor) -> Tensor:
    """Position ids under which padding shifts no token; mask: [B, T]."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


class Cache(DynamicCache):
    """Keys and values in the precision of attention: under autocast they would take twice the memory."""

    def update(self, key_states, value_states, *arguments, **named):
        kind = key_states.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        return super().update(key_states, value_states, *arguments, **named)


@torch.no_grad()
def generate(model: torch.nn.Module, tokenizer, prompts: list[list[int]], budgets: list[int],
             temperature: float = 1.0, top_p: float = 1.0, max_tokens: int | None = None,
             progress: Callable[[int, int], None] | None = None) -> Rollouts:
    """Sample one completion for each of B prompts (token ids) from the plain distribution of the policy.

    Repeat a prompt to get a group. budgets: the most tokens to sample, B of them. max_tokens: B * (P + T) is
    split into batches of at most this many tokens, to fit memory, rows of similar budget together; the
    numbers that are drawn depend on it. Draws from torch's generator; temperature 0 is greedy. progress: told
    every STRIDE tokens how many rows have ended since, and how many tokens were computed, padding included.
    """
    ends, pad = eos_ids(model, tokenizer), tokenizer.pad_token_id
    pad = ends[0] if pad is None else pad
    width, longest = max(map(len, prompts)), max(budgets)
    ids, mask = pad_rows(prompts, left=True, pad=pad, device=model.device)
    limits = torch.tensor(budgets, device=model.device)
    completion_ids = torch.full((len(prompts), longest), pad, device=model.device)
    with sampling_mode(model):
        left = sorted(range(len(prompts)), key=lambda row: budgets[row])
        while left:
            size = max(1, max_tokens // (width + budgets[left[-1]])) if max_tokens else len(left)
            rows, left = left[-size:], left[:-size]
            new = sample_batch(model, ids[rows], mask[rows].long(), limits[rows], temperature, top_p, pad,
                               ends, progress)
            completion_ids[rows, :new.shape[1]] = new

    places = torch.arange(longest, device=model.device)
    is_end = torch.isin(completion_ids, torch.tensor(ends, device=model.device)) & (places < limits[:, None])
    first_end = torch.where(is_end, places, longest).amin(1)
    sampled = places < torch.minimum(first_end + 1, limits)[:, None]
    texts = tokenizer.batch_decode([row[keep].tolist() for row, keep in zip(completion_ids, sampled)],
                                   skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Rollouts(ids, mask, completion_ids, sampled, first_end < longest, texts)


def sample_batch(model, ids, mask, limits, temperature, top_p, pad, ends, progress=None):
    """One batch of `generate`: ids, mask [B, P], limits [B] tokens. Returns completion ids, [B, max(limits)].

    Every STRIDE tokens the rows that have ended leave the batch and its cache: a row that is cut, or simply
    short, makes the others faster. Models with a recurrent state, which no row can leave, wait for the last.
    """
    sampling = dict(do_sample=True, temperature=temperature, top_p=top_p, top_k=0) if temperature else {}
    fixed = dict(repetition_penalty=1.0, num_beams=1, use_cache=True, pad_token_id=pad, eos_token_id=ends)
    width, rows, done = ids.shape[1], torch.arange(len(ids), device=ids.device), 0
    completion_ids = torch.full((len(ids), int(limits.max())), pad, device=ids.device)
    cache = Cache(config=model.config)
    if model._is_stateful or {*map(type, cache.layers)} - {DynamicLayer, DynamicSlidingWindowLayer}:
        cache = None                # the model makes its own
    elif width > 1:                 # read each prompt once, up to its last token, and give every row a copy
        prompts, copies = torch.unique(torch.cat([ids, mask], 1), dim=0, return_inverse=True)
        once, read = prompts[:, :width - 1], prompts[:, width:-1]
        model.base_model(once, attention_mask=read, position_ids=positions(read), past_key_values=cache,
                         use_cache=True)
        cache.batch_select_indices(copies)
    while len(rows):
        def full(ids, scores, limit=width + limits[rows], **_):        # `generate` pads a row from there on
            return ids.shape[1] >= limit

        left = int(limits[rows].max()) - done
        config = GenerationConfig(**{"do_sample": False} | sampling | fixed,
                                  max_new_tokens=min(STRIDE, left) if cache else left)
        ids = model.generate(input_ids=ids, attention_mask=mask, generation_config=config,
                             stopping_criteria=StoppingCriteriaList([full]),
                             **({"past_key_values": cache} if cache else {}))
        new = ids[:, width + done:]
        completion_ids[rows, done:done + new.shape[1]] = new
        done += new.shape[1]
        mask = F.pad(mask, (0, new.shape[1]), value=1)
        going_on = ~torch.isin(new, torch.tensor(ends, device=ids.device)).any(1) & (limits[rows] > done)
        if progress:
            progress(int((~going_on).sum()), new.numel())
        rows, ids, mask = rows[going_on], ids[going_on], mask[going_on]
        if cache and not going_on.all():
            cache.batch_select_indices(going_on.nonzero().squeeze(1))
    return completion_ids


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


def finished_ids(model, tokenizer, text: str) -> list[int]:
    """The token ids of `text` as a completion that the policy ends by itself, to be imitated."""
    end = tokenizer.eos_token_id
    return [*tokenizer(text, add_special_tokens=False)["input_ids"],
            eos_ids(model, tokenizer)[0] if end is None else end]


def eos_ids(model, tokenizer) -> list[int]:
    """All token ids that end a completion: the tokenizer's, and those of the generation config."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*configured, tokenizer.eos_token_id] if token is not None})
