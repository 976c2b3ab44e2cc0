"""The tables of docs/evidence.md, from the raw recordings, compared with the figures there.

    make reproduce RAVDESS=DIR TESS=DIR
    python scripts/reproduce.py --ravdess DIR --tess DIR [--models tiny ...] [--only PROTOCOL ...]

Every cell is one command, which is printed, in a folder of its own: OUTPUT/MODEL/PROTOCOL. What is
finished is not run again, and a training that was cut off goes on. `tiny` is trained from nothing.
`bundled` is the recipe of the bundled model, whose backbone is downloaded or given as --backbone.

The published figures are those of docs/figures.csv and of ser_hf/pretrained/seeds.json. The exit
code is 3 where a figure is farther from them than its tolerance.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.pop(0)  # this folder, whose evaluate.py would hide the package of that name

from ser_hf import BUNDLED_MODEL
from ser_hf.evaluation.baselines import BASELINES
from ser_hf.evaluation.results import Results
from ser_hf.protocols.builtin import PROTOCOLS
from ser_hf.training import recovery
from ser_hf.utils import files

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "figures.csv"
TINY, BUNDLED = "tiny", "bundled"
CLIPS, HOURS = 5247, 3.747
"""Of the dataset that the published figures are of: no other one is judged by them."""
TOLERANCE = {**dict.fromkeys(BASELINES, 0.01), "mfcc-cnn": 0.03, "mfcc-mlp": 0.03, TINY: 0.08, BUNDLED: 0.03}
"""By which accuracy and UAR may differ. Classifiers with one solution differ by rounding alone,
networks by the order of sums, and `tiny` as much as its seeds do."""
SECONDS = {**dict.fromkeys(BASELINES, 40), "mfcc-cnn": 90, TINY: 600, BUNDLED: 60}
"""A fold takes about so long on two cores, once features are computed."""
FEATURES = {"mfcc": 120, "egemaps": 900, BUNDLED: 900}
"""Seconds that the features of all clips take, once."""


@dataclass(frozen=True)
class Published:
    """The figures of a cell as the docs have them; None where they state none."""

    clips: int
    accuracy: float
    uar: float
    macro_f1: float | None = None
    interval: tuple[float, float] | None = None
    ravdess: float | None = None
    ravdess_interval: tuple[float, float] | None = None
    seeds: tuple[float, float] | None = None
    """Mean and standard deviation of UAR."""

    @classmethod
    def of_row(cls, row: dict[str, str]) -> "Published":
        """A line of docs/figures.csv."""
        low, high, part_low, part_high = (
            float(row[name]) if row[name] else None for name in ("uar_low", "uar_high", "ravdess_low", "ravdess_high")
        )
        return cls(
            int(row["clips"]),
            float(row["accuracy"]),
            float(row["uar"]),
            float(row["macro_f1"]),
            None if low is None else (low, high),
            float(row["ravdess_uar"]) if row["ravdess_uar"] else None,
            None if part_low is None else (part_low, part_high),
            (float(row["seeds_mean"]), float(row["seeds_sd"])) if row["seeds_mean"] else None,
        )

    @classmethod
    def of_results(cls, runs: list[Results]) -> "Published":
        """The first run's figures, with mean and standard deviation over all of them."""
        first = runs[0]
        part = first.per_corpus.get("ravdess", {}) if len(first.per_corpus) > 1 else {}
        spread = [run.uar for run in runs]
        return cls(
            first.n,
            first.accuracy,
            first.uar,
            first.macro_f1,
            tuple(first.ci95["uar"]) if first.ci95 else None,
            part.get("uar"),
            tuple(part["ci95"]["uar"]) if part.get("ci95") else None,
            (statistics.fmean(spread), statistics.stdev(spread)) if len(runs) > 1 else None,
        )


