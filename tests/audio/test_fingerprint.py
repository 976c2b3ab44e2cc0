import io

import datasets
import numpy as np
import pyarrow as pa
import pytest
import soundfile

from ser_hf import audio
from ser_hf.audio import fingerprint, resampling
from ser_hf.audio.fingerprint import MAX_ERROR, near_duplicates
from ser_hf.protocols.near_duplicates import known_near_duplicates, near_duplicates_of


@pytest.fixture(scope="module")
def clips(rows):
    """Every eighth clip of the synthetic corpora: sentences and speakers recur."""
    return [audio.load(rows[number]["audio"]) for number in range(0, len(rows), 8)]


def mp3(samples):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="MP3")
    return audio.load(buffer.getvalue())


CHANGES = {
    "trimmed": lambda samples: samples[5_000:],
    "louder": lambda samples: np.clip(samples * 4, -1, 1),
    "softer": lambda samples: samples / 4,
    "resampled": lambda samples: resampling.resample(resampling.resample(samples, 16_000, 44_100), 44_100),
    "transcoded": mp3,
    "noisy": lambda samples: samples + np.random.default_rng(0).normal(size=len(samples)) * samples.std() / 100,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_recording_is_found_and_no_other(clips, change):
    copies = [CHANGES[change](samples).astype(np.float32) for samples in clips[:6]]
    pairs = near_duplicates([fingerprint.fingerprint(samples) for samples in [*clips, *copies]])
    assert [(pair.first, pair.second) for pair in pairs] == [(n, len(clips) + n) for n in range(6)]
    assert max(pair.error for pair in pairs) <= MAX_ERROR
    if change == "trimmed":  # 5,000 of 16,000 samples a second, known to a hop of 12 ms
        assert all(abs(pair.offset - 0.3125) < 0.0121 for pair in pairs)


def test_many_copies_are_one_group(clips):
    """More of them than the places that are compared at a time."""
    copies = [clips[0] * gain for gain in np.linspace(0.2, 1, 90, dtype=np.float32)]
    pairs = near_duplicates([fingerprint.fingerprint(samples) for samples in [*copies, *clips[1:9]]])
    assert fingerprint.group_pairs([(pair.first, pair.second) for pair in pairs]) == [list(range(90))]


def test_silence_and_short_clips_are_like_nothing(clips):
    quiet = [np.zeros(16_000, dtype=np.float32)] * 2
    short = [clips[0][:4_000]] * 2
    assert near_duplicates([fingerprint.fingerprint(samples) for samples in [*quiet, *short]]) == []
    assert near_duplicates([]) == []


def test_groups_of_a_dataset_are_found_once_and_kept(rows, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", tmp_path)
    some = rows.select(range(40))
    changed = audio.to_flac(audio.to_pcm(audio.load(some[7]["audio"])[3_000:] * 0.5))
    planted = some.to_list()
    planted[25] = {**planted[25], "audio": {"bytes": changed, "path": None}, "sha256": "other"}
    again = datasets.Dataset(pa.Table.from_pylist(planted, schema=some.features.arrow_schema))
    assert near_duplicates_of(some) == []
    assert known_near_duplicates(again) is None
    assert near_duplicates_of(again) == known_near_duplicates(again) == [[7, 25]]
    planted[30] = {**planted[7], "file": "the same samples.wav"}
    twins = datasets.Dataset(pa.Table.from_pylist(planted, schema=some.features.arrow_schema))
    assert near_duplicates_of(twins) == [[7, 25, 30]]  # whichever of the twins a split takes
    monkeypatch.setattr(fingerprint, "fingerprint", None)  # what is kept is not computed again
    assert near_duplicates_of(again) == [[7, 25]]
    assert len(list((tmp_path / "ser_hf" / "near_duplicates").glob("*.json"))) == 3
