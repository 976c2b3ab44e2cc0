"""What visitors hand over."""

import io
import zipfile

import gradio
import numpy as np
import pytest

from ser_hf.app import api, tabs, uploads
from ser_hf.app.metrics import Metrics
from ser_hf.app.uploads import Limits, UploadedFile, UploadError
from ser_hf.inference.predictor import Predictor
from ser_hf.utils import zip_reader

LIMITS = Limits(files=4, zip_mb=1)
LARGE = Limits(file_mb=1)


def packed(path, kind=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", kind) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def secret(path):
    content = bytearray(packed(path, **{"a.wav": b"1"}).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    return path


def uploaded(paths):
    return [UploadedFile.at(path) for path in paths]


def read(paths, limits=LIMITS):
    return list(uploads.Recordings(uploaded(paths), limits))


def test_zips_are_opened_and_hidden_files_are_passed_over(tmp_path):
    (tmp_path / "one.wav").write_bytes(b"1")
    inside = {
        "b/two.FLAC": b"2",
        "a/three.ogg": b"3",
        "__MACOSX/a/._three.ogg": b"x",
        ".h/x.wav": b"",
        "b/.DS_Store": b"",
    }
    packed(tmp_path / "more.zip", **inside)
    result = read([tmp_path / "one.wav", tmp_path / "more.zip"])
    assert [item.name for item in result] == ["one.wav", "a/three.ogg", "b/two.FLAC"]
    assert [item.source["bytes"] for item in result] == [b"1", b"3", b"2"]
    assert [item.source["path"] for item in result] == ["one.wav", "a/three.ogg", "b/two.FLAC"]
    assert len(uploads.Recordings(uploaded([tmp_path / "one.wav", tmp_path / "more.zip"]), LIMITS)) == 3


@pytest.mark.parametrize("one_speaker", [False, True])
def test_a_zip_is_examined_once(one_speaker, predictor, recordings, tmp_path, monkeypatch):
    looked, listed = [], zip_reader.listed
    monkeypatch.setattr(zip_reader, "listed", lambda file, name: looked.append(name) or listed(file, name))
    clips = {path.name: path.read_bytes() for path in sorted(recordings[0].rglob("*.wav"))[:9]}
    packs = [packed(tmp_path / "a.zip", **clips), packed(tmp_path / "b.zip", **clips)]
    with gradio.Blocks() as page:
        tabs.add_batch(predictor, Limits(), Metrics())
    (press,) = [item.fn for item in page.fns.values()]
    message, *_ = press(list(map(str, packs)), one_speaker, lambda *args, **options: None)
    assert "18 recordings analysed" in message
    assert looked == ["a.zip", "b.zip"]


def test_a_name_in_a_zip_is_never_a_path(tmp_path):
    packed(tmp_path / "evil.zip", **{"../../evil.wav": b"1", "/etc/evil.wav": b"2"})
    before = sorted(tmp_path.rglob("*"))
    assert {item.name for item in read([tmp_path / "evil.zip"])} == {"../../evil.wav", "/etc/evil.wav"}
    assert sorted(tmp_path.rglob("*")) == before


def test_limits_hold_for_all_together_before_anything_is_read(tmp_path):
    many = packed(tmp_path / "many.zip", **{f"{n}.wav": b"x" for n in range(4)})
    (tmp_path / "one.wav").write_bytes(b"1")
    assert len(read([many])) == 4
    with pytest.raises(UploadError, match="5 recordings are more than 4: send them in parts"):
        uploads.Recordings(uploaded([many, tmp_path / "one.wav"]), LIMITS)
    large = packed(tmp_path / "large.zip", **{"a.wav": b"\0" * (2 << 20)})
    with pytest.raises(UploadError, match="2 MB are in the zip, more than 1"):
        uploads.Recordings(uploaded([large]), LIMITS)
    with pytest.raises(UploadError, match="there is no recording in it"):
        uploads.Recordings([], LIMITS)


def test_a_member_that_lies_about_its_size_is_an_error_of_that_member(tmp_path):
    path = packed(tmp_path / "lie.zip", **{"a.wav": b"\0" * 5000, "b.wav": b"2"})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")  # the first entry of the directory: its size before packing
    content[at + 24 : at + 28] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    first, second = read([path])
    assert first.source is None
    assert "'lie.zip': 'a.wav' cannot be read" in first.error
    assert second.source["bytes"] == b"2"


def test_encrypted_members_and_bombs_are_errors_of_theirs(tmp_path):
    path = packed(tmp_path / "odd.zip", **{"a.wav": b"\0" * (2 << 20), "b.wav": b"2"})
    first, second = read([path], Limits())
    assert "unpacks to too much" in first.error
    assert second.error is None
    (only,) = read([secret(tmp_path / "secret.zip")])
    assert "is encrypted" in only.error


@pytest.fixture(scope="module")
def predictor(tuned):
    return Predictor(tuned, device="cpu", backend="torch")


def entry(name, content, **attributes):
    """A member of an archive and its content."""
    member = zipfile.ZipInfo(name)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    return member, content


def folder_of_windows(clip):
    return [entry("my clips\\", b""), entry("more", b"", external_attr=0x10), entry("my clips\\a.wav", clip)], []


def another_kind(clip):
    return [("a.wav", clip), ("notes.txt", b"who spoke when")], [("notes.txt", "is not audio that can be read")]


def without_a_name_that_tells(clip):
    return [("a.wav", clip), ("b", clip), ("c.bin", clip)], []


def zip_in_a_zip(clip):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.wav", clip)
    return [("a.wav", clip), ("inner.zip", inner.getvalue())], [("inner.zip", "is a zip file: unpack it")]


def empty_member(clip):
    return [("a.wav", clip), ("b.wav", b"")], [("b.wav", "is empty (0 bytes)")]


def names_twice(clip):
    return [("a.wav", clip), ("x/a.wav", clip), ("x/a.wav", clip)], []


def names_that_lead_out(clip):
    return [("../a.wav", clip), ("/etc/a.wav", clip), ("..\\..\\a.wav", clip)], []


def another_packing(clip):
    return [("a.wav", clip), entry("b.wav", clip, compress_type=zipfile.ZIP_BZIP2)], [
        ("b.wav", "not packed by deflate")
    ]


def larger_than_the_limit(clip):
    samples = np.random.default_rng(0).bytes(2 << 20)
    return [("a.wav", clip), ("b.wav", samples)], [("b.wav", "has more than 1 MB: cut it into parts")]


KINDS = [
    *(folder_of_windows, another_kind, without_a_name_that_tells, zip_in_a_zip, empty_member, names_twice),
    *(names_that_lead_out, another_packing, larger_than_the_limit),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", KINDS)
def test_every_member_of_a_zip_is_answered_or_named(kind, predictor, recordings, tmp_path):
    clip = next(recordings[0].rglob("*.wav")).read_bytes()
    members, refused = kind(clip)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    found = uploads.Recordings(uploaded([tmp_path / "a.zip"]), LARGE)
    answers = list(api.predict_batch(predictor, LARGE, Metrics(), found))
    errors = [(answer["file"], answer["error"]) for answer in answers if "error" in answer]
    assert [name for name, _ in errors] == [name for name, _ in refused]
    for (_, error), (name, reason) in zip(errors, refused, strict=True):
        assert name in error
        assert reason in error
        assert "\n" not in error
    shown = sum(bool(content) for _, content in members) + (kind is empty_member)
    assert len(answers) == shown
    assert len({str(answer["scores"]) for answer in answers if "scores" in answer}) == 1


def names(member_name, flags=0):
    """How a member is called whose name has these bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x" * len(member_name), b"1")
    content = bytearray(buffer.getvalue().replace(b"x" * len(member_name), member_name))
    for signature, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        content[content.index(signature) + place + 1] |= flags >> 8
    (item,) = uploads.Recordings([UploadedFile("a.zip", io.BytesIO(content))], LIMITS)
    assert item.source["bytes"] == b"1"
    return item.name


def test_names_are_shown_in_the_letters_that_they_were_written_in():
    assert names("Gespräch ä.wav".encode(), flags=0x800) == "Gespräch ä.wav"
    assert names("Gespräch ä.wav".encode()) == "Gespräch ä.wav"  # as macOS writes it
    assert names("Gespräch.wav".encode("cp437")) == "Gespräch.wav"
    assert names("会議.wav".encode()) == "会議.wav"
    assert names(b"two\nlines.wav") == "two\ufffdlines.wav"


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-30])


def no_file_in_it(path):
    packed(path, **{"a/": b"", ".DS_Store": b"1"})


def too_many_listed(path):
    path.write_bytes(path.read_bytes() + 20_001 * b"PK\1\2")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(cut_off, "is not a zip file that can"), (no_file_in_it, "no file in it"), (too_many_listed, "more than 20,000")],
)
def test_a_broken_zip_has_an_error_in_its_place(damage, reason, tmp_path):
    path = packed(tmp_path / "broken.zip", **{"a.wav": b"1"})
    damage(path)
    (tmp_path / "one.wav").write_bytes(b"1")
    first, second = read([path, tmp_path / "one.wav"])
    assert (first.name, first.source, second.source["bytes"]) == ("broken.zip", None, b"1")
    assert "'broken.zip'" in first.error
    assert reason in first.error
    assert len(uploads.Recordings(uploaded([path, tmp_path / "one.wav"]), LIMITS)) == 2


def test_a_batch_is_asked_side_by_side_and_answered_in_its_order(recordings, tuned, tmp_path):
    clips = iter(sorted(recordings[0].rglob("*.wav")))
    (tmp_path / "notes.wav").write_text("no sound in here")
    locked = secret(tmp_path / "locked.zip")
    makers = {"c": lambda: next(clips), "n": lambda: tmp_path / "notes.wav", "u": lambda: locked}
    paths = [makers[kind]() for kind in "uuccccccuncccunu"]
    predictor, started, in_flight = Predictor(tuned), 0, []
    submit = predictor.session.submit

    def counted(clips):
        nonlocal started
        started += 1
        return submit(clips)

    predictor.session.submit = counted
    answers = []
    for answer in api.predict_batch(predictor, Limits(), Metrics(), uploads.Recordings(uploaded(paths), Limits())):
        answers.append(answer)
        in_flight.append(started - sum("scores" in answer for answer in answers))
    assert max(in_flight) > 0
    alone = Predictor(tuned)
    for path, answer in zip(paths, answers, strict=True):
        if path == locked:
            assert answer["file"] == "a.wav"
            assert "is encrypted" in answer["error"]
        elif path.parent == tmp_path:
            assert (answer["file"], list(answer)) == ("notes.wav", ["file", "error"])
        else:
            assert answer == alone.predict(path)


def test_a_recording_knows_its_name_and_not_its_place(tmp_path):
    (tmp_path / "one.wav").write_bytes(b"1")
    assert UploadedFile.at(tmp_path / "one.wav").source() == {"bytes": b"1", "path": "one.wav"}
    assert UploadedFile.at(tmp_path / "one.wav", "../../my call.wav").source()["path"] == "my call.wav"


def test_an_open_file_is_read_like_one_on_the_disk(tmp_path):
    path = packed(tmp_path / "more.zip", **{"a.wav": b"1", "b.wav": b"22"})
    with path.open("rb") as opened:
        file = UploadedFile("more.zip", opened)
        assert [item.source["bytes"] for item in uploads.Recordings([file], LIMITS)] == [b"1", b"22"]
        assert file.size() == path.stat().st_size == len(file.read())
    assert UploadedFile.at(path).size() == path.stat().st_size
