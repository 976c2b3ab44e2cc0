import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ser_hf import audio, protocols
from ser_hf.data import dataset
from ser_hf.data.audit.report import audit_recordings
from ser_hf.data.corpora import CORPORA, ravdess, synthetic, tess
from ser_hf.data.corpora.base import CorpusError
from ser_hf.data.corpora.scan import scan_corpus, scan_sources
from ser_hf.evaluation import metrics
from ser_hf.labels import EMOTIONS


def test_ravdess_names():
    assert ravdess.parse("03-02-06-02-01-02-12") == {
        "key": "03-02-06-02-01-02-12",
        "channel": "song",
        "emotion": "fearful",
        "speaker": "ravdess-12",
        "sex": "female",
        "intensity": "strong",
        "statement": "1",
        "repetition": 2,
    }
    labels = [ravdess.parse(f"03-01-0{code}-01-01-01-01")["emotion"] for code in range(1, 9)]
    assert labels == ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"] == list(EMOTIONS)


@pytest.mark.parametrize(
    "stem", ["03-01-09-01-01-01-01", "03-01-01-01-01-01-25", "01-01-01-01-01-01-01", "03-01-01-01-01-01", "OAF_back_ps"]
)
def test_other_names_are_not_ravdess(stem):
    assert ravdess.parse(stem) is None


def test_tess_names():
    fields = tess.parse("oaf_Youth_PS")
    assert (fields["key"], fields["emotion"], fields["speaker"]) == ("OAF_youth_ps", "surprised", "tess-oaf")
    assert tess.parse("OA_bite_neutral")["key"] == "OAF_bite_neutral"
    labels = {
        tess.parse(f"YAF_back_{code}")["emotion"]
        for code in ["angry", "disgust", "fear", "happy", "neutral", "ps", "sad"]
    }
    assert labels == set(EMOTIONS) - {"calm"}
    assert tess.parse("YAF_back_calm") is None
    assert tess.parse("03-01-01-01-01-01-01") is None


def test_scan_finds_any_layout_and_names_what_it_leaves_out(recordings, tmp_path):
    shutil.copytree(recordings[0] / "Actor_01", tmp_path / "a" / "deep" / "Actor_01")
    shutil.copytree(recordings[0] / "Actor_01", tmp_path / "audio_speech_actors_01-24" / "Actor_01")  # the mirror
    (tmp_path / "a" / "mine.wav").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("not audio")
    result = scan_corpus([tmp_path], "ravdess")
    assert len(result.recordings) == 16
    assert len(result.duplicates) == 16
    assert [file.name.name for file in result.unmatched] == ["mine.wav", "notes.txt"]
    assert [r.key for r in result.recordings] == sorted(r.key for r in result.recordings)


def zipped(folder, archive, prefix=""):
    with zipfile.ZipFile(archive, "w") as content:
        for path in sorted(folder.rglob("*.wav")):
            content.write(path, f"{prefix}{path.relative_to(folder)}")
    return archive


def as_rows(result):
    return [(r.key, r.emotion, r.speaker, r.statement) for r in result.recordings]


def test_zips_are_read_in_place(recordings, tmp_path):
    plain = scan_corpus([recordings[0] / "Actor_02"], "ravdess")
    archive = zipped(recordings[0] / "Actor_02", tmp_path / "Audio_Speech_Actors_01-24.zip", "Actor_02/")
    for place in (archive, tmp_path):  # the zip itself, and the folder in which it lies
        result = scan_corpus([place], "ravdess")
        assert as_rows(result) == as_rows(plain)
        np.testing.assert_array_equal(
            audio.load(result.recordings[3].file.source()), audio.load(plain.recordings[3].file.source())
        )
    both = scan_corpus([recordings[0] / "Actor_02", archive], "ravdess")
    assert as_rows(both) == as_rows(plain)
    assert str(both.duplicates[0]) == f"{archive}/Actor_02/{plain.recordings[0].key}.wav"
    assert len(both.duplicates) == 16


