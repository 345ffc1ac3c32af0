"""What several test files share: tiny random policies, references for them, whole runs, and modules copied
alone."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")       # models so small gain nothing from a second thread, and
                                                    # threads that wait spin: minutes, on a busy machine

import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

PAD, BOS, START, END, UNKNOWN = SPECIALS = ["<pad>", "<bos>", "<start>", "<end>", "<unk>"]
# 60 with SPECIALS
WORDS = [*"system user assistant think quiet".split(), *(f"w{i}" for i in range(49)), "w1 w2"]
TEMPLATE = ("{{ bos_token }}{% for m in messages %}<start> {{ m.role }} {{ m.content }} <end> {% endfor %}"
            "{% if add_generation_prompt %}<start> assistant {% endif %}"
            "{% if enable_thinking is defined and enable_thinking %}think{% else %}quiet{% endif %}")


def make_tokenizer(template=TEMPLATE, **special_tokens):
    """A word is a token; "w1 w2" is one that no text is ever split into. It adds BOS to a text by itself."""
    vocabulary = {piece: i for i, piece in enumerate(SPECIALS + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])])
    names = dict(pad_token=PAD, bos_token=BOS, eos_token=END, unk_token=UNKNOWN) | special_tokens
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=[START],
                                   chat_template=template, clean_up_tokenization_spaces=False, **names)


def make_policy(seed=0, template=TEMPLATE, eos=None, **special_tokens):
    """(model, tokenizer), in eval mode and float32, with sharp random distributions; `eos` as in
    generation_config."""
    tokenizer = make_tokenizer(template, **special_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            tie_word_embeddings=False,
            initializer_range=0.25, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id if eos is None else eos))
    return model.eval(), tokenizer


def greedy_alone(model, prompt, budget):
    """The greedy completion of one row: no padding, no cache, no `generate`. Token 3 ends it."""
    ids = list(prompt)
    while len(ids) < len(prompt) + budget and (len(ids) == len(prompt) or ids[-1] != 3):
        logits = model(torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt):]


def logprobs_alone(model, prompt, completion, temperature=1.0):
    """Of each token of a completion, from the logits of the whole model on one row without padding: [T]
    tensor."""
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1:-1]
    return (logits / temperature).log_softmax(-1)[range(len(completion)), completion]


def rows_of(ids, mask):
    return [row[keep].tolist() for row, keep in zip(ids, mask)]


def sampled(rollouts):
    return rows_of(rollouts.completion_ids, rollouts.mask)


def padded(rows, left):
    gaps = [max(map(len, rows)) - len(row) for row in rows]
    ids = [[0] * gap * left + row + [0] * gap * (not left) for gap, row in zip(gaps, rows)]
    mask = [[False] * gap * left + [True] * len(row) + [False] * gap * (not left) for gap,
            row in zip(gaps, rows)]
    return torch.tensor(ids), torch.tensor(mask)


def play(model, says, width):
    """Make the model say says[k], then 30, to the prompts (padded to `width`) whose last token is k.

    Returns a list that grows with each call of `generate`, by (those k, the number of tokens sampled for
    each).
    """
    calls = []

    def hook(module, args, kwargs, output):
        step = output.past_key_values.get_seq_length() - width
        rows = kwargs["input_ids"][:, -1].tolist() if step == 0 else calls.pop()[0]
        calls.append((rows, step + 1))
        for logits, row in zip(output.logits[:, -1], rows):
            logits.zero_()[says[row][step] if step < len(says[row]) else 30] = 1e4
    model._forward_hooks.clear()
    model.register_forward_hook(hook, with_kwargs=True)
    return calls


def chi_square_fits(counts, probabilities):
    """Pearson's chi-square is within six standard deviations of its mean; rare tokens share a cell."""
    expected = probabilities.double() * counts.sum()
    rare = expected < 5
    counts, expected = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (counts.double(), expected))
    chi2 = ((counts - expected) ** 2 / expected.clamp(min=1e-9)).sum()
    return bool(chi2 < len(counts) + 6 * (2 * len(counts)) ** 0.5)


def checkpointed(model):
    """`model` with gradient checkpointing, which transformers renamed in 5.23."""
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    return model


# --- Whole runs -------------------------------------------------------------------------------------------

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}")
SMALL = ("--max-new-tokens 12 --max-meta-tokens 10 --max-prompt-tokens 700 --problems-per-step 3 "
         "--group-size 4 --meta-group-size 4 --learning-rate 0.001 --eval-problems 2 --eval-samples 2 "
         "--max-tokens 20000").split()


def bpe():
    tokenizer = ByteLevelBPETokenizer()
    text = "What is 1 + 2? Reason step by step, and put the final answer in \\boxed{}. assistant system user"
    tokenizer.train_from_iterator([text] * 9, vocab_size=300,
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer._tokenizer


def save_chat_model(folder):
    """A Qwen3 with a BPE tokenizer, a chat template, a pad token, and sampling fields of its own."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe(), eos_token="<|im_end|>",
                                        pad_token="<|endoftext|>",
                                        chat_template=CHAT_TEMPLATE,
                                        additional_special_tokens=["<|im_start|>"])
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id))
    model.generation_config.update(eos_token_id=[0, 2], do_sample=True, top_k=20, top_p=0.8, temperature=0.7)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_base_model(folder):
    """A Llama without chat template and without pad token."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe(), bos_token="<|im_start|>",
                                        eos_token="<|endoftext|>")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024, initializer_range=0.1, bos_token_id=1, eos_token_id=0,
        tie_word_embeddings=True)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def train(*arguments):
    """The command masa.py, in this process."""
    import masa
    masa.main([str(argument) for argument in arguments])


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())


def logged(folder):
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


@pytest.fixture
def problems(tmp_path):
    """The path of a file with nine problems."""
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"problem": f"What is {i} + {i}?", "answer": str(2 * i)}) + "\n"
                            for i in range(9)))
    return str(path)


@pytest.fixture
def sometimes_right(monkeypatch):
    """A random model is never right; so that groups have variance, a solution is right if its text is
    even."""
    monkeypatch.setattr("tasks.problems.grade", lambda text, *_: len(text) % 2 == 0)


# --- Fixtures ---------------------------------------------------------------------------------------------

@pytest.fixture
def tiny_policy():
    """The factory `make_policy`: tiny_policy(seed=0, template=..., eos=None, **special_tokens) -> model,
    tokenizer."""
    return make_policy


@pytest.fixture
def transformers_said():
    """The warnings that transformers logs during the test, those that it gives only once included."""
    said, handler = [], logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    transformers.logging.warning_once.cache_clear()
    logging.getLogger("transformers").addHandler(handler)
    yield said
    logging.getLogger("transformers").removeHandler(handler)


@pytest.fixture
def run_alone(tmp_path):
    """run_alone("a.py b.py", code): what `code` prints where copies of these files are all there is of
    ours."""
    def run(files, code):
        for file in files.split():
            (tmp_path / Path(file).name).write_text((ROOT / file).read_text())
        command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
    return run
