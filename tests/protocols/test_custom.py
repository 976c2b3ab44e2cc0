from dataclasses import replace

import pytest
from helpers.small import ROOT
from helpers.splits import actors, changed, picked, speakers

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.evaluation.results import Results
from ser_hf.protocols import LeakError, ProtocolError


def test_conditions_pick_the_rows_they_name(rows, custom):
    split = custom("""
        test: {speaker: [ravdess-01, ravdess-02], label: [happy, sad], statement: 2, repetition: [1]}
        validation: {corpus: ravdess, sex: male, file: [03-01-04-01-01-01-23, 03-01-04-01-01-01-21.wav]}
        train:
          - {speaker: tess-oaf, label: angry, channel: speech}
          - {speaker: ravdess-05, intensity: normal, statement: [1, 2]}""")
    assert split.test == picked(rows, speaker=actors(1, 2), label=[2, 3], statement=["2"])
    assert split.validation == picked(rows, speaker=actors(21, 23), label=[3], statement=["1"])
    assert split.train == sorted(picked(rows, speaker=["tess-oaf"], label=[4]) + picked(rows, speaker=actors(5)))
    assert (split.name, split.fold, split.warning) == ("custom:mine", 0, None)


def test_a_file_can_repeat_a_standard_protocol(rows, custom):
    test = {"speaker": ["ravdess-21", "ravdess-22", "ravdess-23", "ravdess-24", "tess-yaf"]}
    validation = {"speaker": [f"ravdess-{actor}" for actor in range(17, 21)]}
    split = custom({"name": "speaker", "test": test, "validation": validation}, ".json")
    assert split.name == "custom:speaker"
    assert replace(split, name="speaker") == protocols.split(rows)
    sides = {"train": split.train, "validation": split.validation, "test": split.test}
    lines = [f"{rows['file'][i]},{side}" for side, indices in sides.items() for i in indices[::-1]]
    listed = custom("\n".join(["file,side", *lines]).replace("-17.wav", "-17"), ".csv")
    assert replace(listed, name="speaker") == protocols.split(rows)
    fewer = custom(
        "\n".join(["file,side", *(line for line in lines if "tess" not in line and "OAF" not in line)]), ".CSV"
    )
    assert fewer.train == picked(rows, speaker=actors(*range(1, 17)))


def test_folds_in_a_file(rows, tmp_path):
    page = ROOT / "docs" / "protocols.md"
    file = tmp_path / "page.yml"
    file.write_text(page.read_text().split("```yaml\n")[1].split("```")[0])
    first, second = protocols.folds(rows, str(file))
    assert (first.name, first.fold, second.fold) == ("custom:two-men", 0, 1)
    assert first.test == picked(rows, speaker=actors(1, 3))
    few = picked(rows, speaker=actors(7, 9), label=[0, 2, 3])
    assert first.train == sorted(picked(rows, corpus=["ravdess"], sex=["female"]) + few)
    assert (second.test, second.validation) == (picked(rows, speaker=actors(7, 9)), picked(rows, speaker=actors(11)))
    assert sorted(second.train + second.validation + second.test) == list(range(len(rows)))
    with pytest.raises(ProtocolError, match="fold 2 is not in 'custom:two-men': its folds are 0 to 1"):
        protocols.split(rows, str(file), 2)
    sides = (("YAF_bar_sad", "test"), ("OAF_bar_sad", "train"))
    table = [f"{fold},{name},{side}" for fold in (1, 0) for name, side in sides]
    table += ["0,03-01-01-01-01-01-01,validation", "1,03-01-01-01-01-01-02,validation"]
    (tmp_path / "list.csv").write_text("\n".join(["fold,file,side", *table]))
    listed = protocols.folds(rows, str(tmp_path / "list.csv"))
    assert [speakers(rows, split.validation) for split in listed] == [actors(1), actors(2)]