def test_the_layouts_of_tess(recordings, tmp_path):
    """Fourteen folders in any casing, flat, or nested once more; and what spellings there are of
    surprise."""
    plain = as_rows(scan_corpus([recordings[1]], "tess"))
    for path in recordings[1].rglob("*.wav"):
        who, word, code = path.stem.split("_")
        spelling = {"ps": "Pleasant_surprise", "fear": "Fear"}.get(code, code.title())
        nested = tmp_path / "nested" / "TESS Toronto emotional speech set data" / f"{who}_{spelling}" / path.name
        flat = tmp_path / "flat" / path.name.upper()
        spelt = (
            tmp_path / "spelt" / f"{who}_{word}_{ {'ps': 'pleasant_surprised', 'fear': 'fearful'}.get(code, code) }.WAV"
        )
        for copy in (nested, flat, spelt):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    for layout in ("nested", "flat", "spelt"):
        result = scan_corpus([tmp_path / layout], "tess")
        assert as_rows(result) == plain
        assert not result.unmatched


def test_tess_copied_beside_ravdess_keeps_its_speakers(recordings, tmp_path):
    shutil.copytree(recordings[0] / "Actor_01", tmp_path / "Actor_01")
    for folder, who in (("Actor_25", "YAF"), ("Actor_26", "OAF")):
        (tmp_path / folder).mkdir()
        for number, code in enumerate(("01", "03", "04", "05", "06", "07", "08")):
            emotion = {
                "01": "neutral",
                "03": "happy",
                "04": "sad",
                "05": "angry",
                "06": "fear",
                "07": "disgust",
                "08": "ps",
            }
            source = recordings[1] / f"{who}_{emotion[code]}" / f"{who}_back_{emotion[code]}.wav"
            shutil.copy(source, tmp_path / folder / f"5{number}-42-{code}-77-23-91-68.wav")
    result = scan_corpus([tmp_path], "tess")
    assert {(r.speaker, r.emotion) for r in result.recordings} == {
        (speaker, emotion) for speaker in ("tess-yaf", "tess-oaf") for emotion in set(EMOTIONS) - {"calm"}
    }
    assert {r.statement for r in result.recordings} == {None}
    scans = scan_sources({"ravdess": [tmp_path], "tess": [tmp_path]})
    assert [len(scans[corpus].recordings) for corpus in ("ravdess", "tess")] == [16, 14]
    assert scans["ravdess"].unmatched == scans["tess"].unmatched == []


def test_linked_folders_are_followed_once(recordings, tmp_path):
    shutil.copytree(recordings[0] / "Actor_01", tmp_path / "Actor_01")
    (tmp_path / "Actor_02").symlink_to(recordings[0] / "Actor_02")
    (tmp_path / "Actor_01" / "round").symlink_to(tmp_path)
    result = scan_corpus([tmp_path], "ravdess")
    assert {r.speaker for r in result.recordings} == {"ravdess-01", "ravdess-02"}
    assert not result.duplicates


