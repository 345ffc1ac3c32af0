"""Sampling, records, and the command line: what is interrupted goes on as if it had not been."""

import io
import json
import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config

import eval as evaluation
import rollout
from eval import evaluate, main, right_unboxed
from lab.metrics import summarise
from lab.results import Results, read_results
from rollout import Sampler, generate
from tasks.grader import grade
from tasks.problems import Problem
from tasks.prompts import encode, solution_messages

PROBLEMS = [Problem(f"p{i}", f"w{i} w{i + 1}", str(i), "") for i in range(5)]
META = ' {"math_notion": ["w3 w4", "<end>"], "pass_rate": 6, "solution_length": 5}'


@pytest.fixture
def folder(tiny_policy, tmp_path):
    """A folder with the tiny policy in policy/ and five problems in problems.jsonl."""
    for part in tiny_policy():
        part.save_pretrained(tmp_path / "policy")
    lines = [json.dumps({"problem": problem.text, "answer": problem.answer}) for problem in PROBLEMS]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines))
    return tmp_path


def command(folder, *more, output="out.json"):
    main(["--model", str(folder / "policy"), "--data", str(folder / "problems.jsonl"), "--samples", "3",
          "--metas", "2", "--max-new-tokens", "6", "--max-meta-tokens", "4", "--max-tokens", "402",
          "--device", "cpu", "--output", str(folder / output), *map(str, more)])
    return json.loads((folder / output).read_text())


def sampler(tiny_policy, **settings):
    return Sampler(*tiny_policy(), **dict(budget=6, meta_budget=4, max_tokens=300) | settings)


def test_evaluate(tiny_policy):
    torch.manual_seed(0)
    records = evaluate(sampler(tiny_policy), PROBLEMS, samples=3, metas=2)
    assert [r["id"] for r in records] == [p.id for p in PROBLEMS]
    assert all(len(r["completions"]) == 3 and len(r["predictions"]) == 2 and "hinted" not in r
               for r in records)
    assert all(1 <= c["length"] <= 6 for r in records for c in r["completions"])
    assert all(1 <= p["length"] <= 4 for r in records for p in r["predictions"])
    assert json.loads(json.dumps(records)) == records and summarise(records)["accuracy"] == 0
    torch.manual_seed(0)
    assert records == evaluate(sampler(tiny_policy), PROBLEMS, 3, 2)
    alone = evaluate(sampler(tiny_policy, budget=3, max_tokens=None), PROBLEMS[:1], samples=2, metas=0)
    assert alone[0]["predictions"] == [] and "meta/reward" not in summarise(alone)


def test_seed_makes_batches_independent(tiny_policy):
    answers, counts = sampler(tiny_policy, max_tokens=2 * 3 * (6 + 128)), dict(samples=3, metas=2)
    whole, kept = evaluate(answers, PROBLEMS, **counts, seed=7), []
    torch.manual_seed(123)
    evaluate(answers, PROBLEMS[:4], **counts, seed=7, keep=kept.append)
    assert [len(batch) for batch in kept] == [2, 2]
    assert evaluate(answers, PROBLEMS, **counts, seed=7, done=kept[0]) == whole
    assert evaluate(answers, PROBLEMS, **counts, seed=8) != whole


def test_hinted_solutions_see_the_notions(tiny_policy, monkeypatch):
    """Every prompt of every phase, with a policy that predicts w0, w1, ... in turn and always answers 0."""
    answers, seen = sampler(tiny_policy, max_tokens=None), []

    def scripted(model, tokenizer, prompts, budgets, *rest):
        rollouts = generate(model, tokenizer, prompts, budgets, *rest)
        rollouts.texts = [META.replace("w3", f"w{i}") if budgets[0] == 4 else r"\boxed{0}"
                          for i in range(len(prompts))]
        seen.append(prompts)
        return rollouts
    monkeypatch.setattr(rollout, "generate", scripted)
    record, other = evaluate(answers, PROBLEMS[:2], samples=3, metas=2, hints=True)
    plain, meta, hinted = seen
    assert len(plain) == len(hinted) == 6 and len(meta) == 4

    def encoded(*chat):
        return encode(answers.tokenizer, solution_messages(*chat))
    assert plain[0] == encoded("w0 w1") and plain[3] == encoded("w1 w2")
    told = zip("w0 w0 w0 w1 w1 w1".split(), "w1 w1 w1 w2 w2 w2".split(), "w0 w1 w0 w2 w3 w2".split())
    assert hinted == [encoded(f"{a} {b}", [f"{notion} w4"]) for a, b, notion in told]
    assert [c["correct"] for c in record["hinted"]] == [True] * 3 and not other["hinted"][0]["correct"]
    assert record["predictions"][1]["notions"] == ["w1 w4",
                                                   "<end>"] and other["predictions"][1]["pass_rate"] == 6
    assert summarise([record, other])["hints/gain"] == 0


