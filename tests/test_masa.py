"""End to end: small random checkpoints from their folders, the toy world, resuming, and mistakes of the user."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast,
                          Qwen3Config, Qwen3ForCausalLM)

import collect
import masa
from tasks import toy_model
from collect import Collected
from lab.flags import Config, parse_config
from tasks.problems import Problem
from grpo import group_advantages
from rewards import parse_meta
from rollout import concat, generate
from update import OffloadedAdamW, update

ROOT = Path(__file__).parent.parent
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}")
SMALL = ("--max-new-tokens 12 --max-meta-tokens 10 --max-prompt-tokens 700 --problems-per-step 3 --group-size 4 "
         "--meta-group-size 4 --learning-rate 0.001 --eval-problems 2 --eval-samples 2 --max-tokens 20000").split()


def bpe():
    tokenizer = ByteLevelBPETokenizer()
    text = ["What is 1 + 2? Reason step by step, and put the final answer in \\boxed{}. assistant system user"] * 9
    tokenizer.train_from_iterator(text, vocab_size=300, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer._tokenizer


def save_chat_model(folder):
    """A Qwen3 with a BPE tokenizer, a chat template, a pad token, and sampling fields of its own."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe(), eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                        chat_template=CHAT_TEMPLATE, additional_special_tokens=["<|im_start|>"])
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id))
    model.generation_config.update(eos_token_id=[0, 2], do_sample=True, top_k=20, top_p=0.8, temperature=0.7)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_base_model(folder):
    """A Llama without chat template and without pad token."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe(), bos_token="<|im_start|>", eos_token="<|endoftext|>")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=1024, initializer_range=0.1, bos_token_id=1, eos_token_id=0,
        tie_word_embeddings=True)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"problem": f"What is {i} + {i}?", "answer": str(2 * i)}) + "\n"
                            for i in range(9)))
    return str(path)


@pytest.fixture
def sometimes_right(monkeypatch):
    """A random model is never right; so that groups have variance, a solution is right if its text is even."""
    monkeypatch.setattr(collect, "grade", lambda text, answer: len(text) % 2 == 0)


def run(*arguments):
    masa.main([str(argument) for argument in arguments])


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same_weights(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items())


def rows(folder):
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


# --- Checkpoints of Hugging Face --------------------------------------------------------------------------

@pytest.mark.parametrize("save", [save_chat_model, save_base_model])
def test_two_and_two_steps_are_four(tmp_path, problems, sometimes_right, save):
    model = save(tmp_path / "model")
    common = ["--model", model, "--data", problems, *SMALL, "--inner-epochs", 2, "--minibatches", 2, "--beta", 0.1]
    run(*common, "--output", tmp_path / "four", "--steps", 4)
    run(*common, "--output", tmp_path / "two", "--steps", 2)
    run(*common, "--output", tmp_path / "two", "--steps", 4, "--resume")
    assert rows(tmp_path / "four") == rows(tmp_path / "two") and len(rows(tmp_path / "two")) == 4
    assert same_weights(weights(tmp_path / "four/checkpoint"), weights(tmp_path / "two/checkpoint"))
    assert not same_weights(weights(model), weights(tmp_path / "two/checkpoint"))
    for name in ("before.json", "after.json"):
        assert (tmp_path / "four" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    states = [torch.load(tmp_path / name / "checkpoint/trainer.pt")["optimizer"]["state"] for name in ("four", "two")]
    assert all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i])
    AutoTokenizer.from_pretrained(tmp_path / "four/checkpoint")
    assert {"curves.png", "awareness.png", "config.json"} <= set(os.listdir(tmp_path / "four"))


def test_killed_before_its_first_checkpoint(tmp_path, problems, sometimes_right):
    common = ["--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 2]
    run(*common, "--output", tmp_path / "run")
    done = rows(tmp_path / "run")
    for path in sorted((tmp_path / "run/checkpoint").iterdir()):
        path.unlink()
    (tmp_path / "run/checkpoint").rmdir()
    run(*common, "--output", tmp_path / "run", "--resume")
    assert rows(tmp_path / "run") == done


def test_killed_run_and_ctrl_c(tmp_path, problems):
    """SIGKILL and Ctrl-C to the real command: it resumes, and the end is that of a run which nobody disturbed."""
    model = save_chat_model(tmp_path / "model")
    command = [sys.executable, "masa.py", "--model", model, "--data", problems, *SMALL, "--steps", "6",
               "--checkpoint-every", "1", "--eval-problems", "0", "--aggregation", "sequence", "--beta", "0.1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(name, *more):
        return subprocess.Popen([*command, "--output", str(tmp_path / name), *more], cwd=ROOT, text=True,
                                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    assert start("whole").wait(120) == 0
    for number in (signal.SIGKILL, signal.SIGINT):
        name = number.name
        process = start(name)
        metrics = tmp_path / name / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
            time.sleep(0.02)
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
        if number == signal.SIGINT:
            assert process.returncode == 0 and "Go on with the same command and --resume" in said
        assert start(name, "--resume").wait(120) == 0
        assert rows(tmp_path / name) == rows(tmp_path / "whole")
        assert same_weights(weights(tmp_path / name / "checkpoint"), weights(tmp_path / "whole/checkpoint"))


def test_a_run_that_ran_out_of_memory_goes_on_with_less(tmp_path, problems, sometimes_right, monkeypatch):
    command = ["--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 4,
               "--checkpoint-every", 2, "--output", tmp_path / "run"]

    calls = []

    def full(*arguments, **named):
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return update(*arguments, **named)
    with monkeypatch.context() as patched:
        patched.setattr(masa, "update", full)
        with pytest.raises(SystemExit, match="^masa.py: out of the card's memory. Lower --max-tokens"):
            run(*command)
    run(*command, "--resume", "--max-tokens", 2000, "--micro-batch-tokens", 1000, "--offload-optimizer")
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2, 3]


# --- The update -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_micro_batches_do_not_change_the_update(tiny_policy, aggregation):
    results = []
    for micro_batch_tokens in (1, 60, 10**6):
        model, tokenizer = tiny_policy()
        torch.manual_seed(0)
        prompts = [[5 + i // 4, 6, 7][:1 + i % 3] for i in range(16)]
        rollouts = concat([generate(model, tokenizer, prompts[:8], 7), generate(model, tokenizer, prompts[8:], 5)])
        advantages = group_advantages(torch.tensor([1., 0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0.5, 0, 0, 1]), 4)
        config = Config(micro_batch_tokens=micro_batch_tokens, aggregation=aggregation, max_grad_norm=1e9)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        metrics = update(model, None, optimizer, rollouts, advantages, config)
        assert (metrics.pop("padding") == 0) == (micro_batch_tokens == 1)
        results.append((metrics, torch.cat([p.detach().flatten() for p in model.parameters()])))
    for metrics, parameters in results[1:]:
        assert metrics == pytest.approx(results[0][0], rel=1e-4, abs=1e-6)
        torch.testing.assert_close(parameters, results[0][1], rtol=1e-4, atol=1e-6)
    assert abs(results[0][0]["loss"]) < 1 and results[0][0]["grad_norm"] > 0


def test_bf16_computes_nearly_the_same_gradient_into_float32_weights(tiny_policy):
    gradients = []
    for bf16 in (False, True):
        model, tokenizer = tiny_policy()
        torch.manual_seed(0)
        rollouts = generate(model, tokenizer, [[5 + i // 4, 6] for i in range(16)], 7)
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        metrics = update(model, None, torch.optim.SGD(model.parameters(), lr=1.0), rollouts,
                         group_advantages(torch.tensor([1., 0, 0, 1] * 4), 4),
                         Config(bf16=bf16, minibatches=1, max_grad_norm=1e9))
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert (metrics["sampling/logp_difference"] < 1e-5) != bf16 and metrics["sampling/logp_difference"] < 0.1
        gradients.append(torch.cat([p.detach().flatten() for p in model.parameters()]) - before)
    assert not torch.equal(*gradients) and torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_an_offloaded_optimiser_takes_the_same_steps(tiny_policy):
    models, optimizers = [], []
    for kind in (torch.optim.AdamW, OffloadedAdamW):
        model, tokenizer = tiny_policy()
        optimizer = kind(model.parameters(), lr=1e-2, weight_decay=0.1)
        torch.manual_seed(0)
        rollouts = generate(model, tokenizer, [[5 + i // 4, 6] for i in range(16)], 7)
        for steps in (2, 1):                                    # and on from its state
            for _ in range(steps):
                update(model, None, optimizer, rollouts, group_advantages(torch.tensor([1., 0, 0, 1] * 4), 4), Config())
            state = optimizer.state_dict()
            optimizer = kind(model.parameters(), lr=1e-2, weight_decay=0.1)
            optimizer.load_state_dict(state)
        models.append(model)
        optimizers.append(optimizer)
    assert same_weights(models[0].state_dict(), models[1].state_dict())
    moments = [p.data_ptr() for p in optimizers[1].param_groups[0]["params"]]
    assert not set(moments) & {p.data_ptr() for p in models[1].parameters()}        # they belong to the copies


def test_an_update_names_the_rows_whose_gradient_is_not_finite(tiny_policy):
    model, tokenizer = tiny_policy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rollouts = generate(model, tokenizer, [[5, 6]] * 6, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    config = Config(minibatches=1, micro_batch_tokens=1)
    for advantages, rows in (([1., -1, float("nan"), 0, 1, -1], [2]), ([3e38, 3e38, -3e38, 0, 0, 0], [0, 1, 2])):
        metrics = update(model, None, optimizer, rollouts, torch.tensor(advantages), config)
        assert metrics["not_finite"] == rows and same_weights(before, model.state_dict())
    assert "not_finite" not in update(model, None, optimizer, rollouts, torch.tensor([1., -1, 0, 0, 0, 0]), config)


def test_a_batch_without_variance_leaves_the_weights_alone(tiny_policy):
    model, tokenizer = tiny_policy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rollouts = generate(model, tokenizer, [[5, 6]] * 4, 5)
    metrics = update(model, None, torch.optim.AdamW(model.parameters()), rollouts, torch.zeros(4),
                          Config(weight_decay=0.0))
    assert same_weights(before, model.state_dict()) and metrics["loss"] == 0 and metrics["grad_norm"] == 0


def test_meta_rollouts_are_rewarded_by_the_solutions_of_their_own_problem(tiny_policy):
    model, tokenizer = tiny_policy()
    config = Config(group_size=2, meta_group_size=3)
    problems = [Problem("a", "first", "1"), Problem("b", "second", "2")]
    solutions = generate(model, tokenizer, [[5]] * 4, 3)
    solutions.texts[:] = ["by sums", "by sums", "by luck", "by area"]
    metas = generate(model, tokenizer, [[5]] * 6, 3)
    metas.texts[:] = ['{"math_notion": ["sums"], "pass_rate": 8}'] * 3 + ['{"math_notion": ["area"], "pass_rate": 4}'] * 3
    predictions = [[parse_meta(text) for text in metas.texts[i:i + 3]] for i in (0, 3)]
    uncut = torch.zeros(4, dtype=torch.bool)
    batch = Collected(problems, solutions, [True, True, False, True], metas, predictions, uncut)
    aligned = masa.self_alignment(batch, config)
    assert aligned == [{"length": 0.0, "difficulty": 1.0, "notion": 1.0}] * 6


@pytest.mark.parametrize("bf16", ["False", "True"])
def test_a_gradient_that_is_not_finite_changes_nothing_and_ends_the_run(tmp_path, problems, sometimes_right,
                                                                        monkeypatch, capsys, bf16):
    model = save_chat_model(tmp_path / "model")
    whole, calls = group_advantages, []

    def poisoned(rewards, *arguments):                          # steps 1, 3 and 4 of the run
        calls.append(rewards)
        return whole(rewards, *arguments) * (float("nan") if len(calls) in (2, 4, 5) else 1.0)
    monkeypatch.setattr(masa, "group_advantages", poisoned)
    common = ["--model", model, "--data", problems, *SMALL, "--algo", "grpo", "--bf16", bf16, "--output",
              tmp_path / "run"]
    run(*common, "--steps", 1)
    once = weights(tmp_path / "run/checkpoint")
    run(*common, "--steps", 2, "--resume")
    assert same_weights(once, weights(tmp_path / "run/checkpoint")) and "problems-" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="not finite"):
        run(*common, "--steps", 9, "--resume")
    assert "that optimiser step is left out" in capsys.readouterr().out
    assert [row["grad_norm"] is None for row in rows(tmp_path / "run")] == [False, True, False, True, True]
    assert all(value.isfinite().all() for value in weights(tmp_path / "run/checkpoint").values())


# --- The toy world ----------------------------------------------------------------------------------------

def test_the_default_run_shows_what_it_does(tmp_path, monkeypatch, capsys):
    whole = toy_model.warm_up
    monkeypatch.setattr(toy_model, "warm_up", lambda *args: whole(*args, enough=0, noisy_updates=40))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for algo in ("masa", "grpo"):
        run("--output", tmp_path / algo, "--algo", algo, "--steps", 3, "--eval-every", 2, "--eval-problems", 8)
        said = capsys.readouterr().out
        for part in ("before     after", "accuracy/5 scrap", "meta/correlation/pass_rate", "problem     ", "solution    ",
                     "tokens/s", f"are in {tmp_path / algo}/"):
            assert part in said
        assert ("prediction  " in said) == (algo == "masa")
        metrics = rows(tmp_path / algo)
        assert [row["step"] for row in metrics] == [0, 1, 2] and "eval/accuracy" in metrics[1]
        assert ("meta/reward/notion" in metrics[0]) == (algo == "masa")
        assert metrics[2]["tokens_total"] == sum(row["tokens"] + row.get("meta/tokens", 0) for row in metrics)


# --- Mistakes of the user ---------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, said", [
    ("--group-size 1", "--group-size is 1, it must be at least 2"),
    ("--max-new-tokens -5", "--max-new-tokens is -5"),
    ("--steps 0", "--steps is 0"),
    ("--learning-rate nan", "--learning-rate is nan"),
    ("--temperature 0", "--temperature is 0.0"),
    ("--preset huge", "invalid choice: 'huge'"),
    ("--algo ppo", "invalid choice: 'ppo'"),
    ("--seed 99999999999999", "--seed is 99999999999999, it must be below 2^31"),
    ("--beta inf", "--beta is inf"),
    ("--model no/such/model", "neither toy, nor a folder"),             # before the data set is fetched
    ("--model a_run --data toy", "did you mean a_run/checkpoint?"),
    ("--steps many", "invalid int value: 'many'"),
    ("--grop-size 4", "unknown flag --grop-size"),
    ("--model no/such/model --data toy", "neither toy, nor a folder"),
    ("--data missing.jsonl", "missing.jsonl does not exist"),
    ("--data empty.jsonl", "has no problem that can be trained on"),
    ("--data no_answers.jsonl", "3 rows: no answer"),
    ("--model . --data one.jsonl", "folder without config.json or without weights"),
    ("--data one.jsonl --eval-problems 0 --model MODEL --max-prompt-tokens 900 --max-new-tokens 9 --max-meta-tokens 9",
     "leaves 1 problems to train on"),
    ("--data one.jsonl --model MODEL --max-new-tokens 2000 --max-prompt-tokens 1000", "reads at most 1024 tokens"),
    ("--device tpu --data one.jsonl", "--device tpu is not available"),
    ("--resume", "holds no run to resume"),
    ("--report-to trackio --data one.jsonl --model MODEL --eval-problems 0 --problems-per-step 1 "
     "--max-prompt-tokens 900 --max-new-tokens 9 --max-meta-tokens 9", "it is not installed"),
])
def test_a_mistake_is_one_line_and_costs_nothing(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr(toy_model, "warm_up", lambda *args: pytest.fail("long work before the mistake was told"))
    Path("empty.jsonl").write_text("")
    Path("a_run/checkpoint").mkdir(parents=True)
    Path("no_answers.jsonl").write_text('{"problem": "a"}\n{"problem": "b"}\n{"problem": "c"}\n')
    Path("one.jsonl").write_text('{"problem": "1 + 1?", "answer": "2"}\n')
    with pytest.raises(SystemExit) as stopped:
        run("--output", "run", *arguments.replace("MODEL", save_chat_model(tmp_path / "model")).split())
    message = str(stopped.value)
    assert message.startswith("masa.py: ") and said in message and "\n" not in message
    assert not Path("run/metrics.jsonl").exists() and not Path("run/checkpoint").exists()


def test_problems_that_do_not_fit_are_left_out(tmp_path, problems, capsys):
    with open(problems, "a") as file:
        for text in ("long " * 400, "now <|im_end|> ends", "lone \ud800", ""):
            file.write(json.dumps({"problem": text, "answer": "1"}) + "\n")
    run("--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 1,
        "--output", tmp_path / "run", "--eval-problems", 0)
    said = capsys.readouterr().out
    assert "11 of 13 problems kept" in said
    assert "2 of 11 problems left out: 1 with prompts over 700 tokens, 1 with control tokens" in said


def test_presets():
    config = parse_config(["--model", "Qwen/Qwen3-1.7B", "--group-size", "4"])
    assert config.data == "agentica-org/DeepScaleR-Preview-Dataset" and config.group_size == 4
    assert config.learning_rate == 1e-6 and config.output == "runs/qwen3-1.7b-masa"
    paper = parse_config(["--preset", "paper"])
    assert (paper.model, paper.steps, paper.problems_per_step, paper.group_size, paper.weight_decay,
            paper.warmup_steps, paper.beta) == ("Qwen/Qwen3-8B-Base", 314, 128, 16, 0.1, 20, 0.0)
    default = parse_config([])
    assert (default.model, default.data, default.algo) == ("toy", "toy", "masa")


def test_every_flag_is_explained(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    said = capsys.readouterr().out
    for name, entry in Config.__dataclass_fields__.items():
        assert f"--{name}" in said and entry.metadata["help"]
