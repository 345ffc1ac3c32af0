"""The cold start trains on what is true of the policy's own solutions, once, and can be interrupted."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, bpe, logged, same_weights, save_base_model, save_chat_model, train, weights
from test_run import same_end
from transformers import PreTrainedTokenizerFast

from grpo import imitate
from lab.cold_start import cold_start, expert, imitate_all, right_solutions, solve_with_examples, up_to_answer
from lab.folder import read_json
from rewards import format_meta, notion_reward, parse_meta
from rollout import Group, Rollouts, Sampler
from tasks.problems import Problem
from tasks.prompts import EXAMPLES, encode, example_messages, meta_messages, solution_messages


def rollouts(texts, lengths, finished=None):
    """Rollouts that say `texts`; of their token ids only the number matters."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    finished = torch.tensor([True] * len(texts) if finished is None else finished)
    return Rollouts(mask[:, :1], mask[:, :1], mask.long(), mask, finished, texts)


class Scripted(Sampler):
    """Says the next texts of a list, whatever it is asked, and keeps what it was asked."""
    script, asked = [], []

    def complete(self, chats, budgets):
        self.asked.append((self.temperature, chats))
        texts, self.script[:] = self.script[:len(chats)], self.script[len(chats):]
        return rollouts([text for text, _ in texts], [8] * len(texts), [done for _, done in texts])


def tokenizer(**template):
    return PreTrainedTokenizerFast(tokenizer_object=bpe(), eos_token="<|endoftext|>", **template)


# --- Solutions --------------------------------------------------------------------------------------------

def test_right_boxed_solutions_that_ended_are_kept_once_and_at_most_two_of_a_problem():
    first = [("odd \\boxed{4}", True), ("so \\boxed{4}", True), ("4", True), ("no \\boxed{5}", True),
             ("cut short \\boxed{4} and", False), ("on \\boxed{4}\nend\n\nProblem: \\boxed{9}", False),
             ("on \\boxed{4}\nend", True), ("so \\boxed{4}", True)]
    Scripted.script, Scripted.asked = [*first, *[("\\boxed{7}", True)] * 8], []
    sampler = Scripted(None, tokenizer(chat_template="x"), 50, 50, 1.0)
    groups = [Group(Problem("a", "What is 2 + 2?", "4"), [50]), Group(Problem("b", "What is 3?", "3"), [50])]
    solve_with_examples(sampler, groups)
    assert right_solutions(groups[0]) == ["so \\boxed{4}", "on \\boxed{4}\nend"]
    assert groups[0].correct == [True, True, False, False, True, True, True, True]
    assert right_solutions(groups[1]) == [] and groups[1].correct == [False] * 8
    temperature, chats = Scripted.asked[0]
    assert temperature == 0.5 and sampler.temperature == 1.0
    assert chats[0] == example_messages("What is 2 + 2?") and chats[8] == example_messages("What is 3?")


def test_examples_are_earlier_turns_and_for_a_base_model_text():
    chat = example_messages("What is 2 + 2?")
    assert [turn["role"] for turn in chat] == ["user", "assistant"] * len(EXAMPLES) + ["user"]
    assert chat[-1:] == solution_messages("What is 2 + 2?")
    base = tokenizer()
    text = base.decode(encode(base, example_messages("What is 2 + 2?", plain=True)))
    asked = [solution_messages(problem)[0]["content"] for problem in (EXAMPLES[-1][0], "What is 2 + 2?")]
    assert text.endswith(f"Problem:\n\n{asked[0]}\n\nSolution:\n\n{EXAMPLES[-1][1]}\n\n"
                         f"Problem:\n\n{asked[1]}\n\nSolution:\n\n")


def test_examples_are_right_and_name_what_they_use():
    from tasks.grader import grade
    for (problem, solution), answer in zip(EXAMPLES, ("84", "35", "85")):
        assert grade(solution, answer) and up_to_answer(solution) == solution
        group = solved([solution, solution, "\\boxed{1}"], [5] * 3, [True, True, False], problem)
        assert expert(group).notions


# --- Predictions ------------------------------------------------------------------------------------------

def solved(texts, lengths, correct, problem="How many ones are in 7 tens?"):
    group = Group(Problem("a", problem, "4"), [64])
    group.solutions, group.correct = rollouts(texts, lengths), correct
    return group


def test_an_expert_says_what_happened():
    texts = ["Adding tens with a carry", "adding tens with a carry", "tens by guess", "a guess", "the guess"]
    said = expert(solved(texts, [10, 21, 3, 4, 5], [True, True, False, False, False]))
    assert said.pass_rate == 3                  # 2 of 5 is 3.2 of 8
    assert said.solution_length == 16           # mean of 10 and 21, rounded to even
    assert said.notions == ("adding", "carry")  # not tens (asked about), with (no content), guess (in wrong)
    assert parse_meta(format_meta(said)) == said


