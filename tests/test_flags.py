"""The command line of a run: what the flags become, and a mistake of the user is one line."""

import re
import sys
from pathlib import Path

import pytest
from conftest import save_chat_model, train
from transformers import Qwen3Config

from lab.flags import NEEDS, Config, EvalConfig
from tasks import toy_model


@pytest.mark.parametrize("arguments, said", [
    ("--group-size 1", "--group-size is 1, it must be at least 2"),
    ("--max-new-tokens -5", "--max-new-tokens is -5"),
    ("--steps 0", "--steps 0 is for a cold start alone"),
    ("--learning-rate nan", "--learning-rate is nan"),
    ("--temperature 0", "--temperature is 0.0"),
    ("--gate-margin 1.5", "--gate-margin is 1.5, it must be at most 1"),
    ("--preset huge", "invalid choice: 'huge'"),
    ("--algo ppo", "invalid choice: 'ppo'"),
    ("--seed 99999999999999", "--seed is 99999999999999, it must be at most 2147483647"),
    ("--seed -1", "--seed is -1, it must be at least 0"),
    ("--beta inf", "--beta is inf"),
    ("--model no/such/model", "neither toy, nor a folder"),             # before the data set is fetched
    ("--model a_run --data toy", "did you mean a_run/checkpoint?"),
    ("--steps many", "invalid int value: 'many'"),
    ("--grop-size 4", "unknown flag --grop-size"),
    ("--group-siz 4", "unknown flag --group-siz"),                      # nor is anything guessed
    ("--algo grpo --hints", "--hints need predictions"),
    ("--algo masa --meta-group-size 0", "--algo masa needs predictions"),
    ("--algo masa-efficient --meta-group-size 0 --gate-by said", "--gate-by said needs predictions"),
    ("--dynamic-sampling", "--dynamic-sampling is for --algo grpo"),
    ("--model no/such/model --data toy", "neither toy, nor a folder"),
    ("--data missing.jsonl", "missing.jsonl does not exist"),
    ("--data empty.jsonl", "has no problem that can be trained on"),
    ("--data no_answers.jsonl", "3 rows: no answer"),
    ("--model . --data one.jsonl", "folder without config.json"),
    ("--data one.jsonl --eval-problems 0 --model MODEL --max-prompt-tokens 900 --max-new-tokens 9 "
     "--max-meta-tokens 9", "leaves 1 problems to train on"),
    ("--data one.jsonl --model MODEL --max-new-tokens 2000 --max-prompt-tokens 1000",
     "reads at most 1024 tokens"),
    ("--data one.jsonl --model MODEL --max-new-tokens 800 --max-prompt-tokens 300",
     "lower --max-prompt-tokens (now 300)"),
    ("--device tpu --data one.jsonl", "--device tpu is not available"),
    ("--resume", "holds no run to resume"),
    ("--model large --data one.jsonl --device cpu", "GiB for weights, gradients and the two moments of AdamW "
     "(16 bytes for each of 74.8 billion parameters)"),
    ("--report-to trackio --data one.jsonl --model MODEL --eval-problems 0 --problems-per-step 1 "
     "--max-prompt-tokens 900 --max-new-tokens 9 --max-meta-tokens 9", "it is not installed"),
])
def test_a_mistake_is_one_line_and_costs_nothing(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr(toy_model, "warm_up",
                        lambda *args: pytest.fail("long work before the mistake was told"))
    Path("empty.jsonl").write_text("")
    Path("a_run/checkpoint").mkdir(parents=True)
    Path("no_answers.jsonl").write_text('{"problem": "a"}\n{"problem": "b"}\n{"problem": "c"}\n')
    Qwen3Config(hidden_size=16_384, intermediate_size=65_536, num_hidden_layers=20).save_pretrained("large")
    for name in ("model.safetensors", "tokenizer.json"):
        Path("large", name).touch()
    Path("one.jsonl").write_text('{"problem": "1 + 1?", "answer": "2"}\n')
    with pytest.raises(SystemExit) as stopped:
        train("--output", "run", *arguments.replace("MODEL", save_chat_model(tmp_path / "model")).split())
    message = str(stopped.value)
    assert message.startswith("masa.py: ") and said in message and "\n" not in message
    assert not Path("run/metrics.jsonl").exists() and not Path("run/checkpoint").exists()


def test_presets():
    config = Config.parse(["--model", "Qwen/Qwen3-1.7B", "--group-size", "4"])
    assert config.data == "agentica-org/DeepScaleR-Preview-Dataset" and config.group_size == 4
    assert config.learning_rate == 1e-6
    assert config.output == "runs/qwen3-1.7b-deepscaler-preview-dataset-masa-0"
    paper = Config.parse(["--preset", "paper"])
    assert (paper.model, paper.steps, paper.problems_per_step, paper.group_size, paper.weight_decay,
            paper.warmup_steps, paper.beta) == ("Qwen/Qwen3-8B-Base", 314, 128, 16, 0.1, 20, 0.0)
    default = Config.parse([])
    assert default == Config(data="toy", output="runs/toy-masa-0")
    assert (default.model, default.data, default.algo) == ("toy", "toy", "masa")
    given = Config.parse(["--preset", "paper", "--steps", "3", "--max_new_tokens", "7"])
    assert (given.steps, given.max_new_tokens, given.group_size) == (3, 7, 16)


@pytest.mark.parametrize("arguments, output", [
    ("", "runs/toy-masa-0"),                                            # model and data of one name, once
    ("--algo grpo --seed 3", "runs/toy-grpo-3"),
    ("--algo grpo --dynamic-sampling", "runs/toy-grpo-dynamic-0"),
    ("--data my/Problems.jsonl --algo masa-efficient", "runs/toy-problems-masa-efficient-0"),
    ("--model Qwen/Qwen3-0.6B --data toy", "runs/qwen3-0.6b-toy-masa-0"),
    ("--model runs/toy-masa-0/checkpoint --data toy", "runs/toy-masa-0-toy-masa-0"),
    ("--output here", "here")])
def test_two_runs_that_differ_have_folders_that_differ(arguments, output):
    assert Config.parse(arguments.split()).output == output


@pytest.mark.parametrize("config", [Config, EvalConfig])
def test_every_flag_is_explained(config, capsys):
    with pytest.raises(SystemExit):
        config.parse(["--help"])
    said = capsys.readouterr().out
    for name, entry in config.__dataclass_fields__.items():
        assert re.search(f"--(no-)?{name.replace('_', '-')}", said)
        assert entry.metadata["help"] and entry.metadata["help"].bounds
    assert not re.search("--[a-z]+_", said)                             # one name each, that which one types
    if config is Config:
        groups = ["what most runs need", "sampling", "the method", "optimisation", "evaluation and reports",
                  "the machine"]
        places = [said.index(f"\n{name}:") for name in groups]
        assert places == sorted(places)


def test_the_defaults_of_an_evaluation_are_those_of_its_problems():
    toy, other = EvalConfig.parse([]), EvalConfig.parse(["--model", "a", "--data", "math500"])
    assert (toy.max_new_tokens, toy.max_meta_tokens) == (Config.max_new_tokens, Config.max_meta_tokens)
    assert (other.max_new_tokens, other.max_meta_tokens) == (3072, 768)


@pytest.mark.parametrize("config", [Config, EvalConfig])
@pytest.mark.parametrize("arguments, value", [
    ("", None), ("--bf16", True), ("--bf16 true", True), ("--bf16=False", False), ("--no-bf16", False),
    ("--bf16 --seed 3", True), ("--no_bf16 --seed 3", False)])
def test_a_switch_needs_no_value(config, arguments, value):
    assert config.parse(arguments.split()).bf16 is value


def test_a_switch_of_two_words():
    assert Config.parse(["--gradient-checkpointing"]).gradient_checkpointing is True
    assert Config.parse(["--no-gradient-checkpointing"]).gradient_checkpointing is False
    with pytest.raises(ValueError, match="got maybe"):
        Config.parse(["--gradient-checkpointing", "maybe"])


@pytest.mark.parametrize("arguments, said", [
    ("", ""), ("--algo masa-efficient --gate-by number --cutoff-factor 3 --clone", ""),
    ("--algo masa-efficient --meta-group-size 0", ""), ("--preset paper", ""),
    ("--algo grpo --meta-group-size 4 --gate-by said --no-refill",
     "--gate-by, --no-refill do nothing here: only with --algo masa-efficient\n"
     "--meta-group-size does nothing here: only with --algo masa or masa-efficient\n"),
    ("--clone --clone-learning-rate 1", "--clone does nothing here: only with --algo masa-efficient\n"),
    ("--clone-learning-rate 1", "--clone-learning-rate does nothing here: only with --clone\n"),
    ("--algo masa-efficient --meta-group-size 0 --cutoff-min 9", ""),
    ("--algo masa-efficient --meta-group-size 0 --gate-by pilot --cutoff-min 9",
     "--cutoff-min does nothing here: only with predictions, or --cutoff-by read and a gate that reads\n"),
    ("--algo masa-efficient --meta-group-size 0 --cutoff-by said",
     "--cutoff-by does nothing here: only with predictions, or --cutoff-by read and a gate that reads\n"),
    ("--algo masa-efficient --gate-by said --gate-mass 0.5",
     "--gate-mass does nothing here: only with another --gate-by\n"),
    ("--minibatches 1 --clip-high 0.3", "--clip-high does nothing here: only with several optimiser steps on "
     "the same rollouts, by --minibatches or --inner-epochs\n"),
    ("--preset gpu --clip-low 0.1 --inner-epochs 2", ""),
    ("--algo masa-efficient --audit-fraction 0", "--audit-fraction 0: what is skipped or stopped is "
     "never looked at, so that a rule that is trusted once is trusted for ever\n"),
    ("--algo masa-efficient --steps 3", "--steps 3 is not above --gate-start 3: nothing will be skipped or "
     "stopped\n"),
    ("--eval-problems 0 --eval-every 5", "--eval-every does nothing here: only with --eval-problems\n")])
def test_flags_without_effect_are_told(capsys, arguments, said):
    Config.parse(arguments.split())
    assert capsys.readouterr().out == said


def test_flags_that_need_something_exist():
    names = {name for *_, names in NEEDS for name in names.split()}
    assert names <= set(Config.__dataclass_fields__)
