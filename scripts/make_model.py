"""The model in the box: cross-validate its recipe under every protocol, train it on everybody, put
it into the package.

    make model RAVDESS=DIR TESS=DIR [SEEDS=3] [FIRST=42]
    python scripts/make_model.py --ravdess DIR --tess DIR --add --first 44 --seeds 1 [--only
    PROTOCOL ...]

Every run is a config file of configs/ and lies in a folder of its own; what is finished is not run
again, and what was cut off goes on. The first seed gives the model. With --add the model stays, and
the figures of more seeds, maybe measured on another machine, go to those that lie beside it.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.pop(0)  # this folder: its evaluate.py would hide the package of that name

import yaml

from ser_hf import in_the_box
from ser_hf.errors import UserError
from ser_hf.evaluation.results import Results
from ser_hf.experiments import adaptation_study
from ser_hf.models import presets
from ser_hf.protocols.builtin import EMOBOX_FOLDS

EMOBOX, ALL = "emobox-ravdess", "all"
PROTOCOLS = (EMOBOX, "speaker", "tess-oaf-yaf", "tess-yaf-oaf", "random")
CONFIGS = Path(__file__).parent.parent / "configs"


def asked() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ravdess", required=True, metavar="DIR")
    parser.add_argument("--tess", required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, default=Path("runs/box"), metavar="DIR")
    parser.add_argument("--seeds", type=int, default=3, help="so many, from the first on")
    parser.add_argument("--first", type=int, default=42, help="seed")
    parser.add_argument("--add", action="store_true", help="to the figures of the model that is in the box")
    parser.add_argument("--only", nargs="+", choices=PROTOCOLS, default=PROTOCOLS, metavar="PROTOCOL")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time, of one thread each")
    args = parser.parse_args()
    for name, folder in (("RAVDESS", args.ravdess), ("TESS", args.tess)):
        if not Path(folder or "nowhere").is_dir():
            parser.error(f"'{folder}' is no folder of {name}: make model RAVDESS=DIR TESS=DIR")
    if not args.add and set(args.only) != set(PROTOCOLS):
        parser.error("--only needs --add: a model is put into the box with the figures of all protocols")
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}: at least 1 is needed")
    return args


def main() -> None:
    """Run what is missing, write the model or add the figures, print the table."""
    args = asked()
    digest, places = held_to_recipe(args.output), [args.output / name / f"seed-{args.first}" for name in (ALL, EMOBOX)]
    warmth = in_the_box.temperature(digest) if args.add else None
    if not (args.output / "dataset").exists():
        sources = ["--ravdess", args.ravdess, "--tess", args.tess]
        ser_hf(args.output / "dataset.log", "data", *sources, "--output", args.output / "dataset")
    seeds = range(args.first, args.first + args.seeds)
    runs = [(name, seed) for seed in seeds for name in expanded(args.only)]
    if not args.add:
        train_each(args.output, [(name, args.first) for name in expanded([EMOBOX])], args.jobs)
        warmth = adaptation_study.temperature(answers(args.output, EMOBOX, args.first))
        runs.insert(0, (ALL, args.first, ("--temperature", f"{warmth:.4f}")))
    train_each(args.output, runs, args.jobs)
    for seed in seeds if EMOBOX in args.only else []:
        train(args.output, EMOBOX, seed)  # pools the folds
    measured = {protocol: figures(args.output, protocol, seeds, warmth) for protocol in args.only}
    if args.add:
        measured = in_the_box.add(measured, digest)
    else:
        in_the_box.put(*places, measured, digest)
    print(in_the_box.table(measured))


def held_to_recipe(output: Path) -> str:
    """The digest of `recipe`, which the runs of a folder must have in common."""
    digest, file = recipe(), output / "recipe"
    if file.exists() and file.read_text() != digest:
        raise UserError(f"'{output}' holds runs of another recipe: choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    file.write_text(digest)
    return digest


def recipe() -> str:
    """A digest of the config files and of what the model hears and is."""
    names = (*PROTOCOLS, ALL)
    read = [yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in names]
    model = read[0]["model"]
    read += [
        presets.preset_extractor(model).to_dict(),
        presets.preset_config(model).to_diff_dict() | {"transformers_version": None},
    ]
    return hashlib.sha256(json.dumps(read, sort_keys=True, default=str).encode()).hexdigest()[:16]


def train_each(output: Path, runs: list[tuple], jobs: int) -> None:
    """Several at a time, in this order; after one that failed, or an interrupt, none begins."""
    stop = threading.Event()

    def attempt(run: tuple) -> None:
        try:
            if not stop.is_set():
                train(output, *run)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(attempt, runs))
        finally:
            stop.set()


def expanded(protocols: list[str]) -> list[str]:
    """The folds of EmoBox one by one, so that they can share the cores."""
    folds = [f"{EMOBOX}/{number}" for number in range(len(EMOBOX_FOLDS))]
    return [name for protocol in protocols for name in (folds if protocol == EMOBOX else [protocol])]


def train(output: Path, name: str, seed: int, more: tuple[str, ...] = ()) -> None:
    """One run, or what is left of it; its output goes into a log beside its folder."""
    protocol, _, fold = name.partition("/")
    folder = output / protocol / f"seed-{seed}"
    whole = not fold and protocol == EMOBOX
    folder = folder / f"fold-{fold}" if fold else folder
    if (folder / ("model.safetensors" if protocol == ALL else "repeats.json" if whole else "results.json")).exists():
        return
    given = ["--dataset", output / "dataset", "--output_dir", folder, "--seed", seed, "--threads", 1, *more]
    given += ["--fold", fold] if fold else []
    given += ["--resume_from_checkpoint", "true"] if whole or list(folder.glob("checkpoint-*")) else []
    log = folder.parent / f"{folder.name}.log"
    ser_hf(log, "finetune", CONFIGS / f"{protocol}.yaml", *given)


def ser_hf(log: Path, *words: object) -> None:
    """A command of ours, by one thread; ends with what it said where it fails."""
    line = [str(word) for word in words]
    print(f"$ ser-hf {' '.join(line)}", file=sys.stderr, flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        command = [sys.executable, "-m", "ser_hf.cli.main", *line]
        run = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if run.returncode:
        print(f"{log}: {log.read_text().strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(run.returncode)


def answers(output: Path, protocol: str, seed: int) -> list[adaptation_study.Predictions]:
    """Of the runs that are pooled."""
    folder = output / protocol / f"seed-{seed}"
    folds = [folder / f"fold-{number}" for number in range(len(EMOBOX_FOLDS))] if protocol == EMOBOX else [folder]
    return [adaptation_study.read_predictions(fold) for fold in folds]


def figures(output: Path, protocol: str, seeds: range, warmth: float) -> dict:
    """A row of `in_the_box.table`; folds are calibrated by each other, all else by the temperature
    of the box."""
    found = {}
    for seed in seeds:
        folds = answers(output, protocol, seed)
        degrees = adaptation_study.temperatures(folds) if protocol == EMOBOX else [warmth]
        found[str(seed)] = adaptation_study.adaptation_figures(folds, degrees)
    first = Results.load(output / protocol / f"seed-{seeds[0]}" / "results.json")
    return {"n": first.n, "ci95": first.ci95, "seeds": found}


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"make_model: {error}", file=sys.stderr)
        sys.exit(2)