def test_a_folder_given_in_two_spellings_is_read_once(recordings, tmp_path, monkeypatch):
    shutil.copytree(recordings[0] / "Actor_01", tmp_path / "Actor_01")
    (tmp_path / "notes.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    result = scan_corpus([".", tmp_path, "Actor_01"], "ravdess")
    assert (len(result.recordings), len(result.duplicates), len(result.unmatched)) == (16, 0, 1)


def test_names_that_old_programs_left(recordings, tmp_path):
    """Backslashes in zips, the twins of macOS, and bytes that are not UTF-8."""
    source = recordings[0] / "Actor_01" / "03-01-01-01-01-01-01.wav"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = "Actor_01\\03-01-01-01-01-01-01.wav"
        archive.writestr(info, source.read_bytes())
        archive.writestr("__MACOSX/Actor_01/._03-01-01-01-01-01-01.wav", b"\0\5\x16\7")
    (tmp_path / "._a.zip").write_bytes(b"\0\5\x16\7")
    shutil.copy(source, os.fsencode(tmp_path) + b"/gr\xfc\xdfe.wav")
    report = dataset.build(tmp_path / "out", {"ravdess": [tmp_path]})
    assert report["recordings"] == 1
    assert sorted(path.rsplit("/", 1)[1] for path in report["unmatched"]) == [
        "._03-01-01-01-01-01-01.wav",
        "._a.zip",
        "gr\\udcfc\\udcdfe.wav",
    ]
    assert not [path for path in report["unmatched"] if str(tmp_path) in path]  # it goes to the Hub
    assert "gr\\\\udcfc" in json.dumps(audit_recordings([tmp_path]))


def test_labels_that_a_tool_appended_must_agree():
    assert ravdess.parse("03-01-02-01-01-01-01_calm")["key"] == "03-01-02-01-01-01-01"
    assert ravdess.parse("03-01-06-01-01-01-01-fear")["emotion"] == "fearful"
    assert ravdess.parse("03-01-02-01-01-01-01_sad") is None
    assert ravdess.parse("03-01-02-01-01-01-01_take") is not None  # says nothing of the label


def test_what_is_missing_is_named_where_most_is_there():
    official = ravdess.inventory()
    song = [name for name, channel in official.items() if channel == "song"]
    assert CORPORA["ravdess"].missing(song[3:]) == sorted(song[:3])  # and nothing of speech, of which there is none
    assert CORPORA["ravdess"].missing(song[506:]) == sorted(song[:506])
    assert CORPORA["ravdess"].missing(song[507:]) == []
    assert CORPORA["tess"].missing(set(tess.inventory()) - {"OAF_back_angry"}) == ["OAF_back_angry"]


def test_scan_says_what_is_wrong_with_a_folder(recordings, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "empty", "holds no recordings"),
        (recordings[0], "none of tess: pass it as --ravdess"),
        (recordings[0].parent / "NOTICE.txt", "is not a folder and no .zip"),
    ):
        with pytest.raises(CorpusError, match=message) as caught:
            scan_corpus([folder], "tess")
        assert str(folder) in str(caught.value)


def test_the_synthetic_corpora_have_official_names_and_are_seeded(recordings, tmp_path, monkeypatch):
    assert len(scan_corpus([recordings[0]], "ravdess").recordings) == 24 * 8 * 2
    assert len(scan_corpus([recordings[1]], "tess").recordings) == 2 * 7 * 2
    monkeypatch.setattr(synthetic, "EMOTIONS", ["angry"])  # one is enough to compare
    again = synthetic.write_corpora(tmp_path / "again", takes=1, words=1)
    other_seed = synthetic.write_corpora(tmp_path / "other", seed=1, takes=1, words=1)
    name = "Actor_05/03-01-05-01-02-01-05.wav"
    assert (again[0] / name).read_bytes() == (recordings[0] / name).read_bytes()
    assert (other_seed[0] / name).read_bytes() != (recordings[0] / name).read_bytes()


def test_a_random_split_of_the_synthetic_voices_flatters(synthetic_built):
    """To a support vector machine on statistics of the spectrum, voices heard before are easier
    than new ones."""

    def describe(row):
        samples = audio.load(row["audio"])
        frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::256] * np.hanning(512)
        spectrum = np.log(np.abs(np.fft.rfft(frames))[:, :256].reshape(len(frames), 32, 8).mean(axis=2) + 1e-4)
        change = np.abs(np.diff(spectrum, axis=0)).mean(axis=0)
        return np.concatenate([spectrum.mean(axis=0), spectrum.std(axis=0), change, [row["duration"]]])

    rows = dataset.load(synthetic_built[0])
    described, labels = np.array([describe(row) for row in rows]), np.array(rows["label"])

    def uar(name):
        split = protocols.split(rows, name)
        model = make_pipeline(StandardScaler(), SVC(C=10))
        model.fit(described[split.train + split.validation], labels[split.train + split.validation])
        return metrics.scores(metrics.confusion(labels[split.test], model.predict(described[split.test])))["uar"]

    speaker, random = uar("speaker"), uar("random")
    assert 0.3 < speaker < 0.85  # there is something to learn (chance is 0.125), and it is not easy
    assert random > speaker + 0.05
