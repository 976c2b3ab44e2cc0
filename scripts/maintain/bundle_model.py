"""The bundled model: cross-validate its recipe under every protocol, train it on all speakers, and
write it into the package.

    make model RAVDESS=DIR TESS=DIR [BACKBONE=DIR] [SEEDS=3] [FIRST=42]
    python scripts/maintain/bundle_model.py --ravdess DIR --tess DIR --add --first 44 --seeds 1
        [--only PROTOCOL ...]

Every run is of configs/bundled_model.yaml and has a folder of its own. What is finished is not run
again. The first seed gives the model. With --add the model stays: the figures of more seeds,
perhaps measured on another machine, are added to those beside it.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData
from safetensors.torch import load_file, save_file
from scipy.special import softmax

from ser_hf import BUNDLED_MODEL
from ser_hf.errors import UserError
from ser_hf.evaluation import metrics
from ser_hf.evaluation.results import Results
from ser_hf.experiments import adaptation_study
from ser_hf.inference import adaptation_head, embedding_reference
from ser_hf.models.seen_speakers import CONFIG_KEY
from ser_hf.protocols.builtin import PROTOCOLS as ALL_PROTOCOLS
from ser_hf.utils import templates

EMOBOX, ALL = "emobox-ravdess", "all"
_ITS_CORPUS_ALONE = ("--extra_train_speakers", "false")
PROTOCOLS: dict[str, tuple[str, ...]] = {
    EMOBOX: (),
    "luna-ravdess": (),
    "speaker": (),
    "tess-oaf-yaf": (),
    "tess-yaf-oaf": (),
    "random": (),
    # what these leave out are labels that the other corpus lacks
    "ravdess-tess": _ITS_CORPUS_ALONE,
    "tess-ravdess": _ITS_CORPUS_ALONE,
}
"""The protocols that test the recipe, and the flags in which they differ from it."""
FOLDS = {name: ALL_PROTOCOLS[name].folds for name in PROTOCOLS if ALL_PROTOCOLS[name].folds > 1}
"""Folds of the protocols that have several."""
RECIPE = Path(__file__).parents[2] / "configs" / "bundled_model.yaml"
LICENCE = Path(__file__).parent / "LICENSE-WHISPER"
"""Of the backbone; it has to lie beside the weights."""
MAX_BYTES = 30_000_000
"""Bytes of weights that the model may add to the wheel."""
WRONG_ANSWERS = 0.15
"""Share of wrong answers among those given to unseen voices: the model abstains to keep to it."""
SEEDS = "seeds.json"
"""The figures of each seed, beside the model: seeds can be measured one by one, on any machine."""

_TABLE_HEAD = """\
| protocol | clips | seeds | accuracy | UAR | 95 % of it | UAR, adapted to all, and to ten | ECE |
| --- | ---: | ---: | --- | --- | --- | --- | ---: |"""


def main() -> None:
    """Run what is missing, write the model or add the figures, and print the table."""
    args = parse_arguments()
    digest = check_recipe(args.output)
    if args.add:
        refuse_another_recipe(digest)
    if not (args.output / "dataset").exists():
        sources = ["--ravdess", args.ravdess, "--tess", args.tess]
        run_ser_hf(args.output / "dataset.log", "data", *sources, "--output", args.output / "dataset")
    seeds = range(args.first, args.first + args.seeds)
    for seed in seeds:
        # First: it computes the features of every clip, which all protocols of the seed read.
        train(args.output, args.backbone, ALL, seed)
        train_all([partial(train, args.output, args.backbone, name, seed) for name in args.only], args.jobs)
    figures = {protocol: protocol_figures(args.output, protocol, seeds) for protocol in args.only}
    if args.add:
        figures = add_seeds(figures, digest)
    else:
        model, tested = (args.output / name / f"seed-{args.first}" for name in (ALL, EMOBOX))
        write_bundle(model, tested, figures, abstention(args.output, seeds), digest)
    print(figures_table(figures))


def parse_arguments() -> argparse.Namespace:
    """The command line of this script; ends with exit code 2 where it does not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ravdess", required=True, metavar="DIR")
    parser.add_argument("--tess", required=True, metavar="DIR")
    parser.add_argument("--backbone", metavar="DIR|REPO", help="instead of the one that the recipe names")
    parser.add_argument("--output", type=Path, default=Path("runs/bundled_model"), metavar="DIR")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from the first on")
    parser.add_argument("--first", type=int, default=42, help="seed")
    parser.add_argument("--add", action="store_true", help="to the figures of the model that is bundled")
    parser.add_argument("--only", nargs="+", choices=PROTOCOLS, default=[*PROTOCOLS], metavar="PROTOCOL")
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
    """A digest of the recipe, and of what protocols change in it."""
    recipe = [yaml.safe_load(RECIPE.read_text()), {name: list(flags) for name, flags in PROTOCOLS.items()}]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def train_all(runs: list[Callable[[], None]], jobs: int) -> None:
    """Train several runs at a time, in this order; none begins after a failure or an interrupt."""
    stop = threading.Event()

    def attempt(run: Callable[[], None]) -> None:
        try:
            if not stop.is_set():
                run()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(attempt, runs))
        finally:
            stop.set()


