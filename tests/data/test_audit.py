"""Every kind of oddity planted on its own: it is found, and nothing else is."""

import io
import json
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_hf.cli.main import main
from ser_hf.data.audit.report import audit_recordings, write_audit
from ser_hf.data.corpora import CORPORA, tess
from ser_hf.errors import UserError


def quieter(source, target):
    """A copy at a third of the loudness: some synthetic voices shout until they clip."""
    samples, rate = soundfile.read(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(target, samples / 3, rate)


@pytest.fixture
def folder(recordings, tmp_path):
    """Sixteen clips of an actor and seven of an actress, with nothing wrong."""
    for path in (recordings[0] / "Actor_03").iterdir():
        quieter(path, tmp_path / "data" / "Actor_03" / path.name)
    for path in recordings[1].rglob("OAF_back_*.wav"):
        quieter(path, tmp_path / "data" / path.parent.name / path.name)
    return tmp_path / "data"


def kinds(report):
    return dict(Counter(finding["kind"] for finding in report["findings"]))


def clip(folder, statement=1, code="05"):
    return folder / "Actor_03" / f"03-01-{code}-01-0{statement}-01-03.wav"


def rewritten(path, change, rate=16_000, **kind):
    samples, _ = soundfile.read(path)
    soundfile.write(path, change(samples), rate, **kind)


def test_nothing_wrong_is_nothing_found(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    report = audit_recordings([folder])
    assert report["findings"] == []
    assert report["needs_decision"] is False
    assert report["recordings"] == report["files"] == 23
    assert report["inventory"] == {"ravdess speech": [16, 1440], "ravdess song": [0, 1012], "tess speech": [7, 2800]}
    assert report["formats"]["tess"] == {"16,000 Hz, 1 channel(s), WAV PCM_16": 7}
    assert report["speakers"]["ravdess-03"]["calm"] == 2
    assert report["balance"]["tess female"]["surprised"] == 1
    assert "every voice of tess is female" in report["confounds"]
    assert any(line.startswith("calm exists only in ravdess") for line in report["confounds"])
    assert "disgust and surprised are not acted in the song of ravdess" not in report["confounds"]  # there is no song
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


PLANTED = {
    "unexpected": (lambda f: soundfile.write(f / "mine.wav", soundfile.read(clip(f))[0][::-1], 16_000), True),
    "same samples ": (lambda f: shutil.copy(clip(f), clip(f, 2)), True),
    "folder ": (lambda f: shutil.move(clip(f), mkdir(f / "Actor_05")), True),
    "unexpected ": (lambda f: clip(f).rename(f / "Actor_03" / "03-01-01-02-01-01-03.wav"), True),
    "name": (lambda f: clip(f).rename(clip(f).with_name("03-01-05-01-01-01-03_angry.wav")), False),
    "folder": (lambda f: shutil.move(f / "OAF_sad" / "OAF_back_sad.wav", f / "OAF_fear"), True),
    "undecodable": (lambda f: clip(f).write_bytes(b"no sound"), True),
    "truncated": (lambda f: clip(f).write_bytes(clip(f).read_bytes()[:30_000]), True),
    "container": (lambda f: rewritten(clip(f), lambda x: x, format="AIFF"), False),
    "sampling rate": (lambda f: rewritten(clip(f), lambda x: np.repeat(x, 3), 48_000), False),
    "channels": (lambda f: rewritten(clip(f), lambda x: np.stack([x, x], axis=1)), False),
    "sample format": (lambda f: rewritten(clip(f), lambda x: x, subtype="PCM_24"), False),
    "duration": (lambda f: rewritten(clip(f), lambda x: np.tile(x, 4)), True),
    "clipping": (lambda f: rewritten(clip(f), lambda x: np.clip(2 * np.sin(np.arange(len(x)) / 13), -1, 1)), True),
    "silence": (lambda f: rewritten(clip(f), lambda x: x * 1e-3), True),
    "offset": (lambda f: rewritten(clip(f), lambda x: x + 0.05), False),
    "copy": (lambda f: shutil.copytree(f / "OAF_sad", f / "again"), True),
    "conflict": (lambda f: shutil.copy(clip(f), mkdir(f / "b") / clip(f, code="06").name), True),
    "same samples": (lambda f: shutil.copy(clip(f), clip(f, 2)), True),
    "near duplicate": (lambda f: soundfile.write(clip(f, 2), soundfile.read(clip(f))[0][3_000:] / 2, 16_000), True),
}


def mkdir(path):
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "inverse",
    [lambda x: [x, -x], lambda x: [x, -0.7 * x + 1e-3], lambda x: [0 * x, x, -x]],
    ids=["exact", "softer", "one silent"],
)
def test_channels_that_cancel_are_named_as_the_cause(folder, inverse):
    rewritten(clip(folder), lambda x: np.stack(inverse(x), axis=1))
    found = {finding["kind"]: finding["says"] for finding in audit_recordings([folder])["findings"]}
    assert set(found) == {"channels", "cancelling channels"}
    assert "another one inverted" in found["cancelling channels"]


@pytest.mark.parametrize("kind", PLANTED)
def test_each_oddity_is_found_and_nothing_else(folder, kind):
    plant, decide = PLANTED[kind]
    plant(folder)
    report = audit_recordings([folder])
    assert kinds(report) == {kind.strip(): 1}
    assert report["needs_decision"] is decide
    (finding,) = report["findings"]
    assert all(Path(file).name in finding["says"] for file in finding["files"])


@pytest.mark.parametrize("kind", ["AIFF", "RF64", "W64", "AU"])
def test_what_broke_off_is_seen_in_other_containers(folder, kind):
    rewritten(clip(folder), lambda x: x, format=kind)
    whole = audit_recordings([folder])
    assert "truncated" not in kinds(whole)
    clip(folder).write_bytes(clip(folder).read_bytes()[:30_000])
    assert kinds(audit_recordings([folder]))["truncated"] == 1


def test_a_length_that_a_pipe_could_not_know_is_no_fault(folder):
    content = bytearray(clip(folder).read_bytes())
    content[4:8] = b"\xff" * 4
    clip(folder).write_bytes(content)
    assert kinds(audit_recordings([folder])) == {}


def test_the_share_that_is_clipped(folder):
    tone = np.clip(1.02 * np.sin(2 * np.pi * np.arange(16_000) / 48), -1, 1)
    soundfile.write(clip(folder), tone, 16_000)
    (finding,) = audit_recordings([folder])["findings"]
    expected = (np.abs(np.rint(tone * 32767) / 32768) >= 0.999).mean()
    assert f"{expected:.2%} of the samples" in finding["says"]


def cut_off(content):
    return content[: len(content) // 2]


def no_zip(content):
    return b"no zip at all"


def with_a_name_twice(content):
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"another")
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [cut_off, no_zip, with_a_name_twice])
def test_a_broken_zip_is_a_finding_and_the_rest_is_audited(damage, folder, tmp_path):
    expected = audit_recordings([folder])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("03-01-05-01-01-01-03.wav", b"RIFF")
    (folder / "b.zip").write_bytes(damage((tmp_path / "a.zip").read_bytes()))
    try:
        report = audit_recordings([folder])
    finally:
        (folder / "b.zip").unlink()
    (finding,) = [finding for finding in report["findings"] if finding not in expected["findings"]]
    assert finding["kind"] == "undecodable"
    assert f"'{folder / 'b.zip'}'" in finding["says"]
    assert report["needs_decision"]
    assert (report["files"], report["recordings"]) == (expected["files"], expected["recordings"])