@pytest.mark.parametrize("right", range(9))
def test_every_group_gives_an_expert(right):
    texts = ["product"] * right + ["luck"] * (8 - right)
    said = expert(solved(texts, [20] * right + [40] * (8 - right), [True] * right + [False] * (8 - right)))
    assert said.pass_rate == right and said.solution_length == (20 if right else 40)
    assert said.notions == (("product",) if right > 1 else ("luck",))     # once is chance


def test_notions_earn_the_reward_and_the_most_frequent_come_first():
    texts = ["borrowing", "borrowing, carrying", "borrowing, carrying, halves", "halves, thirds", "borrowing"]
    correct = [True, True, True, False, False]
    said = expert(solved(texts, [5] * 5, correct, "?"))
    assert said.notions == ("borrowing", "carrying")
    assert notion_reward(said.notions, "?", texts, correct) == 1.0
    said = expert(solved(["with an answer", "step by step", "final answer step"], [5] * 3, [True] * 3, "?"))
    assert said.notions == ()                   # words of the instruction are no concepts


# --- Training ---------------------------------------------------------------------------------------------

def test_imitation_makes_every_example_likely_and_its_end(tiny_policy):
    policy, _ = tiny_policy()
    run = SimpleNamespace(policy=policy, device=torch.device("cpu"), dtype=torch.float32,
                          config=SimpleNamespace(micro_batch_tokens=64))
    examples = [([1, 5 + i], [20 + i, 40, 3]) for i in range(10)]
    imitate_all(run, torch.optim.AdamW(policy.parameters(), lr=0.01), examples * 25, "test")
    for prompt, completion in examples:
        ids = policy.generate(torch.tensor([prompt]), max_new_tokens=3, do_sample=False)
        assert ids[0, 2:].tolist() == completion


