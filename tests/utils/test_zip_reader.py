import stat
import struct
import zipfile
import zlib

import numpy as np
import pytest
from helpers.archives import below, leave, noise, packed

from ser_hf.utils import zip_reader
from ser_hf.utils.zip_reader import ArchiveError

SPEECH = packed([("Actor_01/a.wav", noise(500))])


def test_an_archive_unpacks(tmp_path):
    members = [("Actor_01/", b""), ("Actor_01/a.wav", noise(3_000)), ("Actor_02/b.wav", b""), ("c.wav", b"c" * 100_000)]
    (tmp_path / "a.zip").write_bytes(packed(members))
    folder = tmp_path / "deep" / "out"
    assert zip_reader.unpack(tmp_path / "a.zip", folder) == folder
    assert below(folder) == {name: content for name, content in members if not name.endswith("/")}
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "a.zip").write_bytes(SPEECH)
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("out", "link", "a.zip"):
        with pytest.raises(ArchiveError, match=f"{name}' exists"):
            zip_reader.unpack(tmp_path / "a.zip", tmp_path / name)
    assert below(tmp_path) == {"a.zip": SPEECH}


def broken(tmp_path, content):
    """The message with which an archive is refused, which leaves nothing behind anywhere."""
    (tmp_path / "in").mkdir()
    archive = tmp_path / "in" / "a.zip"
    archive.write_bytes(content)
    with pytest.raises(ArchiveError) as caught:
        zip_reader.unpack(archive, tmp_path / "in" / "out")
    message = str(caught.value)
    assert "\n" not in message
    assert str(archive) in message
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["in", "in/a.zip"]
    return message


def info(name, mode=0, method=zipfile.ZIP_DEFLATED):
    member = zipfile.ZipInfo(name)
    member.external_attr, member.compress_type = mode << 16, method
    return member


@pytest.mark.parametrize(
    "name",
    [
        "../evil.wav",
        "a/../../evil.wav",
        "a/..",
        "/tmp/ser-hf-evil.wav",
        "//host/share/evil.wav",
        "C:/evil.wav",
        "c:evil.wav",
        "a\\..\\..\\evil.wav",
        "./evil.wav",
        "a//evil.wav",
        "../",
        "/",
    ],
)
def test_a_member_that_leads_out_is_refused(tmp_path, name):
    message = broken(tmp_path, packed([("good.wav", b"good"), (name, b"evil")]))
    assert f"{name!r} leads out of the folder" in message


def test_a_name_with_a_nul_is_refused(tmp_path):
    content = packed([("good.wav", b"good"), ("evil.wav_.txt", b"evil")]).replace(b"evil.wav_", b"evil.wav\0")
    assert "evil.wav\\x00.txt' leads out" in broken(tmp_path, content)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    members = [(info("link", kind | 0o777), b"/etc/passwd"), ("link/passwd", b"evil")]
    assert "'link' is neither file nor folder" in broken(tmp_path, packed(members))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("one", "two"), [("a.wav", "a.wav"), ("a/B.wav", "A/b.wav"), ("a", "a/")])
def test_repeated_names_are_refused(tmp_path, one, two):
    assert f"{two!r} is there twice" in broken(tmp_path, packed([(one, b"1"), (two, b"2")]))


def test_a_file_that_is_a_folder_as_well_is_refused(tmp_path):
    assert "'a/b': " in broken(tmp_path, packed([("a", b"1"), ("a/b", b"2")]))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, method):
    assert "'a.wav' is not packed by deflate" in broken(tmp_path, packed([(info("a.wav", 0, method), b"1")]))


def test_bombs_are_refused(tmp_path):
    assert "'bomb' unpacks to too much" in broken(tmp_path, packed([("bomb", bytes((1 << 20) + 1))]))
    # silence below a megabyte packs as well and is none
    (tmp_path / "silence.zip").write_bytes(packed([("silence.wav", bytes(1 << 20))]))
    assert below(zip_reader.unpack(tmp_path / "silence.zip", tmp_path / "silence")) == {"silence.wav": bytes(1 << 20)}