def table_row(protocol: str, model: str, figures: Published) -> str:
    """A line of the table in docs/evidence.md."""
    interval = "{:.3f} to {:.3f}".format(*figures.interval) if figures.interval else ""
    part = "" if figures.ravdess is None else f"{figures.ravdess:.3f}"
    part += " ({:.3f} to {:.3f})".format(*figures.ravdess_interval) if figures.ravdess_interval else ""
    seeds = "{:.3f} ± {:.3f}".format(*figures.seeds) if figures.seeds else ""
    scores = f"{figures.accuracy:.3f} | {figures.uar:.3f} | {figures.macro_f1:.3f}"
    return f"| `{protocol}` | {model} | {figures.clips:,} | {scores} | {interval} | {part} | {seeds} |"


def published() -> dict[tuple[str, str], Published]:
    """The published figures by protocol and model."""
    with FIGURES.open(encoding="utf-8") as file:
        figures = {(row["protocol"], row["model"]): Published.of_row(row) for row in csv.DictReader(file)}
    for protocol, row in json.loads((BUNDLED_MODEL / "seeds.json").read_text())["protocols"].items():
        seeds = list(row["seeds"].values())
        accuracy, uar = (statistics.fmean(seed[name] for seed in seeds) for name in ("accuracy", "uar"))
        figures[protocol, BUNDLED] = Published(row["n"], accuracy, uar)
    return figures


def commands(model: str, protocol: str, folder: Path, args: argparse.Namespace) -> dict[Path, list[object]]:
    """The commands of a cell by the folder that each fills."""
    split = ["--dataset", args.dataset, "--protocol", protocol]
    split += ["--fold", "all"] if PROTOCOLS[protocol].folds > 1 else []
    if model in BASELINES:
        return {folder: ["baseline", model, *split, "--output", folder]}
    if model == TINY:
        recipe: list[object] = ["finetune", "--model", TINY]
    else:
        recipe = ["finetune", ROOT / "configs" / "bundled_model.yaml", "--cache_dir", args.output / "features"]
        recipe += ["--model", args.backbone] if args.backbone else []
        # what these leave out are labels that the other corpus lacks
        recipe += ["--extra_train_speakers", "false"] if protocol in ("ravdess-tess", "tess-ravdess") else []
    recipe += ["--threads", args.threads] if args.threads else []
    seeds = {folder / f"seed-{seed}": seed for seed in range(42, 42 + args.seeds)}
    resumed = ["--resume_from_checkpoint", "true"]
    return {
        place: [*recipe, *split, "--output_dir", place, "--seed", seed, *(resumed if has_begun(place) else [])]
        for place, seed in seeds.items()
    }


def has_begun(place: Path) -> bool:
    """Whether a training can go on: one fold from a checkpoint, several from what they noted."""
    return (place / recovery.RUN).exists() or bool(recovery.checkpoints(place))


def ser_hf(words: list[object]) -> None:
    """Print a command and run it as a user would; end with its exit code where it fails."""
    line = [str(word) for word in words]
    print(f"$ ser-hf {' '.join(line)}", file=sys.stderr, flush=True)
    code = subprocess.run([sys.executable, "-m", "ser_hf.cli.main", *line], stdout=subprocess.DEVNULL).returncode
    if code:
        sys.exit(code)


def estimate(cells: list[tuple[str, str]], seeds: int) -> float:
    """Seconds that cells take on two cores."""
    features = {name for _, model in cells for name in FEATURES if model.startswith(name)}
    runs = [(model, PROTOCOLS[protocol].folds) for protocol, model in cells]
    times = [SECONDS[model] * folds * (1 if model in BASELINES else seeds) for model, folds in runs]
    return sum(FEATURES[name] for name in features) + sum(times)


def in_words(seconds: float) -> str:
    """A time as people say it.

    >>> in_words(40), in_words(330), in_words(9000)
    ('1 min', '6 min', '2.5 h')
    """
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"


def judge(model: str, reached: Published, stated: Published, same_data: bool) -> str:
    """What a cell has to do with its published figures, in words."""
    difference = max((reached.uar - stated.uar, reached.accuracy - stated.accuracy), key=abs)
    if not same_data or reached.clips != stated.clips:
        return f"{difference:+.3f}, other recordings: not judged"
    inside = abs(difference) <= TOLERANCE[model]
    return f"{difference:+.3f}, {'within' if inside else 'FARTHER THAN'} {TOLERANCE[model]:.2f}"


