"""Near duplicates: the same recording trimmed, louder, resampled, transcoded or noisier.

The method is that of Haitsma and Kalker, "A highly robust audio fingerprinting system" (ISMIR
2002): every 12 ms one 32-bit word says whether the energy difference of neighbouring bands between
300 and 2000 Hz grew or fell. A word found in two recordings proposes how they lie over each other;
the share of differing bits over their common frames decides. What differs from the paper: a window
of 0.19 s instead of 0.37 s, and only frames that are not silent count - speakers who say a sentence
twice come closer than songs do. `benchmarks/near_duplicates.py` measures misses and false alarms.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from ser_hf import audio
from ser_hf.audio import resampling

VERSION = 2
"""Changes with the method, so that what was computed with another is not reused."""

MAX_ERROR = 0.16
"""Share of differing bits up to which two recordings are the same. On RAVDESS and TESS the same
recording stays below 0.13, but for the lowest qualities of MP3 and Opus, and two takes of a
sentence above 0.19 (docs/data.md)."""

MIN_FRAMES = 40
"""Frames that must overlap, about half a second; recordings with less sound than that are not
compared."""

_RATE = audio.SAMPLING_RATE / 3
_WINDOW, _HOP = 1024, 64  # at 5.3 kHz: 0.19 s and 12 ms
_LOUD = 1e-3  # of the energy of the loudest frame
_CROWD = 64  # places after it with which each place of a word is compared; groups join what lies further


def _bands() -> np.ndarray:
    """33 bands, equally wide in pitch, as a matrix of shape `(frequencies, bands)`."""
    edges = np.geomspace(300, 2000, 34)
    frequency = np.arange(_WINDOW // 2 + 1) * _RATE / _WINDOW
    return ((frequency[:, None] >= edges[:-1]) & (frequency[:, None] < edges[1:])).astype(np.float32)


_BANDS = _bands()
_HANN = np.hanning(_WINDOW).astype(np.float32)


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a recording: arrays of shape `(frames,)`."""

    words: np.ndarray  # uint32
    loud: np.ndarray  # bool: whether the frame counts


@dataclass(frozen=True)
class Pair:
    """Two recordings, by position, that are the same."""

    first: int
    second: int
    error: float
    """Share of differing bits."""
    offset: float
    """Seconds into the first recording at which the second begins."""


def fingerprint(samples: np.ndarray) -> Fingerprint:
    """Return the fingerprint of 16 kHz samples of shape `(samples,)`."""
    low = resampling.resample(samples, 3, 1)
    low = np.pad(low, (0, max(0, _WINDOW + _HOP - len(low))))
    frames = np.lib.stride_tricks.sliding_window_view(low, _WINDOW)[::_HOP] * _HANN
    spectrum = np.fft.rfft(frames, axis=1)
    energy = (spectrum.real**2 + spectrum.imag**2) @ _BANDS
    grew = np.diff(np.diff(energy, axis=1), axis=0) > 0
    loudness = energy.sum(axis=1)[1:]
    words = np.packbits(grew, axis=1).view(">u4")[:, 0].astype(np.uint32)
    return Fingerprint(words, loudness > max(loudness.max() * _LOUD, 1e-9))


def near_duplicates(fingerprints: list[Fingerprint], max_error: float = MAX_ERROR) -> list[Pair]:
    """Return all pairs of recordings of whose bits at most `max_error` differ, by position."""
    best: dict[tuple[int, int], Pair] = {}
    for first, second, shift in _candidates(fingerprints):
        error = _error(fingerprints[first], fingerprints[second], shift)
        best_pair = best.get((first, second))
        if error <= max_error and (best_pair is None or error < best_pair.error):
            best[first, second] = Pair(first, second, round(error, 4), round(shift * _HOP / _RATE, 3))
    return [best[pair] for pair in sorted(best)]


def group_pairs(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Join pairs to sorted groups: whatever is the same as a member belongs to its group.

    >>> group_pairs([(0, 3), (5, 6), (3, 9)])
    [[0, 3, 9], [5, 6]]
    """
    if not pairs:
        return []
    items, edges = np.unique(np.array(pairs), return_inverse=True)
    first, second = edges.reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(pairs), dtype=bool), (first, second)), shape=(len(items), len(items)))
    _, components = csgraph.connected_components(graph, directed=False)
    members = defaultdict(list)
    for item, component in zip(items.tolist(), components.tolist(), strict=True):
        members[component].append(item)
    return sorted(members.values())


def _candidates(fingerprints: list[Fingerprint]) -> Iterator[tuple[int, int, int]]:
    """Pairs of recordings that share a word, and the shift of the second in frames, each once."""
    loud = [np.flatnonzero(fingerprint.loud) for fingerprint in fingerprints]
    owner = np.repeat(np.arange(len(fingerprints)), [len(places) for places in loud])
    place = np.concatenate([*loud, np.array([], dtype=int)])
    words = np.concatenate(
        [
            *(fingerprint.words[places] for fingerprint, places in zip(fingerprints, loud, strict=True)),
            np.array([], np.uint32),
        ]
    )
    order = np.argsort(words, kind="stable")
    owner, place, words = owner[order], place[order], words[order]
    triples = [np.zeros((0, 3), dtype=np.int64)]
    for distance in range(1, min(_CROWD, len(words) - 1) + 1):  # the words are sorted: equal ones are neighbours
        same = np.flatnonzero(words[distance:] == words[:-distance])
        same = same[owner[same] != owner[same + distance]]
        first, second = same, same + distance
        swapped = owner[first] > owner[second]
        first, second = np.where(swapped, second, first), np.where(swapped, first, second)
        triples.append(np.stack([owner[first], owner[second], place[first] - place[second]], axis=1))
    yield from (tuple(row) for row in np.unique(np.concatenate(triples), axis=0).tolist())


def _error(first: Fingerprint, second: Fingerprint, shift: int) -> float:
    """The share of differing bits over the common frames; 1 where too few are common."""
    begin, end = max(0, shift), min(len(first.words), len(second.words) + shift)
    if end - begin < MIN_FRAMES:
        return 1.0
    in_first, in_second = slice(begin, end), slice(begin - shift, end - shift)
    counted = first.loud[in_first] | second.loud[in_second]
    differing = (first.words[in_first] ^ second.words[in_second])[counted]
    if len(differing) < MIN_FRAMES:
        return 1.0
    return float(np.unpackbits(differing.view(np.uint8)).mean())
