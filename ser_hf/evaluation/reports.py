"""Model cards and reports, from results and nothing else."""

import base64
import re
import tempfile
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ser_hf.data.corpora import CORPORA
from ser_hf.data.corpora.base import confounds, join_words, languages
from ser_hf.evaluation import plots
from ser_hf.evaluation.results import Results, ResultsError, find_results
from ser_hf.utils import files, templates

STAMP = "LEAKY FIGURES"
"""Stands in the card of every model that was not tested on held-out speakers."""


_NUMBER = re.compile(r"(?<![A-Za-z\d])\d(?:[\d,]*\d)?(?:\.\d+)?|\d+\.\d+")  # F1 and wav2vec2 hold none


class CardError(ValueError):
    """A template that prints a number which it did not take from the results by name."""


class _Figure(str):
    """The text of a value of the results."""


class _FigurePrinter:
    """Prints values of the results by name, and refuses every other number.

    A name is a path in `results.json`, such as `"per_class", "happy", "recall"`.
    """

    def __init__(self, results: Results, *texts: str) -> None:
        self._values = results.to_dict()
        self._texts = {*_texts(self._values), *texts}

    def figure(self, *name: str | int, form: str = ".3f") -> _Figure:
        """A value in a format of Python; nothing where it is None."""
        value = self._value(name)
        return _Figure("" if value is None else format(value, form))

    def percent(self, *name: str | int) -> _Figure:
        """A share as a percentage."""
        return _Figure(f"{100 * self._value(name):.1f} %")

    def interval(self, *name: str | int) -> _Figure:
        """Two bounds; nothing where there are none."""
        bounds = self._value(name)
        return _Figure("{:.3f} to {:.3f}".format(*bounds) if bounds else "")

    def finalize(self, value: object) -> object:
        """Let figures by name, texts of the results and words without numbers pass.

        Raises:
            CardError: for anything else.
        """
        text = str(value)
        if isinstance(value, _Figure) or text in self._texts or not _NUMBER.search(text):
            return text
        raise CardError(f"the template prints {text}, which is no figure of the results by name")

    def _value(self, name: tuple[str | int, ...]) -> Any:
        value: Any = self._values
        for key in name:
            if value is None:
                return None
            value = value[key]
        return value


def _texts(value: object) -> Iterator[str]:
    """All keys and strings of nested dicts and lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def model_card(results: Results, pictures: list[str], revision: str | None = None) -> str:
    """The README.md of a model, with `model-index`; every figure is one of the results.

    Args:
        results: of its evaluation.
        pictures: names of the files in `plots/`.
        revision: branch or tag of the Hub that the example loads; main where None.

    Raises:
        CardError: for a template that prints a number which it did not take from the results by
            name.
    """
    recorded = results.data["corpora"]
    official = [corpus for name, corpus in CORPORA.items() if recorded.get(name, {}).get("licence")]
    noncommercial = [corpus.title for corpus in official if corpus.forbids_commercial_use]
    task = {
        "task_type": "audio-classification",
        "dataset_type": "-".join(results.data["corpora"]),
        "dataset_name": f"{' + '.join(results.data['corpora'])}, protocol {results.protocol} ({results.protocol_hash})",
        "dataset_split": "test",
    }
    base = results.training.get("base_model", "")
    figures = (("accuracy", "accuracy"), ("recall", "UAR"), ("f1", "macro F1"))
    data = ModelCardData(
        license="cc-by-nc-sa-4.0" if noncommercial else "other",
        language=languages(official),
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
    branch = f', revision="{revision}"' if revision not in (None, "main") else ""
    printer = _FigurePrinter(results, name, branch)
    return templates.render_card(
        "model.md.jinja",
        data,
        printer.finalize,
        r=results,
        figure=printer.figure,
        percent=printer.percent,
        interval=printer.interval,
        name=name,
        branch=branch,
        official=[corpus.title for corpus in official],
        noncommercial=noncommercial,
        accents=join_words(list(dict.fromkeys(corpus.accent for corpus in official))) if official else "",
        confounds=confounds(official),
        pictures=pictures,
        stamp=STAMP,
    )


def unfounded(card: str, results: Results) -> list[str]:
    """Numbers in the lines of a card that `model_card` does not render from the results, in order.

    So a figure that was changed is found, and one in a line that somebody added. Digits within the
    names of the model, its dataset and its base model are no figures, nor are those of a word
    (`wav2vec2`).
    """
    rendered = set(model_card(results, list(_OPTIONAL_PICTURES)).splitlines())
    base = results.training.get("base_model", "")
    paths = [path for path in (results.model, results.dataset, base) if path]
    names = sorted({*paths, *(Path(path).name for path in paths)}, key=len, reverse=True)
    numbers = []
    for line in card.splitlines():
        if line not in rendered:
            for name in names:
                line = line.replace(name, "")
            numbers += _NUMBER.findall(line)
    return numbers


def public_card(
    card: str, results: Results, public: Results, rename: Callable[[str], str], revision: str | None = None
) -> str:
    """The card of `public`, with what somebody changed in the card of `results`.

    Args:
        card: of the results, as it lies on disk.
        results: as they lie beside it.
        public: the same figures; names and paths may differ.
        rename: puts public names into a line that somebody wrote.
        revision: of `model_card`.
    """
    pictures = [name for name in _OPTIONAL_PICTURES if name in card]
    original = model_card(results, pictures).splitlines()
    rendered = model_card(public, pictures, revision).splitlines()
    lines = card.splitlines()
    if len(original) != len(rendered):
        raise CardError(f"the public card has {len(rendered)} lines, that of '{results.model}' {len(original)}")
    result: list[str] = []
    for tag, start, end, first, last in SequenceMatcher(None, original, lines, autojunk=False).get_opcodes():
        result += rendered[start:end] if tag == "equal" else map(rename, lines[first:last])
    return "\n".join(result)


_OPTIONAL_PICTURES = ("history.png",)


def report_page(runs: list[Results], pictures: list[dict[str, str]]) -> str:
    """A page of several results, complete in itself; names are escaped.

    Args:
        runs: in the order to show.
        pictures: of each, PNG in base64 by name (`plots.DESCRIPTIONS`).
    """
    return templates.render("report.html.jinja", runs=runs, pictures=pictures, descriptions=plots.DESCRIPTIONS)


def report_table(runs: list[Results]) -> str:
    """A LaTeX table of several results (needs the package booktabs)."""
    return templates.render("report.tex.jinja", runs=runs)


def write_report(folder: Path, output: Path | None = None) -> tuple[list[Path], list[ResultsError]]:
    """Write `report.html`, complete in itself (nothing is loaded from elsewhere), and `report.tex`.

    Args:
        folder: searched for `results.json`, at any depth.
        output: where the two go; `folder` where None. Files of these names are replaced.

    Returns:
        The two files, and the errors of results that cannot be read and were left out.

    Raises:
        ResultsError: for a folder without results, or with none that can be read.
    """
    found, errors = find_results(folder)
    if not found:
        raise errors[0]
    runs = sorted(found.values(), key=lambda run: (run.protocol, str(run.fold), run.protocol_hash, -run.uar))
    page = report_page(runs, [_pictures(run) for run in runs])
    return files.write_texts(output or folder, {"report.html": page, "report.tex": report_table(runs)}), errors


def _pictures(results: Results) -> dict[str, str]:
    """PNG in base64, by name, drawn anew so that they are always of these results."""
    with tempfile.TemporaryDirectory() as temporary:
        paths = plots.draw_results(results, Path(temporary))
        return {path.stem: base64.b64encode(path.read_bytes()).decode() for path in paths}
