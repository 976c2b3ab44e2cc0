"""Execute docs/tour.ipynb from the first cell to the last, and keep what it shows: `make tour`.

The notebook is its own source. Whoever changes a cell runs this afterwards; a test compares the
digest of the cells with the one that is written here.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tour.ipynb"
PARAMETERS = "parameters"
"""Tag of the cell whose assignments other values can follow."""


def execute(notebook: NotebookNode, folder: str | os.PathLike, **parameters: Any) -> NotebookNode:
    """Run all cells in a folder, and leave their outputs in the notebook.

    Args:
        notebook: gets the outputs.
        folder: gets what the cells write.
        parameters: values for the cell with the tag `parameters`, in place of those that it has.

    Raises:
        nbclient.exceptions.CellExecutionError: where a cell fails; it holds the traceback.
    """
    written = {}
    for number, cell in enumerate(notebook.cells):
        if parameters and PARAMETERS in cell.metadata.get("tags", []):
            written[number] = cell.source
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    for number, source in written.items():
        notebook.cells[number].source = source
    return notebook


def clean(notebook: NotebookNode) -> NotebookNode:
    """Take out what differs from machine to machine: progress bars, warnings, versions."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "executed": digest(notebook),
    }
    return notebook


def digest(notebook: NotebookNode) -> str:
    """16 hexadecimal digits of what the code cells say."""
    sources = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


def main() -> None:
    """Execute the notebook in a temporary folder and write it back."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, folder)
    nbformat.write(clean(notebook), NOTEBOOK)
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1024:.0f} KB", file=sys.stderr)


if __name__ == "__main__":
    main()
