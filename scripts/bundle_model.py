"""The bundled model: cross-validate its recipe under every protocol, train it on all speakers, and
write it into the package.

    make model RAVDESS=DIR TESS=DIR [SEEDS=3] [FIRST=42]
    python scripts/bundle_model.py --ravdess DIR --tess DIR --add --first 44 --seeds 1 [--only
    PROTOCOL ...]

Every run has a config file of configs/ and a folder of its own. What is finished is not run again,
and what was cut off goes on. The first seed gives the model. With --add the model stays: the
figures of more seeds, perhaps measured on another machine, are added to those beside it.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.pop(0)  # this folder, whose evaluate.py would hide the package of that name

import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig

from ser_hf import BUNDLED_MODEL
from ser_hf.errors import UserError
from ser_hf.evaluation.results import Results
from ser_hf.experiments import adaptation_study
from ser_hf.inference import adaptation_head
from ser_hf.models import loading, presets
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.protocols.builtin import EMOBOX_FOLDS
from ser_hf.utils import templates

EMOBOX, ALL = "emobox-ravdess", "all"
PROTOCOLS = (EMOBOX, "speaker", "tess-oaf-yaf", "tess-yaf-oaf", "random")
CONFIGS = Path(__file__).parent.parent / "configs"
MAX_BYTES = 12_000_000
"""Bytes of weights that the model may add to the wheel."""
SEEDS = "seeds.json"
"""The figures of each seed, beside the model: seeds can be measured one by one, on any machine."""

_TABLE_HEAD = """\
| protocol | clips | seeds | accuracy | UAR | 95 % of it | UAR, adapted | ECE, before | and after |
| --- | ---: | ---: | --- | --- | --- | --- | ---: | ---: |"""


def main() -> None:
    """Run what is missing, write the model or add the figures, and print the table."""
    args = parse_arguments()
    digest = check_recipe(args.output)
    temperature = bundled_temperature(digest) if args.add else None
    if not (args.output / "dataset").exists():
        sources = ["--ravdess", args.ravdess, "--tess", args.tess]
        run_ser_hf(args.output / "dataset.log", "data", *sources, "--output", args.output / "dataset")
    seeds = range(args.first, args.first + args.seeds)
    runs = [(name, seed) for seed in seeds for name in each_fold(args.only)]
    if not args.add:
        # the folds come first: their predictions give the temperature of the model
        train_all(args.output, [(name, args.first) for name in each_fold([EMOBOX])], args.jobs)
        temperature = adaptation_study.shared_temperature(predictions(args.output, EMOBOX, args.first))
        runs.insert(0, (ALL, args.first, ("--temperature", f"{temperature:.4f}")))
    train_all(args.output, runs, args.jobs)
    for seed in seeds if EMOBOX in args.only else []:
        train(args.output, EMOBOX, seed)  # pools the folds
    figures = {protocol: protocol_figures(args.output, protocol, seeds, temperature) for protocol in args.only}
    if args.add:
        figures = add_seeds(figures, digest)
    else:
        model, tested = (args.output / name / f"seed-{args.first}" for name in (ALL, EMOBOX))
        write_bundle(model, tested, figures, digest)
    print(figures_table(figures))


def parse_arguments() -> argparse.Namespace:
    """The command line of this script; ends with exit code 2 where it does not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ravdess", required=True, metavar="DIR")
    parser.add_argument("--tess", required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, default=Path("runs/bundled_model"), metavar="DIR")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from the first on")
    parser.add_argument("--first", type=int, default=42, help="seed")
    parser.add_argument("--add", action="store_true", help="to the figures of the model that is bundled")
    parser.add_argument("--only", nargs="+", choices=PROTOCOLS, default=PROTOCOLS, metavar="PROTOCOL")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time, of one thread each")
    args = parser.parse_args()
    for name, folder in (("RAVDESS", args.ravdess), ("TESS", args.tess)):
        if not Path(folder or "nowhere").is_dir():
            parser.error(f"'{folder}' is no folder of {name}: make model RAVDESS=DIR TESS=DIR")
    if not args.add and set(args.only) != set(PROTOCOLS):
        parser.error("--only needs --add: a model is bundled with the figures of all protocols")
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}: at least 1 is needed")
    return args


def check_recipe(output: Path) -> str:
    """The digest of the recipe, which all runs of a folder must have in common.

    Raises:
        UserError: where the folder holds runs of another recipe.
    """
    digest, file = recipe_digest(), output / "recipe"
    if file.exists() and file.read_text() != digest:
        raise UserError(f"'{output}' holds runs of another recipe: choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    file.write_text(digest)
    return digest


def recipe_digest() -> str:
    """A digest of the config files, of the model's configuration and of its front end."""
    names = (*PROTOCOLS, ALL)
    recipe = [yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in names]
    model = recipe[0]["model"]
    recipe += [
        presets.preset_extractor(model).to_dict(),
        presets.preset_config(model).to_diff_dict() | {"transformers_version": None},
    ]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:16]


