"""References in the audio column of rows, to recordings that stay in their Parquet file.

A reference stands where the bytes of a recording would: `{"bytes": None, "path": "parquet-row:…"}`.
Its path names the file or URL, the row group and the place in it.
"""

import threading
from collections import OrderedDict
from functools import lru_cache
from typing import NamedTuple

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import errors

from ser_hf import audio
from ser_hf.errors import UserError, first_line
from ser_hf.utils import hub_errors

_PREFIX = "parquet-row:"
_GROUPS = 4
"""Row groups that `load_clip` keeps, for rows that are read in their order."""
_ROWS = 10_000  # references parsed at a time


class RowGroup(NamedTuple):
    """A row group of a Parquet file."""

    file: str
    """Path or URL."""
    number: int

    def references(self, rows: int) -> pa.StructArray:
        """The audio column of its rows, with references in place of recordings."""
        paths = pa.array([f"{_PREFIX}{self.file}#{self.number}:{row}" for row in range(rows)], pa.string())
        return pa.StructArray.from_arrays([pa.nulls(rows, pa.binary()), paths], ["bytes", "path"])

    def read(self) -> pa.Array:
        """Read the recordings, structs with `bytes` and `path`.

        Raises:
            UserError: where they cannot be read any more: a lost Hub, a file that is gone.
        """
        try:
            with _LOCK:
                table = _opened(self.file).read_row_group(self.number, columns=["audio"], use_threads=False)
        except (OSError, errors.HTTPError, pa.ArrowException) as error:
            reason, remedy = hub_errors.explain(error) or (first_line(error)[:160], "put it back")
            raise UserError(
                f"recordings in '{self.file}' cannot be read any more: {reason}: {remedy}, then run it again"
            ) from error
        return table["audio"].combine_chunks()


def open_parquet(file: str, pre_buffer: bool = False) -> pq.ParquetFile:
    """Open a Parquet file by path or URL.

    Args:
        file: path or URL that `fsspec` knows.
        pre_buffer: join reads of small columns that lie side by side; this reads ahead.
    """
    system, path = fsspec.url_to_fs(file)
    if isinstance(system, LocalFileSystem):
        return pq.ParquetFile(path, pre_buffer=pre_buffer)
    # exact ranges: a row group is read once, and what follows it is another epoch's
    return pq.ParquetFile(system.open(path, "rb", cache_type="none"), pre_buffer=pre_buffer)


_opened = lru_cache(maxsize=16)(open_parquet)


def load_clip(encoded: dict) -> np.ndarray:
    """Decode the recording in an entry of an audio column, or the one that it refers to.

    Returns:
        Float32 samples at 16 kHz, shape `(samples,)`.

    Raises:
        AudioError: where it cannot be decoded.
    """
    return audio.load(recording(encoded))


def recording(encoded: dict) -> dict:
    """The entry itself where it holds a recording, or the one that it refers to."""
    if not is_reference(encoded):
        return encoded
    group, row = _parsed(encoded["path"])
    return _recent(group)[row].as_py()


def is_reference(encoded: dict) -> bool:
    """Whether an entry of an audio column refers to a recording elsewhere."""
    return encoded.get("bytes") is None and (encoded.get("path") or "").startswith(_PREFIX)


def paths_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The paths of the entries of an audio column."""
    return pc.struct_field(column, "path")


def places(rows: datasets.Dataset) -> tuple[list[RowGroup], np.ndarray, np.ndarray]:
    """Where the recordings of rows lie, all of which are references.

    Returns:
        The row groups in the order of their first rows, and for each row the position of its group
        in that list and its place in the group, both of shape `(rows,)`.
    """
    found: dict[RowGroup, int] = {}
    group_of, place = np.empty(len(rows), dtype=np.int32), np.empty(len(rows), dtype=np.int32)
    column = rows.select_columns(["audio"]).with_format("arrow")
    for start in range(0, len(rows), _ROWS):
        paths = paths_of(column[start : start + _ROWS]["audio"]).to_pylist()
        for row, path in enumerate(paths, start):
            group, place[row] = _parsed(path)
            group_of[row] = found.setdefault(group, len(found))
    return list(found), group_of, place


def _parsed(path: str) -> tuple[RowGroup, int]:
    file, _, numbers = path.removeprefix(_PREFIX).rpartition("#")
    group, row = numbers.split(":")
    return RowGroup(file, int(group)), int(row)


_LOCK = threading.RLock()
_recently_read: OrderedDict[RowGroup, pa.Array] = OrderedDict()


def _recent(group: RowGroup) -> pa.Array:
    with _LOCK:
        if group not in _recently_read:
            while len(_recently_read) >= _GROUPS:
                _recently_read.popitem(last=False)
            _recently_read[group] = group.read()
        _recently_read.move_to_end(group)
        return _recently_read[group]
