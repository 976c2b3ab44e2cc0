"""The command line: what a user gets for a mistake, and how fast it is."""

import contextlib
import json
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from helpers import programs
from helpers.small import ROOT

import ser_hf
from ser_hf.cli.main import COMMANDS, main

LIGHT = """
import sys
import ser_hf
from ser_hf.cli.main import COMMANDS, main
for command in ("", *COMMANDS):
    words = [*command.split(), "--help"]
    try:
        main(words)
    except SystemExit:
        pass
heavy = {"torch", "transformers", "datasets", "gradio", "sklearn", "matplotlib"} & set(sys.modules)
print("loaded:", sorted(heavy))
"""


def test_import_and_help_load_nothing_heavy():
    run = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "loaded: []"
    for command in COMMANDS:
        assert f"  {command} " in run.stdout
    assert "--protocol" in run.stdout


def test_the_package_gives_its_names():
    assert ser_hf.split.__module__ == "ser_hf.protocols.splitting"
    assert ser_hf.Predictor.__module__ == "ser_hf.inference.predictor"
    for name in ser_hf.__all__:
        assert getattr(ser_hf, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ser_hf.nonsense


def test_predict_prints_or_writes_json_lines(tuned, recordings, tmp_path, capsys):
    files = [str(path) for path in sorted(recordings[0].rglob("*-22.wav"))[:3]]
    assert main(["predict", "--model", str(tuned), *files]) == 0
    printed = capsys.readouterr().out
    assert main(["predict", "--model", str(tuned), *files, "--output", str(tmp_path / "p.jsonl")]) == 0
    assert (tmp_path / "p.jsonl").read_text() == printed
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]
    predictions = [json.loads(line) for line in printed.splitlines()]
    for file, prediction in zip(files, predictions, strict=True):
        assert list(prediction) == ["file", "label", "score", "scores", "abstained", "duration", "segments"]
        assert file.endswith(prediction["file"])
        assert len(prediction["scores"]) == 8
        assert sum(prediction["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert prediction["score"] == max(prediction["scores"].values()) == prediction["scores"][prediction["label"]]
        assert prediction["duration"] == pytest.approx(soundfile.info(file).duration, abs=1e-3)
        assert prediction["segments"][0]["end"] == prediction["duration"]


@pytest.fixture
def mistakes(tmp_path, recordings):
    """What users hand over by mistake, by name."""
    text = tmp_path / "ravdess-of-text" / "03-01-01-01-01-01-01.wav"
    text.parent.mkdir()
    text.write_text("this is no sound")
    silent = tmp_path / "ravdess-of-nothing" / "03-01-01-01-01-01-01.wav"
    silent.parent.mkdir()
    soundfile.write(silent, np.zeros(0), 16_000)
    (tmp_path / "empty").mkdir()
    return {"text": text, "silent": silent, "empty": tmp_path / "empty", "missing": tmp_path / "missing"}


def test_bad_recordings_end_the_build_in_one_line(mistakes, recordings, fails, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    out = ("--output", tmp_path / "out")
    for folder, message in (
        (mistakes["missing"], "does not exist"),
        (mistakes["empty"], "holds no recordings"),
        (mistakes["text"].parent, f"'{mistakes['text']}' is not audio that can be read"),
        (mistakes["silent"].parent, f"'{mistakes['silent']}' is 0.000 s long"),
        (recordings[1], "holds 28 recordings of tess and none of ravdess: pass it as --tess"),
    ):
        line = fails("data", "--ravdess", folder, *out)
        assert message in line
        assert str(folder) in line
        assert sorted(tmp_path.rglob("*")) == before
    assert "no recordings given" in fails("data", *out)
    assert "leave out --ravdess" in fails("data", "--synthetic", "--ravdess", recordings[0], *out)
    assert "--num_proc: '0' is not at least 1" in fails("data", "--ravdess", recordings[0], "--num_proc", "0", *out)


def test_bad_recordings_end_prediction_in_one_line(mistakes, tuned, fails, tmp_path):
    for kind in ("missing", "text", "silent", "empty"):
        line = fails("predict", "--model", tuned, mistakes[kind], "--output", tmp_path / "p.jsonl")
        assert str(mistakes[kind]) in line
        assert not (tmp_path / "p.jsonl").exists()


def test_places_that_cannot_be_written_end_in_one_line(tuned, recordings, built, models, fails, tmp_path):
    file = next(recordings[0].rglob("*.wav"))
    assert "name a file in a folder" in fails(
        "predict", "--model", tuned, file, "--output", tmp_path / "no" / "p.jsonl"
    )
    assert "name a file in a folder" in fails("predict", "--model", tuned, file, "--output", tmp_path)
    (tmp_path / "taken").write_text("")
    base = ("finetune", "--dataset", built, "--model", models["bert"])
    assert f"'{tmp_path / 'taken'}" in fails(*base, "--output_dir", tmp_path / "taken")
    assert "is no folder: choose another" in fails(
        "data", "--ravdess", recordings[0], "--output", tmp_path / "taken" / "d"
    )
    assert "--port is 70000" in fails("app", "--model", tuned, "--port", "70000")


def test_one_corpus_alone_is_refused_by_the_default_protocol(few, models, fails, tmp_path):
    assert main(["data", "--ravdess", str(few.parent / "ravdess"), "--output", str(tmp_path / "ravdess")]) == 0
    base = ("finetune", "--dataset", tmp_path / "ravdess", "--model", models["bert"], "--output_dir", tmp_path / "m")
    assert "protocol 'speaker' needs tess, the dataset holds ravdess" in fails(*base)
    assert "needs tess" in fails(*base, "--protocol", "tess-oaf-yaf")
    assert not (tmp_path / "m").exists()


def test_unknown_names_end_in_one_line(built, tuned, models, fails, tmp_path):
    tune = ("finetune", "--dataset", built, "--model", models["bert"], "--output_dir", tmp_path / "m")
    test = ("evaluate", "--dataset", built, "--output", tmp_path / "e")
    for line, message in (
        (fails(*tune, "--protocol", "speakers"), "'speakers' is no protocol: did you mean 'speaker'? Choose one of"),
        (fails(*tune, "--protocol", "luna-ravdess", "--fold", "9"), "folds are 0 to 4"),
        (fails(*tune, "--fold", "one"), "--fold is 'one': a number from 0, or all, is needed"),
        (fails("finetune", "--dataset", tmp_path, "--model", "tiny"), "is no dataset"),
        (fails("finetune", "--dataset", built, "--model", tmp_path / "no" / "model"), "does not exist"),
        (fails(*test, "--model", tuned, "--protocol", "speakers"), "is no protocol"),
        (fails(*test, "--model", tuned, "--fold", "some"), "--fold is 'some': a number from 0, or all, is needed"),
        (fails(*test, "--model", tmp_path), "holds no config.json"),
        (fails("predict", "--model", tuned), "the following arguments are required: FILE"),
        (fails("app", "--model", tmp_path / "a" / "b"), "does not exist"),
        (fails("trian"), "'trian' is no command"),
    ):
        assert message in line
    assert not (tmp_path / "m").exists()
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("predct clip.wav", "'predct' is no command: did you mean 'predict'? `ser-hf` lists all"),
        ("trian", "'trian' is no command: did you mean 'pretrain'?"),
        ("fine-tune --model tiny", "'fine-tune' is no command: did you mean 'finetune'?"),
        ("xyz", "'xyz' is no command: choose one of predict, app, label"),
        ("data split --dataset d", "'data split' is no command: did you mean 'data splits'?"),
        ("README.md --model m", "'README.md' is no command: did you mean `ser-hf predict README.md --model m`?"),
        ("docs --output o", "'docs' is no command: did you mean `ser-hf label docs --output o`?"),
        ("predict clip.wav --outpt o", "'--outpt' is no flag of ser-hf predict, did you mean --output? (see"),
        ("finetune --dataset d --outputdir o", "is no flag of ser-hf finetune, did you mean --output_dir? (see"),
        ("finetune --dataset d --lerning_rate=1", "is no flag of ser-hf finetune, did you mean --learning_rate? (see"),
        ("evaluate --model m --dataset d --output o --zzz", "'--zzz' is no flag of ser-hf evaluate (see"),
        ("predict README.md --backend onx", "'onx' is no backend: did you mean 'onnx'? Choose one of auto, torch"),
        ("baseline mfcc-swm --dataset d --output o", "'mfcc-swm' is no baseline: did you mean 'mfcc-svm'? Choose one"),
    ],
)
def test_what_was_meant_is_said(words, meant, fails, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert meant in fails(*words.split())


@pytest.mark.parametrize("name", ["my clip.wav", "it's.wav", "a&b.wav"])
def test_what_was_meant_can_be_pasted(name, fails, tmp_path):
    (tmp_path / name).touch()
    line = fails(str(tmp_path / name), "--output", "o")
    assert shlex.split(line.partition("`")[2].partition("`")[0])[1:] == [
        "predict",
        str(tmp_path / name),
        "--output",
        "o",
    ]


@pytest.mark.parametrize("words", ["audit splits", "label splits --output o", "predict splits"])
def test_a_path_is_no_mistyped_command(words, fails, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "is no command" not in fails(*words.split())


@pytest.mark.parametrize("command", ["audit", "label", "predict"])
def test_an_interrupt_is_a_line(command, monkeypatch, capsys):
    def interrupted(line):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, command, interrupted)
    assert main([command]) == 130
    assert capsys.readouterr().err == "ser-hf: interrupted\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal(command, capsys):
    with contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert any(line.strip().startswith(f"ser-hf {command}") for line in lines)


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ser-hf {ser_hf.__version__}\n"


def test_a_model_folder_without_weights_ends_in_one_line(tuned, built, recordings, fails, tmp_path):
    folder = tmp_path / "weightless"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((tuned / name).read_bytes())
    file = next(recordings[0].rglob("*.wav"))
    for words in (
        ("predict", "--model", folder, file),
        ("evaluate", "--model", folder, "--dataset", built, "--output", tmp_path / "e"),
        ("finetune", "--model", folder, "--dataset", built, "--output_dir", tmp_path / "m"),
        ("app", "--model", folder),
    ):
        assert f"'{folder}' holds no weights" in fails(*words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weightless"]


def test_scripts_end_with_the_exit_code(tmp_path):
    script = ROOT / "scripts" / "build_dataset.py"
    run = programs.run([script, "--ravdess", tmp_path / "x", "--output", tmp_path / "o"])
    assert run.returncode == 2
    assert run.stderr.strip() == f"ser-hf: '{tmp_path / 'x'}' does not exist: check the path"


NO_FFMPEG = """
import re, sys
sys.modules["av"] = sys.modules["torchcodec"] = None  # the bindings of FFmpeg
from matplotlib.figure import Figure
from ser_hf.cli.main import main
Figure.savefig = lambda figure, path, **how: open(path, "wb").close()  # a still picture takes long, and no FFmpeg
recordings, tess, out = sys.argv[1:4]
assert main(["data", "--ravdess", recordings, "--tess", tess, "--output", out + "/data"]) == 0
words = f"finetune --dataset {out}/data --model {sys.argv[4]} --output_dir {out}/model --num_train_epochs 1"
assert main([*words.split(), "--bf16", "false"]) == 0
assert main(f"evaluate --dataset {out}/data --model {out}/model --output {out}/evidence".split()) == 0
assert main(["predict", "--model", out + "/model", *sys.argv[5:]]) == 0
from ser_hf.app import page
from ser_hf.inference.predictor import Predictor
page.build_page(Predictor(out + "/model"))
mapped = open("/proc/self/maps").read()
print(re.findall(r"/lib(?:avcodec|avformat|avutil|swresample)\\S*", mapped) or "NONE")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc to see which libraries are loaded")
def test_the_whole_way_needs_no_ffmpeg(recordings, few, models, tmp_path):
    """No `ffmpeg` program can be found, its Python bindings are hidden, and none of its libraries
    is ever loaded."""
    samples, rate = soundfile.read(next(recordings[0].rglob("*.wav")))
    files = []
    for suffix, kind in ((".flac", {}), (".mp3", {}), (".ogg", {}), (".opus", {"format": "OGG", "subtype": "OPUS"})):
        soundfile.write(tmp_path / f"a{suffix}", samples, rate, **kind)
        files.append(tmp_path / f"a{suffix}")
    corpora = (few.parent / "ravdess", recordings[1])
    words = ["-c", NO_FFMPEG, *corpora, tmp_path, models["bert"], *files]
    run = programs.run(words, {"PATH": "", "HF_HUB_OFFLINE": "1"}, ROOT, ours=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines()[-1] == "NONE"
    assert run.stdout.count('"label"') == 4 * 2  # a prediction holds it, and so does its segment


def test_a_caller_gets_its_signal_handler_back(capsys):
    def own(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, own)
    try:
        assert main(["--help"]) == 0
        assert main(["nothing"]) == 2
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
