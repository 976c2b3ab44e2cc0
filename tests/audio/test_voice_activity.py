"""Where voice is found."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ser_hf import audio
from ser_hf.audio import voice_activity
from ser_hf.errors import UserError


def spoken(recordings, count=3):
    """Synthetic utterances with 2 s of silence after each."""
    files = sorted(recordings[0].rglob("*-05-*.wav"))[:count]
    gap = np.zeros(2 * audio.SAMPLING_RATE, dtype=np.float32)
    return np.concatenate([part for file in files for part in (audio.load(file), gap)])


def test_voice_is_found_in_utterances_and_not_in_silence(recordings):
    clip = audio.load(next(recordings[0].rglob("*-05-*.wav")))
    listener = voice_activity.VoiceActivityDetector().open_stream()
    silence = np.zeros(4 * audio.SAMPLING_RATE, dtype=np.float32)
    assert (listener.feed(silence) < voice_activity.FAINTEST).all()
    assert (listener.feed(clip) >= voice_activity.LIKELY).mean() > 0.5
    after = np.concatenate([listener.feed(silence), listener.finish()])
    assert (after[16:] < voice_activity.FAINTEST).all()  # half a second later


def test_how_a_recording_is_cut_into_blocks_changes_nothing(recordings):
    samples = spoken(recordings)
    whole = voice_activity.VoiceActivityDetector().open_stream()
    expected = np.concatenate([whole.feed(samples), whole.finish()])
    assert len(expected) == -(-len(samples) // voice_activity.FRAME)
    parts = voice_activity.VoiceActivityDetector().open_stream()
    cuts = np.sort(np.random.default_rng(0).integers(0, len(samples), 40))
    found = [parts.feed(part) for part in np.split(samples, cuts)]
    np.testing.assert_allclose(np.concatenate([*found, parts.finish()]), expected, atol=1e-4)


def test_silero_says_what_its_package_says(recordings):
    """`load_silero_vad` sets torch to one thread for the whole process when it is imported."""
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad

    torch.set_num_threads(threads)
    samples = spoken(recordings)
    samples = samples[: len(samples) // voice_activity.FRAME * voice_activity.FRAME]
    package = load_silero_vad()
    frames = torch.from_numpy(samples).split(voice_activity.FRAME)
    theirs = np.array([package(frame, audio.SAMPLING_RATE).item() for frame in frames])
    network = voice_activity.VoiceActivityDetector()._network
    padded = np.pad(samples, (64, 0))
    ours, _ = network(np.lib.stride_tricks.sliding_window_view(padded, 576)[:: voice_activity.FRAME].copy(), None)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_loading_silero_leaves_the_threads_of_torch_alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    voice_activity.VoiceActivityDetector()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "spec",
    [None, SimpleNamespace(submodule_search_locations=["/nowhere"]), SimpleNamespace(submodule_search_locations=["."])],
)
def test_without_its_weights_the_line_says_how_to_get_them(monkeypatch, spec):
    monkeypatch.setattr(voice_activity, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"has no weights here: pip install 'silero-vad>=6\.2,<7'"):
        voice_activity.VoiceActivityDetector()