def train_all(output: Path, runs: list[tuple], jobs: int) -> None:
    """Train several runs at a time, in this order; none begins after a failure or an interrupt."""
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


def each_fold(protocols: list[str]) -> list[str]:
    """The protocols, but EmoBox fold by fold, so that the folds can share the cores."""
    folds = [f"{EMOBOX}/{number}" for number in range(len(EMOBOX_FOLDS))]
    return [name for protocol in protocols for name in (folds if protocol == EMOBOX else [protocol])]


def train(output: Path, name: str, seed: int, flags: tuple[str, ...] = ()) -> None:
    """Train one run, or what is left of it, with a log beside its folder."""
    protocol, _, fold = name.partition("/")
    folder = output / protocol / f"seed-{seed}"
    pools = not fold and protocol == EMOBOX
    folder = folder / f"fold-{fold}" if fold else folder
    if (folder / ("model.safetensors" if protocol == ALL else "repeats.json" if pools else "results.json")).exists():
        return
    words = ["--dataset", output / "dataset", "--output_dir", folder, "--seed", seed, "--threads", 1, *flags]
    words += ["--fold", fold] if fold else []
    words += ["--resume_from_checkpoint", "true"] if pools or list(folder.glob("checkpoint-*")) else []
    log = folder.parent / f"{folder.name}.log"
    run_ser_hf(log, "finetune", CONFIGS / f"{protocol}.yaml", *words)


