"""What is shown: tables, rollouts and pictures."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from lab import report
from tasks.problems import Problem
from lab.metrics import summarise
from lab.report import (cell, one_of_each, plot_awareness, plot_curves, plot_pass_at_k, print_table, show_comparison,
                    smooth)
from test_metrics import RECORDS, record


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn from here on, kept open to be looked at."""
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    yield figures
    monkeypatch.undo()
    plt.close("all")


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


def test_curves(tmp_path, drawn):
    rows = [{"step": i, "reward": i / 9, "eval/accuracy": 0.5 if i == 5 else None} for i in range(10)]
    plot_curves(rows, tmp_path / "curves.png", "title", {"before": RECORDS, "after": RECORDS[:1]})
    plot_curves([], tmp_path / "empty.png")
    for name in ("curves.png", "empty.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    lines = drawn[0].axes[0].lines
    assert lines[0].get_ydata().tolist() == [row["reward"] for row in rows]
    assert [line.get_xydata().tolist() for line in lines if line.get_label() == "held-out problems"] == [[[0, 0.5], [6, 0.5], [10, 1]]]
    assert smooth([0, 3, np.nan, 6], 3) == [1.5, 1.5, 4.5, 6.0]


def test_awareness_shows_each_problem_where_it_is(tmp_path, drawn):
    plot_awareness({"before": [], "after": RECORDS}, tmp_path / "awareness.png")
    assert (tmp_path / "awareness.png").read_bytes().startswith(b"\x89PNG")
    rate_before, rate_after, length_before, length_after = drawn[0].axes
    assert rate_before.get_title() == "before: r = -" and length_after.get_title() == "after: r = 1.00"
    points = rate_after.collections[0].get_offsets()
    assert np.abs(points - [(0.875, 1.0), (0.25, 0.5), (0.0, 0.0)]).max() < 0.0101
    assert rate_after.collections[1].get_offsets().tolist() == [[0, 0], [0.25, 0.5], [0.75, 1], [1, 1]]
    lengths = length_after.collections[0].get_offsets()
    assert np.abs(lengths - [(4, 4), (8, 7)]).max() < 0.0801 and not length_before.collections


def test_pass_at_k_curves(tmp_path, drawn):
    plot_pass_at_k({"a": RECORDS, "b": RECORDS[:1]}, tmp_path / "pass.png")
    assert (tmp_path / "pass.png").read_bytes().startswith(b"\x89PNG")
    a, b = drawn[0].axes[0].lines
    assert a.get_xydata().tolist() == [[1, 0.5], [2, summarise(RECORDS)["pass@2"]]]
    assert b.get_xydata().tolist() == [[1, 1], [2, 1]]
    assert len(drawn[0].axes[0].collections) == 1           # one problem has no interval


def test_one_of_each(tiny_policy):
    from rollout import generate
    model, tokenizer = tiny_policy()
    solutions = generate(model, tokenizer, [[5, 6]] * 4, 3)
    problems = [Problem("a", "w1", "1"), Problem("b", "w2", "2")]
    row = one_of_each(problems, solutions, [True, False, False, False], None, [])
    assert row["pass_rate"] == 0.5 and row["solution_reward"] == 1.0 and "meta" not in row


def test_comparison_of_several_runs(tmp_path, capsys, monkeypatch):
    drawings = []
    monkeypatch.setattr(report, "draw", lambda stem, sets: drawings.append((stem, sets)) or [])
    runs = {name: [record("", [right, right], [3, 4], [(8, 3)], str(i)) for i, right in enumerate(row)]
            for name, row in {"x": (0, 0, 1, 1), "y": (0, 1, 1, 1), "z": (1, 1, 1, 1)}.items()}
    files = [(tmp_path / name / "after.json", {"held-out problems": records}) for name, records in runs.items()]
    show_comparison(files)
    shown = capsys.readouterr().out
    accuracy = [line.split() for line in shown.splitlines() if line.startswith("accuracy ")]
    assert [line[1:4] for line in accuracy] == [["0.50", "0.75", "0.25"], ["0.50", "1.00", "0.50"]]
    columns = {f"{name} after": runs[name] for name in runs}
    assert drawings == [(tmp_path / "z" / "compare", {"held-out problems": columns})]
    with pytest.raises(ValueError, match="two files with the same name and folder"):
        show_comparison(files[:1] * 2)
