"""One predictor: any length, any number of threads, the same answer to the last bit."""

import json
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from helpers import programs
from helpers.small import ROOT, make_whisper

from ser_hf import audio
from ser_hf.audio.voice_activity import FRAME, LIKELY, VoiceActivityDetector
from ser_hf.inference import long_audio, recordings
from ser_hf.inference.prediction import segment
from ser_hf.inference.predictor import Predictor
from ser_hf.inference.recordings import TimeoutExceeded
from ser_hf.labels import EMOTIONS

RATE = audio.SAMPLING_RATE


@pytest.fixture(scope="module")
def predictor(tuned):
    return Predictor(tuned, device="cpu", threads=2).warm()


@pytest.fixture(scope="module")
def clips(recordings):
    return [str(path) for path in sorted(recordings[0].rglob("*.wav"))[::24]]


@pytest.fixture(scope="module")
def talk(recordings):
    """45 s: utterances of nine voices, a pause of 2 s after every third."""
    pause = np.zeros(2 * RATE, dtype=np.float32)
    files = sorted(recordings[0].rglob("*.wav"))[:360:40]
    parts = [part for i, file in enumerate(files) for part in (audio.load(file), pause[: (i % 3 == 2) * len(pause)])]
    return np.resize(np.concatenate(parts), 45 * RATE)


def dumped(answers):
    return [json.dumps(answer) for answer in answers]


