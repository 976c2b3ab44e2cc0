"""Files that hold many recordings: Parquet and Arrow with an audio column, and tars.

Each is read from its beginning to its end, a few recordings at a time.
"""

import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from ser_hf.errors import UserError, first_line
from ser_hf.inference.bulk.listing import STORE_ERRORS, Entry, kind_of, named_errors

IN_MEMORY = 32 * 2**20
"""Bytes up to which a recording is held in memory; a larger one is read from a file."""
SEPARATOR = "::"
"""Between the path of a container and the name of a recording in it."""
_ROWS = 16  # of a table that are read at a time: a row may be an hour of audio
_AUDIO_COLUMNS = ("audio", "bytes", "wav", "flac", "mp3", "sound", "speech")


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording of the inputs, before it is decoded."""

    file: str
    """Its path or address; `CONTAINER::NAME` in a container, where a row of a table has its
    number."""
    stamp: str
    """Of its file, or of its container."""
    speaker: str = ""
    content: bytes | None = None
    """Its bytes, where they came with its container."""
    spooled: str | None = None
    """The temporary file of a long one from a container."""


class ContainerError(UserError):
    """A container that cannot be read."""


def recordings(entry: Entry, column: str | None = None) -> Iterator[Recording]:
    """The recordings of an entry; one that is no container is its own.

    Args:
        entry: of the listing.
        column: of a table, whose value goes to `Recording.speaker`.

    Raises:
        ContainerError: where a container is damaged or holds no audio.
        UserError: where it cannot be opened.
    """
    if entry.kind == "recording":
        yield Recording(entry.path, entry.stamp, entry.speaker)
        return
    read = _tar if entry.kind == "tar" else _table
    with opened(entry.path) as file:
        try:
            yield from read(entry, file, column)
        except (pa.ArrowException, tarfile.TarError, EOFError, *STORE_ERRORS) as error:
            raise ContainerError(
                f"'{entry.path}' is damaged or no {entry.kind} ({first_line(error)}): make it again"
            ) from None


def check_table(entry: Entry, column: str | None) -> int | None:
    """Refuse a table without audio, or without a column, before the work begins.

    Returns:
        The number of its recordings; None where only reading it all tells, as of a tar.

    Raises:
        UserError: as `recordings`.
    """
    if entry.kind == "tar":
        return None
    with opened(entry.path) as file:
        try:
            if entry.kind == "parquet":
                table = pq.ParquetFile(file)
                schema, count = table.schema_arrow, table.metadata.num_rows
            else:
                schema, count = pa.ipc.open_stream(file).schema, None
        except (pa.ArrowException, EOFError, *STORE_ERRORS):
            return None  # its row will say so
        _audio_column(schema, entry.path)
        _check_column(schema, entry.path, column)
        return count


def _check_column(schema: pa.Schema, path: str, column: str | None) -> None:
    if column is not None and column not in schema.names:
        raise ContainerError(f"'{path}' has no column '{column}': it has {', '.join(schema.names)}")


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """Open a file wherever it lies.

    Raises:
        UserError: where it cannot be opened.
    """
    with named_errors(path, "read"):
        # a path of this machine is no address: it may hold what chains addresses, or a wildcard
        system, inner = fsspec.url_to_fs(path) if "://" in path else (LocalFileSystem(), path)
        file = system.open(inner, "rb")
    with file:
        yield file


def _tar(entry: Entry, file: IO[bytes], column: str | None) -> Iterator[Recording]:
    if column is not None:
        raise ContainerError(f"'{entry.path}' has no columns for --adapt_by {column}: give a CSV file or Parquet")
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            base = member.name.rsplit("/", 1)[-1]
            if not member.isfile() or base.startswith(".") or kind_of(base) != "recording":
                continue
            name = f"{entry.path}{SEPARATOR}{member.name}"
            content = archive.extractfile(member)
            assert content is not None  # it is a file
            if member.size <= IN_MEMORY:
                yield Recording(name, entry.stamp, content=content.read())
            else:
                yield Recording(name, entry.stamp, spooled=spool(content, base))


def spool(content: IO[bytes], name: str) -> str:
    """Copy an open file to a temporary one, which the reader removes."""
    with tempfile.NamedTemporaryFile(prefix="ser_hf-", suffix=os.path.splitext(name)[1], delete=False) as copy:
        while block := content.read(2**20):
            copy.write(block)
    return copy.name


def _table(entry: Entry, file: IO[bytes], column: str | None) -> Iterator[Recording]:
    schema, batches = _opened_table(entry, file)
    audio, unpack = _audio_column(schema, entry.path)
    _check_column(schema, entry.path, column)
    number, before, last = 0, set(), None
    for batch in batches([audio, *([column] if column else [])]):
        speakers = batch.column(column).to_pylist() if column else [""] * len(batch)
        for value, speaker in zip(batch.column(audio), speakers, strict=True):
            if speaker != last:
                if speaker in before:
                    raise ContainerError(
                        f"'{entry.path}' has {column} '{speaker}' in several places: sort it by {column}"
                    )
                before.add(speaker)
                last = speaker
            content, path = unpack(value)
            name = f"{entry.path}{SEPARATOR}{number}"
            if content is None and path and os.path.isfile(local := _beside(entry.path, path)):
                yield Recording(name, entry.stamp, str(speaker or ""), content=_read(local))
            else:
                yield Recording(name, entry.stamp, str(speaker or ""), content=content or b"")
            number += 1


def _beside(container: str, path: str) -> str:
    return os.path.join(os.path.dirname(container), path)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _opened_table(entry: Entry, file: IO[bytes]) -> tuple[pa.Schema, Callable[[list[str]], Iterator[pa.RecordBatch]]]:
    """The columns of a table, and a function that reads some of them."""
    if entry.kind == "parquet":
        table = pq.ParquetFile(file)
        return table.schema_arrow, lambda columns: table.iter_batches(_ROWS, columns=columns, use_threads=False)
    stream = pa.ipc.open_stream(file)

    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for batch in stream:
            yield batch.select(columns)

    return stream.schema, batches


def _audio_column(schema: pa.Schema, path: str) -> tuple[str, Callable[[Any], tuple[bytes | None, str | None]]]:
    """The column with audio as `datasets` writes it, or with the bytes of files, and its reader."""
    of_files = [field.name for field in schema if "bytes" in _children(field.type)]
    named = next((name for name in _AUDIO_COLUMNS if name in of_files), None)
    if named or len(of_files) == 1:
        return named or of_files[0], lambda value: _struct(value.as_py() or {})
    if of_files:
        names = ", ".join(of_files)
        raise ContainerError(f"'{path}' has several columns of files ({names}): call that of audio 'audio'")
    for name in _AUDIO_COLUMNS:
        if name in schema.names and _is_binary(schema.field(name).type):
            return name, lambda value: (value.as_py(), None)
    raise ContainerError(
        f"'{path}' has no audio column (its columns are {', '.join(schema.names)}): "
        "name its column of bytes 'audio', or give files"
    )


def _children(kind: pa.DataType) -> set[str]:
    return {child.name for child in kind} if pa.types.is_struct(kind) else set()


def _struct(value: dict[str, Any]) -> tuple[bytes | None, str | None]:
    return value.get("bytes"), value.get("path")


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
