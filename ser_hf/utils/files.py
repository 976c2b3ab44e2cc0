"""Files: outputs that appear when they are complete, and YAML or JSON that users write."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

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
def new_folder(output: str | PathLike) -> Iterator[Path]:
    """A folder to write into, which gets its name when the block ends well; beside it is room for
    what is temporary.

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
    """Put all that is in one folder into another, over what has the same names; `results.json`
    last: it says done."""
    for item in sorted(partial.iterdir(), key=lambda item: item.name == "results.json"):
        target = output / item.name
        shutil.rmtree(target) if target.is_dir() else None
        item.rename(target)


class _Loader(yaml.BaseLoader):
    """BaseLoader leaves every scalar text, so that the words `yes` and `no` stay words."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        _once([(key.value, None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


def read_settings(path: Path, wrong: type[UserError]) -> Any:
    """What a `.json` file holds, or any other as YAML; scalars of YAML are text.

    Raises:
        wrong: naming the file, if it is neither YAML nor JSON, or says one thing twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_once)
        return yaml.load(text, Loader=_Loader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # of JSON, of the encoding, of _once
        reason = " ".join(str(error).split())[:200]
        raise wrong(f"'{path}' cannot be read: {reason}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict:
    keys = [str(key) for key, _ in pairs]
    twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
    if twice is not None:
        raise ValueError(f"the key '{twice}' stands twice in one place: keep one")
    return dict(pairs)
