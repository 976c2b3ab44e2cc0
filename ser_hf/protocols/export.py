"""A split as a file that `--protocol` reads: by conditions where they define it, or by names."""

import csv
import hashlib
import io
from collections.abc import Sequence
from itertools import combinations
from pathlib import PurePath

import datasets
import numpy as np
import yaml

from ser_hf.data.corpora import CORPORA
from ser_hf.labels import EMOTIONS
from ser_hf.protocols.base import SIDES, Columns, Protocol, Split, columns_of
from ser_hf.protocols.builtin import PROTOCOLS
from ser_hf.protocols.splitting import folds

_KEYS = ("corpus", "channel", "speaker", "sex", "intensity", "statement", "label")
"""Columns of a condition, those that say most first."""
_MOST_KEYS = 3


def official_rows() -> datasets.Dataset:
    """The columns, without audio, of a dataset that holds every official recording.

    They come from the names alone. Recordings that are known to hold the same samples have one
    `sha256`, which is a stand-in.
    """
    rows: list[dict] = []
    for corpus in CORPORA.values():
        same = {name: min(group) for group in corpus.same_samples for name in group}
        for name in sorted(corpus.inventory()):
            fields = corpus.parse(PurePath(name))
            assert fields is not None, name  # a corpus parses its own names
            row = {key: fields[key] for key in ("channel", "speaker", "sex", "intensity", "statement", "repetition")}
            row |= {"corpus": corpus.name, "label": EMOTIONS.index(fields["emotion"])}
            rows.append(row | {"file": name, "sha256": same.get(name, name)})
    return datasets.Dataset.from_list(rows)


def frozen_files() -> dict[str, str]:
    """The split of every protocol over the official recordings, as texts by the names of files.

    A YAML file for each protocol, and `index.csv` with a line for each fold. `leave-corpus-out` has
    none, because its folds are the corpora of a dataset.
    """
    rows, texts, index = official_rows(), {}, io.StringIO()
    writer = csv.writer(index, lineterminator="\n")
    writer.writerow(["protocol", "fold", *SIDES, "hash", "sha256"])
    for name, protocol in PROTOCOLS.items():
        if protocol.folds is None:
            continue
        splits = folds(rows, name)
        texts[f"{name}.yaml"] = as_yaml(rows, splits, protocol)
        for split in splits:
            counts = [len(split.sides[side]) for side in SIDES]
            writer.writerow([name, split.fold, *counts, split.hash, names_digest(rows, split)])
    return texts | {"index.csv": index.getvalue()}


def as_yaml(dataset: datasets.Dataset, splits: Sequence[Split], protocol: Protocol) -> str:
    """The folds of a protocol as a YAML file: the shortest conditions that define each side.

    Training is left out where it is all that the other sides leave over. A side that no condition
    over three columns defines lists its files.

    Args:
        dataset: what the splits index.
        splits: every fold, from 0.
        protocol: of the splits.
    """
    columns = columns_of(dataset)
    content: dict = {"name": splits[0].name.removeprefix("custom:")}
    if protocol.corpora:
        content["needs"] = list(protocol.corpora)
    if protocol.leaks:
        content["leaks"] = list(protocol.leaks)
    if protocol.validation_shares_speaker:
        content["validation_shares_speaker"] = True
    by_fold = [_fold(columns, split) for split in splits]
    content |= by_fold[0] if len(by_fold) == 1 else {"folds": by_fold}
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)


def as_csv(dataset: datasets.Dataset, splits: Sequence[Split]) -> str:
    """The folds of a protocol as CSV: `fold`, `file` (without ending) and `side`, a line each."""
    stems, text = _stems(columns_of(dataset)), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["fold", "file", "side"])
    for split in splits:
        for side, rows in split.sides.items():
            writer.writerows([split.fold, stems[row], side] for row in rows)
    return text.getvalue()


def names_digest(dataset: datasets.Dataset, split: Split) -> str:
    """SHA-256, in hex, of the sorted lines `side name` of a split, joined by line feeds.

    Names are without ending. Unlike `Split.hash` it does not depend on the order of the rows.
    """
    stems = _stems(columns_of(dataset))
    lines = sorted(f"{side} {stems[row]}" for side, rows in split.sides.items() for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _stems(columns: Columns) -> list[str]:
    return [file.rsplit(".", 1)[0] for file in columns["file"].tolist()]


def _fold(columns: Columns, split: Split) -> dict[str, dict[str, list[str]]]:
    sides = split.sides
    everything = sum(len(rows) for rows in sides.values()) == len(columns["file"])
    kept = [side for side in ("test", "validation", "train") if side != "train" or not everything]
    return {side: _condition(columns, sides[side]) for side in kept}


def _condition(columns: Columns, rows: np.ndarray) -> dict[str, list[str]]:
    """The condition of fewest columns, and then of fewest values, that takes these rows exactly."""
    texts = {key: _texts(columns, key) for key in _KEYS if key in columns}
    values = {key: np.unique(text[rows]) for key, text in texts.items()}
    usable = [key for key in texts if "" not in values[key]]
    takes = {key: np.isin(texts[key], values[key]) for key in usable}
    for size in range(1, _MOST_KEYS + 1):
        exact = [
            keys
            for keys in combinations(usable, size)
            if np.logical_and.reduce([takes[key] for key in keys]).sum() == len(rows)
        ]
        if exact:
            best = min(exact, key=lambda keys: sum(len(values[key]) for key in keys))
            return {key: values[key].tolist() for key in best}
    stems = _stems(columns)
    return {"file": sorted(stems[row] for row in rows)}


def _texts(columns: Columns, key: str) -> np.ndarray:
    return np.array(EMOTIONS)[columns["label"]] if key == "label" else columns[key]
