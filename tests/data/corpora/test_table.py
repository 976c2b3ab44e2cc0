"""Tables of recordings as other people write them: segments, names of columns, contradictions."""

import numpy as np
import pytest
import soundfile

from ser_hf import audio
from ser_hf.data import dataset
from ser_hf.data.corpora import custom
from ser_hf.data.corpora.base import CorpusError
from ser_hf.data.describe import counts_table

RATE = 16_000


@pytest.fixture
def dialogue(tmp_path):
    """A recording of 4 s whose loudness tells the second, and another of 1 s."""
    noise = np.random.default_rng(0).normal(size=4 * RATE) * np.repeat([0.02, 0.05, 0.1, 0.2], RATE)
    soundfile.write(tmp_path / "talk.wav", noise, RATE)
    soundfile.write(tmp_path / "word.wav", noise[:RATE], RATE)
    return tmp_path


def scan(folder, table, yaml=""):
    (folder / "list.csv").write_text(table)
    (folder / "spec.yaml").write_text(f"corpus: x\ncsv: list.csv\n{yaml}")
    return custom.scan(custom.Description.read(folder / "spec.yaml"))


def rows_of(result):
    return [
        (r.key.removeprefix("x/"), r.emotion, r.speaker.removeprefix("x-"), r.sex, str(r.stretch))
        for r in result.recordings
    ]


def test_segments_of_a_dialogue_are_cut(dialogue):
    table = ["file,start,end,label,speaker,gender", "talk.wav,0,1,sad,F,f", "talk.wav,1.0,2.5,angry,M,Male"]
    result = scan(dialogue, "\n".join([*table, "talk.wav,3,,sad,F,F"]))
    assert rows_of(result) == [
        ("talk_0000.000-0001.000", "sad", "F", "female", "0.000 s to 1.000 s"),
        ("talk_0001.000-0002.500", "angry", "M", "male", "1.000 s to 2.500 s"),
        ("talk_0003.000-end", "sad", "F", "female", "3.000 s to its end"),
    ]
    assert result.notes == ["x: 2 speakers", "x: columns read: gender as sex"]
    assert result.duplicates == []
    report = dataset.build(dialogue / "built", descriptions=[dialogue / "spec.yaml"])
    rows = dataset.load(dialogue / "built")
    assert rows["file"] == [f"x/talk_{part}.wav" for part in ("0000.000-0001.000", "0001.000-0002.500", "0003.000-end")]
    assert rows["duration"] == [1.0, 1.5, 1.0]
    assert rows["speaker"] == ["x-F", "x-M", "x-F"]
    loudness = [np.std(clip) for clip in dataset.decoded_clips(rows)]
    np.testing.assert_allclose(loudness, [0.02, np.sqrt((2 * 0.05**2 + 0.1**2) / 3), 0.2], rtol=0.03)
    assert "2 speakers" in counts_table(report)


@pytest.mark.parametrize(
    ("table", "stretch"),
    [
        ("path;StartTime;EndTime;Emotion\ntalk.wav;00:00:01,250;00:00:02,5;sad\n", "1.250 s to 2.500 s"),  # MELD
        ("filename\tbegin_ms\tend_ms\temotion\ntalk.wav\t1250\t2500\tSAD\n", "1.250 s to 2.500 s"),
        ("Audio File,start (s),Duration,Label\ntalk.wav,1.25,1.25s,Sad\n", "1.250 s to 2.500 s"),
        ("wav,start,end,duration,class\ntalk.wav,,,4,sad\n", "None"),
        ("file,start,label\n.\\talk.wav,1:02.5,sad\n", "62.500 s to its end"),
    ],
)
def test_names_and_times_of_other_tables_are_read(dialogue, table, stretch):
    table = table.replace("begin_ms", "start_ms")
    (recording,) = scan(dialogue, table).recordings
    assert (str(recording.stretch), recording.emotion) == (stretch, "sad")


def test_what_is_read_and_not_used_is_said(dialogue):
    table = ",Path,emo,ActorID,Sex,VAD,notes\n0,talk.wav,sad,7,w,1,a\n1,word.wav,sad,8,unknown,2,b\n"
    result = scan(dialogue, table.replace(",w,", ",woman,"))
    assert [(r.speaker, r.sex) for r in result.recordings] == [("x-7", "female"), ("x-8", None)]
    assert result.notes == [
        "x: 2 speakers",
        "x: columns read: Path as file, emo as label, ActorID as speaker, Sex as sex",
        "x: columns not used: column 1, VAD, notes",
    ]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("speaker_name", "speaker"),
        ("Client", "speaker"),
        ("listener_gender", "sex"),
        ("is_female", "sex"),
        ("duration", "time"),
        ("offset", "time"),
        ("startSample", "time"),
        ("recording_time", "time"),
        ("client_sex", "sex"),
        ("actor_gender", "sex"),
        ("user_id", "speaker"),
        ("t0", "time"),
        ("startTimecode", "time"),
    ],
)
def test_what_looks_like_speaker_sex_or_time_is_asked_about(dialogue, column, kind):
    table = f"file,label,{column}\ntalk.wav,sad,1\n"
    with pytest.raises(
        CorpusError, match=rf"list.csv': '{column}' looks like a {kind}: under columns in '.*spec.yaml'"
    ):
        scan(dialogue, table)
    result = scan(dialogue, table, f"columns: {{{column}: null}}")
    assert rows_of(result) == [("talk", "sad", "unknown", None, "None")]
    ours = {"speaker": "speaker", "sex": "statement", "time": "start"}[kind]
    (recording,) = scan(dialogue, table, f"columns: {{{column}: {ours}}}").recordings
    assert (recording.speaker == "x-1", recording.statement == "1", str(recording.stretch) == "1.000 s to its end") == (
        kind == "speaker",
        kind == "sex",
        kind == "time",
    )


