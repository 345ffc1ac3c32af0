"""Pictures: that what is drawn is what was measured, where it was measured."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from lab.metrics import summarise
from lab.pictures import draw, plot_awareness, plot_curves, plot_pass_at_k, smooth
from test_metrics import RECORDS, record


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn from here on, kept open to be looked at."""
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    yield figures
    monkeypatch.undo()
    plt.close("all")


def test_curves(tmp_path, drawn):
    rows = [{"step": i, "reward": i / 9, "eval/accuracy": 0.5 if i == 5 else None} for i in range(10)]
    plot_curves(rows, tmp_path / "curves.png", "title", {"before": RECORDS, "after": RECORDS[:1]})
    plot_curves([], tmp_path / "empty.png")
    for name in ("curves.png", "empty.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    lines = drawn[0].axes[0].lines
    assert lines[0].get_ydata().tolist() == [row["reward"] for row in rows]
    held_out = [line.get_xydata().tolist() for line in lines if line.get_label() == "held-out problems"]
    assert held_out == [[[0, 0.5], [6, 0.5], [10, 1]]]
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


def test_what_can_be_drawn_is_drawn(tmp_path):
    once = [record("", [True], [3], [], str(i)) for i in range(2)]
    assert draw(tmp_path / "new" / "x", {"a set": {"one": RECORDS}, "b": {"one": once}}) == [
        f"{tmp_path}/new/x-a-set-pass-at-k.png", f"{tmp_path}/new/x-a-set-awareness.png"]
    assert len(list((tmp_path / "new").iterdir())) == 2     # one completion has no pass@k, no prediction no awareness
