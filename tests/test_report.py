"""What is shown on the screen, and passed on to services of others."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from test_metrics import RECORDS, record

from lab import pictures
from lab.flags import Config
from lab.report import (
    Reporter,
    TokenCount,
    cell,
    missing_formats,
    one_of_each,
    outlook,
    print_rollouts,
    print_table,
    progress_bar,
    show_comparison,
    show_gold,
    show_results,
    silence,
    span,
    step_line,
)
from lab.results import Results
from masa import Batch
from rollout import Group, generate
from tasks.problems import Problem


def test_table(capsys):
    print_table({"before": RECORDS, "after": RECORDS[:1]})
    lines = [line.rsplit(None, 2) for line in capsys.readouterr().out.strip().splitlines()]
    rows = {name: cells for name, *cells in lines}
    assert rows["held-out problems"] == ["before", "after"]
    assert rows["accuracy"] == ["0.50", "1.00"] and rows["accuracy/hard"] == ["0.25", "-"]
    assert rows["meta/correlation/length"] == ["1.00", "-"]


def test_cells():
    assert cell(None) == "-" and cell(0.456) == "0.46" and cell(12345.6) == "12,346" and cell(-0.5) == "-0.50"
    assert cell(0.5, (0.25, 0.75)) == "0.50 [0.25, 0.75]"


# --- While it runs ----------------------------------------------------------------------------------------

class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream, shown", [(Terminal, 3), (io.StringIO, 0)])
def test_a_bar_shows_what_is_sampled_on_a_terminal_and_seldom_in_a_file(monkeypatch, stream, shown):
    monkeypatch.setattr(sys, "stdout", stream())
    with progress_bar(5, "evaluation", "problem", initial=2) as bar:
        count = TokenCount(bar)
        for _ in range(3):
            count.shown -= 0.2                                  # as if so many seconds had passed
            count(1, 1000)
        said = sys.stdout.getvalue()
    assert [f"{n} rollouts, {n},000 tokens" in said for n in (1, 2, 3)] == [shown > 0] * 3
    assert "2/5" in said


def test_a_bar_that_is_switched_off_counts_in_silence(monkeypatch, capsys):
    with progress_bar(5, "evaluation", "problem", disable=True) as bar:
        count = TokenCount(bar)
        count.shown -= 100
        count(1, 10)
    assert count.tokens == 10 and capsys.readouterr().out == ""


def test_the_figures_of_a_step():
    metrics = {"reward": 0.25, "completions/boxed": 0.5, "frac_reward_zero_std": 0.9}
    assert step_line(metrics) == "accuracy 0.25, boxed 0.50, mixed groups 0.10"
    metrics |= {"meta/reward": 0.125, "meta/valid/pass_rate": 1.0}
    assert step_line(metrics).endswith("mixed groups 0.10, meta reward 0.12, readable 1.00")


@pytest.mark.parametrize("seconds, said", [(0.04, "0.0 s"), (2.51, "2.5 s"), (58.2, "58 s"), (99.6, "100 s"),
                                           (150, "2 min"), (3570, "1 h 0 min"), (12_000, "3 h 20 min")])
def test_durations(seconds, said):
    assert span(seconds) == said


def test_how_long_a_run_will_take():
    assert outlook(58, 199, 90, 10) == ("A step takes about 58 s; the other 199 and 10 evaluations of 90 s "
                                        "will take about 3 h 27 min")
    assert "the other 3 and 1 evaluation of 10 s will" in outlook(1, 3, 10, 1)
    assert outlook(58, 100, None, 2).endswith("the other 100, evaluations not counted, will take about "
                                              "1 h 37 min")
    assert outlook(2, 5, None, 0).endswith("the other 5 will take about 10 s")


@pytest.mark.parametrize("boxed, readable, flags, named", [
    (0.6, 0.6, "", None), (0.03, 0.6, "", "Only 3% of the solutions put their answer in \\boxed{}, and the"),
    (0.6, 0.25, "", "Only 25% of the predictions have a readable pass rate, and"),
    (0.0, 0.25, "", "in \\boxed{} and 25% of the predictions"),
    (0.0, 0.0, "--model toy", None), (0.6, 0.0, "--algo grpo", None),
    (0.6, 0.0, "--algo masa-efficient --meta-group-size 0", None)])
def test_formats_that_are_not_kept_are_told_with_what_to_do(boxed, readable, flags, named):
    figures = {"completions/boxed": boxed, "completions/clipped_ratio": 0.75,
               "meta/valid/pass_rate": readable}
    lines = missing_formats(figures, Config.parse(["--model", "m", "--preset", "toy", *flags.split()]))
    assert len(lines) == (named is not None)
    for line in lines:
        assert named in line and "\n" not in line
        assert "--cold-start 250" in line and "--max-new-tokens (now 192; 75% of the solutions do)" in line


def test_what_asks_for_no_box_misses_none():
    assert missing_formats({"accuracy": 0.5, "completions/clipped_ratio": 0.1}, Config(model="m")) == []


@pytest.mark.parametrize("reward, boxed, cure", [
    (0.0, 0.0, "--cold-start"), (0.0, 1.0, "Take easier problems"), (1.0, 1.0, "Take harder problems"),
    (0.5, 1.0, "always or never")])
def test_steps_that_teach_nothing_are_told_with_what_to_do(reward, boxed, cure):
    metrics = {"reward": reward, "completions/boxed": boxed, "completions/clipped_ratio": 0.0}
    line = silence(10, metrics, Config(model="m"))
    assert "in 10 steps" in line and "\n" not in line
    cures = ("--cold-start", "Take easier", "Take harder", "always or never")
    assert [part for part in cures if part in line] == [part for part in cures if cure.startswith(part)]


def test_one_of_each(tiny_policy):
    model, tokenizer = tiny_policy()
    groups = [Group(Problem("a", "w1", "1"), [3], correct=[True, False]), Group(Problem("b", "w2", "2"), [3])]
    groups[0].solutions = generate(model, tokenizer, [[5, 6]] * 2, [3] * 2)
    batch = Batch(groups, rewards=torch.tensor([1.0, 0.0]))
    row = one_of_each(batch)
    assert row["pass_rate"] == 0.5 and row["solution_reward"] == 1.0 and "meta" not in row
    assert (row["problem"], row["answer"], row["solution"]) == ("w1", "1", groups[0].solutions.texts[0])
    assert row["solution_tokens"] == groups[0].solutions.lengths[0]
    groups[0].metas = generate(model, tokenizer, [[5, 7]] * 2, [3] * 2)
    batch.terms = [{"length": 1.0, "difficulty": 0.25, "notion": 0.0},
                   {"length": 0.0, "difficulty": 0.0, "notion": 0.0}]
    row = one_of_each(batch)
    assert row["meta"] == groups[0].metas.texts[0] and row["meta_rewards"] == batch.terms[0]


def test_a_terminal_is_not_told_what_to_do():
    """What a model writes may hold control sequences and lone surrogates; they are spelled out."""
    said = []
    row = {"step": 3, "problem": "p", "answer": "1", "solution": "red \x1b[31m \ud800 \x07\r\nnext line é",
           "pass_rate": 0.5,
           "solution_tokens": 4, "solution_reward": 1.0, "meta": "m\x1b", "meta_rewards": {"length": 0.5}}
    print_rollouts(row, SimpleNamespace(write=lambda text, file: said.append(text)))
    text, = said
    assert "\x1b" not in text and "\ud800" not in text and "\r" not in text and "é" in text
    assert r"red \x1b[31m \ud800 \x07\r" in text and "\n            next line" in text
    assert "4 tokens; 50% of its group are right" in text and "rewards: length 0.50" in text


def test_services_get_what_is_known(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(
        init=lambda **given: calls.append(given), log=lambda metrics, step: calls.append((metrics, step))))
    Reporter("trackio", tmp_path, {"steps": 2}).log({"reward": 0.5, "gate/f1": None}, 7)
    assert calls == [{"project": "masa", "name": tmp_path.name, "config": {"steps": 2}}, ({"reward": 0.5}, 7)]
    Reporter(None, tmp_path, {}).log({"reward": 0.5}, 7)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="--report-to wandb: it is not installed, try pip install wandb"):
        Reporter("wandb", tmp_path, {})


def test_comparison_of_several_runs(tmp_path, capsys, monkeypatch):
    drawings = []
    monkeypatch.setattr(pictures, "draw", lambda stem, sets: drawings.append((stem, sets)) or [])
    runs = {name: [record("", [right, right], [3, 4], [(8, 3)], str(i)) for i, right in enumerate(row)]
            for name, row in {"x": (0, 0, 1, 1), "y": (0, 1, 1, 1), "z": (1, 1, 1, 1)}.items()}
    files = [(tmp_path / name / "after.json", {"held-out problems": records}) for name,
             records in runs.items()]
    show_comparison(files)
    shown = capsys.readouterr().out
    accuracy = [line.split() for line in shown.splitlines() if line.startswith("accuracy ")]
    assert [line[1:4] for line in accuracy] == [["0.50", "0.75", "0.25"], ["0.50", "1.00", "0.50"]]
    columns = {f"{name} after": runs[name] for name in runs}
    assert drawings == [(tmp_path / "z" / "compare", {"held-out problems": columns})]
    with pytest.raises(ValueError, match="two files with the same name and folder"):
        show_comparison(files[:1] * 2)


def two_sets(rights):
    """Records of folio and gpqa; `rights`: for each problem, how many of its 2 solutions are right."""
    return {name: [record("", [n > 0, n > 1], [3, 4], [(8, 3)], f"{name}{i}") for i, n in enumerate(row)]
            for name, row in zip(("folio", "gpqa"), rights)}


def rows_after(shown, title):
    """{first word: the rest of the line} of the table under `title`."""
    lines = shown[shown.index(title):].split("\n\n")[0].splitlines()
    return {line[:20].strip(): line[20:].split() for line in lines}


def test_a_table_of_all_sets_with_a_row_for_each_group(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda *_: [])
    results = Results(tmp_path / "out.json", {})
    for name, records in two_sets([(0, 1, 2), (2, 2)]).items():
        results.append(name, records, 0.5)
    results.finish()
    show_results(results)
    rows = rows_after(capsys.readouterr().out, "all sets")
    assert {name: cells[0] for name, cells in list(rows.items())[1:]} == {
        "folio": "0.50", "gpqa": "1.00", "logic (1 set)": "0.50", "science (1 set)": "1.00",
        "all (2 sets)": "0.75"}
    assert all(cells[1][0] == "[" for cells in list(rows.values())[1:])


def test_several_sets_are_compared_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda *_: [])
    before, after = two_sets([(0, 1, 2), (0, 1)]), two_sets([(1, 2, 2), (1, 2)])
    show_comparison([(tmp_path / "before.json", before), (tmp_path / "after.json", after)])
    table = capsys.readouterr().out.partition("difference to before")[2]
    rows = {line[:15].strip(): line.split()[-3:] for line in table.splitlines()}
    assert rows["folio"] == ["0.33", "[0.00,", "0.50]"] and rows["gpqa"] == ["0.50", "[0.50,", "0.50]"]
    assert rows["all (2 sets)"] == ["0.42", "[0.25,", "0.50]"]     # paired: gpqa adds nothing to the width


def test_the_gold_check_says_what_does_not_pass(tmp_path, capsys):
    rows = [{"problem": "1 + 1?", "answer": "2"}, {"problem": "2 + 2?", "answer": "4 }{"}]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code = [{"text": "Write f.", "test_list": ["assert f(1) == 2"]}]
    (tmp_path / "code.json").write_text(json.dumps(code))
    show_gold(f"math500={tmp_path / 'sums.jsonl'},mbpp={tmp_path / 'code.json'}", None, True)
    assert capsys.readouterr().out.splitlines() == [
        "math500: 1 of 2 answers pass their own grader", "    math500-1 does not: '4 }{'",
        "mbpp: has no answers of its own"]
