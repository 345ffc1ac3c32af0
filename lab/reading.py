"""What gating reads instead of asking (ours): features of problems, what they foretell, odds behind words.

Reading costs no sampled token: a prompt is read once for `states`, a prediction once more for
`mass_of_numbers`. What `mass_by_solving` samples is not counted, since it shows how far a gate could go.
"""

import re
import zlib
from collections import deque
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from gating import fit_counts, fit_lengths, number_mass
from grpo import head_of
from rollout import Group, Sampler, pad_rows, positions, sampling_mode
from tasks.prompts import encode, solution_messages


class Reader:
    """What becomes of a problem's G solutions, by regressions on the groups until now: how many will be right
    (`gating.fit_counts`), and how long the right ones will be (`gating.fit_lengths`).

    Features: [N, D] floats on the CPU, detached. They age as the policy learns: a group weighs
    decay ** age, in steps, and only the newest `window` steps count. The ridges grow with D, so that what is
    believed before a group was seen does not: for counts 5 for the 288 of the toy model, 30 for 2,304; for
    lengths D + 1, so that one group moves what is foretold of it about half way.
    """

    def __init__(self, group_size: int, window: int = 40, decay: float = 0.97):
        self.size, self.decay = group_size + 1, decay
        self.steps = deque(maxlen=window)               # of each step (features, counts, lengths)
        self.weights = self.slopes = None               # of counts, of lengths

    def add(self, features: Tensor, counts: list[int], lengths: list[float]) -> None:
        """Add a step's groups: features [N, D], how many solutions of each were right, and the mean length of
        these (nan where none was)."""
        self.steps.append((features, torch.tensor(counts), torch.tensor(lengths, dtype=torch.float)))

    def fit(self, iterations: int = 20) -> None:
        """Fit the groups that there are, counts from the last solution."""
        features, counts, lengths = (torch.cat(column) for column in zip(*self.steps))
        weight = torch.cat([torch.full(row.shape, self.decay ** (len(self.steps) - i))
                            for i, (_, row, _) in enumerate(self.steps)])
        self.mean = features.mean(0)
        self.std = features.std(0).nan_to_num(0.0).clamp(min=1e-6)              # nan: of a single problem
        inputs = self.inputs(features)
        start = torch.zeros(inputs.shape[1], self.size) if self.weights is None else self.weights
        self.weights = fit_counts(inputs, counts, weight, start, max(5.0, inputs.shape[1] / 77), iterations)
        known = ~lengths.isnan()
        if known.any():
            self.slopes = fit_lengths(inputs[known], lengths[known], weight[known], float(inputs.shape[1]))

    def inputs(self, features: Tensor) -> Tensor:
        return F.pad((features - self.mean) / self.std, (0, 1), value=1.0)

    def probabilities(self, features: Tensor) -> Tensor | None:
        """P(k of G right), k = 0..G, [N, G + 1], from features [N, D]; None before the first fit."""
        with torch.autocast("cpu", enabled=False):
            return None if self.weights is None else (self.inputs(features) @ self.weights).softmax(-1)

    def lengths(self, features: Tensor) -> list[float | None]:
        """The mean length of right solutions of each of N problems, in tokens, from features [N, D]; None
        where there is none above 0, and before a solution was right."""
        with torch.autocast("cpu", enabled=False):
            if self.slopes is None:
                return [None] * len(features)
            foretold = (self.inputs(features) @ self.slopes).tolist()
            return [length if 0 < length < inf else None for length in foretold]

    def state_dict(self) -> dict:
        """What `load_state_dict` needs to go on, as tensors."""
        fitted = {name: getattr(self, name, None) for name in ("mean", "std", "weights", "slopes")}
        return {name: value for name, value in fitted.items() if value is not None} | {
            "steps": [list(step) for step in self.steps]}

    def load_state_dict(self, state: dict) -> None:
        for features, counts, lengths in state["steps"]:        # a ValueError if they are of another kind
            self.steps.append((features, counts, lengths))
        for name in state.keys() - {"steps"}:
            setattr(self, name, state[name])


