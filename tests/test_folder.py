"""A run's folder survives being killed at any moment, and refuses what would destroy a run."""

import json
import multiprocessing
import os

import pytest
import torch
from safetensors import SafetensorError

from lab.folder import RunFolder, json_line, read_json, write_whole

CONFIG = {"model": "toy", "steps": 4, "seed": 0, "resume": False, "max_tokens": 9, "micro_batch_tokens": 5}

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run", CONFIG)
    yield folder
    folder.close()


def restart(run, resume=True, **changed):
    run.close()                 # as the end of the process does
    again = RunFolder(run.path, CONFIG | changed, resume)
    again.close()
    return again


def test_rewind_drops_what_came_after_the_checkpoint_and_a_torn_line(run):
    for step in range(5):
        run.append("metrics.jsonl", {"step": step, "reward": step / 7})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "rew')
    run.rewind(3)
    assert run.read("metrics.jsonl") == [{"step": step, "reward": step / 7} for step in range(3)]
    run.append("metrics.jsonl", {"step": 3})
    assert [row["step"] for row in run.read("metrics.jsonl")] == [0, 1, 2, 3]


def test_hostile_text_is_kept_as_one_line(run):
    text = "lone \ud800, NUL \0, line \u2028 ends\x85 and\x0c\n"
    run.append("rollouts.jsonl", {"step": 0, "solution": text})
    run.append("rollouts.jsonl", {"step": 1})
    assert [row["step"] for row in run.read("rollouts.jsonl")] == [0, 1]
    assert run.read("rollouts.jsonl")[0]["solution"] == text


def test_a_run_is_not_overwritten(run):
    run.append("metrics.jsonl", {"step": 0})
    with pytest.raises(ValueError, match="already holds a run"):
        restart(run, resume=False)
    assert run.read("metrics.jsonl") == [{"step": 0}]


def test_a_start_that_failed_early_leaves_the_folder_free(run):
    path = restart(run, resume=False, model="other").path
    assert read_json(path / "config.json")["model"] == "other"


def test_resume_needs_a_run_and_its_flags(run, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        RunFolder(tmp_path / "none", CONFIG, resume=True)
    run.append("metrics.jsonl", {"step": 0})
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        restart(run, seed=1)
    assert restart(run, steps=9).path == run.path


def open_elsewhere(path, answers):
    try:
        RunFolder(path, CONFIG)
    except ValueError as error:
        answers.put(str(error))


def test_a_folder_in_use_is_refused(run):
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    process = spawn.Process(target=open_elsewhere, args=(run.path, answers))
    process.start()
    assert "in use by another process" in answers.get(timeout=60)
    process.join()


def test_the_folder_is_free_again_after_the_run_and_after_a_mistake(run):
    run.append("metrics.jsonl", {"step": 0})
    with pytest.raises(ValueError, match="in use by another process"):
        RunFolder(run.path, CONFIG, resume=True)
    run.close()
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        RunFolder(run.path, CONFIG | {"seed": 1}, resume=True)
    RunFolder(run.path, CONFIG, resume=True).close()


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="cannot be written"):
        RunFolder(tmp_path / "file", CONFIG)
    assert (tmp_path / "file").read_text() == "mine"


def trainer(step):
    return {"optimizer": {}, "state": {"step": step}}


class Saves:
    """Stands for a model: writes one file, or fails half-way as on a full disk."""

    def __init__(self, content, full=None):
        self.content, self.full = content, full

    def save_pretrained(self, folder):
        os.makedirs(folder, exist_ok=True)
        (folder / "model").write_text(self.content)
        if self.full:
            raise self.full


def test_a_checkpoint_is_replaced_whole_or_not_at_all(run):
    run.save(Saves("first"), Saves("t"), trainer(1) | {"optimizer": torch.arange(3)})
    for full in (OSError(28, "No space left on device"),
                 SafetensorError("I/O error: No space left (os error 28)"),
                 RuntimeError("unexpected pos 64 vs 0\nCaused by: No space left")):
        with pytest.raises(OSError) as error:
            run.save(Saves("second", full=full), Saves("t"), trainer(2))
        assert "cannot be written" in str(error.value) and "\n" not in str(error.value)
        assert not (run.path / "checkpoint.new").exists()
    assert (run.checkpoint / "model").read_text() == "t" and run.load_trainer()["state"]["step"] == 1
    run.save(Saves("t"), Saves("third"), trainer(3))
    assert (run.checkpoint / "model").read_text() == "third" and run.load_trainer() == trainer(3)
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "checkpoint", "config.json"]


def test_killed_between_the_two_renames(run):
    run.save(Saves("m"), Saves("t"), trainer(1))
    run.checkpoint.rename(run.previous)
    assert restart(run).load_trainer() == trainer(1)


def test_a_damaged_or_executable_checkpoint_is_one_line(run):
    run.save(Saves("m"), Saves("t"), trainer(1))
    path = run.checkpoint / "trainer.pt"
    whole = path.read_bytes()
    for content in (whole[:len(whole) // 2], b"", b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."):
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            run.load_trainer()
        assert "damaged" in str(error.value) and "\n" not in str(error.value)
    assert not os.path.exists("pwned")


def test_files_that_somebody_wrote_into_are_no_traceback(run):
    run.append("metrics.jsonl", {"step": 0})
    for content, said in (("[]", "started with other flags"), ("xx", "config.json cannot be read")):
        (run.path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=said):
            restart(run)
    for line in ("[1]", "5", '{"a": 1}', "null"):
        (run.path / "metrics.jsonl").write_text(f'{{"step": 0}}\n{line}\n{{"step": 1}}\n')
        assert run.read("metrics.jsonl") == [{"step": 0}]


def test_a_run_goes_on_with_the_problems_that_it_began_with(run):
    run.write_once("problems.json", {"training": 1})
    run.write_once("problems.json", {"training": 1})
    with pytest.raises(ValueError, match="the problems are not those that this run began with") as error:
        run.write_once("problems.json", {"training": 2})
    assert "\n" not in str(error.value) and read_json(run.path / "problems.json") == {"training": 1}


def test_json_is_replaced_whole(run):
    run.write_json("before.json", [1])
    with pytest.raises(TypeError):
        run.write_json("before.json", [object()])
    assert read_json(run.path / "before.json") == [1]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)  # killed before the new one takes its place
    with pytest.raises(ZeroDivisionError):
        write_whole(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize("content", ["", "{", "[1", "[" * 100_000, "nothing"])
def test_what_is_no_json_is_one_line(tmp_path, content):
    (tmp_path / "file").write_text(content)
    for name, said in (("file", "it is not JSON"), ("none", "No such file"), (".", "cannot be read")):
        with pytest.raises(ValueError, match=said) as error:
            read_json(tmp_path / name)
        assert "\n" not in str(error.value)


def test_what_is_not_finite_is_null_in_a_line():
    row = {"a": float("nan"), "b": float("inf"), "c": None, "d": 1, "e": "NaN", "f": 0.5}
    assert json.loads(json_line(row)) == row | {"a": None, "b": None} and json_line(row).count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_a_full_disk_says_how_to_go_on(run):
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="metrics.jsonl cannot be written: No space.* --resume"):
        run.append("metrics.jsonl", {"step": 0})
