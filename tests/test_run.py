"""A run goes on as if nobody had disturbed it, stops when it is told to, and survives what breaks a step."""

import gc
import inspect
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, SMALL, logged, same_weights, save_base_model, save_chat_model, train, weights
from transformers import AutoTokenizer

import grpo
import masa
from gating import Audit
from grpo import group_advantages, update
from lab.flags import Config
from lab.folder import read_json
from lab.reading import Reader
from lab.report import TokenCount
from lab.run import Run, StopRequest, read_problems
from rewards import MetaPrediction


def trainer(folder):
    return torch.load(folder / "checkpoint/trainer.pt")


def same_end(one, other):
    """Are metrics, weights, and all that a checkpoint holds besides, the same bit for bit?"""
    one_state, other_state = trainer(one), trainer(other)
    for state in (one_state, other_state):
        del state["state"]["seconds"]
    return (logged(one) == logged(other) and same(one_state, other_state)
            and same_weights(weights(one / "checkpoint"), weights(other / "checkpoint")))


def same(one, other):
    """Are two nests of dicts, lists and tensors the same bit for bit?"""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# --- Resuming ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("save", [save_chat_model, save_base_model])
def test_two_and_two_steps_are_four(tmp_path, problems, sometimes_right, save):
    model = save(tmp_path / "model")
    common = ["--model", model, "--data", problems, *SMALL, "--inner-epochs", 2, "--minibatches", 2, "--beta",
              0.1]
    train(*common, "--output", tmp_path / "four", "--steps", 4)
    train(*common, "--output", tmp_path / "two", "--steps", 2)
    train(*common, "--output", tmp_path / "two", "--steps", 4, "--resume")
    assert same_end(tmp_path / "four", tmp_path / "two") and len(logged(tmp_path / "two")) == 4
    assert not same_weights(weights(model), weights(tmp_path / "two/checkpoint"))
    for name in ("before.json", "after.json"):
        assert (tmp_path / "four" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    AutoTokenizer.from_pretrained(tmp_path / "four/checkpoint")
    assert {"curves.png", "awareness.png", "config.json"} <= set(os.listdir(tmp_path / "four"))


@pytest.mark.parametrize("rules", ["--gate-by said", "--gate-by state",
                                   "--gate-by state --no-gate --cutoff-factor 0.3"])
def test_two_and_two_steps_are_four_of_masa_efficient(tmp_path, problems, sometimes_right, monkeypatch,
                                                      rules):
    """With gating, cutoff, both audits, and experts that are collected before the stop and imitated after
    it."""
    monkeypatch.setattr("rollout.parse_meta", lambda text, budget: MetaPrediction(
        ("a",), 8 * (len(text) % 3 > 0), 1 + len(text) % 3, text))
    monkeypatch.setattr(masa, "meta_rewards", lambda *_: {"length": 0.0, "difficulty": 0.5, "notion": 1.0})
    monkeypatch.setattr(masa, "CLONE_SIZE", 7)
    flags = ("--algo masa-efficient --gate-start 1 --gate-trust 0 --gate-std 0.7 --gate-margin 0.3 "
             "--gate-mass 1e-9 --audit-fraction 0.5 --cutoff-min 2 --cutoff-trust 0 --warmup-steps 4 "
             "--clone --eval-problems 0")
    model = save_chat_model(tmp_path / "model")
    common = ["--model", model, "--data", problems, *SMALL, *flags.split(), *rules.split()]
    train(*common, "--output", tmp_path / "four", "--steps", 4)
    train(*common, "--output", tmp_path / "two", "--steps", 2)
    waiting = len(trainer(tmp_path / "two")["experts"])
    train(*common, "--output", tmp_path / "two", "--steps", 4, "--resume")
    rows = logged(tmp_path / "four")
    assert waiting and any("clone/loss" in row for row in rows[2:])
    # By state every problem is flagged, and none of these is cut.
    assert any(row["gate/share"] > 0 for row in rows) == ("--no-gate" not in rules)
    assert any(row["cutoff/share"] > 0 for row in rows) == (rules != "--gate-by state")
    assert same_end(tmp_path / "four", tmp_path / "two")


def test_killed_before_its_first_checkpoint(tmp_path, problems, sometimes_right):
    common = ["--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 2]
    train(*common, "--output", tmp_path / "run")
    done = logged(tmp_path / "run")
    for path in sorted((tmp_path / "run/checkpoint").iterdir()):
        path.unlink()
    (tmp_path / "run/checkpoint").rmdir()
    before = (tmp_path / "run/before.json").stat().st_mtime_ns
    train(*common, "--output", tmp_path / "run", "--resume")
    assert logged(tmp_path / "run") == done
    assert (tmp_path / "run/before.json").stat().st_mtime_ns == before         # not evaluated once more


def test_killed_run_and_ctrl_c(tmp_path, problems):
    """SIGKILL and Ctrl-C to the real command: it resumes, and the end is that of a run which nobody
    disturbed."""
    model = save_chat_model(tmp_path / "model")
    command = [sys.executable, "masa.py", "--model", model, "--data", problems, *SMALL, "--steps", "6",
               "--checkpoint-every", "1", "--eval-problems", "0", "--aggregation", "sequence", "--beta",
               "0.1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(name, *more):
        return subprocess.Popen([*command, "--output", str(tmp_path / name), *more], cwd=ROOT, text=True,
                                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    whole = start("whole")                  # beside the others, on the second core
    for number in (signal.SIGKILL, signal.SIGINT):
        name = number.name
        process = start(name)
        metrics = tmp_path / name / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists()
                                              and len(metrics.read_text().splitlines()) >= 2):
            time.sleep(0.02)
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
        if number == signal.SIGINT:
            assert process.returncode == 130 and "Go on with the same command and --resume" in said
            assert "Traceback" not in said
        assert start(name, "--resume").wait(120) == 0
        assert whole.wait(120) == 0 and same_end(tmp_path / name, tmp_path / "whole")


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
        with pytest.raises(SystemExit, match=r"^masa\.py: out of the card's memory\. Lower --max-tokens"):
            train(*command)
    train(*command, "--resume", "--max-tokens", 2000, "--micro-batch-tokens", 1000)
    assert [row["step"] for row in logged(tmp_path / "run")] == [0, 1, 2, 3]


def test_a_checkpoint_of_another_kind_is_one_line(tmp_path, problems, sometimes_right):
    command = ["--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--eval-problems",
               0,
               "--output", tmp_path / "run"]
    train(*command, "--steps", 1)
    path, done = tmp_path / "run/checkpoint/trainer.pt", logged(tmp_path / "run")
    whole = torch.load(path)
    for content in ({}, [1], [], 5, 0, {"state": {}}, whole | {"state": {"step": 1}},
                    whole | {"gate_audit": [1]},
                    whole | {"experts": 5}, whole | {"optimizer": {}}):
        torch.save(content, path)
        with pytest.raises(SystemExit) as stopped:
            train(*command, "--steps", 2, "--resume")
        assert "trainer.pt does not fit" in stopped.value.code and "\n" not in stopped.value.code
        assert logged(tmp_path / "run") == done
    torch.save(whole, path)
    train(*command, "--steps", 2, "--resume")


def test_the_trainer_of_another_model_is_one_line():
    def optimizer(*shapes):
        made = torch.optim.AdamW([torch.nn.Parameter(torch.ones(shape)) for shape in shapes])
        for weight in made.param_groups[0]["params"]:
            weight.grad = torch.ones_like(weight)
        made.step()
        return made

    def restore(stored, **parts):
        run = Run.__new__(Run)
        run.folder = SimpleNamespace(checkpoint="run/checkpoint")
        run.state, run.reader = {"step": 0, "position": 0}, Reader(4)
        run.gate_audit, run.cutoff_audit = Audit(), Audit()
        run.optimizer, run.cloner = parts.pop("optimizer"), optimizer((2, 3), 4)
        run.restore(stored)
        return run
    stored = {"optimizer": optimizer((2, 3), 4).state_dict(), "gate_audit": Audit().state_dict(),
              "experts": [([1], [2])],
              "cutoff_audit": Audit().state_dict(), "reader": Reader(4).state_dict(),
              "cloner": optimizer((2, 3), 4).state_dict(),
              "state": {"step": 7, "position": 3}}
    run = restore(stored, optimizer=optimizer((2, 3), 4))
    assert run.state == stored["state"] and run.experts == [([1], [2])]
    for other in (optimizer((2, 4), 4), optimizer((2, 3)), optimizer((3, 2), 4)):
        with pytest.raises(ValueError) as error:
            restore(stored, optimizer=other)
        assert "trainer.pt does not fit" in str(error.value) and "\n" not in str(error.value)


# --- Stopping ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_after_its_step_with_its_code(tmp_path, problems, sometimes_right, monkeypatch,
                                                            capsys, number):
    command = ["--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 3,
               "--eval-problems", 0, "--output", tmp_path / "run"]
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def interrupted(*arguments, **named):
        os.kill(os.getpid(), number)
        return update(*arguments, **named)
    with monkeypatch.context() as patched:
        patched.setattr(masa, "update", interrupted)
        with pytest.raises(SystemExit) as stopped:
            train(*command)
    assert stopped.value.code == 128 + number and len(logged(tmp_path / "run")) == 1
    assert "Stopped after 1 of 3 steps. Go on with the same command and --resume" in capsys.readouterr().out
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    train(*command, "--resume")
    assert len(logged(tmp_path / "run")) == 3


def test_a_second_signal_quits_at_once():
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    stop.listen()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    finally:
        stop.restore()
    assert signal.getsignal(signal.SIGTERM) == before


# --- Broken steps -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("bf16", ["False", "True"])
def test_a_gradient_that_is_not_finite_changes_nothing_and_ends_the_run(tmp_path, problems, sometimes_right,
                                                                        monkeypatch, capsys, bf16):
    model = save_chat_model(tmp_path / "model")
    calls = []

    def poisoned(rewards, *arguments):                          # steps 1, 3 and 4 of the run
        calls.append(rewards)
        return group_advantages(rewards, *arguments) * (float("nan") if len(calls) in (2, 4, 5) else 1.0)
    monkeypatch.setattr(masa, "group_advantages", poisoned)
    common = ["--model", model, "--data", problems, *SMALL, "--algo", "grpo", "--bf16", bf16, "--output",
              tmp_path / "run"]
    train(*common, "--steps", 1)
    once = weights(tmp_path / "run/checkpoint")
    train(*common, "--steps", 2, "--resume")
    assert same_weights(once, weights(tmp_path / "run/checkpoint")) and "problems-" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="not finite"):
        train(*common, "--steps", 9, "--resume")
    assert "that optimiser step is left out" in capsys.readouterr().out
    assert [row["grad_norm"] is None for row in logged(tmp_path / "run")] == [False, True, False, True, True]
    assert all(value.isfinite().all() for value in weights(tmp_path / "run/checkpoint").values())


@pytest.mark.parametrize("rows, named", [([0], "a"), ([1, 2], "a, b"), ([4, 6], "a"), ([7, 9, 3], "b")])
def test_the_problems_of_a_broken_step_are_named(rows, named):
    """Two problems, of two solutions (rows 0 to 3) and three predictions (rows 4 to 9) each."""
    said, run = [], Run.__new__(Run)
    run.config, run.state, run.broken = Config(group_size=2, meta_group_size=3), {"step": 5}, 0
    run.bar = SimpleNamespace(write=lambda text, file: said.append(text))
    groups = [SimpleNamespace(problem=SimpleNamespace(id=name), cut=[name == "a", False],
                              predictions=[1, 2, 3]) for name in "ab"]
    batch = SimpleNamespace(groups=groups)
    metrics = run.skip_update(batch, rows)
    assert metrics["grad_norm"] != metrics["grad_norm"] and run.broken == 1
    assert "step 5: a gradient is not finite" in said[0] and said[0].rstrip(".").endswith(f"from {named}")
    run.config.mask_cut = True                                  # the cut solution of a is not in the update
    run.skip_update(batch, [1])
    assert said[1].rstrip(".").endswith("from b")


# --- Setting up -------------------------------------------------------------------------------------------

def test_problems_that_do_not_fit_are_left_out(tmp_path, problems, capsys):
    with open(problems, "a") as file:
        for text in ("long " * 400, "now <|im_end|> ends", "lone \\ud800", ""):
            file.write(f'{{"problem": "{text}", "answer": "1"}}\n')
    train("--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 1,
          "--output", tmp_path / "run", "--eval-problems", 0)
    said = capsys.readouterr().out
    assert "11 of 13 problems kept" in said
    assert "2 of 11 problems left out: 1 with prompts over 700 tokens, 1 with control tokens" in said


def test_held_out_problems_are_the_same_for_every_seed_and_not_trained_on(problems):
    parts = [read_problems(Config(data=problems, eval_problems=4, seed=seed)) for seed in (0, 1)]
    assert parts[0][1] == parts[1][1] and len(parts[0][1]) == 4
    for left, held_out in parts:
        assert len(left) == 5 and not {p.text for p in left} & {p.text for p in held_out}
    left, held_out = read_problems(Config(data=problems, eval_data=problems, eval_problems=2))
    assert len(held_out) == 2 and len(left) == 7            # a problem of both sets is held out
    assert [len(part) for part in read_problems(Config(data=problems, eval_problems=0))] == [9, 0]
    left, held_out = read_problems(Config(data="toy", eval_problems=8))
    assert len(held_out) == 8 and not {p.text for p in left} & {p.text for p in held_out}


def test_every_flag_of_the_update_reaches_it():
    run = Run.__new__(Run)
    run.config, run.reference, run.dtype, run.bar = Config(), "reference", torch.float32, None
    known = {*inspect.signature(grpo.update).parameters, *inspect.signature(grpo.grpo_loss).parameters}
    assert run.update_settings().keys() <= known
    run.config = Config(inner_epochs=3, minibatches=5, max_new_tokens=7, aggregation="sequence", clip_low=0.1,
                        clip_high=0.3, beta=0.2, temperature=0.6, micro_batch_tokens=11)
    settings = run.update_settings()
    assert isinstance(settings.pop("progress"), TokenCount) and settings == dict(
        epochs=3, minibatches=5, max_tokens=7, aggregation="sequence", clip_low=0.1, clip_high=0.3, beta=0.2,
        temperature=0.6, micro_batch_tokens=11, reference="reference", dtype=torch.float32)


def test_what_is_logged_is_what_was_sampled(tmp_path, problems, sometimes_right):
    """The counts of tokens and the rewards in metrics.jsonl, of both paths, against the rollouts
    themselves."""
    batches, whole = [], Run.keep

    def keep(self, batch, metrics):
        batches.append(batch)
        whole(self, batch, metrics)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "keep", keep)
        train("--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 3,
              "--show-every", 2,
              "--eval-problems", 0, "--warmup-steps", 2, "--output", tmp_path / "run")
    total, rows = 0, logged(tmp_path / "run")
    for row, batch in zip(rows, batches, strict=True):
        lengths = [n for group in batch.groups for n in group.solutions.lengths]
        assert len(lengths) == 12 and row["tokens"] == sum(lengths)
        assert row["meta/tokens"] == sum(sum(group.metas.lengths) for group in batch.groups)
        assert row["reward"] == pytest.approx(sum(sum(group.correct) for group in batch.groups) / 12)
        assert row["completions/mean_length"] == pytest.approx(sum(lengths) / 12)
        assert row["frac_reward_zero_std"] == pytest.approx(sum(group.silent for group in batch.groups) / 3)
        total += row["tokens"] + row["meta/tokens"]
        assert row["tokens_total"] == total and row["tokens_wasted"] == 0
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.0005, 0.001, 0.001])
    shown = (tmp_path / "run/rollouts.jsonl").read_text().splitlines()
    assert [f'"step": {step}' in line for step, line in zip((0, 2), shown, strict=True)] == [True, True]
    assert read_json(tmp_path / "run/config.json")["learning_rate"] == 0.001


