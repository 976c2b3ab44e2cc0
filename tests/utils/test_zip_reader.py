import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.archives import noise, packed
from helpers.processes import in_fork

from ser_hf.utils import zip_reader
from ser_hf.utils.zip_reader import ArchiveError


def refusal(tmp_path, content, name="a.wav"):
    """The message with which a member of an archive is refused, which leaves nothing behind."""
    archive = tmp_path / "a.zip"
    archive.write_bytes(content)
    with pytest.raises(ArchiveError) as caught:
        read(archive, name)
    message = str(caught.value)
    assert "\n" not in message
    assert str(archive) in message
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    return message


def read(archive, name):
    """A member's bytes as the dataset reads them: listed first; None where it is not listed."""
    return zip_reader.read(str(archive), name) if name in zip_reader.members(archive) else None


def info(name, method):
    member = zipfile.ZipInfo(name)
    member.compress_type = method
    return member


@pytest.mark.parametrize(
    "name",
    [
        "../evil.wav",
        "a/../../evil.wav",
        "/tmp/ser-hf-evil.wav",
        "//host/share/evil.wav",
        "C:/evil.wav",
        "c:evil.wav",
        "a\\..\\..\\evil.wav",
        "./evil.wav",
        "a//evil.wav",
    ],
)
def test_a_name_that_leads_out_becomes_no_path(tmp_path, name):
    (tmp_path / "a.zip").write_bytes(packed([("good.wav", b"good"), (name, b"content")]))
    (listed,) = set(zip_reader.members(tmp_path / "a.zip")) - {"good.wav"}
    assert zip_reader.read(str(tmp_path / "a.zip"), listed) == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, method):
    assert "'a.wav' is not packed by deflate" in refusal(tmp_path, packed([(info("a.wav", method), b"1")]))


def test_bombs_are_refused(tmp_path):
    assert "'bomb' unpacks to too much" in refusal(tmp_path, packed([("bomb", bytes((1 << 20) + 1))]), "bomb")
    # silence below a megabyte packs as well and is none
    (tmp_path / "silence.zip").write_bytes(packed([("silence.wav", bytes(1 << 20))]))
    assert read(tmp_path / "silence.zip", "silence.wav") == bytes(1 << 20)


def patched(content, **fields):
    """The archive with other values in the first entry of its directory."""
    offset = {"flags": (8, "<H"), "crc": (16, "<L"), "packed": (20, "<L"), "size": (24, "<L"), "header": (42, "<L")}
    changed = bytearray(content)
    for name, value in fields.items():
        struct.pack_into(offset[name][1], changed, content.index(b"PK\1\2") + offset[name][0], value)
    return bytes(changed)


@pytest.mark.parametrize("flags", [0x1, 0x41])
def test_encrypted_members_are_refused(tmp_path, flags):
    assert "'a.wav' is encrypted" in refusal(tmp_path, patched(packed([("a.wav", b"1")]), flags=flags))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("claim", [0, 999, 1_001, 500_000])
def test_a_size_that_is_a_lie_is_refused(tmp_path, method, claim):
    content = b"ab" * 500
    archive = patched(packed([(info("a.wav", method), content)]), size=claim)
    assert "'a.wav' cannot be read" in refusal(tmp_path, archive)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("claim", [0, 999, 1_001, 500_000])
def test_no_more_than_the_claimed_size_is_read(tmp_path, method, claim):
    """A checksum of what the claim leaves of the content deceives a reader that stops there."""
    content = b"ab" * 500
    archive = patched(packed([(info("a.wav", method), content)]), size=claim, crc=zlib.crc32(content[:claim]))
    (tmp_path / "a.zip").write_bytes(archive)
    if claim < len(content):
        assert read(tmp_path / "a.zip", "a.wav") == content[:claim]
    else:
        assert "'a.wav' cannot be read" in refusal(tmp_path, archive)


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
        "end": patched(packed([(info("a.wav", zipfile.ZIP_STORED), b"1")]), size=9_999, packed=9_999),
    }
    for number, archive in enumerate(damaged.values()):
        (tmp_path / str(number)).mkdir()
        refusal(tmp_path / str(number), archive)


def test_an_archive_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match=r"a\.zip"):
        zip_reader.members(tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_no_damage_ends_in_anything_but_a_refusal(tmp_path):
    content = packed([("a/", b""), ("a/b.wav", noise(60)), ("c.wav", b"c" * 60)])
    random = np.random.default_rng(0)
    refusals = 0
    for number in range(200):
        changed = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 4)):
            changed[position] = random.integers(0, 256)
        archive = tmp_path / f"{number}.zip"  # open archives are kept by name
        archive.write_bytes(changed)
        try:
            for name in zip_reader.members(archive):
                zip_reader.read(str(archive), name)
        except ArchiveError:
            refusals += 1
    assert 50 < refusals < 200
    assert len(list(tmp_path.iterdir())) == 200


def test_members_are_read_in_place(tmp_path):
    (tmp_path / "a.zip").write_bytes(packed([("b/", b""), ("b/two.wav", noise(70_000)), ("../one.wav", b"1")]))
    assert zip_reader.members(tmp_path / "a.zip") == ["../one.wav", "b/two.wav"]
    assert zip_reader.read(str(tmp_path / "a.zip"), "b/two.wav") == noise(70_000)
    assert zip_reader.read(str(tmp_path / "a.zip"), "../one.wav") == b"1"  # its name never is a path
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"flags": 1}, "is encrypted"),
        ({"crc": 1}, "Bad CRC-32"),
        ({"size": 1 << 29, "packed": 1 << 28}, "is larger than any recording"),
        ({"size": 1 << 27}, "unpacks to too much"),
    ],
)
def test_a_member_that_is_refused_is_named(tmp_path, fields, reason):
    (tmp_path / "a.zip").write_bytes(patched(packed([("b.wav", noise(3_000))]), **fields))
    with pytest.raises(ArchiveError, match=reason) as caught:
        zip_reader.read(str(tmp_path / "a.zip"), "b.wav")
    assert "a.zip': 'b.wav'" in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(packed([("b.wav", b"1"), ("a.wav", b"2"), ("a.wav", b"3")]))
    with pytest.raises(ArchiveError, match=r"a\.zip' holds 'a\.wav' twice: unpack it"):
        zip_reader.members(tmp_path / "a.zip")


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK no zip at all")
    with pytest.raises(ArchiveError, match=r"a\.zip' is not a zip file"):
        zip_reader.members(tmp_path / "a.zip")


def test_forked_processes_do_not_share_the_position_in_an_archive(tmp_path):
    contents = {f"{number}.wav": noise(70_000, number) for number in range(4)}
    (tmp_path / "a.zip").write_bytes(packed(contents.items()))

    def read_all():
        return all(read(tmp_path / "a.zip", name) == contents[name] for _ in range(50) for name in contents)

    assert read_all()  # the archive is open before the forks
    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(in_fork, 3 * [read_all]))


@pytest.mark.parametrize("later", [b"2", b"22", noise(70_000)])
def test_an_archive_that_was_written_again_is_read_again(tmp_path, later):
    (tmp_path / "a.zip").write_bytes(packed([("a.wav", b"1")]))
    assert read(tmp_path / "a.zip", "a.wav") == b"1"
    (tmp_path / "b.zip").write_bytes(packed([("a.wav", later), ("b.wav", b"")]))
    (tmp_path / "b.zip").replace(tmp_path / "a.zip")
    assert read(tmp_path / "a.zip", "a.wav") == later
    assert read(tmp_path / "a.zip", "b.wav") == b""
