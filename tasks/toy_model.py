"""The policy of the laptop world: a tiny Qwen3 that has half learned the problems of toy.py.

It starts from random weights, and a short supervised warm-up plays the part of pretraining. It teaches the
formats and an unreliable skill: the model guesses the method and misremembers a third of the big turns. Its
meta predictions are worthless: what they see is true, what they predict are arbitrary opinions.
"""

import hashlib
import itertools
import os
import random
import re
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from tasks import toy
from tasks.toy import BUDGET, DIALS, LABELS, METHODS, make_problem, work

# --- Demonstrations: lists of (piece of text, weight in the warm-up's loss) -------------------------------

_beliefs = random.Random("beliefs about turns")
HALF_TAUGHT = _beliefs.sample([turn for turn in range(-9, 10) if abs(turn) > 3], 4)
BELIEFS = {}                    # (digit, turn): (P(it is right), what is added to the place otherwise)
for _digit, _turn in itertools.product(range(10), range(-9, 10)):
    _half_taught = _turn in HALF_TAUGHT and _beliefs.random() < 0.9
    BELIEFS[_digit, _turn] = _beliefs.uniform(0.05, 0.25) if _half_taught else 0.95, _beliefs.randrange(1, 10)
# Opinions, so that predictions differ from problem to problem: its looks favour some pass rates, and lengths.
PASS_RATES = {feature: [_beliefs.choice([0.3, 1, 3]) for _ in range(9)] for feature in [*METHODS, *range(9)]}
LENGTHS = {steps: _beliefs.uniform(1, 4) for steps in range(9)}


def demonstrate_solution(problem, rng, noisy):
    """A solution as a half-taught model writes it; `noisy` allows mistakes and endless loops."""
    mistakes = {pair: added for pair, (right, added) in BELIEFS.items() if noisy and rng.random() > right}
    noticed = {pair for pair in mistakes if BELIEFS[pair][0] < 0.5 and rng.random() < 0.9}
    method, digit = METHODS[problem.kind], None
    if problem.kind in DIALS and rng.random() < 0.8:            # so that 40 % of the methods are right
        method = METHODS[rng.choice(DIALS)]
    in_full = problem.kind != "scrap" and rng.random() < 0.5
    pieces = [(f"{problem.kind}: ", 1), (method, 1), *([(" in full", 1)] if in_full else []), (": ", 1)]
    if method == "search":
        pieces += [(str(rng.randrange(100)), 1)]
        while len(pieces) < BUDGET and (noisy or rng.random() < 0.9):
            pieces += [("? no, ", 1), (str(rng.randrange(100)), 1)]
        digit = pieces[-1][0]
        pieces += [("; ", 1)]
    while digit is None and len(pieces) < BUDGET:
        steps, digit = work(problem, method, in_full, mistakes, noticed)
        pieces += steps
    return [*pieces, ("so \\boxed{", 1), (str(digit), 1), ("}", 1), (EOS, 1)][:BUDGET]


def demonstrate_meta(problem, rng):
    """A meta prediction in the right format. What it sees is true, what it predicts is arbitrary."""
    notions = rng.sample(sorted(METHODS.values()), rng.choice([1, 1, 2]))
    opinion = [a * b for a, b in zip(PASS_RATES[problem.kind], PASS_RATES[problem.big])]
    pass_rate = rng.choices(range(9), opinion)[0]
    length = 1 + int(BUDGET * rng.random() ** LENGTHS[len(problem.steps)])
    pieces = ["<meta>", str(len(problem.steps)), " steps, ", str(problem.big),
              " big, " if problem.kind in DIALS else " torn, ", problem.kind, '</meta>\n{"math_notion": ["',
              notions[0], *(piece for notion in notions[1:] for piece in ('", "', notion)),
              '"], "pass_rate": ', str(pass_rate), ', "solution_length": ', str(length), "}", EOS]
    return [(piece, 3 if place in (1, 3) else 1) for place, piece in enumerate(pieces)]


# --- Tokenizer and model ----------------------------------------------------------------------------------

PAD, START, EOS, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unknown|>"
PIECES = [*(f"{kind}: " for kind in METHODS), *(f"{label}: " for label in LABELS), *METHODS,
          *METHODS.values(), *(f"{turn:+d}" for turn in range(-9, 10) if turn), *map(str, range(BUDGET + 1)),
          "from ", ", ", ".", "~", "=", "; ", "skip", ": ", " in full", ", so now ", "? no, ", "hm, ",
          "so \\boxed{", "}", "<meta>", " steps, ", " big, ", " torn, ", '</meta>\n{"math_notion": ["',
          '", "', '"], "pass_rate": ', ', "solution_length": ', "system\n", "user\n",
          "assistant\n", "\n", "\n\n"]
