"""Every command and every Python block of README.md, docs/ and --help is run: here, or elsewhere.

Commands of ours run here as they stand, in a folder that holds what the pages suppose, beside a
Hub. `CUTS` says what is made smaller for that. `ELSEWHERE` says what runs all others. A command
that nothing runs fails.
"""

import json
import os
import re
import shutil

import pytest
import soundfile
from helpers import programs
from helpers.commands import RUN, SHELLS, blocks, shell_commands, words_of_ours
from helpers.loopback_hub import Hub
from helpers.loopback_repo import Commit, Repo
from helpers.small import ROOT, make_whisper

from ser_hf.app.web_site import RUNTIME_FILES
from ser_hf.cli.main import COMMANDS

ELSEWHERE = {
    r"(taskset -c 0 )?python (benchmarks|studies)/\w+\.py .*": "tests/end_to_end/test_benchmarks.py::test_help",
    r"accelerate launch --config_file .*|torchrun .*": "tests/training/test_configs.py::test_two_cpu_starts_two",
    r"(uv build|hf jobs uv run .*)": "tests/scripts/test_jobs.py::test_a_job_is_the_command",
    r"ser-hf data .*--download.*": "tests/data/test_download.py::test_both_archives_arrive",
    r"ser-hf doctor.*": "tests/cli/test_doctor.py",
    r"ser-hf evaluate .*--also all.*": "tests/evaluation/test_run.py",
    r"ser-hf label .*--engine ray.*": "tests/inference/bulk/test_ray_engine.py",
    r"ser-hf leakage-curve .*": "tests/experiments/test_leakage_curve.py",
    r"ser-hf soup .*": "tests/experiments/test_soup.py",
    r"cd runs/page|python -m http\.server 8000": "tests/web/test_page.py::test_upload_and_read_the_answer",
    r"curl .*/health": "tests/end_to_end/test_docs.py::test_curl",
    r"make quickstart.*": "scripts/quickstart.py",
    r"make \.venv/ready|source \.venv/bin/activate|cd web": "Makefile",
    r"npm audit|uvx pip-audit .*|uv pip install --torch-backend .*": "by hand: it asks a server",
    r"pip (install|download) .*|make wheel": "tests/scripts/test_check_wheel.py",
    r"make versions .*|python scripts/maintain/check_versions\.py .*": "scripts/maintain/check_versions.py",
    r"xvfb-run -a python benchmarks/web_engines\.py .*": "benchmarks/web_engines.py",
    r"make release VERSION=.*": "tests/scripts/test_release.py",
    r"(python3 -m venv|\S+/pip install|install -D|systemctl|podman) .*": "tests/end_to_end/test_deployment.py",
}
"""What runs commands of the pages that are not run here: a test, a script, or a person."""

WHOLE_PAGES = {
    "extending.md": "tests/end_to_end/test_extending.py",
    "in_your_code.md": "tests/end_to_end/test_docs.py",
}
"""Pages of which a test runs all."""

PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in WHOLE_PAGES)]

CUTS = [
    (r"finetune (?!.*(whisper-base|bundled_model)\.yaml).*", "--max_steps 1 --bf16 false --report_to none"),
    (r"finetune .*configs/.*|finetune config\.yaml.*", "--fold 0 --threads 1"),
    (r"pretrain .*", "--epochs 1 --bf16 false"),
    (r"finetune (?!.*--output_dir)(?!config\.yaml).*", "--output_dir runs/default"),
    (r"(export|push) .*--web.*", "--runtime runtime"),
]
"""Flags that a command gets here beside its own, so that it takes little time."""

SMALLER = {"tiny": "runs/untrained", "small": "runs/untrained"}
"""Models that stand in for others."""


def of_pages():
    """Page and words of every shell command."""
    for page in PAGES:
        for block in blocks(page.read_text(), *SHELLS):
            yield from ((page.name, command) for command in shell_commands(block))
    for name, command in COMMANDS.items():
        examples = re.findall(r"^        (ser-hf .*)$", command.__doc__, re.MULTILINE)
        yield from ((f"ser-hf {name} --help", words) for example in examples for words in shell_commands(example))


def elsewhere(command):
    """What else runs a command, by its pattern; None where nothing does."""
    ours = words_of_ours(command)
    texts = [" ".join(command), *([" ".join(["ser-hf", *ours])] if ours else [])]
    return next((pattern for pattern in ELSEWHERE if any(re.fullmatch(pattern, text) for text in texts)), None)


def cut(words):
    """The words of a command of ours with which it is run here."""
    text = " ".join(words)
    more = " ".join(flags for pattern, flags in CUTS if re.fullmatch(pattern, text)).split()
    return [SMALLER.get(word, word) for word in words] + more


SHELL = list(of_pages())
HERE = {
    " ".join(cut(words_of_ours(command))): command
    for _, command in SHELL
    if words_of_ours(command) and not elsewhere(command)
}
"""Commands that are run here, each once, by what is run."""
PYTHON = [(page.name, block) for page in PAGES for block in blocks(page.read_text(), "python")]


def test_something_runs_every_command():
    assert [
        f"{page}: {' '.join(words)}" for page, words in SHELL if not (words_of_ours(words) or elsewhere(words))
    ] == []


