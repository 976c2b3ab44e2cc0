"""Model cards and reports, from results and nothing else."""

import base64
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from ser_hf.evaluation import plots
from ser_hf.evaluation.results import Results, ResultsError
from ser_hf.utils import templates

STAMP = "LEAKY FIGURES"
"""Stands in the card of whatever was not tested on held-out speakers."""


class CardError(ValueError):
    """A card that says more than was measured."""


def model_card(results: "Results", pictures: list[str]) -> str:
    """The README.md of a model, with `model-index`, from its results and nothing else.

    Args:
        results: of its evaluation.
        pictures: names of those that lie in `plots/`.

    Raises:
        CardError: if a figure stands in it that is not in the results; that would be our fault.
    """
    official = [corpus for corpus in ("ravdess", "tess") if results.data["corpora"].get(corpus, {}).get("licence")]
    task = {
        "task_type": "audio-classification",
        "dataset_type": "-".join(results.data["corpora"]),
        "dataset_name": f"{' + '.join(results.data['corpora'])}, protocol {results.protocol} ({results.protocol_hash})",
        "dataset_split": "test",
    }
    base = results.training.get("base_model", "")
    figures = (("accuracy", "accuracy"), ("recall", "UAR"), ("f1", "macro F1"))
    data = ModelCardData(
        license="cc-by-nc-sa-4.0" if official else "other",
        language="en" if official else None,
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "ser_hf", *(["leaky-evaluation"] if results.leaks else [])],
        base_model=base if "/" in base and not Path(base).exists() else None,
        model_name=Path(results.model).name,
        eval_results=[
            EvalResult(**task, metric_type=kind, metric_name=name, metric_value=round(value, 4), verified=False)
            for (kind, name), value in zip(figures, (results.accuracy, results.uar, results.macro_f1), strict=True)
        ],
    )
    name = Path(results.model).name
    card = templates.render_card(
        "model.md.jinja", data, r=results, name=name, official=official, pictures=pictures, stamp=STAMP
    )
    if wrong := unfounded(card, results):
        raise CardError(f"figures without a source in the card of '{results.model}': {', '.join(wrong)}")
    return card


def unfounded(card: str, results: "Results") -> list[str]:
    """Numbers in a model card that stand neither in its results nor in the words of its template,
    in order.

    A number of the results may stand in the card as it is, rounded to three or four places; some
    may as a percentage.
    """
    template = re.sub(r"{%.*?%}|{{.*?}}", " ", (templates.TEMPLATES / "model.md.jinja").read_text(), flags=re.DOTALL)
    known = set(_NUMBER.findall(template)) | {"4.0"}  # of the licence in the front matter
    for key, leaf in _leaves(asdict(results)):
        if isinstance(leaf, str):
            known |= set(_NUMBER.findall(leaf))
        elif isinstance(leaf, int | float):
            known |= {str(leaf), f"{leaf:,}", f"{leaf:.3f}", str(round(leaf, 4))}
            known |= {f"{100 * leaf:.1f}"} if key in _PERCENTAGES else set()
    return [number for number in _NUMBER.findall(card) if number not in known]


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """All that stands in nested dicts and lists, each with its key; the keys themselves, too."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield "", name
            yield from _leaves(one, name)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one)
    else:
        yield key, value


_PERCENTAGES = {"flips", "answered", "error"}
_NUMBER = re.compile(r"\d(?:[\d,]*\d)?(?:\.\d+)?(?:e[-+]?\d+)?")


def report_page(runs: list["Results"], pictures: list[dict[str, str]]) -> str:
    """A page of several results, complete in itself; names are escaped.

    Args:
        runs: in the order to show.
        pictures: of each, PNG in base64 by name.
    """
    return templates.render("report.html.jinja", runs=runs, pictures=pictures)


def report_table(runs: list["Results"]) -> str:
    """A LaTeX table of several results (needs the package booktabs)."""
    return templates.render("report.tex.jinja", runs=runs)


def write_report(folder: Path, output: Path | None = None) -> list[Path]:
    """Write `report.html`, complete in itself (nothing is loaded from elsewhere), and `report.tex`.

    Args:
        folder: searched for `results.json`, at any depth.
        output: where the two go; `folder` where None. Files of these names are replaced.

    Returns:
        The two files.

    Raises:
        ResultsError: for a folder without results, or with some that cannot be read.
    """
    found = sorted(folder.rglob("results.json"))
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise ResultsError(f"'{folder}' holds no results.json: give the folder of a model or an evaluation")
    runs = [Results.load(path) for path in found]
    runs.sort(key=lambda run: (run.protocol, str(run.fold), run.protocol_hash, -run.uar))
    pages = {"report.html": report_page(runs, [_pictures(run) for run in runs])}
    pages["report.tex"] = report_table(runs)
    output = output or folder
    output.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        partial = output / f".{name}.partial"
        partial.write_text(text)
        partial.rename(output / name)
    return [output / name for name in pages]


def _pictures(results: Results) -> dict[str, str]:
    """PNG in base64, by name, drawn anew: so they cannot tell of other results."""
    with tempfile.TemporaryDirectory() as temporary:
        drawn = plots.draw_results(results, Path(temporary))
        return {path.stem.replace("_", " "): base64.b64encode(path.read_bytes()).decode() for path in drawn}
