"""Commands that measure models: from evaluate and baseline to report and leaderboard."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

from ser_hf import BUNDLED_MODEL
from ser_hf.cli.output import SOME_FAILED, check_output_file, quiet_transformers, warn, write_file
from ser_hf.cli.settings import CommandLine
from ser_hf.errors import UserError
from ser_hf.utils import files


@dataclass
class CompareSettings:
    """Which two evaluations `ser-hf compare` reads."""

    a: str = field(metadata={"positional": True, "metavar": "A", "help": "folder of a model or an evaluation"})
    b: str = field(metadata={"positional": True, "metavar": "B", "help": "another, of the same split"})
    output: str | None = field(
        default=None, metadata={"metavar": "FILE.json|.tex", "help": "write the figures there, too"}
    )


@dataclass
class ExplainSettings:
    """Which recording `ser-hf explain` draws, for which model."""

    file: str = field(metadata={"positional": True, "metavar": "FILE", "help": "a recording"})
    output: str = field(kw_only=True, metadata={"metavar": "FILE.png", "help": "the picture"})
    model: str = field(
        default=str(BUNDLED_MODEL),
        metadata={"metavar": "DIR|REPO", "help": "that predicts", "default_text": "the bundled model"},
    )


@dataclass
class ReportSettings:
    """Which evaluations `ser-hf report` collects."""

    folder: str = field(metadata={"positional": True, "metavar": "DIR", "help": "with models or evaluations in it"})
    output: str | None = field(default=None, metadata={"metavar": "DIR", "help": "where the two go (default: DIR)"})


@dataclass
class LeaderboardSettings:
    """Which evaluations `ser-hf leaderboard` ranks."""

    folders: list[str] = field(
        kw_only=True, metadata={"positional": True, "metavar": "DIR ...", "help": "with models or evaluations in them"}
    )
    output: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "gets leaderboard.html, .tex, .md, .csv and .json"}
    )


def evaluate(line: CommandLine) -> None:
    """Test a model under a protocol.

    The output folder gets results.json, predictions.csv, plots/ and the card README.md.

    Example:
        ser-hf evaluate --model runs/model --dataset runs/dataset --output runs/test
    """
    from ser_hf.evaluation.settings import EvaluateSettings

    settings = line.parse(EvaluateSettings)
    from ser_hf.evaluation import run

    quiet_transformers()
    results = run.run_evaluation(settings)
    print(f"{results.report()}\nresults.json, plots/ and the card README.md: {settings.output}")


def baseline(line: CommandLine) -> None:
    """Train and test a simple model under a protocol.

    It is egemaps-svm, egemaps-logistic, mfcc-cnn, mfcc-mlp or mfcc-svm.

    Example:
        ser-hf baseline mfcc-svm --dataset runs/dataset --output runs/svm
    """
    from ser_hf.evaluation.settings import BaselineSettings

    settings = line.parse(BaselineSettings)
    from ser_hf.evaluation import run

    results = run.run_baseline(settings)
    print(f"{results.report()}\nresults.json and plots/: {settings.output}")


def calibrate(line: CommandLine) -> None:
    """Calibrate a model on a protocol's validation side, and set when it abstains.

    A temperature is folded into the model's last layer.

    Example:
        ser-hf calibrate --model runs/model --dataset runs/dataset --output runs/new
    """
    from ser_hf.evaluation.settings import CalibrateSettings

    settings = line.parse(CalibrateSettings)
    from ser_hf.evaluation import run

    quiet_transformers()
    calibration = run.run_calibration(settings)
    print(json.dumps(calibration, indent=2))
    print(f"calibrated model: {settings.output}  (test it with `ser-hf evaluate`)")


def compare(line: CommandLine) -> None:
    """Test whether model B is better than A on the same clips, by speaker.

    Example:
        ser-hf compare runs/svm runs/model
    """
    settings = line.parse(CompareSettings)
    if settings.output is not None:
        if Path(settings.output).suffix not in (".json", ".tex"):
            raise UserError(f"--output is '{settings.output}': name a .json or .tex file")
        check_output_file(settings.output)
    from ser_hf.evaluation.compare import compare_models, comparison_table, comparison_tex

    comparison = compare_models(Path(settings.a), Path(settings.b))
    print(comparison_table(comparison))
    if settings.output is not None:
        is_tex = Path(settings.output).suffix == ".tex"
        text = comparison_tex(comparison) if is_tex else json.dumps(comparison, indent=2) + "\n"
        write_file(settings.output, text.encode())


def explain(line: CommandLine) -> None:
    """Draw which stretch of a recording a model's prediction depends on.

    Example:
        ser-hf explain clip.wav --output why.png
    """
    settings = line.parse(ExplainSettings)
    check_output_file(settings.output, ".png")
    from ser_hf import audio
    from ser_hf.evaluation.diagnostics import occlusion
    from ser_hf.inference.predictor import Predictor

    quiet_transformers()
    audio.load(settings.file)  # a bad file must show before the model is loaded
    explanation = occlusion.explain(Predictor(settings.model), settings.file)
    picture = io.BytesIO()
    occlusion.draw_occlusion(explanation).savefig(picture)
    write_file(settings.output, picture.getvalue())
    print(json.dumps(occlusion.summary(explanation)))


def report(line: CommandLine) -> int:
    """Write report.html and report.tex of every results.json below a folder.

    One that cannot be read is left out and named. The exit code is 3 then.

    Example:
        ser-hf report runs
    """
    settings = line.parse(ReportSettings)
    if not Path(settings.folder).is_dir():
        raise UserError(f"'{settings.folder}' is no folder: give one with models or evaluations in it")
    from ser_hf.evaluation import reports

    (page, table), errors = reports.write_report(
        Path(settings.folder), Path(settings.output) if settings.output else None
    )
    print(f"page: {page}\ntable: {table}")
    if errors:
        warn(f"{len(errors):,} results.json below '{settings.folder}' cannot be used", errors[0])
    return SOME_FAILED if errors else 0


def leaderboard(line: CommandLine) -> int:
    """Rank many runs, in a table for each split, with tests against the best.

    Runs are every results.json below the folders. One that cannot be ranked is named with the
    reason. The exit code is 3 then.

    Example:
        ser-hf leaderboard runs --output runs/board
    """
    settings = line.parse(LeaderboardSettings)
    for folder in settings.folders:
        if not Path(folder).is_dir():
            raise UserError(f"'{folder}' is no folder: give those with models or evaluations in them")
    if settings.output is not None:
        files.refuse_unwritable(settings.output)
    from ser_hf.evaluation.leaderboard import pages, ranking

    board = ranking.build_leaderboard([Path(folder) for folder in settings.folders])
    print(pages.terminal_table(board))
    if settings.output is not None:
        page = pages.write_leaderboard(board, Path(settings.output))[0]
        print(f"\npage: {page}  (with .tex, .md, .csv and .json beside it)")
    failed = [one for one in board["left_out"] if one["failed"]]
    if failed:
        warn(f"{len(failed):,} results cannot be ranked", failed[0]["reason"])
    return SOME_FAILED if failed else 0
