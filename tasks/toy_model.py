"""The policy of the laptop world: a tiny Qwen3 that has half learned the problems of toy.py.

It starts from random weights, and a short supervised warm-up plays the part of pretraining. It teaches the formats, and
a skill that is unreliable on purpose: the model guesses the method, and misremembers big turns. Its own meta predictions
are worthless: what they say about the problem is true, but what they predict from it is an arbitrary opinion, or
plainly random.
"""

import hashlib
import os
import random
import re
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tasks import toy
from tasks.toy import BUDGET, DIALS, LABELS, METHODS, make_problem, turned, work

# --- Demonstrations: lists of (piece of text, weight in the warm-up's loss) -------------------------------

_beliefs = random.Random("beliefs about turns")
HALF_TAUGHT = _beliefs.sample([turn for turn in range(-9, 10) if abs(turn) > 3], 6)
BELIEFS = {(digit, turn): (0.95, _beliefs.randrange(1, 10)) for digit in range(10) for turn in range(-9, 10) if turn}
BELIEFS |= {(digit, turn): (_beliefs.uniform(0.1, 0.4), mistake) for (digit, turn), (_, mistake) in BELIEFS.items()
            if abs(turn) > 3 and _beliefs.random() < (0.9 if turn in HALF_TAUGHT else 0.1)}     # P(right), mistake
