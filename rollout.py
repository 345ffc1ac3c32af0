"""Rollouts: what the policy is asked on both paths, and what it answers, sampled with Hugging Face's
`generate`.

The *solution* prompt asks for reasoning and a boxed answer; the *meta* prompt asks the same policy to
predict, before solving, how its own solutions will go. Token ids are kept from sampling to training: text
that is decoded for the graders is never tokenised again. Prompts are padded on the left, completions on the
right, and `mask` marks by position, not by value, the tokens that were sampled, with the terminating EOS: pad
may equal EOS, and several tokens may end a completion.
"""

import re
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jinja2 import TemplateError
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grpo import Tokens, head_of, take
from rewards import MetaPrediction, parse_meta
from tasks.grader import grade
from tasks.problems import Problem

SOLUTION = "Reason step by step, and put the final answer in \\boxed{}."
META_SYSTEM = "You predict how your own attempts at a problem will go. You do not solve it."
META = (
    "Before anyone solves this problem, predict how your own solutions of it will go. First reason briefly "
    "between <meta> and </meta>: what does it take, and where do you slip? Then write one JSON object with "
    "three keys. "
    '"math_notion": a list of concepts that your solution will use and the problem does not mention. '
    '"pass_rate": of 8 attempts of yours, how many will be right, an integer from 0 to 8. '
    '"solution_length": how many tokens one attempt will take, an integer from 1 to {budget}.')
HINT = "These concepts may help: {notions}."
# The fixed parts of all prompts; the toy world's tokenizer has a token for each.
PHRASES = [part for template in (SOLUTION, META_SYSTEM, META, HINT)
           for part in re.split("{budget}|{notions}", template) if part.strip(".")]


# --- What the policy is asked -----------------------------------------------------------------------------

def solution_messages(problem: str, notions: Iterable[str] = (), instruction: str | None = None) -> list:
    """The chat that asks for a solution of a problem's text, and passes on predicted notions if there are
    any."""
    hints = [HINT.replace("{notions}", ", ".join(notions))] if notions else []
    return [{"role": "user", "content": "\n\n".join([problem, *hints, instruction or SOLUTION])}]


def meta_messages(problem: str, budget: int) -> list[dict]:
    """The chat that asks for a meta prediction; `budget` is the most tokens that a *solution* may take."""
    return [{"role": "system", "content": META_SYSTEM},
            {"role": "user", "content": f"{problem}\n\n{META.replace('{budget}', str(budget))}"}]


def encode(tokenizer, messages: list[dict], thinking: bool = False) -> list[int]:
    """The token ids of a chat, ready to be completed.

    `thinking` sets the switch of chat templates that have one (Qwen3's `enable_thinking`). A base model
    without a chat template gets the texts separated by blank lines.
    """
    if tokenizer.chat_template is None:
        ids = tokenizer("\n\n".join(message["content"] for message in messages) + "\n\n")["input_ids"]
        return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids       # a text to go on with has not ended

    def fill(messages):
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)

    try:
        text = fill(messages)
    except TemplateError:               # some templates refuse a system message
        text = fill([{"role": "user", "content": "\n\n".join(message["content"] for message in messages)}])
    return tokenizer(text, add_special_tokens=False)["input_ids"]       # the template has written them


def control_tokens(tokenizer) -> set[str]:
    """The texts that become control tokens: those with a role, such as eos, and others, such as Llama's
    headers."""
    return {*tokenizer.all_special_tokens,
            *(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)}


def hintable(notions: Iterable[str] | None, tokenizer) -> list[str]:
    """Predicted notions as they may stand in a prompt: short, on one line, without control tokens."""
    control = control_tokens(tokenizer)
    lines = [" ".join(notion.casefold().split()) for notion in notions or ()]
    return [line for line in lines if 0 < len(line) <= 100 and not any(token in line for token in control)]


# --- What it answers --------------------------------------------------------------------------------------

