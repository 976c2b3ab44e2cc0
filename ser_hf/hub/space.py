"""A Space: a repository that serves a model's page on the Hub, and wherever it is copied to."""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitInfo, SpaceCardData

from ser_hf import BUNDLED_MODEL
from ser_hf.errors import UserError
from ser_hf.hub import repositories
from ser_hf.utils import templates

_EXTRAS = ("ffmpeg",)

_APP = '''"""Serve the page and the API of {model}; further flags go to `ser-hf app`, too."""

import os
import sys

from ser_hf.cli.main import main

MODEL = ["--model", "{model}", "--revision", "{commit}"]
EVERYWHERE = ["--host", "0.0.0.0", "--port", "7860"]
SHOWN_BY = ["--allowed_origin", "https://huggingface.co"]  # the Hub's page shows this one in a frame
os.environ.setdefault("FORWARDED_ALLOW_IPS", "*")  # visitors come through the Hub's proxy alone, which names them

if __name__ == "__main__":
    sys.exit(main(["app", *MODEL, *EVERYWHERE, *SHOWN_BY, *sys.argv[1:]]))
'''


class PushedSpace(NamedTuple):
    """A Space on the Hub."""

    commit: CommitInfo
    """Its address, with the attributes `oid` and `repo_url`."""

    secret: str | None
    """What still has to be set there, in one line; None where it runs as it is."""


def check_space(space: str) -> None:
    """Refuse a name, or an installation without versions to pin, before anything is pushed.

    Raises:
        UserError: if no Space can be called so, or as `requirements`.
    """
    repositories.check_name(space, "space")
    requirements()


def push_space(
    model: str, space: str, private: bool = True, revision: str | None = None, checked: bool = False
) -> PushedSpace:
    """Push a Space that serves one commit of a model, in one commit.

    Files of an earlier push that are not among the new ones are deleted.

    Args:
        model: a Hub id.
        space: `owner/name`, or a name under the account of the token; created where it does not
            exist.
        private: refuse a Space that anyone can see.
        revision: a branch, tag or commit of the model; main if None.
        checked: the model is known to be a trained classifier, so that it need not be loaded to see
            that.

    Raises:
        UserError: for a model that is not on the Hub or could not answer, packages that are not
            installed, or as `repositories.commit_files`. Then nothing is committed.
    """
    check_space(space)
    info = repositories.find_model(model, revision)
    if not checked:
        from ser_hf.models import loading

        loading.load_for_prediction(info.id, info.sha)
    closed = "private" if info.private else "gated" if info.gated else None
    name = repositories.full_name(space)
    commit = repositories.commit_files(space_files(info.id, info.sha, name, closed), name, private, "space")
    if closed is None:
        return PushedSpace(commit, None)
    settings_url = f"{commit.repo_url}/settings"
    message = f"'{info.id}' is {closed}: in {settings_url} set the secret HF_TOKEN to a token that may read it"
    return PushedSpace(commit, message)


def requirements() -> list[str]:
    """The package's requirements at the installed versions, torch and torchaudio first.

    What is in `ffmpeg` is among them as far as it is installed, so that the Space decodes
    recordings as this machine does.

    Raises:
        UserError: if the package runs from a folder without being installed, or lacks what it
            needs.
    """
    names = []
    try:
        for line in distribution("ser-hf").requires or []:
            name, extra = (
                re.split(r"[^\w.-]", line, maxsplit=1)[0],
                re.search(r"extra == '([\w-]+)'", line.replace('"', "'")),
            )
            if extra is None or (extra[1] in _EXTRAS and _installed(name)):
                names.append(name)
        names.sort(key=lambda name: (name not in ("torch", "torchaudio"), name))
        # pip finds no local version such as 2.11.0+cpu on the package index
        return [f"{name}=={version(name).partition('+')[0]}" for name in names]
    except PackageNotFoundError as error:
        raise UserError(f"'{error.name}' is not installed, so it has no version to pin: pip install -e .") from error


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def space_files(model: str, commit: str, space: str, closed: str | None = None) -> dict[str, Path | bytes]:
    """All that a Space holds, by name: its page, what that needs, and this package.

    Args:
        model: a Hub id.
        commit: of the model.
        space: its full name.
        closed: `private` or `gated` where reading the model takes a token.

    Raises:
        UserError: as `requirements`.
    """
    pins = requirements()
    package = Path(__file__).parents[1]
    source = [path for path in sorted(package.rglob("*")) if path.is_file() and _is_source(path.relative_to(package))]
    files: dict[str, Path | bytes] = {f"ser_hf/{path.relative_to(package).as_posix()}": path for path in source}
    # `utils.templates` looks there first; in a checkout they lie beside the package
    files |= {f"ser_hf/cards_templates/{path.name}": path for path in sorted(templates.TEMPLATES.glob("*.jinja"))}
    page = {
        "LICENSE": distribution("ser-hf").read_text("licenses/LICENSE") or "Apache-2.0\n",
        "README.md": _card(model, pins, commit=commit, space=space, closed=closed),
        "app.py": _APP.format(model=model, commit=commit),
        "requirements.txt": "\n".join(["# torch and torchaudio are built as a pair", *pins, ""]),
    }
    return files | {name: text.encode() for name, text in page.items()}


def _is_source(path: Path) -> bool:
    """Whether a file of the package goes into a Space; the bundled model has another licence."""
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and "__pycache__" not in path.parts and BUNDLED_MODEL.name not in path.parts


def _card(model: str, pins: list[str], **values: Any) -> str:
    data = SpaceCardData(
        title=f"Speech emotion: {model.rpartition('/')[2]}",
        emoji="🎤",
        sdk="gradio",
        sdk_version=next(pin for pin in pins if pin.startswith("gradio==")).removeprefix("gradio=="),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        models=[model],
        license="apache-2.0",
        short_description="Which emotion does a voice express?",
        tags=["speech-emotion-recognition", "audio-classification", "ser_hf"],
    )
    return templates.render_card("space.md.jinja", data, model=model, **values)
