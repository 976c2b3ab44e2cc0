"""The folder of a labelling: Parquet files that are complete when they appear, and what they hold.

A run that was cut off leaves complete files alone. The next one reads which recordings they answer
and goes on. A recording that is asked again, since it changed, stands in a later file at first, and
its older row is removed when the run ends.
"""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from ser_hf import __version__
from ser_hf.errors import UserError, first_line
from ser_hf.inference.bulk.index import identities
from ser_hf.inference.bulk.listing import MANIFEST, STORE_ERRORS, is_part
from ser_hf.inference.bulk.rows import FORMAT, Row
from ser_hf.utils import files


class StoreError(UserError):
    """An output that cannot be written any more."""


class Store:
    """The output of a labelling, in a folder or at an address that `fsspec` writes to."""

    def __init__(self, output: str, writes: bool = True) -> None:
        """Name the output; nothing is made yet.

        Args:
            output: a folder, or an address.
            writes: whether it is to be written, and not read alone.

        Raises:
            UserError: where it cannot be made.
        """
        self.name, self.is_local = output, "://" not in output
        if self.is_local:
            output = os.path.abspath(os.path.expanduser(output))
            if writes:
                files.refuse_unwritable(output)
            if os.path.exists(output) and not os.path.isdir(output):
                raise UserError(f"'{self.name}' is a file: name a folder as --output")
        try:
            self._system, self._root = url_to_fs(output)
            self.manifest = self._read_manifest()
        except (ImportError, ValueError, *STORE_ERRORS) as error:
            raise UserError(f"'{self.name}' cannot be opened ({first_line(error)}): check --output") from None
        self.parts = sorted(self._list_parts())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other runs out of it.

        Raises:
            UserError: where another run writes to it, or it cannot be written.
        """
        with self._named_errors():
            self._system.makedirs(self._root, exist_ok=True)
        if not self.is_local:  # no store has locks: names of files differ by run
            yield
            return
        lock = filelock.FileLock(os.path.join(self._root, "_lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(f"another run writes to '{self.name}': wait for it, or choose another --output") from None
        try:
            for name in os.listdir(self._root):
                if name.startswith(".partial-"):  # of a run that was killed
                    os.unlink(os.path.join(self._root, name))
            yield
        finally:
            lock.release()

    def check(self, model: dict[str, Any], replace: bool) -> None:
        """Refuse an output of another model, or one that is no labelling.

        Args:
            model: as the manifest names it, with its `digest`.
            replace: whether rows of another model are asked again.

        Raises:
            UserError: with the remedy.
        """
        if self.manifest is None:
            if self.parts or (self.is_local and os.path.isdir(self._root) and set(os.listdir(self._root)) - {"_lock"}):
                raise UserError(f"'{self.name}' holds other files and no {MANIFEST}: choose another --output")
            return
        if self.manifest["format"] != FORMAT:
            raise UserError(
                f"'{self.name}' was written by ser_hf {self.manifest['version']} in another format: "
                "choose another --output"
            )
        if self.manifest["model"]["digest"] != model["digest"] and not replace:
            raise UserError(
                f"'{self.name}' holds answers of the model '{self.manifest['model']['name']}' "
                f"({self.manifest['model']['digest']}), not of '{model['name']}' ({model['digest']}): "
                "choose another --output, or ask all again with --replace_model"
            )

    def write_manifest(self, content: dict[str, Any]) -> None:
        """Write what the folder holds, in one step."""
        self.manifest = {"format": FORMAT, "version": __version__, **content}
        self._write(MANIFEST, json.dumps(self.manifest, indent=1, ensure_ascii=False).encode())

    def write_part(self, rows: list[Row], schema: pa.Schema) -> str:
        """Write rows as a file of its own, and return its name.

        Raises:
            UserError: where the disk is full or the folder is gone; what is written stays.
        """
        number = int(self.parts[-1].split("-")[1]) + 1 if self.parts else 0
        name = f"part-{number:06d}-{uuid.uuid4().hex[:6]}.parquet"
        self._write_table(name, pa.Table.from_pylist(rows, schema))
        self.parts.append(name)
        return name

    def read_part(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """The rows of a file, or some columns of them.

        Raises:
            UserError: where it is damaged.
        """
        try:
            with self._system.open(self._path(name), "rb") as file:
                return pq.read_table(file, columns=columns, use_threads=False)
        except (pa.ArrowException, *STORE_ERRORS) as error:
            raise UserError(
                f"'{self._path(name)}' cannot be read ({first_line(error)}): "
                "remove it, and its recordings are asked again"
            ) from None

    def _keep_rows(self, name: str, kept: np.ndarray) -> None:
        """Remove rows of a file: those that are False in `kept`, shape `(rows,)`."""
        if kept.all():
            return
        if not kept.any():
            self._system.rm_file(self._path(name))
            self.parts.remove(name)
            return
        self._write_table(name, self.read_part(name).filter(pa.array(kept)))

    def count(self) -> tuple[int, int]:
        """The number of rows, and of those with an error."""
        tables = [self.read_part(name, ["error"]) for name in self.parts]
        return sum(map(len, tables)), sum(len(table) - table["error"].null_count for table in tables)

    def remove_superseded(self, model: str) -> int:
        """Remove rows of other models, and of each file all rows but the last; give their number.

        Rows that are killed halfway through are removed by the next run.
        """
        hashes, places, counted = [], [], []
        for number, name in enumerate(self.parts):
            table = self.read_part(name, ["file", "model"])
            hashes.append(identities(table["file"].to_pylist()))
            places.append(np.full(len(table), number))
            counted.append(np.asarray(pc.equal(table["model"], model)))
        if not hashes:
            return 0
        joined, part, of_model = np.concatenate(hashes), np.concatenate(places), np.concatenate(counted)
        order = np.lexsort((np.arange(len(joined)), of_model, joined["low"], joined["high"]))
        ordered = joined[order]
        last = np.append(ordered[1:] != ordered[:-1], True)
        kept = np.zeros(len(joined), dtype=bool)
        kept[order[last]] = True
        kept &= of_model
        for number, name in enumerate(list(self.parts)):
            self._keep_rows(name, kept[part == number])
        return int((~kept).sum())

    def _read_manifest(self) -> dict[str, Any] | None:
        path = self._path(MANIFEST)
        if not self._system.exists(path):
            return None
        try:
            content = json.loads(self._system.cat_file(path))
            if not {"format", "version", "model"} <= set(content):
                raise ValueError("its keys are others")
        except (ValueError, TypeError) as error:
            raise UserError(f"'{path}' cannot be read ({first_line(error)}): choose another --output") from None
        return content

    def _list_parts(self) -> Iterator[str]:
        if self._system.exists(self._root):
            for path in self._system.ls(self._root, detail=False):
                name = PurePosixPath(path).name
                if is_part(name):
                    yield name

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _write_table(self, name: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._write(name, sink.getvalue().to_pybytes())

    def _write(self, name: str, content: bytes) -> None:
        """Write a file that appears when it is complete; stores do that by themselves."""
        with self._named_errors():
            if not self.is_local:
                self._system.pipe_file(self._path(name), content)
                return
            with files.replacing(self._path(name)) as partial, partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # the machine may lose its power, too

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except STORE_ERRORS as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise StoreError(
                f"'{self.name}' cannot be written ({reason}): what is there stays, mend it and run the command again"
            ) from None
