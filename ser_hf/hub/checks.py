"""Checks before a push: the results are of the weights, and the card is of the results."""

import re
from pathlib import Path
from typing import Any

from ser_hf.errors import UserError
from ser_hf.evaluation import reports
from ser_hf.evaluation.results import Results
from ser_hf.models import loading


class ProvenanceError(UserError):
    """A model whose figures would mislead; the message names the reason and the remedy."""


def public_files(folder: Path, repo: str, revision: str | None = None) -> dict[str, bytes]:
    """The card and `results.json` for the Hub: the model by its name there, and no local paths.

    Args:
        folder: that `check_evidence` accepts.
        repo: the name of the model on the Hub.
        revision: the branch on which it will lie, which the card's example has to name; main if
            None.
    """
    results = Results.load(folder / "results.json")
    local = [path for path in (results.dataset, results.training.get("base_model", "")) if Path(path).exists()]
    names = {path: Path(path).name for path in local} | {results.model: repo}
    public_results = Results(**_renamed(results.to_dict(), names) | {"model": repo})
    at = "" if revision in (None, "main") else f', revision="{revision}"'

    def rename(line: str) -> str:
        line = _renamed(line, names)
        for model in (results.model, repo):
            line = line.replace(f'model="{model}",', f'model="{repo}"{at},')
        return line

    text = _without_branch((folder / "README.md").read_text(), results.model)
    card = reports.public_card(text, results, public_results, rename, revision)
    return {"README.md": f"{card}\n".encode(), "results.json": public_results.to_json().encode()}


def _renamed(value: object, names: dict[str, str]) -> Any:
    """JSON with other names for paths.

    A path of a single word, such as `model`, may mean anything and stays.
    """
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    if isinstance(value, str):
        for path in sorted(names, key=len, reverse=True):  # a path may begin as another does
            if "/" in path:
                pattern = rf"(?<![\w./-]){re.escape(path)}(?![\w/-])"
                value = re.sub(pattern, names[path].replace("\\", r"\\"), value)
    return value


def check_evidence(folder: Path, allow_leaky: bool = False) -> Results:
    """Compare a model's card with its results, and its results with its weights.

    Args:
        folder: with weights, `results.json` and the card `README.md`.
        allow_leaky: accept figures of speakers who were, or may have been, in the training.

    Returns:
        The results.

    Raises:
        ModelError: for a folder that holds no trained classifier with named labels.
        ProvenanceError: where the evidence is of other weights, where the card says figures that
            the results do not or lacks its stamp, or where the test's speakers were not held out.
    """
    model, _, _ = loading.load_for_prediction(folder)
    results = Results.load(folder / "results.json")
    card = folder / "README.md"
    remedy = f"run `ser-hf evaluate --model {folder} --into_model` with its dataset and protocol"
    if results.weights != loading.digest(model):
        tested = results.weights or "unknown"
        raise ProvenanceError(f"results.json in '{folder}' is of other weights ({tested}): {remedy}")
    if not card.is_file():
        raise ProvenanceError(f"'{folder}' has no card README.md: {remedy}")
    if results.leaks and not allow_leaky:
        why = results.notes[0] if results.notes else "its protocol holds no speakers out"
        raise ProvenanceError(
            f"'{folder}' was not tested on held-out speakers ({why}): {remedy}, or pass --allow_leaky"
        )
    text = _without_branch(card.read_text(), results.model)
    if results.leaks and reports.STAMP not in text:
        raise ProvenanceError(f"the card of '{folder}' does not say that its figures leak: {remedy}")
    if unfounded := reports.unfounded(text, results):
        raise ProvenanceError(f"the card of '{folder}' says {unfounded[0]}, which is not in results.json: {remedy}")
    return results


def _without_branch(card: str, model: str) -> str:
    """A card whose example loads the model from main."""
    return re.sub(rf'(?<=model="{re.escape(model)}"), revision="[^"]*"', "", card)
