"""Files: outputs that appear when they are complete, and YAML or JSON that users write."""

import codecs
import json
import os
import re
import shutil
import tempfile
import textwrap
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import filelock
import yaml

from ser_hf.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

ModelType = TypeVar("ModelType", bound="BaseModel")


MAX_NAME = 200
"""Bytes of an output's name. File systems take 255, and libraries add words to it."""
_PATTERN = re.compile(r"[*?\[\]]|::")
"""What `datasets` reads as a pattern, or as an address within another."""


def pattern_in(path: str | PathLike) -> str | None:
    """Return what makes `datasets` read a path as a pattern, in its folders, too; None if nothing.

    >>> pattern_in("/data/my clips [test]/dataset"), pattern_in("/data/clips {2}")
    ('[', None)
    """
    match = _PATTERN.search(os.path.abspath(path))
    return match[0] if match else None


def refuse_existing(output: str | PathLike) -> None:
    """Refuse an output that exists or cannot be made, before hours of work.

    A link is an output that exists, also where it leads to nothing. `~` is the home folder.

    Raises:
        UserError: with the remedy.
    """
    output = os.path.expanduser(output)
    if os.path.lexists(output):
        raise UserError(f"'{output}' exists already: choose another --output or remove it")
    refuse_unwritable(output)


def refuse_unwritable(output: str | PathLike) -> None:
    """Refuse a path that cannot be made: by its name, or by the folder that it would lie in.

    Raises:
        UserError: with the remedy.
    """
    path = Path(os.path.abspath(os.path.expanduser(output)))
    place = path.parent if os.path.isfile(path) else path  # a file is replaced in its folder
    while not os.path.lexists(place):
        if len(os.fsencode(place.name)) > MAX_NAME:
            length = len(os.fsencode(place.name))
            raise UserError(f"'{place.name[:40]}…' is a name of {length} bytes: choose one of at most {MAX_NAME}")
        place = place.parent
    if not os.path.isdir(place):
        raise UserError(f"'{output}' cannot be made, because '{place}' is no folder: choose another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"'{output}' cannot be made, because '{place}' cannot be written: choose another")


@contextmanager
def new_folder(output: str | PathLike) -> Iterator[Path]:
    """Yield a folder to write into, which is renamed to `output` when the block ends well.

    Its parent is temporary, too: files beside it are removed with the parent.

    Raises:
        UserError: if `output` exists.
    """
    refuse_existing(output)
    output = Path(os.path.expanduser(output))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output.parent) as temporary:
        partial = Path(temporary) / output.name
        partial.mkdir()
        yield partial
        partial.rename(output)


@contextmanager
def replacing(output: str | PathLike) -> Iterator[Path]:
    """Yield a path to write a file to, which replaces `output` when the block ends well.

    The path lies beside `output`, has its suffix, and belongs to this process alone. Whatever goes
    wrong, the file at `output` stays as it was and nothing is left beside it. A link stays a link,
    and the file behind it is replaced.
    """
    output = Path(os.path.realpath(os.path.expanduser(output)))
    # of a short name, since that of the file may be as long as names can be
    partial = output.with_name(f".partial-{uuid.uuid4().hex}{output.suffix}")
    try:
        yield partial
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write UTF-8 files by their names into a folder, which is made where it is missing.

    Each appears when it is complete, and replaces a file of its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with replacing(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


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
    """Move all that a folder holds into another one, over files of the same names.

    `results.json` comes last, because its presence means that the rest is complete.
    """
    for item in sorted(partial.iterdir(), key=lambda item: item.name == "results.json"):
        target = output / item.name
        shutil.rmtree(target) if target.is_dir() else None
        item.rename(target)


class _Loader(yaml.BaseLoader):
    """BaseLoader leaves every scalar text, so that the words `yes` and `no` stay words."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        _without_repeated_keys([(str(key.value), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


def read_text(path: Path, error_class: type[UserError] = UserError) -> str:
    """Return the text of a user's file in UTF-8, or in UTF-16 where it begins with a mark.

    Raises:
        error_class: naming the file and its encoding, as far as that can be told.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in content:
        raise error_class(f"'{path}' is no text in UTF-8 (it holds zero bytes): save it as text in UTF-8")
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise error_class(f"'{path}' line {line} is no text in UTF-8 ({error.reason}): save it as UTF-8") from None


def read_settings(path: Path, error_class: type[UserError] = UserError, typed: bool = False) -> Any:
    """Return what a `.json` file holds; any other file is YAML.

    Args:
        path: of the file.
        error_class: of what is raised.
        typed: whether scalars of YAML become numbers, booleans and dates; they stay text otherwise.

    Raises:
        error_class: naming the file, if it is empty, neither YAML nor JSON, or repeats a key.
    """
    text = read_text(path, error_class)
    if not text.strip():
        raise error_class(f"'{path}' is empty: write its keys and their values")
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_without_repeated_keys)
        content = yaml.load(text, Loader=_Loader)  # refuses repeated keys
        return yaml.safe_load(text) if typed else content
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # of JSON, of a date, of a repeated key
        reason = " ".join(str(error).split())[:200]
        raise error_class(f"'{path}' cannot be read: {reason}") from None


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict:
    keys = [str(key) for key, _ in pairs]
    repeated = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
    if repeated is not None:
        raise ValueError(f"the key '{repeated}' stands twice in one place: keep one")
    return dict(pairs)


_EXPECTED = {
    "string_type": "a text is expected",
    "string_too_short": "a text is expected",
    "bool_parsing": "true or false is expected",
    "bool_type": "true or false is expected",
    "dict_type": "a mapping is expected",
    "model_type": "a mapping is expected",
    "list_type": "a list is expected",
    "too_short": "it must not be empty",
}
"""What a field must be, by the type of pydantic's error."""


def validated(
    model: type[ModelType], content: object, source: str, error_class: type[UserError] = UserError
) -> ModelType:
    """Check what a user's file holds against a pydantic model, and return it as that model.

    A `ValueError` that a validator raises completes a sentence about its field, such as
    `is 'x': a number is expected`. That of a validator of the whole model is a sentence itself.

    Args:
        model: class that names the keys and checks their values.
        content: of the file, as `read_settings` returns it.
        source: the file, and the place in it, with which a message begins.
        error_class: of what is raised.

    Raises:
        error_class: one line about the first problem: the place, the value and what is expected.
    """
    from pydantic import ValidationError  # here, so that `import ser_hf.utils.files` stays light

    keys = ", ".join(field.alias or name for name, field in model.model_fields.items())
    if not isinstance(content, dict):
        raise error_class(f"{source} has no keys: its keys are {keys}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    kind, value = problem["type"], textwrap.shorten(repr(problem["input"]), 60, placeholder=" …")
    # the place as users write it: folds[0].test
    parts = [part for part in problem["loc"] if part != "[key]"]  # pydantic marks a key that is wrong itself
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    if kind == "extra_forbidden" and len(problem["loc"]) == 1:
        message = f"{source} has '{place}': its keys are {keys}"
    elif kind == "extra_forbidden":
        message = f"{source}: {place} is an unknown key: remove it"
    elif kind == "missing":
        message = f"{source}: {place} is missing: add it"
    elif kind == "value_error":
        message = f"{source}: {place} {problem['ctx']['error']}" if place else f"{source}: {problem['ctx']['error']}"
    elif kind == "literal_error":
        message = f"{source}: {place} is {value}: one of {problem['ctx']['expected']} is expected"
    else:
        message = f"{source}: {place} is {value}: {_EXPECTED.get(kind, problem['msg'])}"
    raise error_class(message)
