"""Commands that label archives: label and label-report."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ser_hf.cli.output import SOME_FAILED, quiet_transformers
from ser_hf.cli.serve import ModelSettings
from ser_hf.cli.settings import CommandLine
from ser_hf.errors import UserError
from ser_hf.utils import files, packages

if TYPE_CHECKING:
    from ser_hf.inference.bulk.label import Estimate


@dataclass(frozen=True, kw_only=True)
class LabelSettings(ModelSettings):
    """Which recordings a model labels, and where the rows go."""

    inputs: list[str] = field(
        metadata={"positional": True, "metavar": "INPUT ...", "help": "folders, patterns, lists, addresses (docs)"}
    )
    output: str = field(metadata={"metavar": "DIR|URL", "help": "Parquet files; an unfinished one is gone on with"})
    adapt_by: str | None = field(
        default=None, metadata={"metavar": "COLUMN", "help": "of a list: adapt to all recordings of one value"}
    )
    retry_errors: bool = field(default=False, metadata={"help": "ask recordings with an error again"})
    replace_model: bool = field(default=False, metadata={"help": "ask all again that another model answered"})
    dry_run: bool = field(default=False, metadata={"help": "say what would be done, and for how long"})
    engine: str = field(default="local", metadata={"choices": ("local", "ray"), "help": "what runs the model"})
    address: str | None = field(
        default=None, metadata={"metavar": "HOST:PORT", "help": "of a Ray cluster; without it Ray runs here"}
    )
    workers: int | None = field(default=None, metadata={"help": "Ray actors at most; all that fit if not given"})
    num_cpus: float | None = field(default=None, metadata={"help": "cores of a Ray actor; one if not given"})
    num_gpus: float | None = field(default=None, metadata={"help": "GPUs of a Ray actor; none if not given"})
    threads: int | None = field(default=None, metadata={"help": "that predict on a CPU; as many as cores"})
    readers: int | None = field(default=None, metadata={"help": "threads that read; twice the cores"})
    shard_rows: int = field(default=10_000, metadata={"help": "rows of a Parquet file at most"})
    flush_seconds: float = field(default=60.0, metadata={"help": "after which rows are written"})

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "readers", "shard_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}: 1 or more is needed")
        for name in ("num_cpus", "num_gpus", "flush_seconds"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"--{name} is {value:g}: 0 or more is needed")
        given = [name for name in ("address", "workers", "num_cpus", "num_gpus") if getattr(self, name) is not None]
        if self.engine == "ray":
            packages.require("--engine ray", "ray", "'ser-hf[ray]'")
        elif given:
            raise UserError(f"--{given[0]} is of Ray: give --engine ray, too")


def label(line: CommandLine) -> int:
    """Label any number of recordings, as Parquet files; a run that was cut off goes on.

    A recording that cannot be used has its `error` in a row, and the exit code is 3 then. What has
    a row of this model is not asked again.

    Example:
        ser-hf label calls --output labels
    """
    settings = line.parse(LabelSettings)
    from ser_hf.inference.bulk import label as labelling
    from ser_hf.inference.bulk import summary
    from ser_hf.inference.bulk.labeler import ModelChoice

    quiet_transformers()
    choice = ModelChoice(
        settings.model,
        settings.revision,
        settings.backend,
        threads=settings.threads,
        readers=settings.readers,
        adapt_by=settings.adapt_by,
    )
    options = labelling.LabelOptions(
        retry_errors=settings.retry_errors,
        replace_model=settings.replace_model,
        shard_rows=settings.shard_rows,
        flush_seconds=settings.flush_seconds,
    )
    if settings.dry_run:
        print(_said(labelling.estimate(settings.inputs, settings.output, choice, options)))
        return 0
    engine = None
    if settings.engine == "ray":
        from ser_hf.inference.bulk import ray_engine

        engine = ray_engine.RayEngine(choice, settings.address, settings.workers, settings.num_cpus, settings.num_gpus)
    outcome = labelling.label(settings.inputs, settings.output, choice, options, engine)
    print(
        f"{outcome.asked:,} asked, {outcome.copied:,} copied, {outcome.known:,} of {outcome.listed:,} listed were "
        f"answered before, in {outcome.seconds:.1f} s: {settings.output}"
    )
    print(summary.table(summary.summarise(settings.output)))
    return SOME_FAILED if outcome.errors else 0


@dataclass
class LabelReportSettings:
    """Which labelling `ser-hf label-report` sums up."""

    labelling: str = field(metadata={"positional": True, "metavar": "DIR|URL", "help": "--output of `ser-hf label`"})
    output: str | None = field(default=None, metadata={"metavar": "DIR", "help": "of the files (default: DIR/_report)"})
    json: bool = field(default=False, metadata={"help": "print the figures as JSON instead of the table"})


def label_report(line: CommandLine) -> None:
    """Sum up a labelling: a table, report.json and the page report.html.

    The page says how many recordings lie outside what the model was trained on.

    Example:
        ser-hf label-report labels
    """
    settings = line.parse(LabelReportSettings)
    if settings.output is None and "://" in settings.labelling:
        raise UserError(f"'{settings.labelling}' lies elsewhere: name a folder for the report, --output DIR")
    output = Path(settings.output or Path(settings.labelling, "_report"))
    from ser_hf.inference.bulk import summary

    summed_up = summary.summarise(settings.labelling)
    files.refuse_unwritable(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output is '{output}', a file: name a folder")
    from ser_hf.evaluation.label_report import write_label_report

    written = write_label_report(summed_up, output)
    print(json.dumps(summed_up, indent=1, ensure_ascii=False) if settings.json else summary.table(summed_up))
    print(f"{written[1].name} and {written[0].name}: {output}", file=sys.stderr if settings.json else sys.stdout)


def _said(estimate: "Estimate") -> str:
    """What a dry run says."""
    known = f"{estimate.known:,} of {estimate.listed:,} listed are answered"
    count = f"{estimate.recordings:,}" + ("" if estimate.counted else " and those of containers that are not counted")
    if estimate.rate is None:
        nothing = estimate.counted and not estimate.recordings
        return f"{known}: there is nothing to do" if nothing else f"{known}; {count} would be asked"
    time = estimate.recordings / estimate.rate
    hours = f"{time / 3600:,.1f} hours" if time > 5400 else f"{time / 60:,.1f} minutes"
    return f"{known}; {count} would be asked, at {estimate.rate:,.1f} a second by a sample: {hours} on this machine"