def run_ser_hf(log: Path, *words: object) -> None:
    """Run a command of ours on one thread; end with its exit code and last line if it fails."""
    line = [str(word) for word in words]
    print(f"$ ser-hf {' '.join(line)}", file=sys.stderr, flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        command = [sys.executable, "-m", "ser_hf.cli.main", *line]
        run = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if run.returncode:
        print(f"{log}: {log.read_text().strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(run.returncode)


def predictions(output: Path, protocol: str, seed: int) -> list[adaptation_study.RunPredictions]:
    """The predictions of each run that is pooled."""
    folder = output / protocol / f"seed-{seed}"
    folds = [folder / f"fold-{number}" for number in range(len(EMOBOX_FOLDS))] if protocol == EMOBOX else [folder]
    return [adaptation_study.read_predictions(fold) for fold in folds]


def protocol_figures(output: Path, protocol: str, seeds: range, temperature: float) -> dict:
    """A row of `figures_table`: folds are calibrated by each other, all else by the temperature of
    the model."""
    by_seed = {}
    for seed in seeds:
        folds = predictions(output, protocol, seed)
        temperatures = adaptation_study.cross_fitted_temperatures(folds) if protocol == EMOBOX else [temperature]
        by_seed[str(seed)] = adaptation_study.adaptation_figures(folds, temperatures)
    results = Results.load(output / protocol / f"seed-{seeds[0]}" / "results.json")
    return {"n": results.n, "ci95": results.ci95, "seeds": by_seed}


def figures_table(figures: dict[str, dict]) -> str:
    """Means and standard deviations over seeds as Markdown, with a line for each corpus where a
    protocol tests two.

    Args:
        figures: of each protocol `n` (clips), `ci95` (of the model's own seed), and `seeds`: of
            each seed what `adaptation_study.adaptation_figures` gives.
    """
    lines = [_TABLE_HEAD]
    for protocol, row in figures.items():
        statistic = seed_statistics(row["seeds"])
        interval = "{:.3f} to {:.3f}".format(*row["ci95"]["uar"]) if row["ci95"] else "none"
        ece = f"{statistic['ece before']['mean']:.3f} | {statistic['ece']['mean']:.3f}"
        scores = f"{_mean_sd(statistic['accuracy'])} | {_mean_sd(statistic['uar'])} | {interval}"
        head = f"`{protocol}` | {row['n']:,} | {len(row['seeds'])}"
        lines.append(f"| {head} | {scores} | {_mean_sd(statistic['adapted uar'])} | {ece} |")
        corpora = [name for name in statistic if name.startswith("uar ")]
        for name in corpora if len(corpora) > 1 else []:
            lines.append(f"| … {name.removeprefix('uar ').upper()} | | | | {_mean_sd(statistic[name])} | | | | |")
    return "\n".join(lines)


def seed_statistics(seeds: dict[str, dict[str, float]]) -> dict[str, dict]:
    """Mean and standard deviation (n - 1; None of a single seed) of each figure over seeds."""
    rows = list(seeds.values())
    return {
        name: {
            "mean": statistics.fmean([row[name] for row in rows]),
            "sd": statistics.stdev([row[name] for row in rows]) if len(rows) > 1 else None,
        }
        for name in rows[0]
    }


def write_bundle(
    model: Path, tested: Path, figures: dict[str, dict], recipe: str, folder: Path = BUNDLED_MODEL
) -> None:
    """Write the model of all speakers as fp16, with its card and the results of its recipe.

    Stock transformers computes with it in float32, as its config says.

    Args:
        model: folder of the training on all speakers.
        tested: folder of the cross-validation, whose `results.json` becomes the model's, with a
            note.
        figures: as `figures_table` takes them.
        recipe: its digest, so that no figures of another recipe are added.
        folder: to write; what was there is replaced.

    Raises:
        UserError: where the weights are too large, or do not fit in fp16.
    """
    config = json.loads((model / "config.json").read_text())
    weights = {name: tensor.half().contiguous() for name, tensor in load_file(model / "model.safetensors").items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if size > MAX_BYTES:
        raise UserError(f"{size:,} bytes of weights are too many to bundle: {MAX_BYTES:,} are allowed")
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise UserError("a weight does not fit in fp16")
    note = (  # the notes of single runs do not hold for the pooled figures
        "These are the figures of models of the same recipe, each tested on speakers that it was not trained on. "
        "This model was trained on all speakers, so that none is left to test it on."
    )
    results = Results.load(tested / "results.json")
    results = dataclasses.replace(results, model=folder.name, dataset="RAVDESS + TESS", notes=[note])
    with _replaced(folder) as partial:
        partial.mkdir()
        save_file(weights, partial / "model.safetensors", {"format": "pt"})
        (partial / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
        shutil.copy(model / "preprocessor_config.json", partial)
        if (head := adaptation_head.load_beside(model)) is not None:
            rounded = loading.digest(loading.load_for_prediction(partial)[0])  # fp16 has another digest
            dataclasses.replace(head, model=rounded).save(partial / adaptation_head.FILE)
        results.save(partial / "results.json")
        _write_figures(partial, figures, recipe)


def add_seeds(figures: dict[str, dict], recipe: str, folder: Path = BUNDLED_MODEL) -> dict[str, dict]:
    """Add the figures of more seeds to a bundled model; returns all that are there then.

    Raises:
        UserError: where that model is of another recipe, or was tested on other clips.
    """
    bundled_temperature(recipe, folder)
    all_figures = json.loads((folder / SEEDS).read_text())["protocols"]
    for protocol, row in figures.items():
        bundled = all_figures.setdefault(protocol, row)
        if bundled["n"] != row["n"]:
            raise UserError(
                f"{protocol} was tested on {bundled['n']:,} clips and now on {row['n']:,}: take the same recordings"
            )
        bundled["seeds"] = dict(sorted({**bundled["seeds"], **row["seeds"]}.items()))
    with _replaced(folder) as partial:
        shutil.copytree(folder, partial)
        _write_figures(partial, all_figures, recipe)
    return all_figures


def bundled_temperature(recipe: str, folder: Path = BUNDLED_MODEL) -> float:
    """The temperature of the bundled model.

    Raises:
        UserError: where that model is of another recipe.
    """
    file = folder / SEEDS
    if not file.exists() or json.loads(file.read_text())["recipe"] != recipe:
        raise UserError("the bundled model is of another recipe: bundle one of this recipe first, without --add")
    return SeenSpeakers.of(PretrainedConfig.from_json_file(folder / "config.json")).temperature


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Give a path for a folder that takes the place of another when the block ends well."""
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=folder.parent) as temporary:
        partial = Path(temporary) / folder.name
        yield partial
        if folder.exists():
            folder.rename(Path(temporary) / "before")
        partial.rename(folder)


def _write_figures(folder: Path, figures: dict[str, dict], recipe: str) -> None:
    (folder / SEEDS).write_text(json.dumps({"recipe": recipe, "protocols": figures}, indent=1) + "\n")
    (folder / "README.md").write_text(render_card(folder, figures))


def render_card(folder: Path, figures: dict[str, dict]) -> str:
    """The model card of a bundled model, from its results, weights and figures."""
    results = Results.load(folder / "results.json")
    weights = load_file(folder / "model.safetensors").values()
    task = {
        "task_type": "audio-classification",
        "dataset_type": "ravdess-tess",
        "dataset_name": f"RAVDESS speech, six folds of unseen voices ({results.protocol})",
        "dataset_split": "test",
    }
    statistic = seed_statistics(figures[results.protocol]["seeds"])
    metrics = (("recall", "UAR", "uar"), ("accuracy", "accuracy", "accuracy"))
    data = ModelCardData(
        license="cc-by-nc-sa-4.0",
        language="en",
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "ser_hf"],
        model_name="ser_hf, the bundled model",
        eval_results=[
            EvalResult(**task, metric_type=kind, metric_name=name, metric_value=round(statistic[key]["mean"], 4))
            for kind, name, key in metrics
        ],
    )
    values = {"table": figures_table(figures), "parameters": sum(tensor.numel() for tensor in weights)}
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights)
    return templates.render_card("bundled.md.jinja", data, r=results, size=size, **values)


def _mean_sd(figure: dict) -> str:
    return f"{figure['mean']:.3f}" + (f" ± {figure['sd']:.3f}" if figure["sd"] is not None else "")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"bundle_model: {error}", file=sys.stderr)
        sys.exit(2)
