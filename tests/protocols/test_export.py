"""Splits as files: what is committed is what the code makes, and reads back as the same split."""

import csv
import hashlib
from dataclasses import replace

import pytest
from helpers.small import ROOT

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.protocols import LeakError, export

FOLDER = ROOT / "docs" / "protocol_files"
NAMES = [name for name, protocol in protocols.PROTOCOLS.items() if protocol.folds]
MISSING = {"03-02-01-01-01-01-24", "03-02-02-01-01-02-17", "03-02-03-01-01-01-17", "OAF_back_angry", "YAF_beg_sad"}


@pytest.fixture(scope="module")
def official():
    return export.official_rows()


@pytest.fixture(scope="module")
def mirror(official):
    """As one that lacks five recordings, with endings."""
    kept = [row for row, name in enumerate(official["file"]) if name not in MISSING]
    rows = official.select(kept)
    return rows.remove_columns("file").add_column("file", [f"{name}.opus" for name in rows["file"]])


def without_name(splits):
    return [replace(split, name="", warning=None) for split in splits]


def test_committed_files_are_those_of_the_code():
    texts = export.frozen_files()
    assert {path.name for path in FOLDER.iterdir()} == {"README.md", *texts}
    for name, text in texts.items():
        assert (FOLDER / name).read_text() == text, f"run scripts/maintain/freeze_protocols.py: {name} is of other code"
    assert sum(len(text) for text in texts.values()) < 120_000


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_file_reads_back_as_the_split_it_names(name, official, mirror):
    file = str(FOLDER / f"{name}.yaml")
    folds = protocols.folds(official, file)
    assert {split.name for split in folds} == {f"custom:{name}"}
    with open(FOLDER / "index.csv") as lines:  # which the code makes of the named protocol
        index = [line for line in csv.DictReader(lines) if line["protocol"] == name]
    assert [line["hash"] for line in index] == [split.hash for split in folds]
    assert [int(line["test"]) for line in index] == [len(split.test) for split in folds]
    assert [line["sha256"] for line in index] == [export.names_digest(official, split) for split in folds]
    assert without_name(folds[-1:]) == without_name([protocols.split(official, name, len(folds) - 1)])
    if name != "random":
        assert without_name([protocols.split(mirror, file)]) == without_name([protocols.split(mirror, name)])
    else:
        with pytest.raises(protocols.ProtocolError, match=r"03-02-0.* matches no recording"):
            protocols.folds(mirror, file)


def test_the_official_recordings(official):
    assert len(official) == 1_440 + 1_012 + 2_800
    assert len(set(official["sha256"])) == len(official) - 1  # RAVDESS holds one pair of the same samples
    row = official[official["file"].index("03-01-06-01-02-01-12")]
    assert (row["speaker"], row["sex"], row["statement"], row["label"]) == ("ravdess-12", "female", "2", 5)


def test_the_digest_by_hand(official):
    split = protocols.Split([3], [1], [0, 2], "made-up", 0, "")
    names = official["file"]
    lines = [f"test {names[0]}", f"test {names[2]}", f"train {names[3]}", f"validation {names[1]}"]
    assert export.names_digest(official, split) == hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("speaker", "test:\n  speaker: [ravdess-21, ravdess-22, ravdess-23, ravdess-24, tess-yaf]\nvalidation:"),
        ("sentence", "leaks: [speakers]\n"),
        ("tess-oaf-yaf", "validation_shares_speaker: true\n"),
        ("tess-ravdess", "train:\n  speaker: [tess-oaf]\n"),
        ("random", "leaks: [speakers, samples, near duplicates]\n"),
    ],
)
def test_a_file_says_the_least_that_defines_a_split(name, words):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert words in text
    assert ("file:" in text) == (name == "random")


@pytest.mark.parametrize(("name", "ending"), [("speaker", "csv"), ("speaker", "yaml"), ("emobox-ravdess", "yaml")])
def test_the_command_writes_what_it_reads(rows, built, tmp_path, capsys, name, ending):
    file = tmp_path / f"mine.{ending}"
    words = ["--dataset", str(built), "--protocol", name, "--fold", "all", "--export", str(file)]
    assert main(["data", "splits", *words]) == 0
    assert f"protocol: {file}" in capsys.readouterr().out
    assert without_name(protocols.folds(rows, str(file))) == without_name(protocols.folds(rows, name))


@pytest.mark.parametrize(
    ("name", "leak"),
    [
        ("luna-ravdess", None),
        ("sentence", r"ravdess-01.* in train and in test"),
        ("tess-yaf-oaf", "tess-yaf in train and in validation"),
    ],
)
def test_a_list_of_names_holds_all_but_what_may_leak(official, tmp_path, name, leak):
    folds = protocols.folds(official, name)
    (tmp_path / "list.csv").write_text(export.as_csv(official, folds))
    if leak:
        with pytest.raises(LeakError, match=leak):
            protocols.folds(official, str(tmp_path / "list.csv"))
    else:
        assert without_name(protocols.folds(official, str(tmp_path / "list.csv"))) == without_name(folds)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--protocol", "emobox-ravdess", "--export", "{}/x.yaml"], "every fold of 'emobox-ravdess': add --fold all"),
        (["--export", "{}/x.json"], "x.json': name a .yaml or .csv file"),
        (["--export", "{}/nowhere/x.csv"], "--export is '"),
    ],
)
def test_mistakes(built, tmp_path, fails, words, says):
    assert says in fails("data", "splits", "--dataset", built, *(word.format(tmp_path) for word in words))
    assert list(tmp_path.iterdir()) == []
