"""The tutorial: its stored outputs, and that every cell runs, with less of everything."""

import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

from lab import policy
from tasks import toy_model

ROOT = Path(__file__).parent.parent
PATH = ROOT / "tutorial.ipynb"
SHORT = {"STEPS": 2, "EVAL_PROBLEMS": 6, "AUDIT_PROBLEMS": 6}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def texts(cell):
    """Whatever a cell has put out as text."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield from (value for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))
        yield from output.get("traceback", [])


def shorten(notebook):
    cell, = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for name, value in SHORT.items():
        cell.source, count = re.subn(rf"^{name} = \d+", f"{name} = {value}", cell.source, flags=re.MULTILINE)
        assert count == 1, name


@pytest.fixture
def short_warm_up(tmp_path, monkeypatch):
    """A model that has learned little lies where the notebook's process looks for one that is warmed up."""
    warm_up = toy_model.warm_up
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(toy_model, "warm_up", lambda *given: warm_up(
        *given, stages=dict(bare=5, clean=40, noisy=20)))
    policy.load_policy("toy")
    assert any((tmp_path / "cache" / "masa-toy").iterdir())


def test_every_cell_runs(tmp_path, monkeypatch, short_warm_up):
    notebook = nbformat.read(PATH, 4)
    shorten(notebook)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Without folders of kernels to look into, "python3" is the python that runs this test.
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(work)}})
    client.execute()                                            # raises with the cell's traceback
    assert all(cell.execution_count for cell in code_cells(notebook))
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not list(work.iterdir())                             # the run's folder was a temporary one


def test_it_is_stored_with_its_outputs():
    notebook = nbformat.read(PATH, 4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]      # top to bottom, once
    silent = [cell for cell in cells if not cell.outputs]
    assert silent == cells[:2]                                  # the parameters and the imports
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 10
    for cell in cells:
        assert not [output for output in cell.outputs if output.output_type == "error"]
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]
        for text in texts(cell):
            assert not re.search(r"Traceback|/work|/tmp|/root|/home|/Users|it/s\]", text), text
    assert PATH.stat().st_size < 600_000                        # pictures are no larger than shown


def test_stored_parameters_are_the_stored_run():
    """What stands in the parameter cell is what the outputs come from."""
    cells = code_cells(nbformat.read(PATH, 4))
    steps, = re.findall(r"^STEPS = (\d+)", cells[0].source, flags=re.MULTILINE)
    run, = (cell for cell in cells if "masa.train(" in cell.source)
    assert any(text.startswith(f"{steps} steps with") for text in texts(run))


def test_links_and_imports_are_of_files_that_exist():
    text = "\n".join(cell.source for cell in nbformat.read(PATH, 4).cells)
    for name in re.findall(r"\]\(([\w./]+)\)", text):
        assert (ROOT / name).exists(), name
    headings = {heading.replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, flags=re.MULTILINE)}
    assert {*re.findall(r"\]\(#(.+?)\)", text)} == headings