@pytest.mark.parametrize("column", ["Sentiment", "utterance_id", "factor", "Season", "split", "endorsement"])
def test_other_columns_are_not_asked_about(dialogue, column):
    assert f"x: columns not used: {column}" in scan(dialogue, f"file,label,{column}\ntalk.wav,sad,1\n").notes


ONE = "talk.wav,0,1,sad,F,female"
HEADER = "file,start,end,label,speaker,sex"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("talk.wav,0,1,angry,F,female", "the label 'sad' and 'angry'"),
        ("talk.wav,0.0,1.000,sad,M,female", "the speaker 'F' and 'M'"),
        ("./talk.wav,00:00,00:01,sad,F,", "the sex 'female' and nothing"),
        ("talk.wav,0,1,happy,F,female", "the label 'sad' and 'happy'"),
    ],
)
def test_rows_that_disagree_are_refused_with_both_lines(dialogue, other, message):
    table = "\n".join([HEADER, ONE, "word.wav,,,sad,F,female", "", other])
    with pytest.raises(CorpusError, match=rf"list.csv' lines 2 and 5: '.*talk.wav' has {message}: keep one of them"):
        scan(dialogue, table)
    assert len(scan(dialogue, "\n".join([HEADER, ONE, ONE])).duplicates) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["talk.wav,0,1,sad,F,female", "talk.wav,1,2,sad,F,male"],
            "lines 2 and 3: the speaker 'F' has the sex 'female'",
        ),
        (["talk.wav,0,1,sad,Anna,", "talk.wav,1,2,sad,anna,"], "the speakers 'Anna' and 'anna' would count as two"),
        (["talk.wav,0,1,sad,01,", "talk.wav,1,2,sad,1.0,"], "the speakers '01' and '1.0' would count as two"),
        (["talk.wav,0,1,sad,anna,", "talk.wav,1,2,sad,NaN,"], "'talk_0001.000-0002.000' has no speaker and others"),
        (["talk.wav,2,1,sad,a,"], "line 2: from 2 s to 1 s are less than 0.1 s: check start and end"),
        (["talk.wav,1,1.05,sad,a,"], "line 2: from 1 s to 1.05 s are less than 0.1 s"),
        (["talk.wav,-1,2,sad,a,"], "line 2: the start is '-1': a number from 0, or hours:minutes:seconds"),
        (["talk.wav,0,nan,sad,a,"], "line 2: the end is 'nan': a number"),
        ([",0,1,sad,a,"], "line 2 names no file: name it, or remove the line"),
        (["talk.wav,0,1,,a,"], "line 2 names no label: name it, or remove the line"),
        (["# talk.wav,0,1,sad,a,"], "# talk.wav' is not a file: CSV knows no comments, remove the line"),
        ([f"{'long' * 100},0,1,sad,a,"], "longlong' is not a file: check the path"),
    ],
)
def test_what_is_wrong_in_a_row_is_named(dialogue, rows, message):
    with pytest.raises(CorpusError) as caught:
        scan(dialogue, "\n".join([HEADER, *rows]))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("table", "yaml", "message"),
    [
        (
            "path,wav,label\na,b,c",
            "",
            "'path' and 'wav' could each be the file: write `columns: {path: file, wav: null}`",
        ),
        ("file,Spk,actor,label\na,b,c,d", "", "'Spk' and 'actor' could each be the speaker"),
        ("file,text\na,b", "", "lacks the column 'label', it has 'file', 'text'"),
        ("file,label\na,b", "columns: {Actor: speaker}", "columns names 'Actor', and '"),
        ("file,label\na,b", "columns: {label: emotion}", "'label' maps to 'emotion': choose of file, label, speaker"),
        ("file,label\na,b", "columns: {file: label, label: label}", "columns maps two columns to 'label'"),
        ("file,label,channel\ntalk.wav,sad,1", "", "channel '1' of 'talk': speech or song is expected"),
    ],
)
def test_columns_that_fit_nothing_are_named(dialogue, table, yaml, message):
    with pytest.raises(CorpusError) as caught:
        scan(dialogue, table, yaml)
    assert message in str(caught.value)


def test_columns_go_with_a_table(dialogue):
    (dialogue / "spec.yaml").write_text("corpus: x\nfolder: .\ncolumns: {a: file}\n")
    with pytest.raises(CorpusError, match="columns are those of a csv"):
        custom.Description.read(dialogue / "spec.yaml")


def test_a_stretch_beyond_the_recording_ends_the_build(dialogue):
    scan(dialogue, "file,start,end,label\ntalk.wav,1000,2000,sad\n")
    with pytest.raises(
        audio.AudioError, match=r"talk.wav' is 4.000 s long, and has no stretch from 1000.000 s to 2000"
    ):
        dataset.build(dialogue / "built", descriptions=[dialogue / "spec.yaml"])
    assert not (dialogue / "built").exists()


def test_sound_that_segments_share_is_said(dialogue):
    table = [HEADER, "talk.wav,0,2,sad,F,", "talk.wav,1,3,sad,M,", "talk.wav,1.5,1.9,sad,M,", "word.wav,,,sad,F,"]
    assert scan(dialogue, "\n".join(table)).notes[1] == (
        "x: 2 stretches overlap an earlier one of their file, 2 of them that of another speaker: "
        "what they share can stand on two sides of a split"
    )


def test_a_speaker_for_each_clip_is_remarked_on(dialogue):
    rows = [f"talk.wav,{n / 4},{n / 4 + 0.25},sad,{n}," for n in range(10)]
    notes = scan(dialogue, "\n".join([HEADER, *rows])).notes
    assert notes == ["x: 10 speakers", "x: each clip has a speaker of its own: check how speakers are named"]
