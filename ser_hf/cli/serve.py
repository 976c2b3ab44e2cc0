"""Commands that serve a model: predict and app."""

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from ser_hf import BUNDLED_MODEL
from ser_hf.app.origins import Origins
from ser_hf.app.uploads import Limits
from ser_hf.cli.output import SOME_FAILED, check_output_file, quiet_transformers, warn
from ser_hf.cli.settings import CommandLine
from ser_hf.errors import UserError
from ser_hf.inference.backends import BACKENDS
from ser_hf.utils import files, progress

if TYPE_CHECKING:
    from ser_hf.inference.prediction import FailedPrediction, Prediction
    from ser_hf.inference.predictor import Predictor

_ROOT_PATH = re.compile(r"(?:/[\w.~-]+)+")


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
    strict: bool = field(
        default=False, metadata={"help": "end at the first recording that cannot be used, and write nothing"}
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
        for paths in (self.files, self.adapt):
            missing = [path for path in paths if not Path(path).is_file()]
            if missing and (self.strict or len(missing) == len(paths)):
                raise UserError(f"'{missing[0]}' is not a file: check the path")


@dataclass(frozen=True, kw_only=True)
class AppSettings(Limits, ModelSettings):
    """Which model the page serves, to whom, and the limits of a visitor."""

    port: int = field(default=7860, metadata={"help": "of the server"})
    host: str = field(
        default="127.0.0.1", metadata={"metavar": "NAME", "help": "0.0.0.0 for everybody (docs/security.md)"}
    )
    mcp: bool = field(default=False, metadata={"help": "tools for language models at /gradio_api/mcp/"})
    metrics: Literal["none", "local", "all"] = field(
        default="local", metadata={"help": "who may read /metrics: nobody, this machine, or whoever reaches the app"}
    )
    web: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "of export --web: a page that needs no upload, at /browser/"}
    )
    allowed_host: list[str] = field(
        default_factory=list,
        metadata={"metavar": "NAME ...", "action": "extend", "help": "a host name that a proxy passes on"},
    )
    allowed_origin: list[str] = field(
        default_factory=list,
        metadata={
            "metavar": "ORIGIN ...",
            "action": "extend",
            "help": "a page that may ask and embed the app, as https://site.example",
        },
    )
    root_path: str = field(
        default="", metadata={"metavar": "PATH", "help": "under which a proxy publishes the app, as /ser"}
    )

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}: 1 to 65535 can be opened")
        for limit in fields(Limits):
            if getattr(self, limit.name) < 0:
                raise UserError(f"--{limit.name} is {getattr(self, limit.name):g}: 0 or more is needed")
        Origins(self.allowed_origin)
        if self.root_path and not _ROOT_PATH.fullmatch(self.root_path):
            raise UserError(f"--root_path is '{self.root_path}': a path is needed, as /ser")


def predict(line: CommandLine) -> int:
    """Predict the emotion of recordings of any length, one JSON line each.

    A recording that cannot be used has its `error` in the place of a prediction. The exit code is 3
    then, and 2 where no recording can be used.

    Examples:
        ser-hf predict clip.wav
        ser-hf predict clip.wav other.mp3 --output answers.jsonl
    """
    settings = line.parse(PredictSettings)
    from ser_hf.inference import speaker_adaptation
    from ser_hf.inference.predictor import Predictor

    if settings.save_voice:
        speaker_adaptation.check_name(settings.save_voice)
    skip: Literal["raise", "skip"] = "raise" if settings.strict else "skip"
    quiet_transformers()
    predictor = Predictor(settings.model, backend=settings.backend, revision=settings.revision)
    if settings.adapt:
        saved = len(settings.adapt) == 1 and Path(settings.adapt[0]).suffix == speaker_adaptation.SUFFIX
        predictor = predictor.adapt(settings.adapt[0] if saved else settings.adapt, on_error=skip)
        if settings.strict and predictor.left_out:  # a clip without voice is no error elsewhere
            raise predictor.left_out[0]
    if settings.one_speaker:
        predictor = predictor.adapt_to_one_speaker(settings.files, on_error=skip)
    if settings.save_voice and predictor.adaptation is not None:
        predictor.adaptation.save(settings.save_voice)
    predictions = predictor.each(settings.files, on_error="raise" if settings.strict else "answer")
    counted = progress.each(predictions, "Predicting", len(settings.files), "recordings")
    if settings.output is None:
        errors = _write_lines(predictions if sys.stdout.isatty() else counted, sys.stdout, len(settings.files))
    else:
        with files.replacing(settings.output) as unfinished, unfinished.open("w") as output:
            errors = _write_lines(counted, output, len(settings.files))
        print(f"{len(settings.files) - len(errors):,} predictions: {settings.output}")
    if settings.adapt and predictor.left_out:
        count = f"{len(predictor.left_out):,} of {len(settings.adapt):,}"
        warn(f"{count} clips of --adapt cannot be used", predictor.left_out[0])
    if errors:
        warn(f"{len(errors):,} of {len(settings.files):,} recordings cannot be used", errors[0])
    return SOME_FAILED if errors or (settings.adapt and predictor.left_out) else 0


def _write_lines(predictions: "Iterable[Prediction | FailedPrediction]", output: TextIO, count: int) -> list[str]:
    """Write each prediction as it comes, and return the errors.

    Raises:
        UserError: where none of `count` recordings could be used.
    """
    errors = []
    for prediction in predictions:
        output.write(json.dumps(prediction) + "\n")
        output.flush()
        if "error" in prediction:
            errors.append(prediction["error"])
    if errors and len(errors) == count:
        raise UserError(errors[0] if count == 1 else f"none of {count:,} recordings can be used: {errors[0]}")
    return errors


def app(line: CommandLine) -> None:
    """Serve the page and the API, on this machine alone unless --host names more.

    Example:
        ser-hf app --model runs/model
    """
    settings = line.parse(AppSettings)
    progress.say("the model and the page are loaded, which takes seconds")
    from ser_hf.app import server

    quiet_transformers()
    limits = Limits(**{limit.name: getattr(settings, limit.name) for limit in fields(Limits)})
    load = partial(_load, settings.model, settings.backend, settings.revision)
    hosts = server.allowed_hosts(settings.host, settings.allowed_host)
    access = server.Access(hosts, Origins(settings.allowed_origin), settings.mcp, settings.metrics)
    web = Path(settings.web) if settings.web else None
    server.run_server(load, limits, settings.host, settings.port, access, web, settings.root_path)


def _load(model: str, backend: str, revision: str | None) -> "tuple[Predictor, Path | None, str | None]":
    from ser_hf.hub import repositories
    from ser_hf.inference.predictor import Predictor

    predictor = Predictor(model, backend=backend, revision=revision)
    return predictor, *repositories.snapshot(model, revision)
