"""Where nobody speaks there is no emotion, at any length."""

import numpy as np
import pytest

from ser_hf import audio
from ser_hf.inference.predictor import Predictor
from ser_hf.inference.speaker_adaptation import AdaptationError

RATE = audio.SAMPLING_RATE


def hiss(seconds, decibel):
    return 10 ** (decibel / 20) * np.random.default_rng(0).normal(size=round(seconds * RATE))


def hum(seconds):
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(0.05 / n * np.sin(2 * np.pi * 50 * n * time) for n in (1, 2, 3, 5))


SOUNDS = {
    "zeros": lambda seconds: np.zeros(round(seconds * RATE)),
    "hiss at -80 dB": lambda seconds: hiss(seconds, -80),
    "hiss at -60 dB": lambda seconds: hiss(seconds, -60),
    "hiss at -30 dB": lambda seconds: hiss(seconds, -30),
    "hum": hum,
    "hum on a constant": lambda seconds: hum(seconds) + 0.03,
}


@pytest.fixture(scope="module")
def predictor(models):
    return Predictor(models["bert"], device="cpu", backend="torch")


@pytest.mark.parametrize("seconds", [0.1, 0.4, 3, 9.9, 12])
@pytest.mark.parametrize("sound", SOUNDS)
def test_no_voice_is_no_emotion(predictor, sound, seconds):
    answer = predictor.predict(SOUNDS[sound](seconds).astype(np.float32))
    assert answer["abstained"] is True
    assert answer["segments"] == []
    assert set(answer["scores"].values()) == {0.125}
    assert answer["duration"] == pytest.approx(seconds)


@pytest.mark.parametrize("seconds", [1, 3, 9.9, 12])
def test_voice_is_answered_at_any_length(predictor, clips, seconds):
    answer = predictor.predict(np.resize(np.concatenate(clips), round(seconds * RATE)))
    assert answer["segments"]
    assert answer["abstained"] is False


@pytest.mark.parametrize("silence", [0, 5, 20])
def test_one_word_is_answered_whatever_silence_follows(predictor, clips, silence):
    start = int(np.square(clips[0]).argmax())
    word = clips[0][max(0, start - 2_000) : start + 2_000]
    answer = predictor.predict(np.concatenate([np.tile(word, 2), np.zeros(silence * RATE, dtype=np.float32)]))
    assert answer["segments"]


def test_a_voice_is_fitted_to_recordings_with_voice(predictor, clips):
    nobody = [SOUNDS[sound](seconds).astype(np.float32) for sound in SOUNDS for seconds in (2, 12)]
    with pytest.raises(AdaptationError, match="there is no voice to adapt to"):
        predictor.adapt(nobody)
    plain, among = predictor.adapt(clips[:6]), predictor.adapt([*nobody[:4], *clips[:6], *nobody[4:]])
    assert [str(error) for error in among.left_out] == len(nobody) * ["'a recording' holds no voice"]
    assert plain.predict(clips[7]) == among.predict(clips[7])
    for recording in nobody[:4]:
        answer = plain.predict(recording)
        assert answer["abstained"] is True
        assert set(answer["scores"].values()) == {0.125}