def test_without_matplotlib_a_run_ends_without_pictures(tmp_path, problems, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delitem(sys.modules, "lab.pictures", raising=False)
    train("--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 1,
          "--output", tmp_path / "run")
    assert "No pictures" in capsys.readouterr().out and (tmp_path / "run/after.json").exists()
    monkeypatch.delitem(sys.modules, "lab.pictures", raising=False)


def test_another_evaluation_before_training_is_told_before_the_run_goes_on(tmp_path, problems, monkeypatch):
    common = ["--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--output",
              tmp_path / "run"]
    train(*common, "--steps", 1)
    (tmp_path / "run/before.json").write_text("")
    monkeypatch.setattr(masa, "update", lambda *_, **__: pytest.fail("it went on first"))
    with pytest.raises(SystemExit, match="before.json cannot be read: it is not JSON"):
        train(*common, "--steps", 2, "--resume")


def test_silent_steps_are_told_again_and_again(tmp_path, problems, capsys):
    """A random model is never right: no group has variance, whatever its predictions say."""
    train("--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 11,
          "--eval-problems", 0, "--output", tmp_path / "run")
    said = capsys.readouterr().out
    told = [said.count(f"No group of solutions had any variance in {n} steps") for n in (5, 6, 10)]
    assert told == [1, 0, 1]
    assert said.count("Only 0% of the solutions put") == 3              # after the first step, and with those


def test_steps_with_variance_are_not_silent(tmp_path, problems, sometimes_right, capsys):
    train("--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 6,
          "--group-size", 8, "--eval-problems", 0, "--output", tmp_path / "run")
    assert "any variance" not in capsys.readouterr().out


def test_a_run_says_what_is_amiss_and_how_long_it_will_take(tmp_path, problems, monkeypatch, capsys):
    common = ["--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--eval-every", 2,
              "--output", tmp_path / "run"]
    train(*common, "--steps", 6)
    said = capsys.readouterr().out
    table, formats, first = (said.index(part) for part in ("meta/valid", "Only 0% of the solutions put their "
                                                           "answer in \\boxed{} and", "A step takes about"))
    assert table < formats < first and said.count("--cold-start 250") == 2      # and with the silent steps
    assert said.count("A step takes about") == 1 and "the other 5 and 3 evaluations of" in said
    train(*common, "--steps", 9, "--resume")                    # has not evaluated yet in this process
    assert "the other 2, evaluations not counted, will take" in capsys.readouterr().out
    train(*common, "--steps", 10, "--resume")
    assert "A step takes" not in capsys.readouterr().out


def test_memory_does_not_grow_with_the_steps(tmp_path, problems, sometimes_right, monkeypatch):
    """Live tensors and python objects after steps 10, 20 and 30 of a run with both paths."""
    counts, whole = [], Run.keep

    def keep(self, batch, metrics):
        whole(self, batch, metrics)
        if self.state["step"] % 10 == 0:
            gc.collect()
            objects = gc.get_objects()
            tensors = [thing for thing in objects if issubclass(type(thing), torch.Tensor)]
            counts.append((len(tensors), sum(tensor.nbytes for tensor in tensors), len(objects)))
    monkeypatch.setattr(Run, "keep", keep)
    train("--model", save_chat_model(tmp_path / "model"), "--data", problems, *SMALL, "--steps", 30,
          "--show-every", 0, "--checkpoint-every", 0, "--eval-problems", 0, "--output", tmp_path / "run")
    (tensors, size, objects), *later = counts
    for count in later:
        assert count[0] <= tensors + 5 and count[1] < 1.05 * size and count[2] < objects + 10
