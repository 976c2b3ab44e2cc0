"""Files: outputs that appear when they are complete, and YAML or JSON that users write."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import filelock
import yaml

from ser_hf.errors import UserError


def refuse_existing(output: str | PathLike) -> None:
    """Refuse an output that exists, before hours of work.

    Raises:
        UserError: if it exists.
    """
    if Path(output).exists():
        raise UserError(f"'{output}' exists already: choose another --output or remove it")


@contextmanager
def new_folder(output: str | PathLike) -> Iterator[Path]:
    """Give a folder to write into, which gets the name `output` when the block ends well.

    Its parent is temporary, too: files beside it are removed with the parent.

    Raises:
        UserError: if `output` exists.
    """
    refuse_existing(output)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        partial = Path(temporary) / output.name
        partial.mkdir()
        yield partial
        partial.rename(output)


@contextmanager
def replacing(output: str | PathLike) -> Iterator[Path]:
    """Give a path to write a file to, which replaces `output` when the block ends well.

    The path lies beside `output`, has its suffix, and belongs to this process alone. Whatever goes
    wrong, the file at `output` stays as it was and nothing is left beside it.
    """
    output = Path(output)
    partial = output.with_name(f".{output.stem}.{os.getpid()}{output.suffix}")
    try:
        yield partial
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def cache_dir(*parts: str) -> Path:
    """The folder of our caches, or a folder in it, which is made: `$HF_HOME/ser_hf/…`."""
    from huggingface_hub import constants  # here, so that `import ser_hf.utils.files` stays light

    folder = Path(constants.HF_HOME, "ser_hf", *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_lock(path: str | PathLike) -> filelock.BaseFileLock:
    """A lock, for a `with` statement, on a cached file that several processes read and renew."""
    return filelock.FileLock(f"{path}.lock")


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