@dataclass
class Rollouts:
    """B sampled completions and what they were sampled from.

    prompt_ids, prompt_mask: [B, P], left-padded, True on prompt tokens.
    completion_ids, mask:    [B, T], right-padded, True on sampled tokens, the terminating EOS included.
    finished:                [B], True where the policy ended by itself, False where its budget ran out.
    texts:                   B strings, without special tokens.
    """
    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    mask: Tensor
    finished: Tensor
    texts: list[str]

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
    """A problem, the M predictions made about it, and its G solutions: what is compared with one another.

    budgets, hints: of solutions 0, 1, ..., in turn: the most tokens it may take, notions for its prompt. metas,
    solutions: Rollouts of M and G rows, None until they are sampled. predictions: M of them. correct: the G grades.
    cut: which solutions the cutoff has stopped before their answer. features: [1, D], what gating reads. flagged: would
    gating skip it?
    """
    problem: Problem
    budgets: list[int]
    hints: list[list[str]] = field(default_factory=lambda: [[]])
    metas: Rollouts | None = None
    predictions: list[MetaPrediction] = field(default_factory=list)
    solutions: Rollouts | None = None
    correct: list[bool] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)
    features: Tensor | None = None
    flagged: bool = False

    @property
    def silent(self) -> bool:
        """Are all grades equal? Such a group has no gradient."""
        return len(set(self.correct)) < 2


@dataclass
class Sampler:
    """How `policy` answers; training and evaluation sample through it alike.

    budget, meta_budget: tokens. max_tokens: see `generate`. instruction, grade: how a solution is asked for (None:
    SOLUTION), and whether a completion is right, given the Problem. prefilled: prompt tokens that were read.
    """
    policy: torch.nn.Module
    tokenizer: object
    budget: int
    meta_budget: int
    temperature: float = 1.0
    top_p: float = 1.0
    thinking: bool = False
    max_tokens: int | None = None
    instruction: str | None = None
    grade: Callable = lambda text, problem: grade(text, problem.answer)
    prefilled: int = 0

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
                        self.max_tokens)

    @torch.no_grad()
    def states(self, groups: list[Group]) -> Tensor:
        """The policy's hidden states at the last token of each problem's prompt, of four layers: [N, D], on the CPU.

        What the policy knows about a problem before it writes a token: N prompts are read, nothing is sampled.
        """
        prompts = [encode(self.tokenizer, solution_messages(group.problem.text, (), self.instruction), self.thinking)
                   for group in groups]
        self.prefilled += sum(map(len, prompts))
        ids, mask = pad_rows(prompts, left=True, device=self.policy.device)
        layers = self.read(ids, mask, output_hidden_states=True).hidden_states
        chosen = sorted({round(i * (len(layers) - 1) / 4) for i in (1, 2, 3, 4)})
        return torch.cat([layers[i][:, -1].float() for i in chosen], 1).cpu()

    @torch.no_grad()
    def number_probabilities(self, group: Group) -> Tensor:
        """The policy's distribution over 0..8 where its predictions name the pass rate: [m, 9], of the m that do."""
        sampled = [ids[keep] for ids, keep in zip(group.metas.completion_ids, group.metas.mask)]
        places = [(row, *place) for row, ids in enumerate(sampled) if (place := number_place(self.tokenizer, ids))]
        if not places:
            return torch.zeros(0, 9)
        rows, columns, numbers = map(list, zip(*places))
        part = group.metas.select(rows)
        ids, mask = (torch.cat(pair, 1) for pair in zip(part.tokens[:2], part.tokens[2:]))
        before = torch.tensor(columns, device=ids.device) + part.prompt_ids.shape[1] - 1
        hidden = self.read(ids, mask).last_hidden_state[torch.arange(len(rows)), before]
        logits = head_of(self.policy)(hidden)
        return logits.float().gather(1, torch.tensor(numbers, device=ids.device)).softmax(-1).cpu()

    def read(self, ids: Tensor, mask: Tensor, **wanted):
        """The output of the policy below its LM head for ids and mask, [B, T]."""
        with sampling_mode(self.policy):
            return self.policy.base_model(ids, attention_mask=mask.long(), position_ids=positions(mask),
                                          use_cache=False, **wanted)


