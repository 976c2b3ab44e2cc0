"""A corpus of somebody else's, by folders of labels and by list, with a label map."""

import shutil
import textwrap

import pytest
import soundfile
from huggingface_hub import DatasetCard

from ser_hf.data import dataset
from ser_hf.data.corpora import custom
from ser_hf.data.corpora.base import CorpusError
from ser_hf.data.describe import counts_table
from ser_hf.labels import EMOTIONS


def describe(folder, text, name="spec.yaml"):
    (folder / name).write_text(textwrap.dedent(text))
    return str(folder / name)


def scan(path):
    return custom.scan(custom.Description.read(path))


@pytest.fixture
def wavs(recordings, tmp_path):
    """Six clips of two speakers in folders of German labels: 03a and 08b say Wut, Aerger,
    Freude."""
    actor = recordings[0] / "Actor_03"
    for label, code in (("Wut", "05"), ("Aerger", "05"), ("Freude", "03")):
        (tmp_path / "wav" / label).mkdir(parents=True)
        for statement, name in ((1, "03a"), (2, "08b")):
            source = actor / f"03-01-{code}-01-0{statement}-01-03.wav"
            shutil.copy(source, tmp_path / "wav" / label / f"{name}-{label}.wav")
    return tmp_path


ALL = "corpus: x\nfolder: wav\nlabels: {Wut: sad, Aerger: sad, Freude: sad}\n"
SPEC = """
    corpus: emodb
    folder: wav
    labels: {Wut: angry, Aerger: angry, Freude: happy}
    speaker: '^(\\d\\d)'
    sex: {'03': male, '08': female}
"""


def test_folders_of_labels(wavs):
    result = scan(describe(wavs, SPEC))
    assert [(r.key, r.emotion, r.speaker, r.sex) for r in result.recordings] == [
        ("emodb/Aerger/03a-Aerger", "angry", "emodb-03", "male"),
        ("emodb/Aerger/08b-Aerger", "angry", "emodb-08", "female"),
        ("emodb/Freude/03a-Freude", "happy", "emodb-03", "male"),
        ("emodb/Freude/08b-Freude", "happy", "emodb-08", "female"),
        ("emodb/Wut/03a-Wut", "angry", "emodb-03", "male"),
        ("emodb/Wut/08b-Wut", "angry", "emodb-08", "female"),
    ]
    assert result.notes == [
        "emodb: 2 speakers",
        "emodb: Freude (2) is called happy",
        "emodb: Aerger (2), Wut (2) merged into angry",
    ]
    assert [tuple(alias.values()) for alias in result.aliases] == [
        ("emodb", "Aerger", "angry", 2),
        ("emodb", "Freude", "happy", 2),
        ("emodb", "Wut", "angry", 2),
    ]


def test_a_list_with_columns_of_its_own(wavs):
    (wavs / "list.csv").write_text(
        "file,label,speaker,sex,statement,repetition\n"
        "wav/Wut/03a-Wut.wav,ANGRY,anna,female,a01,2\n"
        "wav/Freude/08b-Freude.wav,boredom,bert,,,\n"
    )
    result = scan(describe(wavs, "corpus: mine\ncsv: list.csv\nlabels: {boredom: null}\n"))
    (only,) = result.recordings
    assert (only.key, only.emotion, only.speaker, only.sex) == ("mine/wav/Wut/03a-Wut", "angry", "mine-anna", "female")
    assert (only.statement, only.repetition, only.channel, only.intensity) == ("a01", 2, "speech", None)
    assert result.notes == [
        "mine: 1 speaker",
        "mine: ANGRY (1) is called angry",
        "mine: boredom (1) dropped, as the label map says",
    ]


