"""A split as text, for `ser-hf data splits`."""

from collections.abc import Iterator

import datasets
import numpy as np

from ser_hf.labels import EMOTIONS
from ser_hf.protocols.base import Columns, Sides, Split, columns_of, shared_values, shorten


def describe(dataset: datasets.Dataset, split: Split) -> str:
    """A split as text: name, hash, labels of each side, what is held apart and what crosses."""
    columns, sides = columns_of(dataset), split.sides
    lines = [f"protocol {split.name} fold {split.fold} ({split.hash})", *_tables(columns, sides), ""]
    lines += [f"held apart: {', '.join(split.held_apart) or 'nothing'}", *split.crosses]
    if shared := shared_values(columns, "speaker", sides["train"], sides["validation"]):
        lines.append(f"training and validation share {shorten(shared)}")
    lines += [f"NOTE: {split.note}"] * bool(split.note) + [f"WARNING: {split.warning}"] * bool(split.warning)
    return "\n".join(lines)


def _tables(columns: Columns, sides: Sides) -> Iterator[str]:
    groups = np.array([f"{c} {s or 'unknown'}" for c, s in zip(columns["corpus"], columns["sex"], strict=True)])
    used = np.concatenate(list(sides.values()))
    heads, labels = np.unique(groups[used]), np.unique(columns["label"][used])
    width = max(map(len, heads)) + 3
    for side, rows in sides.items():
        counts = (columns["label"][rows] == labels[:, None]).astype(int) @ (groups[rows] == heads[:, None]).T
        counts = np.block([[counts, counts.sum(axis=1, keepdims=True)], [counts.sum(axis=0), counts.sum()]])
        yield f"\n{side:12}" + "".join(f"{head:>{width}}" for head in [*heads, "all"])
        for name, line in zip([*(EMOTIONS[label] for label in labels), "all"], counts.tolist(), strict=True):
            yield f"{name:12}" + "".join(f"{number:{width},}" for number in line)
        speakers = len(set(columns["speaker"][rows].tolist()))
        hours = f", {columns['duration'][rows].sum() / 3600:.3f} hours" if "duration" in columns else ""
        yield f"{len(rows):,} recordings, {speakers:,} speaker{'s' * (speakers != 1)}{hours}"
