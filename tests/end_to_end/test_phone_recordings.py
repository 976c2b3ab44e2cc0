"""m4a, mp4, webm, aac and amr go in by every door that takes recordings, and are refused alike
without PyAV."""

import re
import sys
import zipfile

import numpy as np
import pytest
from helpers.media import write_media

from ser_hf import audio
from ser_hf.app import page
from ser_hf.cli.main import main
from ser_hf.data import dataset
from ser_hf.data.audit.report import audit_recordings
from ser_hf.training import augmentation

REMEDY = "pip install av, or convert it to WAV or FLAC"


@pytest.fixture
def phone(clips, tmp_path):
    """A folder of RAVDESS names with an m4a, a zip with a webm and a film, and a corpus of another
    kind with an amr and an aac."""
    (tmp_path / "ravdess").mkdir()
    (tmp_path / "other").mkdir()

    def make(path, clip, codec, rate=48_000, **how):
        samples = np.repeat(clips[clip], rate // 16_000) if rate > 16_000 else clips[clip][::2]
        return write_media(path, samples, rate, codec, **how)

    make(tmp_path / "ravdess" / "03-01-05-01-01-01-03.m4a", 0, "aac")
    with zipfile.ZipFile(tmp_path / "ravdess" / "more.zip", "w") as packed:
        packed.write(make(tmp_path / "a.webm", 3, "libopus"), "03-01-03-01-01-01-04.webm")
        packed.write(make(tmp_path / "b.mp4", 6, "aac", video=True), "in/03-01-04-01-01-01-05.MP4")
    make(tmp_path / "other" / "one.amr", 9, "libopencore_amrnb", 8_000)
    make(tmp_path / "other" / "two.aac", 12, "aac")
    (tmp_path / "other" / "list.csv").write_text("file,label,speaker\none.amr,happy,a\ntwo.aac,sad,b\n")
    (tmp_path / "other" / "mine.yaml").write_text("corpus: mine\ncsv: list.csv\n")
    return tmp_path


def build(phone):
    flags = ["--ravdess", phone / "ravdess", "--other", phone / "other" / "mine.yaml", "--output", phone / "dataset"]
    return ["data", *map(str, flags)]


def test_they_are_built_audited_and_drawn_from(phone):
    assert main(build(phone)) == 0
    rows = dataset.load(phone / "dataset")
    assert sorted(rows["file"]) == [
        "03-01-03-01-01-01-04.webm",
        "03-01-04-01-01-01-05.mp4",
        "03-01-05-01-01-01-03.m4a",
        "mine/one.amr",
        "mine/two.aac",
    ]
    (row,) = [row for row in rows if row["file"] == "03-01-05-01-01-01-03.m4a"]
    direct = audio.load(phone / "ravdess" / row["file"])
    np.testing.assert_allclose(audio.load(row["audio"]["bytes"]), direct, atol=2 / 32768)
    report = audit_recordings([phone / "ravdess", phone / "other"])
    assert report["recordings"] == 3
    assert report["files"] == 5
    assert not {"undecodable", "truncated", "container"} & {finding["kind"] for finding in report["findings"]}
    assert "48,000 Hz, 1 channel(s), MP4 AAC" in report["formats"]["ravdess"]
    assert len(augmentation.from_folder(phone / "other")) == 2


def test_what_broke_off_is_audited(phone):
    file = phone / "ravdess" / "03-01-05-01-01-01-03.m4a"
    content = write_media(phone / "whole.m4a", audio.load(file), 16_000, "aac", options={"movflags": "faststart"})
    file.write_bytes(content.read_bytes()[:-2_000])
    findings = [item for item in audit_recordings([phone / "ravdess"])["findings"] if item["kind"] == "truncated"]
    assert [item["says"] for item in findings] == [
        f"{file} is shorter than its header says: download it again",
    ]


@pytest.mark.parametrize("door", ["data", "audit", "predict", "noises"])
def test_without_pyav_every_door_says_how_to_get_it(phone, models, monkeypatch, capsys, door):
    monkeypatch.setitem(sys.modules, "av", None)
    words = f"is not audio that can be read (MP4 needs PyAV): {REMEDY}"
    file = phone / "ravdess" / "03-01-05-01-01-01-03.m4a"
    if door == "audit":
        findings = audit_recordings([phone / "ravdess"])["findings"]
        assert f"'{file}' {words}" in [finding["says"] for finding in findings]
    elif door == "noises":
        with pytest.raises(audio.AudioError, match="needs PyAV"):
            augmentation.from_folder(phone / "ravdess")
    elif door == "data":
        assert main(build(phone)) == 2
        assert f"needs PyAV): {REMEDY}" in capsys.readouterr().err
        assert not (phone / "dataset").exists()
    else:
        assert main(["predict", "--model", str(models["bert"]), "--backend", "torch", str(file)]) != 0
        said = capsys.readouterr()
        assert f"'{file}' {words}" in said.out + said.err


def test_the_page_takes_every_ending_that_is_read():
    (accepted,) = re.findall(r'accept = "audio/\*,video/\*,([^"]*)"', page.SCRIPT)
    assert tuple(accepted.split(",")) == audio.SUFFIXES
