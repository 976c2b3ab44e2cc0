"""A Space holds all that it needs to run, at the versions of this machine, and names the one model
that it serves."""

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
from helpers import programs
from helpers.clients import ser_hf
from helpers.loopback_hub import Repo
from helpers.loopback_repo import front_matter
from helpers.small import ROOT

from ser_hf import BUNDLED_MODEL
from ser_hf.cli import main
from ser_hf.errors import UserError
from ser_hf.hub import space
from ser_hf.hub.repositories import HubError
from ser_hf.utils import templates

MODEL, NAME, COMMIT = "you/voices", "you/voices-page", "5ca1ab1e" * 5


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}


@pytest.fixture
def files():
    return space.space_files(MODEL, COMMIT, NAME)


def text(files, name):
    return files[name].decode() if isinstance(files[name], bytes) else files[name].read_text()


def test_every_dependency_is_pinned_to_what_is_installed_and_the_package_is_not_asked_for(files):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    words = [*project["dependencies"], *extras["ffmpeg"]]
    names = {re.match(r"[\w.-]+", line)[0].replace("_", "-") for line in words}
    pins = [line for line in text(files, "requirements.txt").splitlines() if not line.startswith("#")]
    assert {pin.partition("==")[0].replace("_", "-") for pin in pins} == names
    assert pins[:2] == [
        f"torch=={version('torch').split('+')[0]}",
        f"torchaudio=={version('torchaudio').split('+')[0]}",
    ]
    assert all(pin == f"{(name := pin.partition('==')[0])}=={version(name).partition('+')[0]}" for pin in pins)
    assert "ser-hf" not in " ".join(pins)


def test_the_card_says_how_the_space_runs_and_what_it_serves(files):
    card = front_matter(text(files, "README.md"))
    assert f"gradio=={card['sdk_version']}" in text(files, "requirements.txt").splitlines()
    assert card == {
        "title": "Speech emotion: voices",
        "emoji": "🎤",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",  # 3.10 as a number would be 3.1
        "app_file": "app.py",
        "models": [MODEL],
        "license": "apache-2.0",
        "short_description": card["short_description"],
        "tags": ["speech-emotion-recognition", "audio-classification", "ser_hf"],
    }
    assert len(card["short_description"]) <= 60  # longer ones are refused by the Hub
    assert COMMIT in text(files, "README.md")
    assert "HF_TOKEN" not in text(files, "README.md")
    assert f'Client("{NAME}")' in text(files, "README.md")
    assert "secret `HF_TOKEN`" in text(space.space_files(MODEL, COMMIT, NAME, "private"), "README.md")
    assert "Apache License" in text(files, "LICENSE")


def test_the_app_is_started_with_the_model_and_what_the_command_line_adds(files, monkeypatch):
    words = []
    monkeypatch.setattr(main, "main", lambda argv: words.extend(argv) or 3)
    monkeypatch.setattr(sys, "argv", ["app.py", "--port", "8000"])
    with pytest.raises(SystemExit, match="3"):
        exec(compile(text(files, "app.py"), "app.py", "exec"), {"__name__": "__main__"})
    expected = ["app", "--model", MODEL, "--revision", COMMIT, "--host", "0.0.0.0", "--port", "7860"]
    expected += ["--allowed_origin", "https://huggingface.co", "--port", "8000"]
    assert words == expected


def test_the_package_is_in_it_whole_with_its_templates_and_nothing_besides(files):
    package = {name.removeprefix("ser_hf/") for name in files if name.startswith("ser_hf/")}
    source = ROOT / "ser_hf"
    left = {"__pycache__", BUNDLED_MODEL.name}  # a Space has a model of its own
    kept = [path for path in source.rglob("*") if path.is_file() and not left & set(path.parts)]
    packaged = {f"cards_templates/{path.name}" for path in (ROOT / "cards").iterdir()}
    assert package == {path.relative_to(source).as_posix() for path in kept} | packaged
    assert set(files) - {f"ser_hf/{name}" for name in package} == {"README.md", "LICENSE", "app.py", "requirements.txt"}
    for name in files:
        if name.endswith(".py"):
            ast.parse(text(files, name))


COPY = """
import json, sys
from ser_hf.errors import UserError
from ser_hf.hub import space
from ser_hf.utils import templates
made = space.space_files(*sys.argv[1:])
print(json.dumps([str(templates.TEMPLATES), sorted(made), made["README.md"].decode()]))
"""


def test_the_copy_finds_its_own_templates_as_a_wheel_does(files, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text(files, name))
    done = programs.run(["-c", COPY, MODEL, COMMIT, NAME], folder=tmp_path, ours=False)
    place, made, card = json.loads(done.stdout)
    assert place == str(tmp_path / "ser_hf" / "cards_templates")
    assert templates.TEMPLATES == ROOT / "cards"
    assert made == sorted(files)
    assert card == text(files, "README.md")


