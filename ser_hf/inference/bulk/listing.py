"""The inputs of a labelling: what there is to read, listed without reading it.

An input is a folder, a file, a pattern, a list, a dataset of the Hub, or an address that `fsspec`
knows. A listing says of each file where it lies and what stamp it has: its size, and when it
changed or what its store calls its version. A file with another stamp is another file.
"""

import glob
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
from fsspec.core import url_to_fs
from huggingface_hub import errors

from ser_hf import audio
from ser_hf.errors import UserError, first_line
from ser_hf.utils import files, tables

CONTAINERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar"}
"""Endings of files that hold many recordings, and what they are."""
LISTS = (".txt", ".csv", ".tsv")
"""Endings of lists of recordings."""
FILE_COLUMNS = ("file", "path", "filename", "file_name", "filepath", "file_path", "url", "uri", "audio", "wav")
"""Names of the column of a table that says where a recording lies, the first that it has."""
_CUTS = {"start", "end", "begin", "stop", "onset", "offset", "start_time", "end_time", "t0", "t1"}
_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_STAMPS: tuple[str, ...] = (
    "ETag",
    "etag",
    "xet_hash",
    "blob_id",
    "md5Hash",
    "contentHash",
    "mtime",
    "LastModified",
    "last_modified",
)
_STAMPS += ("updated", "created")
MANIFEST = "_manifest.json"
"""In the folder of a labelling, whose rows are no recordings."""
_LOOKED_UP = 256  # addresses of a list that are looked up at a time
_HTTP = ("http", "https")
STORE_ERRORS = (OSError, aiohttp.ClientError, errors.HTTPError)
"""What reading a file raises, wherever it lies; those of HTTP are no `OSError`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the inputs."""

    path: str
    """An absolute path of this machine, or an address."""
    stamp: str
    """Its size, and when it changed or its version."""
    kind: str
    """`recording`, or what `CONTAINERS` says."""
    speaker: str = ""
    """What the column of a list says that recordings are adapted by."""


def list_inputs(inputs: list[str], column: str | None = None) -> Iterator[Entry]:
    """List what inputs hold, in their order, and each file once.

    Args:
        inputs: folders, files, patterns, lists, addresses, datasets of the Hub (`owner/name`, or
            `owner/name@revision`).
        column: of a list, whose value goes to `Entry.speaker`.

    Raises:
        UserError: naming the input that matches nothing or cannot be read.
    """
    seen: set[int] = set()  # hashes take a tenth of the memory of the paths
    for name in inputs:
        found = 0
        for entry in _list_input(name, column):
            found += 1
            if (key := hash(entry.path)) not in seen:
                seen.add(key)
                yield entry
        if not found:
            raise UserError(f"'{name}' holds no recordings: name a folder, a pattern or a list of audio files")


def refuse_absent(inputs: list[str]) -> None:
    """Look whether each input exists as far as that takes no listing.

    Raises:
        UserError: naming the input that does not exist.
    """
    for name in inputs:
        _list_input(name, None)  # the listing begins when it is asked for the first entry


def kind_of(path: str) -> str | None:
    """`recording`, what kind of container, or None, by the ending of a name."""
    lower = path.lower()
    kind = next((kind for suffix, kind in CONTAINERS.items() if lower.endswith(suffix)), None)
    return kind or ("recording" if lower.endswith(audio.SUFFIXES) else None)


def is_part(name: str) -> bool:
    """Whether a file beside a manifest holds rows; whatever else lies there is an input."""
    return name.startswith("part-") and name.endswith(".parquet")


def _list_input(name: str, column: str | None) -> Iterator[Entry]:
    path = os.path.abspath(os.path.expanduser(name))
    if ("://" in name or "::" in name) and not os.path.exists(path):
        return _list_address(name)
    if os.path.isdir(path):
        return _list_folder(path)
    if os.path.isfile(path):
        is_list = path.lower().endswith(LISTS)
        return _list_list(Path(path), column) if is_list else iter([_local_entry(path, os.stat(path))])
    if glob.has_magic(path):
        return _list_pattern(path)
    if _HUB.fullmatch(name):
        return _list_address(f"hf://datasets/{name}")
    raise UserError(f"'{name}' does not exist: check the path")


def _local_entry(path: str, stat: os.stat_result) -> Entry:
    return Entry(path, f"{stat.st_size}-{stat.st_mtime_ns}", kind_of(path) or "recording")


def _list_folder(root: str) -> Iterator[Entry]:
    """Recordings and containers below a folder, sorted, without hidden ones and labellings.

    A folder that `datasets` saved holds its recordings once as Arrow, and ours holds them as
    Parquet, too: the Parquet files are taken then.
    """
    arrow, parquet = [], False
    for path, stat in _walk(root):
        kind = kind_of(path)
        if kind == "arrow":
            arrow.append(_local_entry(path, stat))
        elif kind is not None:
            parquet |= kind == "parquet"
            yield _local_entry(path, stat)
    if not parquet:
        yield from arrow