def test_leaks_in_a_file_are_refused_unless_it_allows_them(rows, custom):
    leaky = "{test: {speaker: ravdess-01, statement: 1}, validation: {speaker: ravdess-02}, leaks: %s}"
    with pytest.raises(
        LeakError, match=r"'custom:mine' leaks: ravdess-01 in train and in test; put each .*leaks: true"
    ):
        custom(leaky % "false")
    with pytest.raises(LeakError, match="leaks: ravdess-03 in train and in validation"):
        custom("{test: {speaker: ravdess-01}, validation: {speaker: ravdess-03, statement: 1}}")
    split = custom(leaky % "true")
    assert split.warning.startswith("protocol 'custom:mine' leaks: 1 of 1 test speakers are also in training or valid")
    assert split.held_apart == ("samples",)
    same = changed(rows, "sha256", rows["file"][split.test[0]], rows["sha256"][split.train[0]])
    with pytest.raises(LeakError, match="hold the same samples, in train and in test"):
        custom(leaky % "true", data=same)
    shared = "{test: {speaker: tess-yaf}, validation: {speaker: tess-oaf, statement: bar}, leaks: true}"
    assert custom(shared).held_apart == ("speakers", "samples")
    assert custom(shared).warning is None


TEST, VALIDATION = "test: {speaker: tess-yaf}\n", "validation: {speaker: tess-oaf}\n"
TWICE = "file,side\nYAF_bar_sad,test\nYAF_bar_sad.wav,train\nOAF_bar_sad,validation"
WRONG = [
    (".yaml", TEST, "': validation is missing: without it checkpoints would be chosen on the test"),
    (".yaml", VALIDATION, "': test is missing"),
    (".yaml", TEST + VALIDATION + "tests: 1", "has 'tests': its keys are name, needs, leaks, folds"),
    (".yaml", TEST + VALIDATION + "leaks: maybe", "leaks is 'maybe': true or false is expected"),
    (".yaml", TEST + VALIDATION + "needs: [emodb]", "'custom:mine' needs emodb, the dataset holds ravdess, tess"),
    (".json", {"needs": 1}, r"needs\[0\] is 1: a text is expected"),
    (".json", {"name": 7}, "name is 7: a text is expected"),
    (".yaml", TEST + "folds: []", "test stands beside folds"),
    (".json", {"name": " "}, "name is ' ': one line of text is expected"),
    (".yaml", "folds: [words]", r"folds\[0\] is 'words': a mapping is expected"),
    (".yaml", "folds: []", r"folds is \[\]: expected a list"),
    (".yaml", "folds: [{test: {speaker: tess-yaf}}]", r"': folds\[0\].validation is missing"),
    (".yaml", "just words", "has no keys: its keys are name, needs"),
    (".yaml", "test: [}", "cannot be read: while parsing"),
    (".json", "{", "cannot be read: Expecting"),
    (".yaml", TEST + "validation: tess-oaf", r"validation\[0\] is 'tess-oaf': a mapping is expected"),
    (".yaml", TEST + "validation: []", r"validation is \[\]: it must not be empty"),
    (
        ".yaml",
        VALIDATION + "test: {actor: 1}",
        r"test\[0\].actor is 'actor': one of 'corpus', 'channel', ",
    ),
    (".yaml", VALIDATION + "test: {speaker: }", r"test\[0\].speaker\[0\] is '': a text is expected"),
    (
        ".json",
        {"test": {"sex": True}, "validation": {"sex": "male"}},
        r"test\[0\].sex\[0\] is True: a text is expected",
    ),
    (".yaml", VALIDATION + "test: {label: joy}", "test.label 'joy' matches no .* of the dataset's angry, calm"),
    (".yaml", VALIDATION + "test: {file: a.wav}", "test.file 'a.wav' matches no .*03-01-01-01-01-01-01.wav"),
    (".yaml", VALIDATION + "test: {speaker: tess-yaf, label: calm}", "one with speaker tess-yaf and label calm"),
    (
        ".yaml",
        TEST + VALIDATION + "train: {corpus: tess}",
        "train takes YAF_back_angry.wav, as test .* leave train out",
    ),
    (".yaml", TEST + VALIDATION + "train: {file: OAF_bar_sad}", "train takes OAF_bar_sad.wav, as validation does"),
    (".yaml", TEST + "validation: {statement: bar}", "validation takes YAF_bar_angry.wav, as test does"),
    (".yaml", "test: {corpus: tess}\nvalidation: {corpus: ravdess}", "'custom:mine' fold 0 leaves train empty"),
    (".csv", "file,side,folds\na,b,c\n", "has the columns file, side, folds: expected file, side and, if any, fold"),
    (".csv", "", "is empty: its first line must name the columns"),
    (".csv", "file,side\n", r"has no rows below its header \(file, side\)"),
    (".csv", "file;side\n;test\n", "line 2 names no file: name one, or remove the line"),
    (".yaml", "\n \n", "is empty: write its keys"),
    (".csv", "file,side\nYAF_bar_sad,tset\n", "line 2: side is 'tset': expected train, validation or test"),
    (".csv", "file,side\nYAF_bar_sad\n", "line 2: side is ''"),
    (".csv", "file,side,fold\nYAF_bar_sad,test,one\n", "line 2: fold is 'one': expected a number from 0"),
    (".csv", "file,side,fold\nYAF_bar_sad,test,1\n", "lists the folds 1: expected 0, 1"),
    (".csv", "file,side\nYAF_bar_sad,test\n", "fold 0 lists no train: expected all of train, validation and test"),
    (".csv", "file,side\na,test\nb,train\nc,train\nd,validation", "'a', 'b', 'c' …: 4 not in the dataset"),
    (".csv", TWICE, "YAF_bar_sad.wav is listed twice in a fold"),
]