def is_published_dataset(folder: Path) -> bool:
    """Whether a dataset has as many clips and hours as that of the published figures."""
    audit = folder / "audit.json"
    counted = json.loads(audit.read_text(encoding="utf-8")) if audit.is_file() else {}
    return counted.get("recordings") == CLIPS and abs(counted["hours"] - HOURS) < 0.01


def parse_arguments(stated: dict[tuple[str, str], Published]) -> argparse.Namespace:
    """The command line; ends with exit code 2 where it does not fit."""
    models, protocols = (list(dict.fromkeys(cell[place] for cell in stated)) for place in (1, 0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ravdess", nargs="+", metavar="DIR|ZIP", default=[])
    parser.add_argument("--tess", nargs="+", metavar="DIR|ZIP", default=[])
    parser.add_argument("--dataset", type=Path, metavar="DIR", help="a built one, in place of the recordings")
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"), metavar="DIR")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=models,
        default=[*BASELINES],
        metavar="MODEL",
        help=f"of {', '.join(models)} (default: the simple ones)",
    )
    parser.add_argument("--only", nargs="+", choices=protocols, default=protocols, metavar="PROTOCOL")
    parser.add_argument("--seeds", type=int, default=1, help="of tiny and bundled, from 42 on")
    parser.add_argument("--threads", type=int, help="of each training")
    parser.add_argument("--backbone", metavar="DIR", help="a folder of whisper-base, for bundled")
    args = parser.parse_args()
    if args.dataset is None and not all([*args.ravdess, *args.tess, args.ravdess, args.tess]):
        parser.error("make reproduce RAVDESS=DIR TESS=DIR: give both corpora, or --dataset")
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}: at least 1 is needed")
    if not any(protocol in args.only and model in args.models for protocol, model in stated):
        parser.error(f"no figure of {', '.join(args.models)} under {', '.join(args.only)} is published")
    return args


def main() -> int:
    """Fill in what is missing, print the table and say what is farther off than its tolerance."""
    stated = published()
    args = parse_arguments(stated)
    if args.dataset is None:
        args.dataset = args.output / "dataset"
        if not args.dataset.exists():
            ser_hf(["data", "--ravdess", *args.ravdess, "--tess", *args.tess, "--output", args.dataset])
    cells = [cell for cell in stated if cell[0] in args.only and cell[1] in args.models]
    folders = {(protocol, model): args.output / model / protocol for protocol, model in cells}
    runs = {cell: commands(cell[1], cell[0], folder, args) for cell, folder in folders.items()}
    left = [cell for cell in cells if not all((place / "results.json").exists() for place in runs[cell])]
    print(
        f"{len(left)} of {len(cells)} cells are to be run: about {in_words(estimate(left, args.seeds))} on two cores",
        file=sys.stderr,
    )
    same_data = is_published_dataset(args.dataset)
    lines = [
        "| protocol | model | clips | accuracy | UAR | macro F1 | 95 % of UAR | UAR, RAVDESS alone | UAR over seeds "
        "| from published |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | --- | --- | --- |",
    ]
    print("\n".join(lines))
    for protocol, model in cells:
        for place, words in runs[protocol, model].items():
            if not (place / "results.json").exists():
                ser_hf(words)
        reached = Published.of_results([Results.load(place / "results.json") for place in runs[protocol, model]])
        verdict = judge(model, reached, stated[protocol, model], same_data)
        lines.append(f"{table_row(protocol, model, reached)} {verdict} |")
        print(lines[-1], flush=True)
    files.write_texts(args.output, {"tables.md": "\n".join(lines) + "\n"})
    farther = sum("FARTHER" in line for line in lines)
    print(f"\n{args.output / 'tables.md'}; rank all of it: ser-hf leaderboard {args.output}", file=sys.stderr)
    if farther:
        print(
            f"{farther} of {len(cells)} cells are farther from the published figures than they should be",
            file=sys.stderr,
        )
    return 3 if farther else 0


if __name__ == "__main__":
    sys.exit(main())
