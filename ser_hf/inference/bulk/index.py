"""Which recordings have an answer, and where: 48 bytes a row, in memory."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from ser_hf.inference.bulk.containers import SEPARATOR
from ser_hf.inference.bulk.rows import Row

if TYPE_CHECKING:
    import pyarrow as pa

    from ser_hf.inference.bulk.listing import Entry
    from ser_hf.inference.bulk.store import Store

_HASH = np.dtype([("high", "<u8"), ("low", "<u8")])
_PLACE = np.dtype([("high", "<u8"), ("low", "<u8"), ("part", "<u4"), ("row", "<u4")])
_KEPT_TABLES = 2  # files whose rows are held to be copied
_MERGED = 16  # files of a run after which their keys are sorted together


def identities(texts: Iterable[str]) -> np.ndarray:
    """Hashes of 128 bits, shape `(n,)`: of paths, or of what else names a recording."""
    digests = b"".join(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, dtype=_HASH)


def identity(file: str, stamp: str) -> str:
    """What names a recording: its path, and the stamp that it was listed with."""
    return f"{file}\0{stamp}"


def find(sorted_hashes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The place of each hash among sorted ones, shape `(n,)`; -1 where it is not among them."""
    if not len(sorted_hashes):
        return np.full(len(wanted), -1)
    places = np.searchsorted(sorted_hashes["high"], wanted["high"])
    places = np.minimum(places, len(sorted_hashes) - 1)
    found = sorted_hashes[places]
    return np.where((found["high"] == wanted["high"]) & (found["low"] == wanted["low"]), places, -1)


@dataclass(frozen=True)
class Contents:
    """Bytes that have an answer, by their SHA-256, and where it stands; processes may share it."""

    places: tuple[np.ndarray, ...]
    """Sorted arrays of hash, file and row."""

    def place(self, key: str) -> tuple[int, int] | None:
        """The file and the row of an answer; None where there is none."""
        wanted = _keys([key])
        for places in self.places:
            if (position := find(places, wanted)[0]) >= 0:
                return int(places[position]["part"]), int(places[position]["row"])
        return None

    def __contains__(self, key: object) -> bool:
        """Whether bytes with this SHA-256 have an answer."""
        return isinstance(key, str) and self.place(key) is not None


class Index:
    """Which recordings of a store have an answer of one model."""

    def __init__(self, store: "Store", model: str, retry_errors: bool = False) -> None:
        """Read the files of a store.

        Args:
            store: whose rows count.
            model: digest; rows of another model do not count.
            retry_errors: whether recordings with an error are to be asked again.
        """
        self._store, self._model = store, model
        self.rows, self.errors = 0, 0
        self.is_mixed = False
        known, named = [], []
        self._containers: set[str] = set()
        self.contents = Contents(())
        for number, name in enumerate(store.parts):
            table = store.read_part(name, ["file", "stamp", "sha256", "error", "model", "adapted"])
            ours = np.asarray(pc.equal(table["model"], model))
            failed = np.asarray(pc.is_valid(table["error"]))
            self.is_mixed |= not bool(ours.all())
            self.rows += int(ours.sum())
            self.errors += int((ours & failed).sum())
            paths, stamps = table["file"].to_pylist(), table["stamp"].to_pylist()
            named.append(identities(paths)["high"])
            self._containers.update(path.rpartition(SEPARATOR)[0] for path in paths if SEPARATOR in path)
            asked = identities(identity(*pair) for pair in zip(paths, stamps, strict=True))
            known.append(asked[ours & ~failed] if retry_errors else asked[ours])
            self._add_contents(table, number, ours & ~failed)
        self._known = _sorted(known, _HASH)
        self._named = np.sort(np.concatenate(named)) if named else np.zeros(0, dtype="<u8")
        self._tables: dict[str, pa.Table] = {}

    def knows(self, hashes: np.ndarray) -> np.ndarray:
        """Whether recordings have an answer, for `identities` of them, shape `(n,)`."""
        return find(self._known, hashes) >= 0

    def __contains__(self, key: object) -> bool:
        """Whether bytes with this SHA-256 have an answer by now; any thread may ask."""
        return key in self.contents

    def within(self, entry: "Entry") -> frozenset[str]:
        """Names of the recordings of a container that have an answer, in full."""
        if entry.path not in self._containers:
            return frozenset()
        prefix, names = f"{entry.path}{SEPARATOR}", set()
        for name in self._store.parts:
            table = self._store.read_part(name, ["file", "stamp"])
            of_it = pc.and_(pc.starts_with(table["file"], prefix), pc.equal(table["stamp"], entry.stamp))
            names.update(table["file"].filter(of_it).to_pylist())
        known = sorted(names)
        answered = self.knows(identities(identity(name, entry.stamp) for name in known))
        return frozenset(name for name, is_known in zip(known, answered, strict=True) if is_known)

    def names(self, rows: list[Row]) -> bool:
        """Whether any of these rows is of a file that had a row before the run."""
        hashes = identities(row["file"] for row in rows)["high"]
        places = np.minimum(np.searchsorted(self._named, hashes), len(self._named) - 1)
        return bool(len(self._named)) and bool((self._named[places] == hashes).any())

    def add(self, name: str) -> None:
        """Take the answers of a file that the run wrote."""
        table = self._store.read_part(name, ["sha256", "error", "adapted"])
        self._add_contents(table, len(self._store.parts) - 1, ~np.asarray(pc.is_valid(table["error"])))

    def answer(self, key: str) -> Row:
        """The row of bytes with this SHA-256, which `contents` holds."""
        place = self.contents.place(key)
        if place is None:
            raise KeyError(key)
        part, row = place
        name = self._store.parts[part]
        if name not in self._tables:
            while len(self._tables) >= _KEPT_TABLES:
                self._tables.pop(next(iter(self._tables)))
            self._tables[name] = self._store.read_part(name)
        return self._tables[name].slice(row, 1).to_pylist()[0]

    def _add_contents(self, table: "pa.Table", part: int, usable: np.ndarray) -> None:
        usable = usable & ~np.asarray(pc.fill_null(table["adapted"], False))  # it depends on other recordings, too
        rows = np.flatnonzero(usable)
        keys = table["sha256"].to_pylist()
        places = np.empty(len(rows), dtype=_PLACE)
        hashes = _keys([keys[row] for row in rows])
        places["high"], places["low"], places["part"], places["row"] = hashes["high"], hashes["low"], part, rows
        parts = [*self.contents.places, np.sort(places, order=("high", "low"))]
        if len(parts) > _MERGED:
            parts = [_sorted(parts, _PLACE)]
        self.contents = Contents(tuple(parts))  # in one step: threads that read ask it


def _keys(keys: list[str]) -> np.ndarray:
    """The first 128 bits of SHA-256 digests."""
    return np.frombuffer(b"".join(bytes.fromhex(key[:32]) for key in keys), dtype=_HASH)


def _sorted(parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    joined = np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
    return np.sort(joined, order=("high", "low"))
