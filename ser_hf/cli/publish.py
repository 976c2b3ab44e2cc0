"""Commands that hand a model on: export and push."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ser_hf.cli.output import quiet_transformers
from ser_hf.cli.settings import CommandLine
from ser_hf.errors import UserError
from ser_hf.utils import files, progress

if TYPE_CHECKING:
    import numpy as np
    from huggingface_hub import CommitInfo


@dataclass
class PushSettings:
    """What `ser-hf push` pushes, and where to."""

    model: str = field(metadata={"metavar": "DIR|REPO", "help": "that fine-tuning wrote; or is on the Hub"})
    repo: str | None = field(
        default=None, metadata={"metavar": "REPO", "help": "owner/name; without it no model is pushed"}
    )
    revision: str | None = field(
        default=None,
        metadata={"metavar": "NAME", "help": "branch to push to; without --repo: branch, tag or commit"},
    )
    space: str | None = field(
        default=None, metadata={"metavar": "REPO", "help": "owner/name of a Space with the page of the model"}
    )
    web: str | None = field(
        default=None, metadata={"metavar": "REPO", "help": "owner/name of a static Space: the model in the browser"}
    )
    runtime: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "dist of onnxruntime-web, for --web; npm fetches it if not"}
    )
    public: bool = field(default=False, metadata={"help": "allow that anyone can read it"})
    allow_leaky: bool = field(
        default=False, metadata={"help": "allow figures of speakers seen in training; the card is stamped so"}
    )

    def __post_init__(self) -> None:
        if self.repo is None and self.web is None and (self.is_local or self.space is None):
            raise UserError(f"--repo is missing: say where to push '{self.model}'")
        if self.space is not None and self.repo is None and self.is_local:
            raise UserError(f"--repo is missing: a --space needs '{self.model}' on the Hub")
        if self.repo is not None and not self.is_local:
            remedy = "check the path, or leave out --repo for a --space of a model on the Hub"
            raise UserError(f"'{self.model}' is no folder: {remedy}")

    @property
    def is_local(self) -> bool:
        """Whether the model is a folder of this machine."""
        return Path(self.model).is_dir()


@dataclass
class ExportSettings:
    """Which model `ser-hf export` writes as ONNX."""

    model: str = field(metadata={"metavar": "DIR|REPO", "help": "folder or Hub id of the model"})
    output: str = field(metadata={"metavar": "DIR", "help": "must not exist yet"})
    int8: bool = field(default=False, metadata={"help": "matrix products in int8"})
    web: bool = field(default=False, metadata={"help": "a page that runs the model in the browser of its visitors"})
    runtime: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "dist of onnxruntime-web, for --web; npm fetches it if not"}
    )
    dataset: str | None = field(
        default=None, metadata={"metavar": "DIR|REPO", "help": "compare on its clips (default: synthetic voices)"}
    )


def push(line: CommandLine) -> None:
    """Push a model with its card and figures to the Hub, and a Space that serves it.

    Both are private without --public. A push that broke off goes on where it was when it is run
    again.

    Example:
        ser-hf push --model runs/model --repo you/name
    """
    settings = line.parse(PushSettings)
    from ser_hf.hub import repositories, space

    quiet_transformers()
    model, revision, private = settings.model, settings.revision, not settings.public
    if settings.space is not None:
        space.check_space(settings.space)
    if settings.web is not None:
        repositories.check_name(settings.web, "space")
    if settings.repo is not None:
        pushed = repositories.push_model(model, settings.repo, private, settings.allow_leaky, revision)
        print(f"pushed: {pushed}")
        model, revision = pushed.repo_url.repo_id, pushed.oid
    if settings.space is not None:
        served = space.push_space(model, settings.space, private, revision, checked=settings.is_local)
        print(f"space: {served.commit}" + (f"\n{served.secret}" if served.secret else ""))
    if settings.web is not None:
        print(f"page: {_push_page(settings, settings.web, private)}")


def _push_page(settings: PushSettings, repo: str, private: bool) -> "CommitInfo":
    """Export a page into a temporary folder, and push that as a static Space."""
    from ser_hf.app import web_site
    from ser_hf.hub import checks, repositories

    if settings.is_local:
        checks.check_evidence(Path(settings.model), settings.allow_leaky)
    revision = None if settings.is_local else settings.revision
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary, "site")
        web_site.write_site(settings.model, site, settings.runtime, revision)
        content = {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*")) if path.is_file()}
        return repositories.commit_files(content, repositories.full_name(repo), private, "space", sdk="static")


def export(line: CommandLine) -> None:
    """Write a model as ONNX, in fp32 or int8, if it predicts what torch does.

    Example:
        ser-hf export --model runs/model --output runs/onnx --int8
    """
    settings = line.parse(ExportSettings)
    files.refuse_existing(settings.output)
    quiet_transformers()
    if settings.web:
        _export_page(settings)
        return
    from ser_hf.inference import export

    clips = drawn_clips(settings.dataset) if settings.dataset else None
    progress.say(f"the graph of '{settings.model}' is written and compared with torch, which takes seconds")
    report = export.export(settings.model, settings.output, settings.int8, clips)
    check = report["check"]
    print(
        f"{settings.output}: {report['backend']}, largest difference of a probability {check['max_difference']:.2g}, "
        f"the same label for {check['same_labels']:.1%} of {check['clips']:,} clips"
    )


def _export_page(settings: ExportSettings) -> None:
    from ser_hf.app import web_site

    progress.say(f"graphs of '{settings.model}' are written and compared with torch, which takes seconds")
    written = web_site.write_site(settings.model, settings.output, settings.runtime)
    refused = written["graphs"].get("int8_refused")
    print(f"{settings.output}: a page for any server of files" + (f"; without int8: {refused}" if refused else ""))


def drawn_clips(dataset: str, count: int = 200, seed: int = 0) -> "list[np.ndarray]":
    """Draw clips of a dataset at random.

    Args:
        dataset: a folder that `ser-hf data` wrote, or a Hub id.
        count: of clips, at most.
        seed: of the draw.

    Returns:
        Waveforms of shape `(samples,)` at 16 kHz.

    Raises:
        UserError: where there is no such dataset.
    """
    import numpy as np

    from ser_hf import audio
    from ser_hf.data.dataset import load

    rows = load(dataset)
    drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [audio.load(rows[int(number)]["audio"]) for number in drawn]