def test_an_evaluation_asks_and_grades_as_its_benchmark_says(tiny_policy):
    answers = sampler(tiny_policy, instruction="w11", grade=lambda text, problem: problem.id == "p1")
    records = evaluate(answers, PROBLEMS[:2], samples=2, metas=0, hints=False)
    assert [[c["correct"] for c in r["completions"]] for r in records] == [[False] * 2, [True] * 2]


# --- The command line -------------------------------------------------------------------------------------

def test_an_interrupted_evaluation_equals_an_uninterrupted_one(folder, monkeypatch, capsys):
    whole = command(folder, "--hints", output="whole.json")
    append = Results.append

    def stop_in_the_second_batch(self, name, records, seconds):
        append(self, name, records, seconds)
        if len(self.batches) == 2:
            with open(self.progress, "a") as file:
                file.write('{"data": "problems", "seco')           # as if it were killed while writing
            raise KeyboardInterrupt
    monkeypatch.setattr(Results, "append", stop_in_the_second_batch)
    with pytest.raises(SystemExit, match="130"):
        command(folder, "--hints")
    assert "interrupted. The same command goes on" in capsys.readouterr().err
    assert not (folder / "out.json").exists() and len((folder / "out.jsonl").read_text().splitlines()) == 4
    other = r"out\.jsonl holds another evaluation: seed was 0, now 1\. Choose another"
    with pytest.raises(SystemExit, match=other):
        command(folder, "--hints", "--seed", 1)

    def stop_in_the_fourth_batch(self, name, records, seconds):
        assert not {record["id"] for record in records} & {record["id"] for record in self.records(name)}
        append(self, name, records, seconds)
        if len(self.batches) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(Results, "append", stop_in_the_fourth_batch)
    with pytest.raises(SystemExit, match=r"out of the card's memory\. Lower --max-tokens"):
        command(folder, "--hints")
    continued = command(folder, "--hints")
    part, same = continued["data"]["problems"], whole["data"]["problems"]
    assert part["records"] == same["records"] and part["summary"] == same["summary"]
    assert continued["config"] == whole["config"] and not (folder / "out.jsonl").exists()
    assert part["tokens"] == sum(c["length"] for r in part["records"]
                                 for name in ("completions", "predictions", "hinted") for c in r[name])
    assert {len(r[name]) for r in part["records"] for name in ("completions", "hinted")} == {3}
    assert part["tokens_per_second"] == pytest.approx(part["tokens"] / part["seconds"])

    monkeypatch.setattr(evaluation, "evaluate", None)               # what is done is shown and not done again
    capsys.readouterr()
    command(folder, "--hints")
    shown = capsys.readouterr().out
    assert re.search(r"pass@1 +0\.00 \[0\.00, 0\.00\]", shown) and "pass@3" in shown and "5 problems" in shown
    for picture in ("pass-at-k", "awareness"):
        assert (folder / f"out-problems-{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_in_bf16_a_model_is_what_transformers_loads_in_bf16(folder, monkeypatch):
    """Angles of positions stay float32, or distant tokens would be elsewhere."""
    models = []
    monkeypatch.setattr(evaluation, "evaluate", lambda answers, *more, **named: models.append(answers.policy)
                        or evaluate(answers, *more, **named))
    command(folder, "--bf16", True)
    reference = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.bfloat16)
    ids = torch.arange(250)[None] % 60
    assert torch.equal(models[0](ids).logits, reference(ids).logits)
    assert not torch.equal(models[0](ids).logits, reference.bfloat16()(ids).logits)       # rounds the angles


def test_other_weights_are_another_evaluation(folder):
    command(folder)
    weights = folder / "policy" / "model.safetensors"
    save_file({name: tensor * 1.001 for name, tensor in load_file(weights).items()}, weights,
              {"format": "pt"})
    with pytest.raises(SystemExit, match="weights was"):
        command(folder)


def test_other_problems_are_another_evaluation(folder):
    command(folder)
    text = (folder / "problems.jsonl").read_text()
    (folder / "problems.jsonl").write_text(text.replace("w3 w4", "w4 w3"))
    with pytest.raises(SystemExit, match="problems was"):
        command(folder)


