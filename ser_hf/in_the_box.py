"""The model in the box: how a trained one is put there, with the figures of its cross-validation."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from huggingface_hub import EvalResult, ModelCardData
from safetensors.torch import load_file, save_file

from ser_hf import IN_THE_BOX, cards
from ser_hf.results import Results

LARGEST = 12_000_000
"""Bytes that it may add to the wheel."""

_HEAD = """\
| protocol | clips | seeds | accuracy | UAR | 95 % of it | UAR, adapted | ECE, before | and after |
| --- | ---: | ---: | --- | --- | --- | --- | ---: | ---: |"""


def table(rows: list[dict]) -> str:
    """Figures of each protocol as Markdown, with a line for each corpus where it tests two.

    Args:
        rows: each with `protocol`, `n`, `seeds`, `ci95` (of the first seed) and `figures`: `mean` and `sd` over seeds
            of what `cross_validation.figures` gives.
    """
    lines = [_HEAD]
    for row in rows:
        found = row["figures"]
        between = "{:.3f} to {:.3f}".format(*row["ci95"]["uar"]) if row["ci95"] else "none"
        ece = f"{found['ece before']['mean']:.3f} | {found['ece']['mean']:.3f}"
        spreads = f"{_spread(found['accuracy'])} | {_spread(found['uar'])} | {between}"
        what = f"`{row['protocol']}` | {row['n']:,} | {row['seeds']}"
        lines.append(f"| {what} | {spreads} | {_spread(found['adapted uar'])} | {ece} |")
        parts = [name for name in found if name.startswith("uar ")]
        for name in parts if len(parts) > 1 else []:
            lines.append(f"| … {name.removeprefix('uar ').upper()} | | | | {_spread(found[name])} | | | | |")
    return "\n".join(lines)


def put(model: Path, tested: Path, rows: list[dict], folder: Path = IN_THE_BOX) -> None:
    """Write the model of everybody as fp16, with its card, and the results of those of its recipe that were tested.

    Stock transformers computes with it in float32, as its config says.

    Args:
        model: folder of the training on everybody.
        tested: folder of the cross-validation, whose `results.json` becomes the model's, with a note.
        rows: of `table`.
        folder: to write into; what was there is replaced.
    """
    config = json.loads((model / "config.json").read_text())
    weights = {name: one.half().contiguous() for name, one in load_file(model / "model.safetensors").items()}
    size = sum(one.numel() * one.element_size() for one in weights.values())
    if size > LARGEST:
        raise cards.CardError(f"{size:,} bytes of weights do not fit in the box: {LARGEST:,} do")
    if not all(torch.isfinite(one).all() for one in weights.values()):
        raise cards.CardError("a weight does not fit in fp16")
    results = Results.load(tested / "results.json")
    results.model, results.dataset = folder.name, "RAVDESS + TESS"
    results.notes = [  # those of single runs are of single runs
        "These are the figures of models of the same recipe, each tested on voices that it had not heard. "
        "This one was trained on all voices, so that none is left to test it on."
    ]
    parameters = sum(one.numel() for one in weights.values())
    card = _card(results, rows, parameters, size)
    with tempfile.TemporaryDirectory(prefix=".box-", dir=folder.parent) as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        save_file(weights, partial / "model.safetensors", {"format": "pt"})
        (partial / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
        shutil.copy(model / "preprocessor_config.json", partial)
        results.save(partial / "results.json")
        (partial / "README.md").write_text(card)
        if folder.exists():
            folder.rename(Path(temporary) / "before")
        partial.rename(folder)


def _card(results: Results, rows: list[dict], parameters: int, size: int) -> str:
    task = {
        "task_type": "audio-classification",
        "dataset_type": "ravdess-tess",
        "dataset_name": f"RAVDESS speech, six folds of unseen voices ({results.protocol})",
        "dataset_split": "test",
    }
    figures = next(row["figures"] for row in rows if row["protocol"] == results.protocol)
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
    values = {"table": table(rows), "parameters": parameters, "size": size}
    return cards.rendered("box.md.jinja", data, r=results, **values)


def _spread(figure: dict) -> str:
    return f"{figure['mean']:.3f}" + (f" ± {figure['sd']:.3f}" if figure["sd"] is not None else "")