def test_each_push_is_one_commit_that_leaves_nothing_of_an_earlier_one(remote, call, tuned):
    remote.repos["model"][MODEL] = model = Repo(True, contents(tuned))
    remote.repos["space"][NAME] = repo = Repo(
        True, {"ser_hf/gone.py": b"", "ser_hf/page/gone.js": b"", "mine.txt": b""}
    )
    (first, secret), (again, _) = call(["space.push_space", MODEL, NAME], ["space.push_space", MODEL, "voices-page"])
    assert first == again == f"{remote.url}/spaces/{NAME}/commit/{repo.commits[-1].oid}"
    assert len(repo.commits) == 1
    assert repo.private
    assert set(repo.files) == {*space.space_files(MODEL, COMMIT, NAME), "mine.txt"}
    head = next(iter(model.heads()))
    assert f'"--revision", "{head}"' in repo.files["app.py"].decode()
    assert secret.startswith(f"'{MODEL}' is private: in ")
    assert f"/spaces/{NAME}/settings set the secret HF_TOKEN" in secret
    assert remote.token.encode() not in b"".join(repo.files.values())

    model.private = repo.private = False
    public, (_, nothing) = call(["space.push_space", MODEL, NAME], ["space.push_space", MODEL, NAME, False])
    assert public[0] == "HubError"
    assert "is public on the Hub" in public[1]
    assert nothing is None
    assert b"HF_TOKEN" not in repo.files["README.md"]


def test_a_space_of_what_cannot_answer_is_not_pushed(remote, call, tuned):
    config = json.loads((tuned / "config.json").read_text())
    config["id2label"] = {str(number): f"LABEL_{number}" for number in range(8)}
    nameless = contents(tuned) | {"config.json": json.dumps(config).encode()}
    remote.repos["model"] |= {MODEL: Repo(True, contents(tuned)), "you/nameless": Repo(True, nameless)}
    answers = call(
        ["space.push_space", "you/nameless", NAME],
        ["space.push_space", MODEL, NAME, True, "v9"],
        ["space.push_space", "you/nothing", NAME],
        ["space.push_space", MODEL, "other/page"],
        ["space.push_space", MODEL, "my page"],
    )
    says = ("labels without a meaning", "has no such revision", "has none of that name", "answered 403", "is no name")
    for (kind, line), expected in zip(answers, says, strict=True):
        assert kind in ("HubError", "ModelError")
        assert expected in line
        assert "\n" not in line
    assert remote.repos["space"] == {}


def test_packages_that_are_missing_are_left_out_or_named(monkeypatch):
    def missing(*names):
        def look(name):
            if name in names:
                raise PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr(space, "version", look)

    missing("av")
    assert not [pin for pin in space.requirements() if pin.startswith("av=")]
    missing("torchinfo")
    with pytest.raises(UserError, match="'torchinfo' is not installed, so it has no version to pin: pip install"):
        space.requirements()


def test_a_version_of_a_local_build_is_pinned_to_the_one_on_the_index(monkeypatch):
    monkeypatch.setattr(space, "version", lambda name: "2.11.0+cpu")
    assert space.requirements()[:2] == ["torch==2.11.0", "torchaudio==2.11.0"]


def test_a_bad_name_is_refused_before_anything_is_asked():
    with pytest.raises(HubError, match="'my page' is no name for a space"):
        space.check_space("my page")


def test_flags_that_do_not_fit_end_in_one_line(fails, tuned):
    assert f"--repo is missing: say where to push '{tuned}'" in fails("push", "--model", tuned)
    assert f"--repo is missing: say where to push '{tuned}'" in fails("push", "--model", tuned, "--space", NAME)
    assert "--repo is missing" in fails("push", "--model", MODEL)
    assert f"'{MODEL}' is no folder" in fails("push", "--model", MODEL, "--repo", MODEL, "--space", NAME)
    assert "'my page' is no name for a space" in fails("push", "--model", MODEL, "--space", "my page")


def test_a_space_alone_for_a_model_that_is_on_the_hub(remote, tuned, tmp_path):
    remote.repos["model"][MODEL] = model = Repo(True, contents(tuned))
    head = next(iter(model.heads().values()))
    model.branches["small"] = [head._replace(oid="1" * 40)]
    done = ser_hf(remote, tmp_path, "push", "--model", MODEL, "--revision", "small", "--space", NAME)
    assert done.returncode == 0, done.stderr
    space_line, secret = done.stdout.splitlines()
    assert space_line == f"space: {remote.url}/spaces/{NAME}/commit/{remote.repos['space'][NAME].commits[-1].oid}"
    assert secret.startswith(f"'{MODEL}' is private")
    assert "1" * 40 in remote.repos["space"][NAME].files["app.py"].decode()
    assert model.commits == []
