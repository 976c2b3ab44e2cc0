"""Commands that serve a model: predict and app."""

import json
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ser_hf import BUNDLED_MODEL
from ser_hf.app.uploads import Limits
from ser_hf.cli.output import check_output_file, quiet_transformers
from ser_hf.cli.settings import CommandLine
from ser_hf.errors import UserError
from ser_hf.inference.backends import BACKENDS
from ser_hf.utils import files

if TYPE_CHECKING:
    from ser_hf.inference.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which model predicts, and on what it runs."""

    model: str = field(
        default=str(BUNDLED_MODEL),
        metadata={"metavar": "DIR|REPO", "help": "that predicts", "default_text": "the bundled model"},
    )
    revision: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "branch, tag or commit of a model on the Hub"}
    )
    backend: str = field(
        default="auto",
        metadata={"metavar": "NAME", "help": f"{', '.join(BACKENDS)}, see docs/serving.md"},
    )


@dataclass(frozen=True, kw_only=True)
class PredictSettings(ModelSettings):
    """Which recordings a model predicts, and where the predictions go."""

    files: list[str] = field(metadata={"positional": True, "metavar": "FILE ...", "help": "recordings of any length"})
    output: str | None = field(
        default=None, metadata={"metavar": "FILE.jsonl", "help": "write there instead of printing"}
    )
    adapt: list[str] = field(
        default_factory=list,
        metadata={"metavar": "FILE ...", "help": "clips of one voice without labels, or its saved file"},
    )
    one_speaker: bool = field(
        default=False, metadata={"help": "all recordings are of one person: adapt to all of them first"}
    )
    save_voice: str | None = field(
        default=None, metadata={"metavar": "FILE.safetensors", "help": "keep what --adapt or --one_speaker learnt"}
    )

    def __post_init__(self) -> None:
        if self.save_voice and not (self.adapt or self.one_speaker):
            raise UserError("--save_voice needs --adapt FILE… or --one_speaker")
        if self.adapt and self.one_speaker:
            raise UserError("--adapt and --one_speaker each say what to adapt to: give one of them")
        if self.output is not None:
            check_output_file(self.output)
        if missing := [file for file in (*self.files, *self.adapt) if not Path(file).is_file()]:
            raise UserError(f"'{missing[0]}' is not a file: check the path")


@dataclass(frozen=True, kw_only=True)
class AppSettings(Limits, ModelSettings):
    """Which model the page serves, to whom, and the limits of a visitor."""

    port: int = field(default=7860, metadata={"help": "of the server"})
    host: str = field(
        default="127.0.0.1", metadata={"metavar": "NAME", "help": "0.0.0.0 for everybody (docs/security.md)"}
    )
    mcp: bool = field(default=False, metadata={"help": "tools for language models at /gradio_api/mcp/"})
    allowed_host: list[str] = field(
        default_factory=list,
        metadata={"metavar": "NAME ...", "action": "extend", "help": "a host name that a proxy passes on"},
    )

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}: 1 to 65535 can be opened")
        for limit in fields(Limits):
            if getattr(self, limit.name) < 0:
                raise UserError(f"--{limit.name} is {getattr(self, limit.name):g}: 0 or more is needed")


def predict(line: CommandLine) -> None:
    """Predict the emotion of recordings of any length, one JSON line each."""
    settings = line.parse(PredictSettings)
    from ser_hf.inference import speaker_adaptation
    from ser_hf.inference.predictor import Predictor

    if settings.save_voice:
        speaker_adaptation.check_name(settings.save_voice)
    quiet_transformers()
    predictor = Predictor(settings.model, backend=settings.backend, revision=settings.revision)
    if settings.adapt:
        saved = len(settings.adapt) == 1 and Path(settings.adapt[0]).suffix == speaker_adaptation.SUFFIX
        predictor = predictor.adapt(settings.adapt[0] if saved else settings.adapt)
    if settings.one_speaker:
        predictor = predictor.adapt_to_one_speaker(settings.files)
    if settings.save_voice:
        predictor.adaptation.save(settings.save_voice)
    predictions = predictor.each(settings.files)
    if settings.output is None:
        for prediction in predictions:
            print(json.dumps(prediction), flush=True)
        return
    with files.replacing(settings.output) as unfinished, unfinished.open("w") as output:
        output.writelines(json.dumps(prediction) + "\n" for prediction in predictions)
    print(f"{len(settings.files):,} predictions: {settings.output}")


def app(line: CommandLine) -> None:
    """Serve the page and the API, on this machine alone unless --host names more."""
    settings = line.parse(AppSettings)
    from ser_hf.app import server

    quiet_transformers()
    limits = Limits(**{limit.name: getattr(settings, limit.name) for limit in fields(Limits)})
    load = partial(_load, settings.model, settings.backend, settings.revision)
    server.run_server(load, limits, settings.host, settings.port, settings.mcp, settings.allowed_host)


def _load(model: str, backend: str, revision: str | None) -> "tuple[Predictor, Path | None, str | None]":
    from ser_hf.hub import repositories
    from ser_hf.inference.predictor import Predictor

    predictor = Predictor(model, backend=backend, revision=revision)
    return predictor, *repositories.snapshot(model, revision)