def test_without_speakers_all_are_one(wavs):
    result = scan(describe(wavs, "corpus: x\nfolder: wav\nlabels: {Wut: angry, Aerger: null, Freude: happy}"))
    assert {r.speaker for r in result.recordings} == {"x-unknown"}
    assert result.notes[0] == "x: no speakers are named, so that all clips count as those of one"
    assert len(result.recordings) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("corpus: x\nfolder: wav\nlabels: {Wut: angry}", "says nothing of the label.s. 'Aerger', 'Freude'"),
        ("corpus: x\nfolder: wav\nlabels: {Wut: furious}", "'Wut' maps to 'furious': choose of neutral"),
        ("corpus: ravdess\nfolder: wav", "corpus is 'ravdess': a new name"),
        ("corpus: x\nfolder: wav\ncsv: list.csv", "either folder or csv"),
        ("corpus: x\nfolder: wav\nlabel: {}", "has 'label': its keys are"),
        ("corpus: x\nfolder: nowhere", "does not exist"),
        ("corpus: x\ncsv: nowhere.csv", "is not a file: check csv"),
        ("[", "cannot be read"),
        ("corpus: x\nfolder: wav\nlabels: {Wut: null, Aerger: null, Freude: null}", "every label is dropped"),
        (f"{ALL}speaker: '^([a-z])'", "finds nothing in"),
        (f"{ALL}speaker: '^..'", "has no group"),
        (f"{ALL}speaker: '('", "is no pattern"),
        (f"{ALL}speaker: [a]", "speaker is .'a'.: a text is expected"),
        (f"{ALL}speaker: '^(..)'\nsex: {{3: male}}", "sex names '3', who is no speaker: 03, 08 are"),
        (f"{ALL}sex: male", "sex is 'male': a mapping is expected"),
        (f"{ALL}corpus: y", "the key 'corpus' stands twice"),
        ("corpus: x\nfolder:\n", "folder is '': a text is expected"),
        ("corpus: x\nfolder: wav\nlabels: [Wut]", "a mapping is expected"),
    ],
)
def test_what_a_description_lacks_is_named(wavs, text, message):
    spec = describe(wavs, text)
    with pytest.raises(CorpusError, match=message) as caught:
        scan(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("name,label\na,b\n", "lacks the column 'file', it has 'name', 'label': name it so, or under columns in"),
        ("file,label\nnowhere.wav,angry\n", "line 2: .*nowhere.wav' is not a file"),
        ("file,label\nwav/Wut/03a-Wut.wav,angry\nwav/Wut/03a-Wut.wav,sad\n", "has the label 'angry' and 'sad': keep"),
        ("file,label,sex\nwav/Wut/03a-Wut.wav,angry,x\n", "sex 'x' of"),
        ("file,label,repetition\nwav/Wut/03a-Wut.wav,angry,²\n", "repetition '²' of"),
        (
            "file,label,speaker\nwav/Wut/03a-Wut.wav,angry,anna\nwav/Wut/08b-Wut.wav,angry,\n",
            "'wav/Wut/08b-Wut' has no speaker and others have",
        ),
    ],
)
def test_what_a_list_lacks_is_named(wavs, rows, message):
    (wavs / "list.csv").write_text(rows)
    with pytest.raises(CorpusError, match=message):
        scan(describe(wavs, "corpus: x\ncsv: list.csv"))


def test_cells_are_stripped_and_words_stay_words(wavs):
    (wavs / "list.csv").write_text(
        "file,label,speaker\nwav/Wut/03a-Wut.wav,no,1\nwav/Wut/08b-Wut.wav , no, 1\n", encoding="utf-8-sig"
    )
    result = scan(describe(wavs, "corpus: x\ncsv: list.csv\nlabels: {no: neutral}\nsex: {1: female}"))
    assert [(r.speaker, r.sex, r.emotion) for r in result.recordings] == [("x-1", "female", "neutral")] * 2
    (wavs / "list.csv").write_bytes("file,label\nä.wav,no\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"list.csv' line 2 is no text in UTF-8"):
        scan(describe(wavs, "corpus: x\ncsv: list.csv"))


def test_a_path_identifies_a_clip_with_its_ending(wavs):
    """No official name stands behind it: another ending, or another archive, is another
    recording."""
    samples, rate = soundfile.read(wavs / "wav" / "Wut" / "03a-Wut.wav")
    soundfile.write(wavs / "wav" / "Wut" / "03a-Wut.flac", samples[::-1], rate)
    absolute = wavs / "wav" / "Wut" / "08b-Wut.wav"
    (wavs / "list.csv").write_text(
        f"file,label\nwav/Wut/03a-Wut.wav,angry\nwav/Wut/03a-Wut.flac,angry\n{absolute},angry\nwav/../wav/Wut/08b-Wut.wav,angry\n"
    )
    result = scan(describe(wavs, "corpus: x\ncsv: list.csv"))
    assert sorted(f"{r.key}{r.file.name.suffix}" for r in result.recordings) == [
        "x/wav/Wut/03a-Wut.flac",
        "x/wav/Wut/03a-Wut.wav",
        "x/wav/Wut/08b-Wut.wav",
    ]
    assert len(result.duplicates) == 1  # the last two are one file


def test_the_card_of_another_corpus_says_nothing_of_ours(wavs, tmp_path):
    spec = describe(wavs, SPEC.replace("emodb", "accent"))
    dataset.build(tmp_path / "out", descriptions=[spec])
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == ["other"]
    assert card.data.language is None
    for untrue in ("TESS alone", "North American", "forbid", "bibtex", "Livingstone"):
        assert untrue not in card.text
    assert "accent: the licence of its source" in card.text


def test_it_becomes_part_of_the_dataset(wavs, recordings, tmp_path):
    spec = describe(wavs, SPEC)
    report = dataset.build(tmp_path / "out", {"ravdess": [recordings[0] / "Actor_01"]}, descriptions=[spec])
    rows = dataset.load(tmp_path / "out")
    assert list(report["counts"]) == ["ravdess speech", "emodb speech"]
    assert report["counts"]["emodb speech"] == {**dict.fromkeys(EMOTIONS, 0), "happy": 2, "angry": 4}
    assert dataset.label_aliases(tmp_path / "out") == report["aliases"]
    assert [alias["label"] for alias in report["aliases"]] == ["Aerger", "Freude", "Wut"]
    assert dataset.label_aliases("somebody/dataset") == []
    assert "Aerger (2), Wut (2) merged into angry" in counts_table(report)
    assert "Aerger (2), Wut (2) merged into angry" in (tmp_path / "out" / "README.md").read_text()
    assert (
        rows.filter(lambda corpus: corpus == "emodb", input_columns="corpus")["file"][0]
        == "emodb/Aerger/03a-Aerger.wav"
    )
