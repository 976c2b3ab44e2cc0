"""`ser-hf predict` of many recordings of which some cannot be used."""

import json

import numpy as np
import pytest
import soundfile

from ser_hf import Predictor
from ser_hf.cli.main import main
from ser_hf.errors import UserError
from ser_hf.inference.speaker_adaptation import AdaptationError


def text(folder):
    (folder / "notes.wav").write_text("no sound in here")
    return folder / "notes.wav"


def nothing(folder):
    soundfile.write(folder / "nothing.wav", np.zeros(0), 16_000)
    return folder / "nothing.wav"


def missing(folder):
    return folder / "missing.wav"


def a_folder(folder):
    (folder / "folder.wav").mkdir()
    return folder / "folder.wav"


def broken_after_a_while(folder):
    samples = np.random.default_rng(0).normal(0, 0.1, 13 * 16_000)
    samples[-1] = np.nan
    soundfile.write(folder / "broken.wav", samples, 16_000, subtype="FLOAT")
    return folder / "broken.wav"


KINDS = [text, nothing, missing, a_folder, broken_after_a_while]


@pytest.fixture(scope="module")
def clips(recordings):
    return [str(path) for path in sorted(recordings[0].rglob("*-22.wav"))[:6]]


@pytest.fixture
def predict(tuned, capsys):
    """The exit code, what was printed, and the one line on stderr, if any."""

    def run(*words):
        capsys.readouterr()
        code = main(["predict", "--model", str(tuned), *map(str, words)])
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith("ser-hf: ")]
        assert "Traceback" not in printed.err
        return code, printed.out, errors

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_recording_has_an_error_in_its_place(kind, predict, clips, tmp_path):
    bad = kind(tmp_path)
    code, printed, errors = predict(clips[0], bad, clips[1])
    assert code == 3
    first, error, last = [json.loads(line) for line in printed.splitlines()]
    assert (first["file"], last["file"]) == (clips[0].split("/")[-1], clips[1].split("/")[-1])
    assert list(error) == ["file", "error"]
    assert error["file"] == bad.name
    assert str(bad) in error["error"]
    (line,) = errors
    assert line == f"ser-hf: 1 of 3 recordings cannot be used: {error['error']}"
    assert predict(clips[0], bad, clips[1], "--output", tmp_path / "p.jsonl")[0] == 3
    assert (tmp_path / "p.jsonl").read_text() == printed


@pytest.mark.parametrize("kind", KINDS)
def test_strict_is_all_or_nothing(kind, predict, fails, tuned, clips, tmp_path):
    bad = kind(tmp_path)
    message = fails("predict", "--model", tuned, clips[0], bad, "--strict", "--output", tmp_path / "p.jsonl")
    assert str(bad) in message
    assert not (tmp_path / "p.jsonl").exists()
    assert predict(clips[0], "--strict", "--output", tmp_path / "p.jsonl")[0] == 0


@pytest.mark.parametrize("kinds", [[text], [missing, missing], KINDS])
def test_where_none_can_be_used_nothing_is_written(kinds, fails, tuned, tmp_path):
    bad = [kind(tmp_path) for kind in kinds]
    message = fails("predict", "--model", tuned, *bad, "--output", tmp_path / "p.jsonl")
    assert str(bad[0]) in message
    assert not (tmp_path / "p.jsonl").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_one_speaker_is_adapted_to_without_the_bad_recording(kind, predict, clips, tmp_path):
    bad = kind(tmp_path)
    code, printed, _ = predict(*clips, bad, "--one_speaker")
    assert code == 3
    *lines, error = printed.splitlines()
    assert bad.name in error
    assert lines == predict(*clips, "--one_speaker")[1].splitlines()
    assert predict(*clips, bad, "--one_speaker", "--strict")[0] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_clip_of_a_voice_is_left_out_and_named(kind, predict, clips, tmp_path):
    bad = kind(tmp_path)
    code, printed, errors = predict(clips[0], "--adapt", bad, *clips[1:])
    assert code == 3
    assert str(bad) in errors[0]
    assert "1 of 6 clips of --adapt cannot be used" in errors[0]
    assert printed == predict(clips[0], "--adapt", *clips[1:])[1]
    assert str(bad) in predict(clips[0], "--adapt", bad, *clips[1:], "--strict")[2][0]
    assert str(bad) in predict(clips[0], "--adapt", bad)[2][0]


def test_a_silent_clip_of_a_voice_is_left_out_and_named(predict, clips, tmp_path):
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(32_000), 16_000)
    code, printed, errors = predict(clips[0], "--adapt", silent, *clips[1:])
    assert code == 3
    assert "1 of 6 clips of --adapt cannot be used: 'silent.wav' holds no voice" in errors[0]
    assert printed == predict(clips[0], "--adapt", *clips[1:])[1]
    code, _, errors = predict(clips[0], "--adapt", silent, *clips[1:], "--strict")
    assert (code, errors) == (2, ["ser-hf: 'silent.wav' holds no voice"])


def test_adapted_predictors_name_what_was_left_out(tuned, clips, tmp_path):
    bad = [kind(tmp_path) for kind in KINDS]
    predictor = Predictor(tuned, device="cpu", backend="torch")
    adapted = predictor.adapt([*bad, *clips], on_error="skip")
    assert [str(path) in str(error) for path, error in zip(bad, adapted.left_out, strict=True)] == 5 * [True]
    assert (adapted.adaptation.clips, predictor.left_out) == (6, [])
    with pytest.raises(
        AdaptationError, match=r"2 clips of one speaker are too few to adapt to \(5 more cannot be used"
    ):
        predictor.adapt_to_one_speaker([*bad, *clips[:2]], on_error="skip")
    with pytest.raises(UserError, match="notes"):
        predictor.adapt(bad, on_error="skip")
