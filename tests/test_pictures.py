"""Pictures: that what is drawn is what was measured, where it was measured."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from test_metrics import RECORDS, record

from lab.metrics import summarise
from lab.pictures import draw, plot_awareness, plot_curves, plot_pass_at_k, smooth


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
    assert rate_before.get_title() == "before: r is not defined"
    assert length_after.get_title() == "after: r = 1.00"
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
    # one completion has no pass@k, no prediction no awareness
    assert len(list((tmp_path / "new").iterdir())) == 2


def texts(axis):
    return [text.get_text() for text in axis.texts if text.get_text()]


def test_pass_at_k_is_drawn_for_every_k_up_to_n(tmp_path, drawn):
    """Against what a draw of k without replacement finds: of 5 solutions, 2 are right here and 0 there."""
    grades = {"a": [True, False, True, False, False], "b": [False] * 5}
    rows = [record("", row, [3] * 5, [], name) for name, row in grades.items()]
    plot_pass_at_k({"a": rows}, tmp_path / "pass.png")
    line, = drawn[0].axes[0].lines
    wrong = [3 / 5, 3 / 10, 1 / 10, 0, 0]                   # the chance that none of k is right, in the first
    assert line.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert line.get_ydata() == pytest.approx([(1 - w) / 2 for w in wrong])
    band, = drawn[0].axes[0].collections
    assert {1, 3, 5} <= set(band.get_paths()[0].vertices[:, 0].tolist()) and not texts(drawn[0].axes[0])
    plot_pass_at_k({"many": [record("", [True] + [False] * 999, [3] * 1000, [], "a")]}, tmp_path / "pass.png")
    drawn_at = drawn[1].axes[0].lines[0].get_xdata()
    assert drawn_at[0] == 1 and drawn_at[-1] == 1000 and len(drawn_at) < 40


def test_where_nothing_is_right_or_parses_the_picture_says_so(tmp_path, drawn):
    unread = [record("", [True], [3], [(None, None)], "a"), record("", [False], [3], [(None, None)], "b")]
    wrong = [record("", [False, False], [3, 4], [(2, 5)], str(i)) for i in range(2)]
    plot_awareness({"unread": unread, "wrong": wrong}, tmp_path / "awareness.png")
    rate_unread, rate_wrong, length_unread, length_wrong = drawn[0].axes
    assert texts(rate_unread) == ["no valid prediction"]
    assert texts(rate_wrong) == ["no solution is right"] and len(rate_wrong.collections) == 2
    assert texts(length_unread) == ["no valid prediction of a solved problem"]
    assert "no solution is right" in texts(length_wrong)[0]
    for axis in (rate_unread, length_unread, length_wrong):
        assert not len(axis.get_xticks()) and not axis.lines and "r is not defined" in axis.get_title()
    plot_pass_at_k({"wrong": wrong}, tmp_path / "pass.png")
    plot_pass_at_k({"wrong": wrong, "unread": unread}, tmp_path / "pass.png")
    assert [texts(figure.axes[0]) for figure in drawn[1:]] == [["no solution is right"], []]


def test_curves_that_a_run_does_not_have_are_said_to_be_none(tmp_path, drawn):
    plot_curves([{"step": 0, "reward": 0.5, "frac_reward_zero_std": 0.1}], tmp_path / "curves.png")
    accuracy, rewards, lengths, variance = map(texts, drawn[0].axes)
    assert accuracy == variance == [] and rewards == lengths == ["none in this run"]