def test_what_is_wrong_in_a_zip_is_named(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("Actor_03/03-01-05-01-01-01-03.wav", b"no sound")
    (finding,) = audit_recordings([tmp_path / "a.zip"])["findings"]
    assert f"'{tmp_path}/a.zip/Actor_03/03-01-05-01-01-01-03.wav' is not audio" in finding["says"]


def test_the_same_folder_twice_is_read_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert audit_recordings([".", folder, "Actor_03"])["findings"] == []


def test_copies_without_an_official_name_are_found(folder):
    shutil.copy(clip(folder), folder / "Copy of it.wav")
    report = audit_recordings([folder])
    assert kinds(report) == {"unexpected": 1, "same samples": 1}


def test_broken_samples_are_counted(folder):
    samples, _ = soundfile.read(clip(folder))
    samples[100:103] = np.nan, np.inf, -np.inf
    soundfile.write(clip(folder), samples, 16_000, subtype="FLOAT")
    report = audit_recordings([folder])
    assert kinds(report) == {"broken samples": 1, "sample format": 1}
    assert "3 NaN or infinite samples" in next(f["says"] for f in report["findings"] if f["decide"])


def test_what_is_recorded_over_is_foreign_and_counts_as_missing(folder, monkeypatch):
    own = {f"OAF_back_{code}": "speech" for code in tess.LABELS}
    monkeypatch.setitem(CORPORA, "tess", replace(CORPORA["tess"], inventory=lambda: own))
    path = folder / "OAF_sad" / "OAF_back_sad.wav"
    noise = np.random.default_rng(0).normal(size=5 * 44_100) * 0.1
    soundfile.write(path, noise, 44_100, subtype="FLOAT")
    report = audit_recordings([folder])
    assert kinds(report) == {"missing": 1, "foreign": 1}
    assert report["findings"][0]["files"] == ("OAF_back_sad",)
    assert report["findings"][1]["files"] == (str(path),)


def test_a_mirror_that_holds_each_file_twice(folder):
    shutil.copytree(folder / "Actor_03", folder / "audio_speech_actors_01-24" / "Actor_03")
    report = audit_recordings([folder])
    assert kinds(report) == {"copy": 16}
    names = {Path(finding["files"][0]).name for finding in report["findings"]}
    assert names == {path.name for path in (folder / "Actor_03").iterdir()}
    assert report["recordings"] == 23
    assert sum(report["counts"]["ravdess speech"].values()) == 16


def test_a_copy_in_another_form_is_a_copy(folder):
    path = clip(folder)
    samples, rate = soundfile.read(path)
    soundfile.write(path.with_suffix(".mp3"), samples * 0.7, rate)
    report = audit_recordings([folder])
    assert "the same recording in another form" in next(f["says"] for f in report["findings"] if f["kind"] == "copy")


def test_the_pair_of_ravdess_that_is_known_needs_no_decision(recordings, tmp_path):
    actor = tmp_path / "Actor_07"
    for path in (recordings[0] / "Actor_07").iterdir():
        quieter(path, actor / path.name)
    shutil.copy(actor / "03-01-03-01-02-01-07.wav", actor / "03-01-03-01-02-02-07.wav")
    report = audit_recordings([tmp_path])
    assert kinds(report) == {"same samples": 1}
    assert report["needs_decision"] is False


def test_names_that_are_missing_are_given(folder, monkeypatch):
    own = {path.stem: "speech" for path in (folder / "Actor_03").iterdir()}
    inventory = own | {"03-01-05-02-02-02-03": "speech"}
    monkeypatch.setitem(CORPORA, "ravdess", replace(CORPORA["ravdess"], inventory=lambda: inventory))
    clip(folder).unlink()
    report = audit_recordings([folder])
    assert [finding["files"] for finding in report["findings"]] == [(clip(folder).stem,), ("03-01-05-02-02-02-03",)]
    assert report["needs_decision"] is True


def test_a_corpus_without_official_names_is_measured_all_the_same(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    soundfile.write(tmp_path / "mine" / "a.wav", np.zeros(16_000), 16_000)
    report = audit_recordings([tmp_path / "mine"])
    assert kinds(report) == {"silence": 1}


def test_the_command_writes_a_page_that_needs_nothing_else(folder, tmp_path, capsys):
    evil = folder / "<script>alert(1)<!-- .wav"
    shutil.copy(clip(folder), evil)
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.write(clip(folder), "Actor_03/03-01-05-01-01-02-03.wav")
    (folder / "notes.txt").write_text("x")
    assert main(["audit", str(folder), "--output", str(tmp_path / "out")]) == 3
    printed = capsys.readouterr().out
    assert "DECIDE 1 unexpected" in printed
    assert "2 of 2 findings need a decision" in printed
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert kinds(report) == {"unexpected": 1, "same samples": 1}  # the same clip three times
    assert report["files"] == 25
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 3
    assert sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir()) == [
        "balance.png",
        "durations.png",
        "levels.png",
    ]
    evil.unlink()
    (folder / "more.zip").unlink()
    assert main(["audit", str(folder)]) == 0


def test_mistakes_end_in_one_line(folder, tmp_path, fails):
    assert "does not exist" in fails("audit", tmp_path / "nowhere")
    (tmp_path / "there").mkdir()
    assert "exists already" in fails("audit", folder, "--output", tmp_path / "there")
    assert "is not at least 1" in fails("audit", folder, "--num_proc", "0")
    with pytest.raises(UserError):
        write_audit({}, tmp_path / "there")
