"""Stand-ins for both corpora, spoken by the synthetic voice."""

from collections.abc import Iterator
from itertools import product
from os import PathLike
from pathlib import Path

import numpy as np
import soundfile

from ser_hf.audio import SAMPLING_RATE
from ser_hf.audio.synthesis import SyntheticVoice, synthesize
from ser_hf.data.corpora import ravdess, tess
from ser_hf.labels import EMOTIONS
from ser_hf.utils import progress

NOTICE = "Synthetic voices (ser_hf.audio.synthesis): no human speaks here, and no figure on them is about human speech."
WORDS: tuple[str, ...] = ("back", "bar", "base", "bath", "bean", "beg", "bite", "boat", "bone", "book")

Job = tuple[Path, SyntheticVoice, str, list[int]]
"""The stem of a file, the voice, the emotion and the syllables of a recording."""


def write_corpora(folder: str | PathLike, seed: int = 0, takes: int = 2, words: int = len(WORDS)) -> tuple[Path, Path]:
    """Write both corpora as 16-bit WAV with the official names; the same seed gives the same bytes.

    Args:
        folder: gets `ravdess/Actor_NN/`, `tess/{OAF,YAF}_<emotion>/` and the notice that no human
            speaks.
        seed: of the voices and the takes.
        takes: repetitions of each RAVDESS statement (1 or 2): 24 actors x 8 emotions x 2
            statements x takes.
        words: TESS words (at most 10): 2 actresses x 7 emotions x words.

    Returns:
        The folders of RAVDESS and of TESS.
    """
    folder = Path(folder)
    jobs = [*_ravdess_jobs(folder / "ravdess", seed, takes), *_tess_jobs(folder / "tess", seed, words)]
    for job in progress.each(jobs, "Synthesizing", len(jobs), "recordings"):
        _write_recording(*job, seed)
    (folder / "NOTICE.txt").write_text(NOTICE + "\n")
    return folder / "ravdess", folder / "tess"


def _ravdess_jobs(folder: Path, seed: int, takes: int) -> Iterator[Job]:
    sentences = {1: [0, 1, 0, 2, 1, 3, 0], 2: [3, 2, 4, 1, 0, 4, 2]}
    for actor, speaker in enumerate(ravdess.SPEAKERS, start=1):
        voice = SyntheticVoice.of(speaker, female=actor % 2 == 0, seed=seed)
        for emotion, (statement, syllables) in product(EMOTIONS, sentences.items()):
            for take in range(1, takes + 1):
                stem = ravdess.name(emotion, "normal", statement, take, actor)
                yield folder / f"Actor_{actor:02d}" / stem, voice, emotion, syllables


def _tess_jobs(folder: Path, seed: int, words: int) -> Iterator[Job]:
    for speaker in ("OAF", "YAF"):
        voice = SyntheticVoice.of(f"tess-{speaker.lower()}", female=True, seed=seed)
        for code, emotion in tess.LABELS.items():
            for position, word in enumerate(WORDS[:words]):
                stem = folder / f"{speaker}_{code}" / f"{speaker}_{word}_{code}"
                yield stem, voice, emotion, [1, 1, 1, position % 5]


def _write_recording(stem: Path, voice: SyntheticVoice, emotion: str, syllables: list[int], seed: int) -> None:
    rng = np.random.default_rng([seed, *stem.name.encode()])
    stem.parent.mkdir(parents=True, exist_ok=True)
    samples = np.clip(synthesize(voice, emotion, syllables, rng), -1, 1)
    soundfile.write(f"{stem}.wav", samples, SAMPLING_RATE, subtype="PCM_16")