@pytest.mark.parametrize(("limit", "value"), [("MAX_MEMBERS", 2), ("MAX_BYTES", 8)])
def test_the_whole_is_bounded(tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(zip_reader, limit, value)
    assert "3 members, 9 bytes: more than" in broken(tmp_path, packed([(name, b"123") for name in "abc"]))


def test_a_full_disk_is_seen_before_unpacking(tmp_path, monkeypatch):
    leave(monkeypatch, 8)
    (tmp_path / "a.zip").write_bytes(packed([("a", b"123456789")]))
    with pytest.raises(ArchiveError, match="make room"):
        zip_reader.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert list(below(tmp_path)) == ["a.zip"]


def patched(content, **fields):
    """The archive with other values in the first entry of its directory."""
    offset = {"flags": (8, "<H"), "crc": (16, "<L"), "packed": (20, "<L"), "size": (24, "<L"), "header": (42, "<L")}
    changed = bytearray(content)
    for name, value in fields.items():
        struct.pack_into(offset[name][1], changed, content.index(b"PK\1\2") + offset[name][0], value)
    return bytes(changed)


@pytest.mark.parametrize("flags", [0x1, 0x41])
def test_encrypted_members_are_refused(tmp_path, flags):
    assert "'a.wav' is encrypted" in broken(tmp_path, patched(packed([("a.wav", b"1")]), flags=flags))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("claim", [0, 999, 1_001, 500_000])
@pytest.mark.parametrize("consistent", [False, True])
def test_a_size_that_is_a_lie_is_refused(tmp_path, method, claim, consistent):
    content = b"ab" * 500
    # a checksum of what the claim leaves of the content deceives a reader that stops there
    crc = zlib.crc32(content[:claim]) if consistent else zlib.crc32(content)
    message = broken(tmp_path, patched(packed([(info("a.wav", 0, method), content)]), size=claim, crc=crc))
    assert "'a.wav': " in message


def test_more_than_claimed_is_not_written(tmp_path, monkeypatch):
    content = bytes(1_000_000)
    written = []
    monkeypatch.setattr(zip_reader.shutil, "copyfileobj", lambda source, output: written.append(len(source.read())))
    broken(tmp_path, patched(packed([("a.wav", content)]), size=1_000))
    assert written in ([], [1_001])


def test_damage_is_refused(tmp_path):
    content = packed([("a.wav", noise(3_000))])
    damaged = {
        "no archive": b"RIFF" * 100,
        "nothing": b"",
        "cut": content[:2_000],
        "checksum": patched(content, crc=1),
        "stream": content[:40] + b"\xff" * 50 + content[90:],
        "packed size": patched(content, packed=10),
        "header": patched(content, header=77),
        "other name": content.replace(b"a.wav", b"b.wav", 1),
        "name": packed([("ä.wav", b"1")]).replace("ä".encode(), b"\xc3("),
        "end": patched(packed([(info("a.wav", 0, zipfile.ZIP_STORED), b"1")]), size=9_999, packed=9_999),
    }
    for number, wrong in enumerate(damaged.values()):
        (tmp_path / str(number)).mkdir()
        broken(tmp_path / str(number), wrong)


def test_an_archive_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match=r"a\.zip"):
        zip_reader.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_damage_ends_in_anything_but_a_refusal(tmp_path):
    content = packed([("a/", b""), ("a/b.wav", noise(60)), ("c.wav", b"c" * 60)])
    random = np.random.default_rng(0)
    refusals = 0
    for number in range(200):
        changed = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 4)):
            changed[position] = random.integers(0, 256)
        (tmp_path / "a.zip").write_bytes(changed)
        try:
            zip_reader.unpack(tmp_path / "a.zip", tmp_path / "out" / str(number))
        except ArchiveError:
            refusals += 1
    assert 50 < refusals < 200
    assert {path.name for path in tmp_path.iterdir()} <= {"a.zip", "out"}


def test_members_are_read_in_place(tmp_path):
    (tmp_path / "a.zip").write_bytes(packed([("b/", b""), ("b/two.wav", noise(70_000)), ("../one.wav", b"1")]))
    assert zip_reader.members(tmp_path / "a.zip") == ["../one.wav", "b/two.wav"]
    assert zip_reader.read(str(tmp_path / "a.zip"), "b/two.wav") == noise(70_000)
    assert zip_reader.read(str(tmp_path / "a.zip"), "../one.wav") == b"1"  # its name never is a path
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"flags": 1}, "is encrypted"),
        ({"crc": 1}, "Bad CRC-32"),
        ({"size": 1 << 29, "packed": 1 << 28}, "is larger than any recording"),
        ({"size": 1 << 27}, "unpacks to too much"),
    ],
)
def test_what_is_wrong_in_place_is_named(tmp_path, wrong, says):
    (tmp_path / "a.zip").write_bytes(patched(packed([("b.wav", noise(3_000))]), **wrong))
    with pytest.raises(ArchiveError, match=says) as caught:
        zip_reader.read(str(tmp_path / "a.zip"), "b.wav")
    assert "a.zip': 'b.wav'" in str(caught.value)


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK no zip at all")
    with pytest.raises(ArchiveError, match=r"a\.zip' is not a zip file"):
        zip_reader.members(tmp_path / "a.zip")