def train(output: Path, backbone: str | None, protocol: str, seed: int) -> None:
    """Train the recipe under one protocol, with a log beside its folder, unless that is done."""
    folder = output / protocol / f"seed-{seed}"
    if (folder / ("model.safetensors" if protocol == ALL else "results.json")).exists():
        return
    words = ["--dataset", output / "dataset", "--output_dir", folder, "--cache_dir", output / "features"]
    words += ["--protocol", protocol, "--seed", seed, *PROTOCOLS.get(protocol, ())]
    words += ["--model", backbone] if backbone else []
    if protocol in FOLDS:
        words += ["--fold", "all", "--resume_from_checkpoint", "true"]
    run_ser_hf(folder.parent / f"{folder.name}.log", "finetune", RECIPE, *words)


def run_ser_hf(log: Path, *words: object) -> None:
    """Run a command of ours; end with its exit code and last line if it fails."""
    line = [str(word) for word in words]
    print(f"$ ser-hf {' '.join(line)}", file=sys.stderr, flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        command = [sys.executable, "-m", "ser_hf.cli.main", *line]
        run = subprocess.run(command, stdout=file, stderr=file)
    if run.returncode:
        print(f"{log}: {log.read_text().strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(run.returncode)


def predictions(output: Path, protocol: str, seed: int) -> list[adaptation_study.RunPredictions]:
    """The predictions of each run that is pooled."""
    folder = output / protocol / f"seed-{seed}"
    folds = [folder / f"fold-{number}" for number in range(FOLDS[protocol])] if protocol in FOLDS else [folder]
    return [adaptation_study.read_predictions(fold) for fold in folds]


def protocol_figures(output: Path, protocol: str, seeds: range) -> dict:
    """A row of `figures_table`."""
    by_seed = {}
    for seed in seeds:
        folds = predictions(output, protocol, seed)
        figures = adaptation_study.adaptation_figures(folds, [1.0] * len(folds))
        ten = adaptation_study.adapted_uar(folds, [1.0] * len(folds), clips=10)
        by_seed[str(seed)] = figures | {"adapted uar, ten clips": statistics.fmean(ten)}
    results = Results.load(output / protocol / f"seed-{seeds[0]}" / "results.json")
    return {"n": results.n, "ci95": results.ci95, "seeds": by_seed}


def abstention(output: Path, seeds: range) -> dict:
    """The threshold that keeps to `WRONG_ANSWERS` on the folds of `EMOBOX`, all seeds together.

    Returns:
        `abstain_below`, and `protocols`: of each the share of clips that is answered, `coverage`,
        and of wrong answers among those, `error`.
    """
    tested = {}
    for protocol in PROTOCOLS:
        runs = [run for seed in seeds for run in predictions(output, protocol, seed)]
        logits, labels = (np.concatenate([getattr(run, name) for run in runs]) for name in ("logits", "labels"))
        tested[protocol] = softmax(logits, axis=1), labels
    threshold = metrics.abstention_threshold(*tested[EMOBOX], error=WRONG_ANSWERS)["abstain_below"]
    by_protocol = {}
    for protocol, (probabilities, labels) in tested.items():
        answered = probabilities.max(axis=1) >= threshold
        wrong = (probabilities.argmax(axis=1) != labels)[answered]
        by_protocol[protocol] = {
            "coverage": float(answered.mean()),
            "error": float(wrong.mean()) if len(wrong) else 0.0,
        }
    return {"abstain_below": threshold, "protocols": by_protocol}


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
        adapted = f"{_mean_sd(statistic['adapted uar'])}, {_mean_sd(statistic['adapted uar, ten clips'])}"
        scores = f"{_mean_sd(statistic['accuracy'])} | {_mean_sd(statistic['uar'])} | {interval}"
        head = f"`{protocol}` | {row['n']:,} | {len(row['seeds'])}"
        lines.append(f"| {head} | {scores} | {adapted} | {statistic['ece']['mean']:.3f} |")
        corpora = [name for name in statistic if name.startswith("uar ")]
        for name in corpora if len(corpora) > 1 else []:
            lines.append(f"| … {name.removeprefix('uar ').upper()} | | | | {_mean_sd(statistic[name])} | | | |")
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
    model: Path, tested: Path, figures: dict[str, dict], abstains: dict, recipe: str, folder: Path = BUNDLED_MODEL
) -> None:
    """Write the model of all speakers, with its card and the results of its recipe.

    Tensors that half precision holds exactly are stored so: a Whisper is published in it, and only
    the head is ours. Stock transformers computes in float32, as the config says, and answers as the
    model that was trained.

    Args:
        model: folder of the training on all speakers.
        tested: folder of the cross-validation, whose `results.json` becomes the model's, with a
            note.
        figures: as `figures_table` takes them.
        abstains: what `abstention` gave; its threshold becomes the model's.
        recipe: its digest, so that no figures of another recipe are added.
        folder: to write; what was there is replaced.

    Raises:
        UserError: where the weights are too large.
    """
    config = json.loads((model / "config.json").read_text()) | {"dtype": "float32"}
    config[CONFIG_KEY] |= {"abstain_below": abstains["abstain_below"]}
    weights = {name: _stored(tensor) for name, tensor in load_file(model / "model.safetensors").items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if size > MAX_BYTES:
        raise UserError(f"{size:,} bytes of weights are too many to bundle: {MAX_BYTES:,} are allowed")
    note = (  # the notes of single runs do not hold for the pooled figures
        "These are the figures of models of the same recipe, each tested on speakers that it was not trained on. "
        "This model was trained on all speakers, so that none is left to test it on."
    )
    results = Results.load(tested / "results.json")
    results = dataclasses.replace(results, model=folder.name, dataset="RAVDESS + TESS", notes=[note])
    with _replaced(folder) as written:
        written.mkdir()
        save_file(weights, written / "model.safetensors", {"format": "pt"})
        (written / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        shutil.copy(model / "preprocessor_config.json", written)
        for name in (adaptation_head.FILE, embedding_reference.FILE):
            if (model / name).exists():
                shutil.copy(model / name, written)
        shutil.copy(LICENCE, written)
        results.save(written / "results.json")
        _write_figures(written, {"recipe": recipe, "abstention": abstains, "protocols": figures})


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in half precision where that changes no value, else as it is."""
    half = tensor.half()
    return half.contiguous() if torch.equal(half.float(), tensor.float()) else tensor.contiguous()


def add_seeds(figures: dict[str, dict], recipe: str, folder: Path = BUNDLED_MODEL) -> dict[str, dict]:
    """Add the figures of more seeds to a bundled model; returns all that are there then.

    Raises:
        UserError: where that model is of another recipe, or was tested on other clips.
    """
    refuse_another_recipe(recipe, folder)
    measured = json.loads((folder / SEEDS).read_text())
    all_figures = measured["protocols"]
    for protocol, row in figures.items():
        bundled = all_figures.setdefault(protocol, row)
        if bundled["n"] != row["n"]:
            raise UserError(
                f"{protocol} was tested on {bundled['n']:,} clips and now on {row['n']:,}: take the same recordings"
            )
        bundled["seeds"] = dict(sorted({**bundled["seeds"], **row["seeds"]}.items()))
    with _replaced(folder) as written:
        shutil.copytree(folder, written)
        _write_figures(written, measured)
    return all_figures


def refuse_another_recipe(recipe: str, folder: Path = BUNDLED_MODEL) -> None:
    """Refuse to add figures to a bundled model of another recipe.

    Raises:
        UserError: where that model is of another recipe.
    """
    file = folder / SEEDS
    if not file.exists() or json.loads(file.read_text())["recipe"] != recipe:
        raise UserError("the bundled model is of another recipe: bundle one of this recipe first, without --add")


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Give a path for a folder that takes the place of another when the block ends well."""
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=folder.parent) as temporary:
        written = Path(temporary) / folder.name
        yield written
        if folder.exists():
            folder.rename(Path(temporary) / "before")
        written.rename(folder)


def _write_figures(folder: Path, measured: dict) -> None:
    (folder / SEEDS).write_text(json.dumps(measured, indent=1) + "\n")
    (folder / "README.md").write_text(render_card(folder))


def render_card(folder: Path) -> str:
    """The model card of a bundled model, from its results, weights and figures."""
    measured = json.loads((folder / SEEDS).read_text())
    figures = measured["protocols"]
    results = Results.load(folder / "results.json")
    weights = load_file(folder / "model.safetensors").values()
    task = {
        "task_type": "audio-classification",
        "dataset_type": "ravdess-tess",
        "dataset_name": f"RAVDESS speech, six folds of unseen voices ({results.protocol})",
        "dataset_split": "test",
    }
    statistic = seed_statistics(figures[results.protocol]["seeds"])
    headline = (("recall", "UAR", "uar"), ("accuracy", "accuracy", "accuracy"))
    data = ModelCardData(
        license="cc-by-nc-sa-4.0",
        language="en",
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "ser_hf"],
        model_name="ser_hf, the bundled model",
        eval_results=[
            EvalResult(**task, metric_type=kind, metric_name=name, metric_value=round(statistic[key]["mean"], 4))
            for kind, name, key in headline
        ],
    )
    values = {
        "table": figures_table(figures),
        "abstains": measured["abstention"],
        "parameters": sum(tensor.numel() for tensor in weights),
    }
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