def test_what_runs_commands_elsewhere_is_there_and_needed():
    used = {elsewhere(command) for _, command in SHELL}
    assert [pattern for pattern in ELSEWHERE if pattern not in used] == []
    for place in [*ELSEWHERE.values(), *WHOLE_PAGES.values()]:
        if place.startswith("by hand: "):
            continue
        path, _, test = place.partition("::")
        assert (ROOT / path).is_file(), place
        assert f"def {test}(" in (ROOT / path).read_text() if test else True, place


def test_every_command_of_ours_has_an_example():
    assert {
        name for name in COMMANDS if not re.search(rf"^        ser-hf {name}\b", COMMANDS[name].__doc__, re.M)
    } == set()


def test_a_command_that_nothing_runs_is_found():
    text = "```bash\nrm -r runs && ser-hf predict clip.wav   # no more\n```\n```python\nprint()\n```\n"
    (block,) = blocks(text, *SHELLS)
    remove, predict = shell_commands(block)
    assert (words_of_ours(remove), elsewhere(remove)) == (None, None)
    assert words_of_ours(predict) == ["predict", "clip.wav"]
    launch = "accelerate launch --cpu scripts/finetune.py --model \\\n  tiny"
    assert words_of_ours(next(shell_commands(launch))) == ["finetune", "--model", "tiny"]


@pytest.fixture(scope="module")
def place(trained, few, models, recordings, tmp_path_factory):
    """A folder with all that the pages suppose."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("runs", "path/to", "calls/may", "runtime"):
        (folder / name).mkdir(parents=True)
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "path" / "to" / "ravdess").symlink_to(few.parent / "ravdess")
    (folder / "path" / "to" / "tess").symlink_to(recordings[1])
    (folder / "runs" / "dataset").symlink_to(few)
    (folder / "runs" / "untrained").symlink_to(models["bert"])
    shutil.copytree(trained, folder / "runs" / "model")
    clip, *others = sorted(recordings[0].rglob("*.wav"))[::100]
    samples, rate = soundfile.read(clip)
    for name in ("clip.wav", "other.mp3", "more.wav", "meeting.mp3", "calls/a.wav", "an hour of talk.mp3"):
        shutil.copy(clip, folder / name)  # a format is read from the content
    shutil.copy(others[0], folder / "calls" / "may" / "b.wav")
    soundfile.write(folder / "03-01-05-02-01-01-24.opus", samples, rate, format="OGG", subtype="OPUS")
    (folder / "config.yaml").write_text("dataset: runs/dataset\nmodel: runs/untrained\noutput_dir: runs/by_config\n")
    for name in RUNTIME_FILES:
        (folder / "runtime" / name).write_text("")
    return folder


@pytest.fixture(scope="module")
def outcomes(place, few, trained, models, tmp_path_factory):
    """Exit code and stderr of every command that is run here, then of every block."""
    contents = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    whisper = make_whisper(tmp_path_factory.mktemp("whisper"), seconds=30)
    group, dataset = models["group"], sorted((few / "data").glob("*.parquet"))
    with Hub() as hub:
        for name, files in (("facebook/wav2vec2-base", group), ("openai/whisper-base", whisper)):
            hub.repos["model"][name] = Repo(False, {path.name: path.read_bytes() for path in files.iterdir()})
        hub.repos["model"]["you/name"] = Repo(True, contents)
        hub.repos["model"]["you/name"].branches["v2"] = [Commit("1" * 40, "", contents)]
        for name in ("you/ten-thousand-hours", "you/ravdess-tess"):
            files = {f"data/{path.name}": path.read_bytes() for path in dataset}
            hub.repos["dataset"][name] = Repo(True, files)
        home = tmp_path_factory.mktemp("home")
        environment = hub.environment(home, HF_HOME=os.environ["HF_HOME"], HF_HUB_CACHE=str(home))
        jobs = [("command", cut(words_of_ours(command))) for command in HERE.values()]
        jobs += [("python", PRELUDE + block) for _, block in PYTHON]
        (home / "jobs.json").write_text(json.dumps(jobs))
        done = programs.run(["-c", RUN, home / "jobs.json"], environment, place, timeout=900)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(jobs), done.stderr[-2000:]
    return lines


PRELUDE = """
import numpy as np
said, acted, names, corpora = [0, 1, 1], [0, 1, 2], ["a", "b", "c"], ["ravdess", "ravdess", "tess"]
p = np.full((3, 8), 1 / 8)
"""
"""What blocks of docs/evidence.md take from their reader."""


@pytest.mark.parametrize("number", range(len(HERE)), ids=list(HERE))
def test_a_command_runs(number, outcomes):
    code, said = outcomes[number]
    asks_for_a_decision = list(HERE)[number].startswith("audit ")
    assert code in ((3,) if asks_for_a_decision else (0, None)), said


@pytest.mark.parametrize("number", range(len(PYTHON)), ids=[f"{page}: {block[:60]}" for page, block in PYTHON])
def test_a_block_runs(number, outcomes):
    code, said = outcomes[len(HERE) + number]
    assert code == 0, said