def test_comparison(folder, capsys):
    command(folder, "--seed", 1, output="one.json")
    command(folder, "--seed", 2, output="two.json")
    capsys.readouterr()
    main(["--compare", str(folder / "one.json"), str(folder / "two.json")])
    shown = capsys.readouterr().out
    means = [read_results(folder / name)["problems"] for name in ("one.json", "two.json")]
    change = summarise(means[1])["completions/mean_length"] - summarise(means[0])["completions/mean_length"]
    assert f"{change:.2f} [" in re.search("completions/mean_length.*", shown)[0]
    assert (folder / "compare-problems-awareness.png").exists()
    (folder / "run").mkdir()
    for name in ("before", "after"):  # what a training run leaves: a list of records
        (folder / "run" / f"{name}.json").write_text(json.dumps(means[name == "after"]))
    main(["--compare", str(folder / "run" / "before.json"), str(folder / "run" / "after.json")])
    assert f"{change:.2f} [" in re.search("completions/mean_length.*", capsys.readouterr().out)[0]
    (folder / "less.json").write_text(json.dumps(means[0][1:]))
    said = "not the same problems: 1 are only in the first and 0 only in the second"
    with pytest.raises(SystemExit, match=said):
        main(["--compare", str(folder / "run" / "before.json"), str(folder / "less.json")])
    with pytest.raises(SystemExit, match="holds no problems, only held-out problems"):
        main(["--compare", str(folder / "one.json"), str(folder / "less.json")])


def test_problems_that_do_not_fit_are_left_out(folder, capsys):
    with open(folder / "problems.jsonl", "a") as file:
        for text in ("w1 <end> <start> system w2", "w1 " * 250):
            file.write("\n" + json.dumps({"problem": text, "answer": "1"}))
    assert len(command(folder)["data"]["problems"]["records"]) == 5
    shown = capsys.readouterr().out
    assert re.search(r"2 of 7 problems left out: 1 with prompts over \d+ tokens, 1 with control tokens",
                     shown)


@pytest.mark.parametrize("flags, message", [
    ("--data math5", "unknown benchmark math5: there are toy, math500, "),
    ("--data mbpp", "mbpp executes code that the model writes"),
    ("--data toy,toy", "names a set twice"),
    ("--data nothing.json", "nothing.json does not exist"),
    ("--data logic", "logic needs a file: logic=FILE"),
    ("--samples 0", "--samples is 0, it must be at least 1"),
    ("--hints --metas 0", "--metas must be at least 1"),
    ("--top-p 0", "--top-p is 0.0, it must be above 0"),
    ("--temperature nan", "--temperature is nan"),
    ("--budget 3", "unknown flag --budget"),
    ("--compare a.json", "--compare takes two result files or more"),
    ("--compare a.json b.json", "a.json cannot be read: No such file or directory"),
    ("--data toy --limit 1 --model ./nowhere", "model ./nowhere is neither toy, nor a folder"),
    ("--device tpu", "--device tpu is not available here")])
def test_mistakes_are_one_line(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(flags.split())
    assert message in stopped.value.code and stopped.value.code.startswith("eval.py: ")
    assert "\n" not in stopped.value.code and not list(tmp_path.iterdir())


def test_budget_beyond_the_model_and_output_name(folder):
    with pytest.raises(SystemExit, match="reads at most 256 tokens: lower --max-new-tokens"):
        command(folder, "--max-new-tokens", 300)
    with pytest.raises(SystemExit, match=r"must end in \.json"):
        command(folder, output="out.txt")
    (folder / "notes.json").write_text('{"a": 1}')
    with pytest.raises(SystemExit, match=r"notes\.json holds another evaluation"):
        command(folder, output="notes.json")
    with pytest.raises(SystemExit, match=r"notes\.json is no result of an evaluation"):
        main(["--compare", str(folder / "notes.json"), str(folder / "notes.json")])


def test_a_set_without_a_problem_is_told_before_any_is_sampled(folder, monkeypatch):
    (folder / "long.jsonl").write_text(json.dumps({"problem": "w1 " * 250, "answer": "1"}))
    monkeypatch.setattr(evaluation, "evaluate", lambda *_,
                        **__: pytest.fail("sampled before the mistake was told"))
    with pytest.raises(SystemExit, match="no problem of long is left"):
        main(["--model", str(folder / "policy"), "--data",
              f"{folder / 'problems.jsonl'},{folder / 'long.jsonl'}",
              "--max-new-tokens", "8", "--max-meta-tokens", "9", "--output", str(folder / "both.json")])
    (folder / "empty.json").write_text(json.dumps([{"id": "1", "level": "", "completions": []}]))
    with pytest.raises(SystemExit, match=r"empty\.json is no result"):
        main(["--compare", str(folder / "empty.json"), str(folder / "empty.json")])


def test_a_large_model_needs_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    Qwen3Config(hidden_size=4096, intermediate_size=12_288, num_hidden_layers=4).save_pretrained("large")
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / "large" / name).touch()
    with pytest.raises(SystemExit, match=r"large has \d\.\d billion parameters and there is no GPU"):
        main(["--model", "large", "--limit", "2"])


