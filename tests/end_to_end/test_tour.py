"""docs/tour.ipynb runs from the first cell to the last, and shows what its cells say."""

import base64
import os

import nbformat
import pytest
from helpers.small import ROOT

PICTURES = 7
"""Waveform, mel, counts, confusion matrix, leakage, explanation, timeline."""


@pytest.fixture(scope="module")
def tour(load_script):
    return load_script("maintain/tour")


@pytest.fixture
def notebook(tour):
    return nbformat.read(tour.NOTEBOOK, as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook):
    return [output.data["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", {})]


def test_its_outputs_are_those_of_its_cells(tour, notebook):
    assert notebook.metadata.executed == tour.digest(notebook), "a cell was changed: run `make tour`"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {"display_data", "execute_result", "stream"}
    assert len(pictures(notebook)) == PICTURES


def test_it_holds_nothing_of_the_machine_and_little_else(tour, notebook):
    assert tour.NOTEBOOK.stat().st_size < 600_000
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures(notebook))
    told = "".join(
        str(output.get("text", "") or output.get("data", {}).get("text/plain", "")) for output in outputs(notebook)
    )
    assert not [path for path in ("/home", "/tmp", "/work", "/root", "/usr", "site-packages") if path in told]
    assert {name for output in outputs(notebook) if (name := output.get("name"))} <= {"stdout"}
    assert not any("execution" in cell.metadata for cell in notebook.cells)


def test_it_runs(tour, notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    for output in outputs(notebook):
        output.clear()
    tour.execute(notebook, tmp_path, takes=1, words=2, epochs=0.05)  # two steps
    assert len(pictures(notebook)) == PICTURES
    (settings,) = [cell.source for cell in notebook.cells if tour.PARAMETERS in cell.metadata.get("tags", [])]
    assert "takes=1" not in settings
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dataset",
        "model",
        "recordings",
        "svm-random",
        "svm-speaker",
    ]
