"""The study's arithmetic, by hand-worked curves, its tables from a file of results, and what it runs."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

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
    assert rows["hindsight"][3:5] == ["0.30", "-"]             # 60 - 30 and 40 - 10 of 100
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


# --- Running ----------------------------------------------------------------------------------------------

# In place of masa.py: writes what a run leaves behind, without learning anything; --beta 1 never ends.
RUN = """
import json, signal, sys, time
from pathlib import Path
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = Path(flags["--output"])
folder.mkdir(parents=True)
(folder / "config.json").write_text(json.dumps({"steps": int(flags["--steps"])}))
row = {"tokens": 5, "tokens_wasted": 1, "tokens_prefilled": 2, "seconds_total": 3.0}
(folder / "metrics.jsonl").write_text("".join(
    json.dumps(row | {"step": i, "eval/accuracy": i / 4}) + chr(10) for i in range(int(flags["--steps"]))))
rewards = dict.fromkeys(("length", "difficulty", "notion"), 0.5)
record = {"level": "", "completions": [{"correct": True, "length": 3, "finished": True}], "predictions": [
    {"rewards": rewards, "length": 1, "notions": [], "pass_rate": 8, "solution_length": 3}]}
for when in ("before", "after"):
    (folder / f"{when}.json").write_text(json.dumps([record]))
if "--beta" in flags:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit((folder / "stopped").touch()))
    (folder / "ready").touch()
    time.sleep(60)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder, with a space in its name, from which runs are stand-ins."""
    folder = tmp_path / "my study"
    folder.mkdir()
    (folder / "masa.py").write_text(RUN)
    monkeypatch.setattr(compare, "ROOT", folder)
    monkeypatch.chdir(folder)
    return folder


def test_runs_are_run_once_and_kept(study, capsys):
    def run(flags, results="a.json"):
        compare.run_all(["grpo", "short budget"], [0, 1], flags, study / "runs", study / results, 2, True)
    run("--steps 2")
    stored = json.loads((study / "a.json").read_text())
    assert [(arm, *stored[arm]["seeds"]) for arm in stored] == [(arm, "0", "1")
                                                                for arm in ("grpo", "short budget")]
    assert stored["grpo"]["seeds"]["1"]["curve"] == [[0, 0, 0, 1, 0], [1, 8, 3, 0, 1], [2, 16, 3, 1, 2]]
    capsys.readouterr()
    run("--steps 2")
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="was begun with --steps 2, not 1: choose another --output"):
        run("--steps 1", "b.json")
    assert not (study / "b.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_run_goes_on_alone(study, number):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
               "from pathlib import Path\nfrom tools import compare\ncompare.ROOT = Path.cwd()\n"
               "compare.main()", "--arms", "grpo", "--seeds", "0", "--flags", "--steps 2 --beta 1",
               "--output", "runs", "--results", "a.json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not (study / "runs/grpo-0/ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert (study / "runs/grpo-0/stopped").exists() and not (study / "a.json").exists()