OPINIONS = {feature: (_beliefs.choice([*METHODS.values()]), _beliefs.randint(0, 8), 5 * _beliefs.randint(1, BUDGET // 5))
            for feature in [*METHODS, *(("steps", n) for n in range(9)), *(("big", n) for n in range(9))]}


def demonstrate_solution(problem, rng, noisy):
    """A solution as a half-taught model writes it: right by chance. `noisy` allows mistakes and endless loops."""
    wrong = {pair for pair, (right, _) in BELIEFS.items() if noisy and rng.random() > right}
    doubted = {pair for pair in wrong if BELIEFS[pair][0] < 0.5 and rng.random() < 0.9}

    def remembered(digit, turn):
        return turned(digit, turn + (BELIEFS[digit, turn][1] if (digit, turn) in wrong else 0))

    method, digit = METHODS[problem.kind], None
    if problem.kind in DIALS and rng.random() < 0.8:            # so that 40 % of the methods are right
        method = METHODS[rng.choice(DIALS)]
    in_full = problem.kind in DIALS and rng.random() < 0.5
    pieces = [(f"{problem.kind}: ", 1), (method, 1), *([(" in full", 1)] if in_full else []), (": ", 1)]
    if method == "search":
        pieces += [(str(rng.randrange(100)), 1)]
        while len(pieces) < BUDGET and (noisy or rng.random() < 0.9):
            pieces += [("? no, ", 1), (str(rng.randrange(100)), 1)]
        digit = pieces[-1][0]
        pieces += [("; ", 1)]
    while digit is None and len(pieces) < BUDGET:
        steps, digit = work(problem, method, in_full, remembered, doubted)
        pieces += steps
    return [*pieces, ("so \\boxed{", 1), (str(digit), 1), ("}", 1), (EOS, 1)][:BUDGET]


def demonstrate_meta(problem, rng):
    """A meta prediction in the right format. What it sees is true, what it predicts is arbitrary."""
    see = [problem.kind, ("big", problem.big)]
    notions = rng.sample(sorted(METHODS.values()), rng.choice([1, 1, 2]))
    notions[0] = rng.choice([notions[0], OPINIONS[problem.kind][0]])
    pass_rate = rng.choice([rng.randint(0, 8), OPINIONS[rng.choice(see)][1]])
    length = rng.choice([5 * rng.randint(1, BUDGET // 5), OPINIONS["steps", len(problem.steps)][2]])
    pieces = ["<meta>", str(len(problem.steps)), " steps, ", str(problem.big),
              " big, " if problem.kind in DIALS else " torn, ", problem.kind, '</meta>\n{"math_notion": ["', notions[0],
              *(['", "', notions[1]] if len(notions) > 1 else []), '"], "pass_rate": ', str(pass_rate),
              ', "solution_length": ', str(length), "}", EOS]
    return [(piece, 3 if place in (1, 3) else 1) for place, piece in enumerate(pieces)]


# --- Tokenizer and model ----------------------------------------------------------------------------------

PAD, START, EOS, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unknown|>"
PIECES = [*(f"{kind}: " for kind in METHODS), *(f"{label}: " for label in LABELS), *METHODS.values(),
          "from ", ", ", ".", "~", *(f"{turn:+d}" for turn in range(-9, 10) if turn), "=", "; ", "skip", ": ",
          " in full", ", so now ", "? no, ", "hm, ", "so \\boxed{", "}", "<meta>", " steps, ", " big, ", " torn, ",
          *METHODS, '</meta>\n{"math_notion": ["', '", "', '"], "pass_rate": ', ', "solution_length": ',
          "system\n", "user\n", "assistant\n", "\n", "\n\n", *map(str, range(BUDGET + 1))]
CHAT_TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                 "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def build_tokenizer(phrases):
    """A word-level tokenizer: a piece of PIECES is one token, and so is each of `phrases`.

    `phrases` are the fixed sentences of the prompts (prompts.PHRASES): the model reads the same prompts as a
    large one, at the price of a token for a sentence.
    """
    specials = [PAD, START, EOS, UNKNOWN]
    vocabulary = {piece: i for i, piece in enumerate([*specials, *PIECES])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    longest_first = sorted(PIECES, key=len, reverse=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN,
                                   additional_special_tokens=[START], chat_template=CHAT_TEMPLATE,
                                   padding_side="left", clean_up_tokenization_spaces=False)


def build_model(tokenizer):
    """A Qwen3 of 0.2 M parameters with random weights, drawn from torch's global generator."""
    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=24, max_position_embeddings=512,
        tie_word_embeddings=False, initializer_range=0.06, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None))


# --- Warm-up ----------------------------------------------------------------------------------------------

def demonstrations(rng, tokenizer, render, noisy, batch_size):
    """Batches of (tokens [B, T], loss weights [B, T]) without end; 30 % of the rows are meta predictions."""
    ids = tokenizer.get_vocab()
    while True:                 # eight batches at a time, so that rows of similar length share a batch
        rows = []
        for problem in (make_problem(rng) for _ in range(8 * batch_size)):
            meta = rng.random() < 0.3
            pieces = demonstrate_meta(problem, rng) if meta else demonstrate_solution(problem, rng, noisy)
            rows.append((render(tokenizer, problem.text, meta), pieces))
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        batches = [rows[i:i + batch_size] for i in range(0, len(rows), batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            tokens = torch.zeros(len(batch), max(len(p) + len(c) for p, c in batch), dtype=torch.long)
            weights = torch.zeros(tokens.shape)
            for i, (prompt, pieces) in enumerate(batch):
                row = slice(len(prompt), len(prompt) + len(pieces))
                tokens[i, :row.start] = torch.tensor(prompt)
                tokens[i, row] = torch.tensor([ids[piece] for piece, _ in pieces])
                weights[i, row] = torch.tensor([float(weight) for _, weight in pieces])
            yield tokens, weights


@torch.no_grad()
def skill_of(model, batches):
    """The share of demonstrations whose every operand and digit the model finds, given the tokens before it."""
    follows = [~((model(tokens[:, :-1]).logits.argmax(-1) != tokens[:, 1:]) & (weights[:, 1:] > 1)).any(1)
               for tokens, weights in batches]
    return torch.cat(follows).float().mean().item()


def warm_up(model, tokenizer, render, seed=0, enough=0.85, noisy_updates=250, max_updates=1500, batch_size=64):
    """Teach `model` the formats, in place. `render(tokenizer, text, meta)` gives the token ids of a prompt.

    Clean demonstrations come first, since noisy ones take four times as long to learn from: until the measured
    skill is `enough`, or `max_updates` are done. Then `noisy_updates` of unreliable ones unteach most of the
    skill, while the learning rates decay to 0. Returns the skill on clean demonstrations when noise set in.
    """
    clean, noisy = (demonstrations(random.Random(f"warm-up {seed} {noisy}"), tokenizer, render, noisy, batch_size)
                    for noisy in (False, True))
    held_out = [next(clean) for _ in range(8)]
    # Muon for the matrices inside the layers gets there in half the updates of AdamW alone.
    matrices = [p for name, p in model.model.layers.named_parameters() if p.ndim == 2]
    inside = set(map(id, matrices))
    optimizers = [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
                  torch.optim.AdamW([p for p in model.parameters() if id(p) not in inside], lr=3e-3,
                                    weight_decay=0.01, betas=(0.9, 0.98))]

    def update(batch, scale):
        tokens, weights = batch[0], batch[1][:, 1:]
        losses = F.cross_entropy(model(tokens[:, :-1]).logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("peak_lr", group["lr"]) * scale
            optimizer.step()
            optimizer.zero_grad()

    skill = 0.0
    with tqdm(desc="warm-up", unit="updates", file=sys.stdout, dynamic_ncols=True) as bar:
        while skill < enough and bar.n < max_updates:
            for _ in range(25):
                update(next(clean), min(1.0, (bar.n + 1) / 20))
                bar.update()
            skill = skill_of(model, held_out)
            bar.set_postfix_str(f"skill {skill:.2f}, wanted {enough}")
        for left in range(noisy_updates, 0, -1):
            tokens, weights = next(noisy)
            update((tokens, (weights > 0).float()), left / noisy_updates)
            bar.update()
    return skill


def load(phrases, render, cache=None, seed=0):
    """The warmed-up model (on the CPU, in float32) and its tokenizer, from `cache` if it was made before.

    cache: a folder, by default masa-toy in the user's cache folder; it is done without if it cannot be written.
    """
    cache = Path(cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "masa-toy")
    made_from = repr((Path(toy.__file__).read_text(), Path(__file__).read_text(), phrases, seed, torch.__version__))
    folder = cache / hashlib.sha256(made_from.encode()).hexdigest()[:16]            # so it is never stale
    if (folder / "config.json").exists():
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer = build_tokenizer(phrases)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(tokenizer)
    warm_up(model, tokenizer, render, seed)
    model.eval()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            os.rename(unfinished, folder)
    except OSError as error:
        print(f"The warmed-up model is not kept: {error}")
    return model, tokenizer