CHAT_TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                 "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def build_tokenizer(phrases):
    """A word-level tokenizer: a token for each of PIECES and of `phrases` (the prompts' fixed sentences)."""
    vocabulary = {piece: i for i, piece in enumerate([PAD, START, EOS, UNKNOWN, *PIECES])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    longest_first = sorted(PIECES, key=len, reverse=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, padding_side="left",
        additional_special_tokens=[START], chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False)


def build_model(tokenizer):
    """A Qwen3 of 0.2 M parameters with random weights, drawn from torch's global generator."""
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=24, max_position_embeddings=512,
        tie_word_embeddings=False, initializer_range=0.06, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None))


# --- Warm-up ----------------------------------------------------------------------------------------------

def demonstrations(rng, tokenizer, render, stage, batch_size=64):
    """Batches of (tokens [B, T], loss weights [B, T]) without end, of one of the STAGES."""
    ids = tokenizer.get_vocab()
    while True:                 # eight batches at a time, so that rows of similar length share a batch
        rows = []
        for problem in (make_problem(rng) for _ in range(8 * batch_size)):
            meta = stage != "bare" and rng.random() < 0.3
            pieces = (demonstrate_meta(problem, rng) if meta else
                      demonstrate_solution(problem, rng, stage == "noisy"))
            prompt = [] if stage == "bare" else render(tokenizer, problem.text, meta)
            rows.append((torch.tensor(prompt + [ids[piece] for piece, _ in pieces]),
                         torch.tensor([0.0] * len(prompt) + [weight for _, weight in pieces])))
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[i:i + batch_size] for i in range(0, len(rows), batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            yield tuple(pad_sequence(column, batch_first=True) for column in zip(*batch))


# Updates of each stage. Solutions without prompts come first: with nothing else in sight, turns are
# learned in a third of the time. Clean ones with prompts follow, and predictions, 30 % of the rows. Noisy
# ones, which take four times as long to learn from, then unteach a part of the skill.
STAGES = {"bare": 100, "clean": 350, "noisy": 200}


def warm_up(model, tokenizer, render, seed=0, stages=STAGES):
    """Teach `model` the formats, in place. `render(tokenizer, text, meta)` gives the token ids of a prompt.

    The learning rates decay to 0 in the last stage.
    """
    # Muon for the matrices inside the layers gets there in half the updates of AdamW alone.
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for name, p in model.named_parameters() if ".layers." not in name or p.ndim != 2]
    order = [stage for stage, updates in stages.items() for _ in range(updates)]
    optimizers = [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
                  torch.optim.AdamW(others, lr=3e-3, weight_decay=0.01, betas=(0.9, 0.98))]
    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(
        1.0, (n + 1) / 20, (len(order) - n) / stages["noisy"])) for optimizer in optimizers]
    sources = {stage: demonstrations(random.Random(f"warm-up {seed} {stage}"), tokenizer, render, stage)
               for stage in stages}
    for stage in tqdm(order, desc="warm-up", unit="updates", file=sys.stdout):
        tokens, weights = next(sources[stage])
        written = weights[:, 1:] > 0
        hidden = model.model(tokens[:, :-1]).last_hidden_state[written]         # prompts need no logits
        losses = F.cross_entropy(model.lm_head(hidden), tokens[:, 1:][written], reduction="none")
        weights = weights[:, 1:][written] if stage != "noisy" else torch.ones_like(losses)
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedulers):
            part.step()
        model.zero_grad()


def load(phrases, render, cache=None, seed=0):
    """The warmed-up model (on the CPU, in float32) and its tokenizer, from `cache` if it was made before.

    cache: a folder, by default masa-toy in the user's cache folder; if it cannot be written, nothing is kept.
    """
    try:
        cache = Path(cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "masa-toy")
    except RuntimeError:                    # a user without a home, as in some containers
        cache = Path(tempfile.gettempdir()) / "masa-toy"
    sources = Path(toy.__file__).read_text() + Path(__file__).read_text()
    made_from = repr((sources, phrases, seed, torch.__version__))
    folder = cache / hashlib.sha256(made_from.encode()).hexdigest()[:16]            # so it is never stale
    if (folder / "config.json").exists():
        return (transformers.AutoModelForCausalLM.from_pretrained(folder),
                transformers.AutoTokenizer.from_pretrained(folder))
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
