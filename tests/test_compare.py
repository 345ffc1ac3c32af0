"""The study's arithmetic, by hand-worked curves, and its tables from a file of results."""

import json
import statistics

import numpy as np
import pytest

from tools import compare

# (step, tokens, seconds, accuracy, tokens thrown away): 0.6 is reached after 100 tokens, and after 50.
GRPO = [[0, 0, 0, 0.2, 0], [10, 50, 5, 0.4, 0], [20, 100, 10, 0.6, 0]]
FAST = [[0, 0, 0, 0.2, 0], [10, 40, 6, 0.5, 10], [20, 60, 12, 0.7, 30]]


def test_the_cost_of_an_accuracy_is_interpolated():
    assert compare.cost_to_reach(GRPO, 0.5, 1) == 75
    assert [compare.cost_to_reach(FAST, 0.6, column) for column in (1, 2)] == pytest.approx([50, 9])
    assert compare.cost_to_reach(GRPO, 0.61, 1) == np.inf and compare.cost_to_reach(GRPO, 0.2, 1) == 0


def test_ratios_of_mean_curves():
    grpo, fast = np.array([GRPO, GRPO], dtype=float), np.array([FAST, GRPO], dtype=float)
    mean = 45 + 0.15 / 0.2 * 35         # the mean curve: 0.45 after 45 tokens, 0.65 after 80
    ratio, (low, high) = compare.ratio_to(fast, grpo, 1)
    assert ratio == pytest.approx(mean / 100) and (low, high) == pytest.approx((0.5, 1))
    assert compare.ratio_to(fast[:1], grpo[:1], 1) == (pytest.approx(0.5), None)
    fast[1, :, 2] = np.nan                                              # the second pair was not timed
    assert compare.ratio_to(fast, grpo, 2) == (pytest.approx(0.9), None)
    assert np.isnan(compare.ratio_to(fast[1:], grpo[1:], 2)[0])
    flat = np.array([[*point[:3], 0.2, 0] for point in GRPO])[None]
    assert np.isnan(compare.ratio_to(flat, flat, 1)[0])                 # GRPO has learned nothing


def test_intervals_are_students():
    values = [0.1, 0.4, 0.4, 0.7]
    mean, (low, high) = compare.interval([*values, None, np.inf])
    half = 3.182 * statistics.stdev(values) / 2
    assert (mean, low, high) == pytest.approx((0.4, 0.4 - half, 0.4 + half), abs=1e-3)
    assert compare.interval([0.3]) == (0.3, None) and compare.interval([None]) == (None, None)


def test_explained_variance_is_shared_out():
    """One reward follows the pass rate exactly, one is constant, and the third is the first once more."""
    records = [{"predictions": [{"rewards": {"length": rate, "difficulty": 0.5, "notion": rate}}],
                "completions": [{"correct": correct} for correct in (rate > 0, rate > 0.5)]}
               for rate in (0, 0.5, 1)]
    shares = compare.shapley(records)
    assert shares == pytest.approx({"length": 0.5, "difficulty": 0.0, "notion": 0.5})


def write(path, **arms):
    def run(curve):
        return {"curve": curve, "accuracy": curve[-1][3], "skipped": None, "gate precision": 0.9}
    path.write_text(json.dumps({arm: {"flags": f"{compare.ARMS[arm]} --steps 20", "seeds": {
        str(seed): run(curve) for seed, curve in enumerate(curves)}} for arm, curves in arms.items()}))


def test_a_report_of_what_there_is(tmp_path, capsys):
    write(tmp_path / "study.json", grpo=[GRPO, GRPO], dynamic=[FAST])
    compare.report(tmp_path / "study.json", list(compare.ARMS), tmp_path / "compare.png")
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line for line in lines if len(line) == 8}
    assert rows["grpo"][1:4] == ["2", "0.600 [0.600, 0.600]", "1.00 [1.00, 1.00]"]
    assert rows["dynamic"][1:6] == ["1", "0.700", "0.50", "0.90", "+0.100"]
    assert rows["oracle"][3:5] == ["0.30", "-"]             # 60 - 30 and 40 - 10 of 100
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    compare.report(tmp_path / "study.json", ["dynamic"], tmp_path / "compare.png")         # a part of it
    assert rows["dynamic"] in [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]


def test_results_of_other_flags_are_refused(tmp_path):
    write(tmp_path / "study.json", grpo=[GRPO])
    assert set(compare.known(tmp_path / "study.json", "grpo", "--steps 20")) == {0}
    with pytest.raises(ValueError, match="holds runs of grpo with --algo grpo --steps 20, not"):
        compare.known(tmp_path / "study.json", "grpo", "--steps 30")
    write(tmp_path / "study.json", masa=[GRPO])
    with pytest.raises(ValueError, match="no finished run of grpo"):
        compare.report(tmp_path / "study.json", ["masa"], tmp_path / "compare.png")
    write(tmp_path / "study.json", grpo=[GRPO], masa=[])
    with pytest.raises(ValueError, match="no finished run of these arms"):
        compare.report(tmp_path / "study.json", ["masa", "state"], tmp_path / "compare.png")