def number_place(tokenizer, ids: Tensor) -> tuple[int, list[int]] | None:
    """Where the token ids of a prediction name the pass rate, and what nine tokens would name 0..8 there."""
    text = ""
    for place, piece in enumerate(tokenizer.batch_decode(ids[:, None])):
        text += piece
        if re.search(r'"pass_rate"\s*:\s*[0-8]$', text):
            others = [tokenizer(piece.replace(text[-1], str(k)), add_special_tokens=False)["input_ids"] for k in range(9)]
            return (place, [other[0] for other in others]) if all(len(other) == 1 for other in others) else None
    return None


# --- Sampling ---------------------------------------------------------------------------------------------

STRIDE = 16         # tokens that are sampled before the rows that have ended leave the batch


def positions(mask: Tensor) -> Tensor:
    """Position ids under which padding shifts no token; mask: [B, T]."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


class EndOfRow(StoppingCriteria):
    """Ends row b after limits[b] tokens, its prompt included; `generate` pads it from there on."""

    def __init__(self, limits):
        self.limits = limits

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.shape[1] >= self.limits


class Cache(DynamicCache):
    """Keys and values in the precision that attention computes in.

    Under autocast attention rounds them to bfloat16, but they reach the cache as float32: twice the memory
    for the same numbers.
    """

    def update(self, key_states, value_states, *arguments, **named):
        kind = key_states.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        return super().update(key_states, value_states, *arguments, **named)


@torch.no_grad()
def generate(model: torch.nn.Module, tokenizer, prompts: list[list[int]], budgets: list[int],
             temperature: float = 1.0, top_p: float = 1.0, max_tokens: int | None = None) -> Rollouts:
    """Sample one completion for each of B prompts (token ids) from the plain distribution of the policy.

    Repeat a prompt to get a group. budgets: the most tokens to sample, B of them. max_tokens: B * (P + T) is
    split into batches of at most this many tokens, to fit memory, rows of similar budget together; the
    numbers that are drawn depend on it. Draws from torch's generator; temperature 0 is greedy.
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
                               ends)
            completion_ids[rows, :new.shape[1]] = new

    places = torch.arange(longest, device=model.device)
    is_end = torch.isin(completion_ids, torch.tensor(ends, device=model.device)) & (places < limits[:, None])
    first_end = torch.where(is_end, places, longest).amin(1)
    sampled = places < torch.minimum(first_end + 1, limits)[:, None]
    texts = tokenizer.batch_decode([row[keep].tolist() for row, keep in zip(completion_ids, sampled)],
                                   skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Rollouts(ids, mask, completion_ids, sampled, first_end < longest, texts)


def sample_batch(model, ids, mask, limits, temperature, top_p, pad, ends):
    """One batch of `generate`: ids, mask [B, P], limits [B] tokens. Returns completion ids, [B, max(limits)].

    Every STRIDE tokens the rows that have ended leave the batch and its cache: a row that is cut, or simply
    short, makes the others faster. Models with a recurrent state, from which no row can be taken, wait for
    the longest.
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
        model.base_model(once, attention_mask=read, position_ids=positions(read), past_key_values=cache, use_cache=True)
        cache.batch_select_indices(copies)
    while len(rows):
        left = int(limits[rows].max()) - done
        config = GenerationConfig(**{"do_sample": False} | sampling | fixed,
                                  max_new_tokens=min(STRIDE, left) if cache else left)
        ids = model.generate(input_ids=ids, attention_mask=mask, generation_config=config,
                             stopping_criteria=StoppingCriteriaList([EndOfRow(width + limits[rows])]),
                             **({"past_key_values": cache} if cache else {}))
        new = ids[:, width + done:]
        completion_ids[rows, done:done + new.shape[1]] = new
        done += new.shape[1]
        mask = F.pad(mask, (0, new.shape[1]), value=1)
        going_on = ~torch.isin(new, torch.tensor(ends, device=ids.device)).any(1) & (limits[rows] > done)
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


def eos_ids(model, tokenizer) -> list[int]:
    """All token ids that end a completion: those of the tokenizer and of the checkpoint's generation
    config."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*configured, tokenizer.eos_token_id] if token is not None})