@torch.no_grad()
def states(sampler: Sampler, groups: list[Group]) -> Tensor:
    """Hidden states of four layers at the last token of each problem's prompt: [N, D], on the CPU.

    What the policy knows about a problem before it writes a token. D is four times the hidden size: 32 KB a
    problem for Qwen3-1.7B, 21 MB for the 640 of a `Reader` (8B and the 5,120 of preset paper: 335 MB).
    """
    chats = [solution_messages(group.problem.text) for group in groups]
    prompts = [encode(sampler.tokenizer, chat, sampler.thinking) for chat in chats]
    sampler.prefilled += sum(map(len, prompts))
    ids, mask = pad_rows(prompts, left=True, device=sampler.policy.device)
    size = max(1, (sampler.max_tokens or 64 * ids.numel()) // ids.shape[1] // 64)   # all layers are in memory
    found = []
    for i in range(0, len(ids), size):
        part = read(sampler.policy, ids[i:i + size], mask[i:i + size], output_hidden_states=True)
        layers = part.hidden_states
        chosen = sorted({round(j * (len(layers) - 1) / 4) for j in (1, 2, 3, 4)})
        found.append(torch.cat([layers[j][:, -1].float() for j in chosen], 1).cpu())
    return torch.cat(found)


@torch.no_grad()
def mass_of_numbers(sampler: Sampler, group: Group) -> float:
    """`gating.number_mass` of a group's predictions, those that name a pass rate; 0.0 if none does."""
    sampled = [ids[keep] for ids, keep in zip(group.metas.completion_ids, group.metas.mask)]
    places = [number_place(sampler.tokenizer, ids) for ids in sampled]
    found = [(row, *place) for row, place in enumerate(places) if place]
    if not found:
        return 0.0
    rows, columns, numbers = map(list, zip(*found))
    part = group.metas.select(rows)
    ids, mask = (torch.cat(pair, 1) for pair in zip(part.tokens[:2], part.tokens[2:]))
    sampler.prefilled += int(mask.sum())
    before = torch.tensor(columns, device=ids.device) + part.prompt_ids.shape[1] - 1
    hidden = read(sampler.policy, ids, mask).last_hidden_state[torch.arange(len(rows)), before]
    logits = head_of(sampler.policy)(hidden).float()
    return number_mass(logits, torch.tensor(numbers, device=ids.device)).item()


def mass_by_solving(sampler: Sampler, groups: list[Group], size: int, tries: int = 64) -> list[float]:
    """The control that knows what no gate can: `gating.silent_mass` of groups of `size`, for each group.

    From the share q of right ones among `tries` solutions of its problem: q ** size + (1 - q) ** size. What
    they cost is not counted.
    """
    counted, shadows = sampler.prefilled, [Group(group.problem, [sampler.budget]) for group in groups]
    sampler.solve(shadows, tries)
    sampler.prefilled = counted
    rates = [sum(shadow.correct) / tries for shadow in shadows]
    return [rate ** size + (1 - rate) ** size for rate in rates]


def number_place(tokenizer, ids: Tensor) -> tuple[int, list[int]] | None:
    """Where the token ids of a prediction name the pass rate, and which nine tokens would name 0..8 there."""
    text, found = "", None
    for place, piece in enumerate(tokenizer.batch_decode(ids[:, None])):
        if found == place - 1 and piece[:1].isdigit():
            found = None                                        # as in 12
        text += piece
        if re.search(r'"pass_rate"\s*:\s*[0-8]$', text):      # the last match is the object's
            found, said = place, piece
    if found is None:
        return None
    others = [tokenizer(f"{said[:-1]}{k}", add_special_tokens=False)["input_ids"] for k in range(9)]
    plain = all(len(other) == 1 for other in others) and others[int(said[-1])] == [int(ids[found])]
    return (found, [other[0] for other in others]) if plain else None


def read(policy, ids: Tensor, mask: Tensor, **wanted):
    """The output of the policy below its LM head for ids and mask, [B, T]."""
    with sampling_mode(policy):
        return policy.base_model(ids, attention_mask=mask.long(), position_ids=positions(mask),
                                 use_cache=False, **wanted)


def word_features(texts: list[str], size: int = 256) -> Tensor:
    """The control for hidden states: how often each word of a text occurs, hashed into [N, size]."""
    counts = torch.zeros(len(texts), size)
    for row, text in enumerate(texts):
        for word in text.casefold().split():
            counts[row, zlib.crc32(word.encode("utf-8", "replace")) % size] += 1
    return counts


# [N, D] of N groups, for a `Reader`. `words` and `level` are controls for `state`; a new one is a row.
FEATURES = {
    "state": states,
    "words": lambda _, groups: word_features([group.problem.text for group in groups]),
    "level": lambda _, groups: word_features([group.problem.level.replace(" ", "_") for group in groups])}