def test_answers_are_byte_equal_alone_together_in_any_order_and_under_load(predictor, clips):
    alone = dumped(predictor.predict(clip) for clip in clips)
    assert dumped(predictor.predict(clips)) == alone
    assert dumped(predictor.predict(clips[::-1]))[::-1] == alone
    assert len(set(alone)) == len(alone)
    results = [None] * 8

    def predict_all(place):
        results[place] = dumped(predictor.each(clips[place:] + clips[:place]))

    threads = [threading.Thread(target=predict_all, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, answers in enumerate(results):
        assert answers == alone[place:] + alone[:place]


@pytest.mark.parametrize("kind", ["bert", "group", "layer"])
def test_answers_equal_those_of_the_stock_pipeline(kind, models, clips):
    from transformers import pipeline

    stock = pipeline("audio-classification", model=str(models[kind]), top_k=None, device="cpu")
    ours = Predictor(models[kind], device="cpu", backend="torch")
    for clip, answer in zip(clips[:4], ours.each(clips[:4]), strict=True):
        expected = {row["label"]: row["score"] for row in stock({"array": audio.load(clip), "sampling_rate": RATE})}
        assert answer["scores"] == pytest.approx({name: expected[name] for name in EMOTIONS}, abs=2e-6)


@pytest.mark.parametrize("kind", ["bert", "group"])
def test_logits_are_those_of_one_clip_at_a_time_in_batches_of_one_length_too(kind, models, clips):
    predictor = Predictor(models[kind], device="cpu", batch_size=3, backend="torch")
    waveforms = [audio.load(clip) for clip in clips]
    waveforms += [waveform[::-1].copy() for waveform in waveforms] * 2  # lengths that occur thrice
    alone = predictor.logits(iter(waveforms))
    assert alone.shape == (len(waveforms), 8)
    assert predictor.logits([]).shape == (0, 8)
    sizes, run = [], predictor.session.backend.logits
    predictor.session.backend.logits = lambda features: (sizes.append(len(features)), run(features))[1]
    predictor.session.pool.on_gpu = True  # as on a GPU, clips of one length share a batch
    np.testing.assert_allclose(predictor.logits(iter(waveforms)), alone, atol=1e-5)
    assert max(sizes) == 3
    assert sum(sizes) == len(waveforms)


def test_up_to_ten_seconds_are_one_utterance(predictor, talk):
    answer = predictor.predict(talk[: long_audio.LONG])
    assert [(part["start"], part["end"]) for part in answer["segments"]] == [(0.0, 10.0)]
    expected = predictor.probabilities([talk[: long_audio.LONG]])[0]
    assert list(answer["scores"].values()) == pytest.approx(expected, abs=2e-6)


def test_a_long_recording_is_the_mean_of_its_windows(predictor, talk):
    answer = predictor.predict(talk)
    starts = [*range(0, len(talk) - long_audio.WINDOW + 1, long_audio.HOP), len(talk) - long_audio.WINDOW]
    listener, voiced = VoiceActivityDetector().open_stream(), long_audio.VoicedStretches()
    voiced.add(np.concatenate([listener.feed(talk), listener.finish()]) >= LIKELY)
    kept = [s for s in dict.fromkeys(starts) if voiced.within(s, s + long_audio.WINDOW)[0] >= long_audio.MIN_VOICE]
    rows = predictor.probabilities([talk[s : s + long_audio.WINDOW] for s in kept])
    cells = -(-len(talk) // long_audio.HOP)
    total, weight = np.zeros(8), 0
    for cell in range(cells):
        low, high = cell * long_audio.HOP, min(len(talk), (cell + 1) * long_audio.HOP)
        shares = np.array([max(0, min(s + long_audio.WINDOW, (cell + 1) * long_audio.HOP) - max(s, low)) for s in kept])
        if shares.sum():
            voice_here = voiced.within(low, high)[0]
            total, weight = total + voice_here * (shares @ rows) / shares.sum(), weight + voice_here
    assert list(answer["scores"].values()) == pytest.approx(total / weight, abs=1e-5)
    assert answer["duration"] == 45.0
    assert answer["label"] == max(answer["scores"], key=answer["scores"].get)


def test_a_timeline_is_in_order_and_has_no_silence(predictor, talk):
    silence = np.zeros(8 * RATE, dtype=np.float32)
    answer = predictor.predict(np.concatenate([talk[: 12 * RATE], silence, talk[: 12 * RATE]]))
    segments = answer["segments"]
    for before, after in pairwise(segments):
        assert before["start"] < before["end"] <= after["start"]
    middle = [part for part in segments if part["start"] < 19 and part["end"] > 13]
    assert middle == []
    assert all(0 < part["score"] <= 1 for part in segments)
    assert {part["label"] for part in segments} <= set(EMOTIONS)


def test_labels_of_a_timeline_follow_the_windows():
    timeline = long_audio.Timeline(["a", "b"])
    sure = {0: 0.9, 2: 0.9, 4: 0.1, 6: 0.1, 8: 0.1}
    for second, first in sure.items():
        timeline.add(second * RATE, np.array([first, 1 - first]))
    voiced = long_audio.VoicedStretches()
    voiced.add(np.ones(12 * RATE // FRAME, dtype=bool))
    mean, segments = timeline.read(voiced, 12 * RATE)
    # the cell of 4 to 6 s lies in a window of either kind: 0.5 each, of which the first label is
    # taken
    assert segments[0] == segment(0, 6 * RATE, "a", np.mean([0.9, 0.9, 0.5]))
    assert segments[1] == segment(6 * RATE, 12 * RATE, "b", 0.9)
    assert mean == pytest.approx([2.6 / 6, 3.4 / 6])


def test_no_voice_is_no_answer(predictor):
    answer = predictor.predict(np.zeros(20 * RATE, dtype=np.float32))
    assert answer["abstained"] is True
    assert answer["segments"] == []
    assert set(answer["scores"].values()) == {0.125}


def test_below_the_threshold_it_abstains(tuned, clips):
    predictor = Predictor(tuned)
    answers = predictor.predict(clips)
    predictor.abstain_below = float(np.median([answer["score"] for answer in answers]))
    again = predictor.predict(clips)
    assert [answer["abstained"] for answer in again] == [
        answer["score"] < predictor.abstain_below for answer in answers
    ]
    assert 0 < sum(answer["abstained"] for answer in again) < len(again)


def test_one_bad_recording_is_named_and_the_others_are_answered(predictor, clips, tmp_path):
    (tmp_path / "notes.wav").write_text("no sound")
    sources = [clips[0], tmp_path / "notes.wav", clips[1]]
    first, bad, last = predictor.each(sources, on_error="answer")
    assert [first, last] == predictor.predict([clips[0], clips[1]])
    assert bad["file"] == "notes.wav"
    assert "is not audio that can be read" in bad["error"]
    with pytest.raises(audio.AudioError, match=r"notes\.wav"):
        predictor.predict(sources)


def test_too_long_and_too_slow_are_refused_in_words(predictor, talk, monkeypatch):
    with pytest.raises(audio.AudioError, match="longer than 30 s: cut it into parts"):
        predictor.predict(talk, longest=30)
    assert predictor.predict(talk, longest=45)["duration"] == 45
    silence = np.zeros(12 * RATE, dtype=np.float32)  # no window of it is predicted
    for samples in (talk, silence):
        with pytest.raises(TimeoutExceeded, match="took longer than it was given"):
            predictor.predict(samples, timeout=0)
    # what is read slowly is slow, too
    read = recordings.read
    monkeypatch.setattr(recordings, "read", lambda *args, **options: time.sleep(0.3) or read(*args, **options))
    with pytest.raises(TimeoutExceeded, match="took longer than it was given"):
        predictor.predict(talk, timeout=0.1)
    monkeypatch.undo()
    pool, over = predictor.session.pool, threading.Event()
    for _ in range(pool.count):  # of a clip that is answered at once nobody waits
        pool.submit(over.wait)
    try:
        for samples in (talk[:RATE], silence[:RATE]):
            with pytest.raises(TimeoutExceeded, match="took longer than it was given"):
                predictor.predict(samples, timeout=0)
    finally:
        over.set()


MEMORY = """
import resource, sys
from ser_hf.inference.predictor import Predictor
predictor = Predictor(sys.argv[1], device="cpu")
for file in sys.argv[2:]:
    seconds = predictor.predict(file)["duration"]
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has another unit")
def test_half_an_hour_takes_the_memory_of_a_minute(models, talk, tmp_path):
    files = []
    for name, minutes in (("minute", 1), ("half an hour", 30)):
        files.append(tmp_path / f"{name}.wav")
        with soundfile.SoundFile(files[-1], "w", RATE, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(np.resize(talk, 60 * RATE))
    run = programs.run(["-c", MEMORY, models["bert"], *files], folder=ROOT)
    assert run.returncode == 0, run.stderr[-3000:]
    (minute, small), (half_an_hour, large) = (map(float, line.split()) for line in run.stdout.splitlines())
    assert (minute, half_an_hour) == (60, 1800)
    assert large < small + 60  # MiB; the samples alone are 110


def test_running_answers(predictor, talk):
    chunks = np.array_split(talk[: 20 * RATE], 77)
    answers = list(predictor.stream(chunks))
    assert [answer["duration"] for answer in answers] == list(range(1, 21))
    assert answers[3]["scores"] != answers[19]["scores"]
    again = list(predictor.stream(np.array_split(talk[: 20 * RATE], 5)))
    assert again == answers
    first = predictor.probabilities([talk[:RATE]])[0]
    assert list(answers[0]["scores"].values()) == pytest.approx(first, abs=2e-6)
    second = (first + predictor.probabilities([talk[: 2 * RATE]])[0]) / 2
    assert list(answers[1]["scores"].values()) == pytest.approx(second, abs=2e-6)
    assert answers[-1]["segments"][-1]["end"] == 20
    assert [answer["label"] for answer in answers[-1]["segments"]][-1] == answers[-1]["label"]


def test_running_answers_take_what_recorders_give(predictor, talk):
    pcm = audio.to_pcm(talk[: 6 * RATE])
    plain = list(predictor.stream(np.array_split(pcm, 9)))
    stereo = list(predictor.stream(np.array_split(np.stack([pcm, pcm], axis=1), 9)))
    assert plain == stereo
    tripled = list(predictor.stream(np.array_split(np.repeat(pcm, 3), 9), sampling_rate=48_000))
    assert [answer["label"] for answer in tripled] == [answer["label"] for answer in plain][: len(tripled)]
    with pytest.raises(audio.AudioError, match="NaN"):
        list(predictor.stream([np.full(RATE, np.nan)]))
    with pytest.raises(audio.AudioError, match="shape"):
        list(predictor.stream([np.zeros((2, 2, 2))]))
    with pytest.raises(audio.AudioError, match="claims 5 samples a second"):
        predictor.start_stream(5)


@pytest.mark.parametrize(("rate", "constant"), [(RATE, 0.001), (RATE, -0.03), (3 * RATE, 0.01)])
def test_a_running_answer_does_not_depend_on_an_offset(predictor, talk, rate, constant):
    samples = np.repeat(talk[: 6 * RATE], rate // RATE)
    plain = list(predictor.stream(np.array_split(samples, 9), rate))
    moved = list(predictor.stream(np.array_split(samples + np.float32(constant), 9), rate))
    for one, other in zip(plain, moved, strict=True):
        assert list(one["scores"].values()) == pytest.approx(list(other["scores"].values()), abs=2e-3)


def test_a_running_answer_of_inverted_channels_is_that_of_one(predictor, talk):
    plain = list(predictor.stream(np.array_split(talk[: 6 * RATE], 9)))
    assert list(predictor.stream(np.array_split(np.stack([talk, -talk], axis=1)[: 6 * RATE], 9))) == plain


class FakeSession:
    """A session that gives probabilities, row after row, and finds voice everywhere or nowhere."""

    labels = ("a", "b")
    abstain_below = 0.0

    def __init__(self, rows, voiced):
        self.rows, self.voiced, self.vad = iter(rows), voiced, self

    def open_stream(self):
        return self

    def feed(self, part):
        return np.full(len(part) // FRAME, self.voiced)

    def submit(self, clips):
        from concurrent.futures import Future

        done = Future()
        done.set_result(np.array([next(self.rows)]))
        return done


def running(rows, voiced=True):
    from ser_hf.inference.long_audio import Stream

    stream = Stream(FakeSession(rows, voiced), RATE)
    return [answer for _ in rows for answer in stream.feed(np.ones(RATE, dtype=np.float32))]


def test_a_running_answer_does_not_flicker():
    flickering = running([[0.6, 0.4]] + [[0.48, 0.52], [0.54, 0.46]] * 4)
    assert {answer["label"] for answer in flickering} == {"a"}
    assert len(flickering[-1]["segments"]) == 1
    changed = running([[0.9, 0.1]] * 3 + [[0.1, 0.9]] * 3)
    assert [answer["label"] for answer in changed] == ["a", "a", "a", "a", "b", "b"]
    assert [(part["start"], part["end"]) for part in changed[-1]["segments"]] == [(0.0, 4.0), (4.0, 6.0)]


def test_running_answers_abstain_while_nobody_speaks(predictor, talk):
    silence = np.zeros(8 * RATE, dtype=np.float32)
    answers = list(predictor.stream([silence[: 2 * RATE], talk[: 5 * RATE], silence]))
    assert answers[1]["abstained"]
    assert answers[1]["segments"] == []
    assert not answers[6]["abstained"]
    assert answers[-1]["abstained"]
    assert answers[-1]["scores"] == answers[-2]["scores"]
    assert answers[-1]["segments"][-1]["end"] < 13


def test_on_a_cpu_windows_share_batches_on_mel_frames_that_have_a_length(models, tmp_path):
    folders = {"bert": models["bert"], "layer": models["layer"], "whisper": make_whisper(tmp_path, seconds=4)}
    batches = {
        kind: Predictor(folder, backend="torch", device="cpu").session.batches_windows
        for kind, folder in folders.items()
    }
    assert batches == {"bert": True, "layer": False, "whisper": False}