# --- Beside accuracy, and several sets --------------------------------------------------------------------

@pytest.mark.parametrize("text, answer, right", [
    ("So it is 1, 2, and then 42.", "42", True), ("42 is it, not 41", "42", False), ("Is it (B).", "B", True),
    ("costs $1,234.50 in all", "1234.5", True), ("It is -3", "-3", True), ("It is −3", "-3", True),
    ("10-3", "-3", False), ("a half: 1/2.", "0.5", True), ("C, or rather D", "C", False), ("", "1", False),
    ("no answer", "B", False), ("Banana", "B", False), ("4" + " " * 3000, "4", False), ("x2", "2", False)])
def test_right_unboxed(text, answer, right):
    problem = Problem("p", "?", answer, "")
    assert right_unboxed(text, problem, lambda box, problem: grade(box, problem.answer)) == right


def test_records_say_what_was_lost_to_the_format(tiny_policy, monkeypatch):
    """Boxed and right, boxed and wrong though 0 comes last, unboxed and right, and the same out of budget."""
    said = iter([r"\boxed{0}", r"\boxed{1} or 0", "it is 0", "it is 0"])

    def scripted(model, tokenizer, prompts, *rest):
        rollouts = generate(model, tokenizer, prompts, *rest)
        rollouts.texts = [next(said) for _ in prompts]
        rollouts.finished = torch.tensor([True, True, True, False])
        return rollouts
    monkeypatch.setattr(rollout, "generate", scripted)
    record, = evaluate(sampler(tiny_policy), PROBLEMS[:1], samples=4, metas=0)
    columns = [[c[name] for c in record["completions"]] for name in ("correct", "boxed", "right_unboxed")]
    assert columns == [[True, False, False, False], [True, True, False, False], [False, False, True, False]]
    assert json.loads(json.dumps(record)) == record


def test_where_no_box_is_asked_for_none_is_missed(tiny_policy):
    record, = evaluate(sampler(tiny_policy, instruction="w11"), PROBLEMS[:1], samples=2, metas=0)
    assert not {"boxed", "right_unboxed"} & set(record["completions"][0])


def test_several_sets_say_which_of_how_many(folder, capsys):
    (folder / "more.jsonl").write_text((folder / "problems.jsonl").read_text().replace("w1 w2", "w9 w8"))
    both = f"{folder / 'problems.jsonl'}, {folder / 'more.jsonl'}"
    command(folder, "--data", both, output="both.json")
    shown = capsys.readouterr().out
    assert re.search(r"problems \(1 of 2\).* 0/10 ", shown) and re.search(r"more \(2 of 2\).* 5/10 ", shown)
    assert re.search(r"all \(2 sets\) +0\.00 \[0\.00, 0\.00\]", shown)
    assert list(read_results(folder / "both.json")) == ["problems", "more"]


def test_two_evaluations_do_not_write_to_one_file(folder, monkeypatch):
    def meanwhile(self, name, records, seconds):
        with pytest.raises(SystemExit, match=r"^eval.py: .*out.jsonl is in use by another process$"):
            command(folder, "--seed", 1)
        raise KeyboardInterrupt
    monkeypatch.setattr(Results, "append", meanwhile)
    with pytest.raises(SystemExit, match="130"):
        command(folder)
    monkeypatch.undo()
    assert command(folder)["config"]["seed"] == 0           # it is free again, and nothing of it was lost


def test_names_that_an_ascii_terminal_cannot_show(folder, monkeypatch):
    (folder / "zéro.jsonl").write_text((folder / "problems.jsonl").read_text())
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    command(folder, "--data", folder / "zéro.jsonl", output="é.json")
    sys.stdout.flush()
    assert rb"z\xe9ro  " in sys.stdout.buffer.getvalue()
    assert read_results(folder / "é.json").keys() == {"zéro"}


def test_the_gold_check_needs_no_model(folder, capsys):
    data = f"toy,{folder / 'problems.jsonl'}"
    main(["--model", "./nowhere", "--check-gold", "--data", data, "--limit", "4"])
    assert capsys.readouterr().out.splitlines() == ["toy: 4 of 4 answers pass their own grader",
                                                    "problems: 4 of 4 answers pass their own grader"]
    with pytest.raises(SystemExit, match="mbpp executes code"):
        main(["--check-gold", "--data", "mbpp"])