@pytest.mark.parametrize(("ending", "text", "message"), WRONG)
def test_what_is_wrong_in_a_file_is_named(custom, ending, text, message):
    with pytest.raises(ProtocolError, match=message) as error:
        custom(text, ending)
    assert "\n" not in str(error.value)
    assert "mine" in str(error.value)


def test_a_file_that_is_not_there(rows, tmp_path):
    with pytest.raises(ProtocolError, match=r"absent.yaml' is not a file: check the path"):
        protocols.split(rows, str(tmp_path / "absent.yaml"))
    with pytest.raises(ProtocolError, match=r"or a .yaml, .json or .csv file"):
        protocols.split(rows, "absent.toml")


@pytest.mark.usefixtures("undrawn")
def test_a_file_is_a_protocol_for_training_and_testing(few, models, tmp_path):
    """A model of the first of two folds is tested on it. The second is refused: the model was
    trained on its speaker."""
    text = """
        name: own
        folds:
          - test: {speaker: ravdess-01}
            validation: {speaker: ravdess-02}
          - test: {speaker: ravdess-03}
            validation: {speaker: ravdess-04}"""
    (tmp_path / "own.yaml").write_text(text)
    own = ["--protocol", str(tmp_path / "own.yaml"), "--dataset", str(few)]
    fast = ["--num_train_epochs", "1", "--bf16", "false", "--patience", "0", "--output_dir", str(tmp_path / "m")]
    assert main(["finetune", *own, "--model", str(models["bert"]), *fast]) == 0
    results = Results.load(tmp_path / "m" / "results.json")
    assert (results.protocol, results.fold, results.n) == ("custom:own", 0, 8)
    assert results.headline().startswith("custom:own fold 0: UAR")
    test = ["evaluate", *own, "--model", str(tmp_path / "m"), "--output"]
    assert main([*test, str(tmp_path / "e")]) == 0
    assert Results.load(tmp_path / "e" / "results.json").protocol_hash == results.protocol_hash
    assert main([*test, str(tmp_path / "e2"), "--fold", "1"]) == 2
    assert not (tmp_path / "e2").exists()
