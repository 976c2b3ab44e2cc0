"""The model in the box: how a trained one is put there, with the figures of its
cross-validation."""

import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import EvalResult, ModelCardData
from safetensors.torch import load_file, save_file

from ser_hf import BUNDLED_MODEL
from ser_hf.errors import UserError
from ser_hf.evaluation import reports
from ser_hf.evaluation.results import Results
from ser_hf.utils import templates

LARGEST = 12_000_000
"""Bytes that it may add to the wheel."""

_HEAD = """\
| protocol | clips | seeds | accuracy | UAR | 95 % of it | UAR, adapted | ECE, before | and after |
| --- | ---: | ---: | --- | --- | --- | --- | ---: | ---: |"""


SEEDS = "seeds.json"
"""The figures of each seed, beside the model, so that seeds can be measured one by one and on
several machines."""


def table(measured: dict[str, dict]) -> str:
    """Means and standard deviations over seeds as Markdown, with a line for each corpus where a
    protocol tests two.

    Args:
        measured: of each protocol `n` (clips), `ci95` (of the model's own seed), and `seeds`: of
            each seed what `cross_validation.figures` gives.
    """
    lines = [_HEAD]
    for protocol, row in measured.items():
        found = spreads(row["seeds"])
        between = "{:.3f} to {:.3f}".format(*row["ci95"]["uar"]) if row["ci95"] else "none"
        ece = f"{found['ece before']['mean']:.3f} | {found['ece']['mean']:.3f}"
        figures = f"{_spread(found['accuracy'])} | {_spread(found['uar'])} | {between}"
        what = f"`{protocol}` | {row['n']:,} | {len(row['seeds'])}"
        lines.append(f"| {what} | {figures} | {_spread(found['adapted uar'])} | {ece} |")
        parts = [name for name in found if name.startswith("uar ")]
        for name in parts if len(parts) > 1 else []:
            lines.append(f"| … {name.removeprefix('uar ').upper()} | | | | {_spread(found[name])} | | | | |")
    return "\n".join(lines)


def spreads(seeds: dict[str, dict[str, float]]) -> dict[str, dict]:
    """Mean and standard deviation (n - 1; None of a single seed) of each figure over seeds."""
    found = list(seeds.values())
    return {
        name: {
            "mean": statistics.fmean([one[name] for one in found]),
            "sd": statistics.stdev([one[name] for one in found]) if len(found) > 1 else None,
        }
        for name in found[0]
    }


def put(model: Path, tested: Path, measured: dict[str, dict], recipe: str, folder: Path = BUNDLED_MODEL) -> None:
    """Write the model of everybody as fp16, with its card, and the results of those of its recipe
    that were tested.

    Stock transformers computes with it in float32, as its config says.

    Args:
        model: folder of the training on everybody.
        tested: folder of the cross-validation, whose `results.json` becomes the model's, with a
        note. measured: of `table`. recipe: digest of how it learns, so that no figures of another
        are added. folder: to write into; what was there is replaced.
    """
    config = json.loads((model / "config.json").read_text())
    weights = {name: one.half().contiguous() for name, one in load_file(model / "model.safetensors").items()}
    size = sum(one.numel() * one.element_size() for one in weights.values())
    if size > LARGEST:
        raise reports.CardError(f"{size:,} bytes of weights do not fit in the box: {LARGEST:,} do")
    if not all(torch.isfinite(one).all() for one in weights.values()):
        raise reports.CardError("a weight does not fit in fp16")
    results = Results.load(tested / "results.json")
    results.model, results.dataset = folder.name, "RAVDESS + TESS"
    results.notes = [  # those of single runs are of single runs
        "These are the figures of models of the same recipe, each tested on voices that it had not heard. "
        "This one was trained on all voices, so that none is left to test it on."
    ]
    with _replaced(folder) as partial:
        partial.mkdir()
        save_file(weights, partial / "model.safetensors", {"format": "pt"})
        (partial / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
        shutil.copy(model / "preprocessor_config.json", partial)
        results.save(partial / "results.json")
        _write_figures(partial, measured, recipe)


def add(measured: dict[str, dict], recipe: str, folder: Path = BUNDLED_MODEL) -> dict[str, dict]:
    """Add the figures of more seeds to a model that is in the box; all that is known by then.

    Raises:
        UserError: where the model there is of another recipe, or was tested on other clips.
    """
    temperature(recipe, folder)
    every = json.loads((folder / SEEDS).read_text())["protocols"]
    for protocol, row in measured.items():
        known = every.setdefault(protocol, row)
        if known["n"] != row["n"]:
            raise UserError(
                f"{protocol} was tested on {known['n']:,} clips and now on {row['n']:,}: take the same recordings"
            )
        known["seeds"] = dict(sorted({**known["seeds"], **row["seeds"]}.items()))
    with _replaced(folder) as partial:
        shutil.copytree(folder, partial)
        _write_figures(partial, every, recipe)
    return every


def temperature(recipe: str, folder: Path = BUNDLED_MODEL) -> float:
    """That of the model in the box, if it is of this recipe.

    Raises:
        UserError: where it is of another.
    """
    file = folder / SEEDS
    if not file.exists() or json.loads(file.read_text())["recipe"] != recipe:
        raise UserError("the model in the box is of another recipe: make one of this first, without --add")
    return json.loads((folder / "config.json").read_text())["ser_hf"]["temperature"]


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Where to make a folder that takes the place of another, once it is whole."""
    with tempfile.TemporaryDirectory(prefix=".box-", dir=folder.parent) as temporary:
        partial = Path(temporary) / folder.name
        yield partial
        if folder.exists():
            folder.rename(Path(temporary) / "before")
        partial.rename(folder)


def _write_figures(folder: Path, measured: dict[str, dict], recipe: str) -> None:
    (folder / SEEDS).write_text(json.dumps({"recipe": recipe, "protocols": measured}, indent=1) + "\n")
    (folder / "README.md").write_text(_card(folder, measured))


def _card(folder: Path, measured: dict[str, dict]) -> str:
    results = Results.load(folder / "results.json")
    weights = load_file(folder / "model.safetensors").values()
    task = {
        "task_type": "audio-classification",
        "dataset_type": "ravdess-tess",
        "dataset_name": f"RAVDESS speech, six folds of unseen voices ({results.protocol})",
        "dataset_split": "test",
    }
    figures = spreads(measured[results.protocol]["seeds"])
    kinds = (("recall", "UAR", "uar"), ("accuracy", "accuracy", "accuracy"))
    data = ModelCardData(
        license="cc-by-nc-sa-4.0",
        language="en",
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "ser_hf"],
        model_name="ser_hf, the model in the box",
        eval_results=[
            EvalResult(**task, metric_type=kind, metric_name=name, metric_value=round(figures[key]["mean"], 4))
            for kind, name, key in kinds
        ],
    )
    values = {"table": table(measured), "parameters": sum(one.numel() for one in weights)}
    size = sum(one.numel() * one.element_size() for one in weights)
    return templates.render_card("box.md.jinja", data, r=results, size=size, **values)


def _spread(figure: dict) -> str:
    return f"{figure['mean']:.3f}" + (f" ± {figure['sd']:.3f}" if figure["sd"] is not None else "")