def _walk(folder: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder with what `stat` says; links are followed, but never round in a ring."""
    try:
        here = os.stat(folder)
        with os.scandir(folder) as scan:
            items = sorted(scan, key=lambda item: item.name)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be listed ({error.strerror}): check its permissions") from None
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    is_labelling = any(item.name == MANIFEST for item in items)  # the output may lie among the inputs
    for item in items:
        if item.name.startswith(".") or item.name == "__MACOSX" or (is_labelling and is_part(item.name)):
            continue
        if item.is_dir():
            yield from _walk(item.path, (*above, identity))
        elif item.is_file():
            yield item.path, item.stat()


def _list_pattern(pattern: str) -> Iterator[Entry]:
    is_labelling = lru_cache(lambda folder: os.path.exists(os.path.join(folder, MANIFEST)))
    for path in sorted(glob.iglob(pattern, recursive=True)):
        folder, name = os.path.split(path)
        if os.path.isfile(path) and kind_of(path) and not (is_part(name) and is_labelling(folder)):
            yield _local_entry(path, os.stat(path))


def _list_address(address: str) -> Iterator[Entry]:
    """What lies at an address, below it, or matches it."""
    with named_errors(address):
        system, path = url_to_fs(address)
        protocol = address.split("://", 1)[0]
        if protocol in _HTTP:
            found = {path: system.info(path)}
        elif glob.has_magic(path):
            found = system.glob(path, detail=True)
        elif system.isdir(path):
            found = system.find(path, detail=True)
        else:
            found = {path: system.info(path)}
        many = len(found) > 1
        folders = {folder for folder, _, name in (path.rpartition("/") for path in found) if many and is_part(name)}
        labellings = {folder for folder in folders if system.exists(f"{folder}/{MANIFEST}")}
    for name in sorted(found):
        if found[name].get("type") == "directory" or (many and kind_of(name) is None):
            continue
        folder, _, last = name.rpartition("/")
        if is_part(last) and folder in labellings:
            continue
        full = name if "://" in name else system.unstrip_protocol(name)
        yield Entry(full, _stamp(found[name]), kind_of(name) or "recording")


def _stamp(info: dict[str, Any]) -> str:
    """Size and version of a file, as its store tells them."""
    version = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
    lfs = info.get("lfs")
    return f"{info.get('size')}-{getattr(lfs, 'sha256', None) or version}"


def _list_list(path: Path, column: str | None) -> Iterator[Entry]:
    """Recordings that a text names, one a line, or a table in its column of paths."""
    if path.suffix.lower() == ".txt":
        if column is not None:
            raise UserError(f"'{path}' has no columns for --adapt_by {column}: give a CSV file")
        lines = (line.strip() for line in files.read_text(path).splitlines())
        rows = [(number, line, "") for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    else:
        rows = _table_rows(path, column)
    if not rows:
        raise UserError(f"'{path}' names no recording: write one path a line")
    named = iter(rows)
    with ThreadPoolExecutor(16) as pool:  # a store answers many requests at a time
        while block := list(islice(named, _LOOKED_UP)):
            yield from pool.map(lambda row: _named_entry(path, *row), block)


def _table_rows(path: Path, column: str | None) -> list[tuple[int, str, str]]:
    """The line, the path and the speaker of each row."""
    table = tables.read_table(path)
    by_lower = {name.lower(): name for name in table.columns}
    file_column = next((by_lower[name] for name in FILE_COLUMNS if name in by_lower), None)
    if file_column is None:
        raise UserError(f"'{path}' has no column of paths ({', '.join(table.columns)}): call it 'file'")
    if cuts := sorted(_CUTS & set(by_lower)):
        raise UserError(
            f"'{path}' has the column '{by_lower[cuts[0]]}', but recordings are labelled whole: "
            "cut them first, or remove the column"
        )
    if column is not None and column not in table.columns:
        raise UserError(f"'{path}' has no column '{column}': it has {', '.join(table.columns)}")
    rows = [(row.line, row.cells[file_column], row.cells[column] if column else "") for row in table.rows]
    if empty := next((line for line, name, _ in rows if not name), None):
        raise UserError(f"'{path}' line {empty} has no '{file_column}': write the path, or remove the line")
    return rows


def _named_entry(path: Path, line: int, name: str, speaker: str) -> Entry:
    """The entry of one row; a file that is gone gets no stamp, and its error later."""
    if "://" in name:
        try:
            system, inner = url_to_fs(name)
            return Entry(name, _stamp(system.info(inner)), kind_of(name) or "recording", speaker)
        except FileNotFoundError:
            return Entry(name, "", "recording", speaker)
        except (*STORE_ERRORS, ValueError, ImportError) as error:
            raise UserError(f"'{path}' line {line}: '{name}' cannot be listed ({first_line(error)})") from None
    local = os.path.abspath(os.path.join(path.parent, os.path.expanduser(name)))
    try:
        stat = os.stat(local)
    except OSError:
        return Entry(local, "", "recording", speaker)
    if os.path.isdir(local):
        raise UserError(f"'{path}' line {line}: '{name}' is a folder: name the recordings in it")
    return Entry(local, f"{stat.st_size}-{stat.st_mtime_ns}", kind_of(local) or "recording", speaker)


@contextmanager
def named_errors(address: str, verb: str = "listed") -> Iterator[None]:
    """Raise errors of a store as one line that names the address and the remedy."""
    try:
        yield
    except ImportError as error:  # of a protocol without its package
        raise UserError(f"'{address}' needs a package ({first_line(error)})") from None
    except FileNotFoundError:
        raise UserError(f"'{address}' does not exist, or needs a token: check the address") from None
    except (*STORE_ERRORS, ValueError) as error:
        raise UserError(
            f"'{address}' cannot be {verb} ({first_line(error)}): check the address, then try again"
        ) from None
