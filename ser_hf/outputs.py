"""Outputs appear when they are complete: never half of a dataset, a report or an evaluation under its name."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from ser_hf.errors import UserError


class OutputError(UserError):
    """A folder that cannot be written because it is there."""


def refuse_existing(output: str | PathLike) -> None:
    """Complain before hours of work.

    Raises:
        OutputError: if it exists.
    """
    if Path(output).exists():
        raise OutputError(f"'{output}' exists already: choose another --output or remove it")


@contextmanager
def appearing(output: str | PathLike) -> Iterator[Path]:
    """A folder to write into, which gets its name when the block ends well; beside it is room for what is temporary.

    Raises:
        OutputError: if `output` exists.
    """
    refuse_existing(output)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        partial = Path(temporary) / output.name
        partial.mkdir()
        yield partial
        partial.rename(output)


def move_into(partial: Path, output: Path) -> None:
    """Put all that is in one folder into another, over what has the same names; `results.json` last: it says done."""
    for item in sorted(partial.iterdir(), key=lambda item: item.name == "results.json"):
        target = output / item.name
        shutil.rmtree(target) if target.is_dir() else None
        item.rename(target)