def make(folder, save=save_chat_model):
    """A tiny model in `folder` that reads twice as much: solved examples are long for its tokenizer."""
    path = Path(save(folder), "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 2048}))
    return str(folder)


@pytest.fixture
def start(tmp_path, problems, sometimes_right, monkeypatch):
    """start(NAME, *flags): a run with a cold start in tmp_path / NAME, of a model that is right by chance."""
    monkeypatch.setattr("lab.cold_start.up_to_answer", lambda text: text[:-1])      # as if all had gone on
    model = make(tmp_path / "model")

    def run(name, *flags):
        train("--model", model, "--data", problems, *SMALL, "--cold-start", 3, *flags, "--output",
              tmp_path / name)
        return tmp_path / name
    return run


def test_a_whole_run_says_what_came_of_it(start, capsys, tmp_path, problems):
    folder = start("run", "--steps", 2)
    report = read_json(folder / "cold_start.json")
    train_on = {row["problem"] for row in map(json.loads, open(problems))} - {
        record["problem"] for record in read_json(folder / "started.json")}
    solved, predicted = ({row["problem"] for row in report[kind]} for kind in ("solutions", "predictions"))
    assert len(predicted) == 3 and solved <= train_on - predicted and predicted <= train_on
    assert all(parse_meta(row["text"]).pass_rate is not None for row in report["predictions"])
    assert 0 < report["with examples"]["right"] < 1
    said = capsys.readouterr().out
    assert "cold start: with examples" in said and "3 predictions" in said
    assert any(line.split()[-3:] == ["before", "started", "after"] for line in said.splitlines())
    assert torch.load(folder / "checkpoint/trainer.pt")["state"]["position"] == 2 * 3 + 2 * 3


@pytest.mark.parametrize("save", [save_chat_model, save_base_model])
def test_a_start_alone_is_a_model_for_other_runs(tmp_path, problems, sometimes_right, monkeypatch, save):
    monkeypatch.setattr("lab.cold_start.up_to_answer", lambda text: text[:-1])
    common = ["--data", problems, *SMALL]
    train("--model", make(tmp_path / "model", save), *common, "--cold-start", 3, "--steps", 0,
          "--output", tmp_path / "start")
    assert not same_weights(weights(tmp_path / "model"), weights(tmp_path / "start/checkpoint"))
    assert not (tmp_path / "start/after.json").exists() and (tmp_path / "start/awareness.png").exists()
    train("--model", tmp_path / "start/checkpoint", *common, "--steps", 1, "--output", tmp_path / "run")
    assert read_json(tmp_path / "run/before.json") == read_json(tmp_path / "start/started.json")


@pytest.mark.parametrize("moment", ["learning", "evaluating"])
def test_interrupted_it_goes_on_as_if_nobody_had(start, monkeypatch, moment):
    """Ctrl-C while it learns: it begins anew. In the evaluation afterwards: only that is repeated."""
    calls = []

    def interrupted(*arguments, **named):
        calls.append(1)
        if moment == "learning" or named.get("description") == "after the cold start":
            raise KeyboardInterrupt
        return evaluate(*arguments, **named)
    import masa
    evaluate = masa.evaluate
    with monkeypatch.context() as patched:
        patched.setattr(*{"learning": ("lab.cold_start.imitate", interrupted),
                          "evaluating": ("masa.evaluate", interrupted)}[moment])
        with pytest.raises(SystemExit) as stop:
            start("stopped", "--steps", 2)
        assert stop.value.code == 130 and calls
    if moment == "evaluating":
        monkeypatch.setattr("lab.run.cold_start", None)         # a checkpoint is there: not again
    start("stopped", "--steps", 2, "--resume")
    monkeypatch.setattr("lab.run.cold_start", cold_start)
    whole = start("whole", "--steps", 2)
    assert same_end(whole.parent / "stopped", whole) and len(logged(whole)) == 2
    assert read_json(whole / "started.json") == read_json(whole.parent / "stopped/started.json")


@pytest.mark.parametrize("flags, rate", [("", 5e-5), ("--lora-rank 2", 5e-4)])
def test_adapters_learn_at_their_own_rate_and_sampling_is_shown(start, monkeypatch, flags, rate):
    if flags:
        pytest.importorskip("peft")
    shown, rates, whole = [], set(), imitate
    monkeypatch.setattr("lab.cold_start.TokenCount", lambda bar: lambda *count: shown.append(bar.desc))
    monkeypatch.setattr("lab.cold_start.imitate", lambda policy, optimizer, *more: rates.add(
        optimizer.param_groups[0]["lr"]) or whole(policy, optimizer, *more))
    start("run", "--steps", 0, "--eval-problems", 0, *flags.split())
    assert [*rates] == [pytest.approx(rate)]
    assert {*shown} == {"solving with examples", "solving with ordinary prompts"}


def test_nothing_right_is_one_line(tmp_path, problems, monkeypatch):
    with pytest.raises(SystemExit, match=r"masa\.py: the cold start has nothing to learn from.*easier"):
        train("--model", make(tmp_path / "model"), "--data", problems, *SMALL, "--cold-start", 2,
              "--output", tmp_path / "run")


@pytest.mark.parametrize("flags, line", [
    ("--cold-start 8", r"--cold-start 8 takes twice as many problems, and .*problems\.jsonl leaves 7 "),
    ("--steps 0", "--steps 0 is for a cold start alone"),
    ("--cold-start 2 --max-prompt-tokens 2000", r"has room for prompts of 1\d+ tokens beside the budgets and "
                                                "the examples: lower"),
    ("--cold-start 2 --beta 0.1", "--beta would hold the policy near the model before its cold start"),
    ("--cold-start 2 --model toy", "--cold-start is for pretrained models")])
def test_mistakes_are_one_line_before_long_work(tmp_path, problems, flags, line):
    with pytest.raises(SystemExit, match=line):
        train("--model", make(tmp_path / "model"), "--data", problems, *SMALL, "--output",
              tmp_path / "run", *flags.split())
    assert not (tmp_path / "run/before.json").exists()


def test_prompts_of_training_have_no_examples(start, monkeypatch):
    asked = []
    monkeypatch.setattr("lab.cold_start.encode", lambda *given: asked.append(given[1]) or encode(*given))
    report = read_json(start("run", "--steps", 0) / "cold_start.json")
    assert asked == [*(solution_messages(row["problem"]) for row in report["solutions"]),
                     *(meta_messages(row["problem"], 12) for row in report["predictions"])]


# --- A real model -----------------------------------------------------------------------------------------

@pytest.mark.real
@pytest.mark.skipif("MASA_REAL_MODEL" not in os.environ, reason="MASA_REAL_MODEL names no folder")
def test_a_real_model_takes_two_steps(tmp_path):
    """A pretrained model boxes more after a small cold start, and then takes two steps and an evaluation."""
    rows = [{"problem": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(2, 9) for b in range(9)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train("--model", os.environ["MASA_REAL_MODEL"], "--data", tmp_path / "sums.jsonl", "--cold-start", 16,
          "--steps", 2, "--max-new-tokens", 40, "--max-meta-tokens", 64, "--problems-per-step", 4,
          "--group-size", 4, "--meta-group-size", 4, "--eval-problems", 6, "--eval-samples", 4, "--output",
          tmp_path / "run")
    before, started, _ = (
        sum(c["boxed"] for record in read_json(tmp_path / f"run/{when}.json") for c in record["completions"])
        for when in ("before", "started", "after"))
    assert started >= before and started > 0 and len(logged(tmp_path / "run")) == 2
