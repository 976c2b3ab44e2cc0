"""Whether a model's folder may be shown to others: its evidence is of its weights, its card of its evidence."""

import re
from pathlib import Path

from ser_hf import cards, modeling
from ser_hf.errors import UserError
from ser_hf.results import Results


class ProvenanceError(UserError):
    """A model whose figures would mislead; the message says why and what mends it."""


def public(folder: Path, repo: str) -> dict[str, bytes]:
    """The card and `results.json` as strangers should read them: the model by its name on the Hub, no local paths.

    Args:
        folder: that `check` accepts.
        repo: the name of the model on the Hub.
    """
    results = Results.load(folder / "results.json")
    names = {results.model: repo}
    for path in (results.dataset, results.training.get("base_model", "")):
        if Path(path).exists() and path != results.model:
            names[path] = Path(path).name
    found = {}
    for name in ("README.md", "results.json"):
        text = (folder / name).read_text()
        for path in sorted(names, key=len, reverse=True):  # one may begin as another does
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w/-])", names[path], text)
        found[name] = text.encode()
    return found


def check(folder: Path, allow_leaky: bool = False) -> Results:
    """Hold a model's folder to its evidence.

    Args:
        folder: with weights, `results.json` and the card `README.md`.
        allow_leaky: accept figures of speakers who were, or may have been, heard in training.

    Returns:
        The results.

    Raises:
        ModelError: for a folder that holds no trained classifier with named labels.
        ProvenanceError: where the evidence is of other weights, where the card says figures that the results do not or
            lacks its stamp, or where the test's speakers were not held out.
    """
    model, _, _ = modeling.load_for_prediction(folder)
    results = Results.load(folder / "results.json")
    card = folder / "README.md"
    again = f"run `ser-hf evaluate --model {folder} --into_model` with its dataset and protocol"
    if results.weights != modeling.digest(model):
        tested = results.weights or "unknown"
        raise ProvenanceError(f"results.json in '{folder}' is of other weights ({tested}): {again}")
    if not card.is_file():
        raise ProvenanceError(f"'{folder}' has no card README.md: {again}")
    if results.leaks and not allow_leaky:
        why = results.notes[0] if results.notes else "its protocol holds no speakers out"
        raise ProvenanceError(f"'{folder}' was not tested on held-out speakers ({why}): {again}, or pass --allow_leaky")
    text = card.read_text()
    if results.leaks and cards.STAMP not in text:
        raise ProvenanceError(f"the card of '{folder}' does not say that its figures leak: {again}")
    pictures = [path.name for path in (folder / "plots").glob("*.png")]
    written = set(cards.model_card(results, pictures).splitlines())
    added = "\n".join(line for line in text.splitlines() if line not in written)
    if wrong := cards.unfounded(added, results):
        raise ProvenanceError(f"the card of '{folder}' says {wrong[0]}, which is not in results.json: {again}")
    return results
