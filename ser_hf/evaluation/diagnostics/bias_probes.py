"""Linear probes: whether a model's embeddings tell corpus, speaker, sex and duration.

A linear probe shows what the embeddings hold (Alain and Bengio 2017). It does not show that the
model uses it.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score, mutual_info_score, r2_score
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ser_hf.protocols.base import Columns

READABLE = 0.5
"""Share of the way from chance to perfect from which on a property is worth a warning."""

MIN_ENTROPY_SHARE = 0.02
"""Share of the emotion's entropy from which on the corpus is worth a warning."""

FOLDS = 5
MOST_CLIPS = 3000
"""Clips that are probed at most, drawn by the seed: more take minutes and change scores little."""

_NO_SPEAKER = "-unknown"  # how the dataset names the one speaker of a corpus that names none

_Folds = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Property:
    """A property to be predicted from embeddings, and the clips for which it has a value."""

    name: str
    values: np.ndarray
    speakers: np.ndarray
    embeddings: np.ndarray


def probe(embeddings: np.ndarray, columns: Columns, seed: int = 0) -> dict:
    """Predict corpus, speaker, sex and duration from embeddings, by cross-validation.

    Classes are predicted by logistic regression and the duration by ridge regression, both on
    standardised embeddings. Folds hold speakers apart, except for the speaker itself. Where they
    cannot, they hold clips apart, and `folds` states it. A corpus of one speaker then scores as
    that speaker does. How far the corpus gives the emotion is counted from the labels alone.

    Args:
        embeddings: of test clips, shape `(n, width)`.
        columns: of the same clips: `label`, `corpus`, `speaker`, `sex` (empty where unknown) and
            `duration` (seconds), each of shape `(n,)`, as `ser_hf.protocols.base.columns_of` gives
            them.
        seed: of the folds, and of the clips where there are more than `MOST_CLIPS`.

    Returns:
        `n`; `probed`, the clips used; `probes`, by property its `score`, `chance`, `measure`
        (balanced accuracy, or R² for the duration), `classes` and `folds`; `emotion_from_corpus`
        (see `from_corpus`); and `warnings`, sentences for a card. A property that cannot be probed
        has the score None, and `folds` gives the reason. All of it can be written as JSON.
    """
    n = len(embeddings)
    rows = np.sort(np.random.default_rng(seed).permutation(n)[:MOST_CLIPS])
    embeddings = np.asarray(embeddings, dtype=np.float64)[rows]
    speakers = columns["speaker"][rows]
    probes = {}
    for name in ("corpus", "speaker", "sex"):
        values = np.array([value or "" for value in columns[name]])[rows]
        has_value = ~np.char.endswith(values, _NO_SPEAKER) if name == "speaker" else values != ""
        probes[name] = _classify(_Property(name, values[has_value], speakers[has_value], embeddings[has_value]), seed)
    probes["duration"] = _regress(_Property("duration", columns["duration"][rows], speakers, embeddings), seed)
    corpus_only = from_corpus(columns["label"], columns["corpus"])
    return {
        "n": n,
        "probed": len(rows),
        "probes": probes,
        "emotion_from_corpus": corpus_only,
        "warnings": _warnings(probes, corpus_only),
    }


def from_corpus(labels: np.ndarray, corpora: np.ndarray) -> dict[str, float]:
    """How well a clip's emotion is predicted from its corpus alone.

    Args:
        labels: class indices, shape `(n,)`.
        corpora: names, shape `(n,)`.

    Returns:
        `accuracy` and `uar` of the best guess for each corpus, beside `accuracy_without` and
        `uar_without` of the best guess for all clips; each figure has the guess that is best for
        it. `entropy_share` is I(emotion; corpus) / H(emotion) (Theil's uncertainty coefficient), 0
        where there is one emotion only.
    """
    counts = np.array([np.bincount(labels[corpora == name], minlength=labels.max() + 1) for name in np.unique(corpora)])
    support = counts.sum(axis=0)
    counts, support = counts[:, support > 0], support[support > 0]
    bits = entropy(support)
    return {
        "accuracy": float(counts.max(axis=1).sum() / len(labels)),
        "accuracy_without": float(support.max() / len(labels)),
        "uar": float((counts / support).max(axis=1).sum() / len(support)),
        "uar_without": 1 / len(support),
        "entropy_share": float(max(0.0, mutual_info_score(corpora, labels)) / bits) if bits > 0 else 0.0,
    }


def _classify(prop: _Property, seed: int) -> dict:
    measure, classes = "balanced accuracy", np.unique(prop.values)
    if len(classes) < 2:
        reason = f"one {prop.name} only ({classes[0]})" if len(classes) else f"no {prop.name} is known"
        return _unmeasured(measure, len(classes), reason)
    keep, folds, description = (_by_clip if prop.name == "speaker" else _by_speaker)(prop, seed)
    if not folds:
        return _unmeasured(measure, len(classes), description)
    # The weights balance corpora of unequal size: a blind guess then scores 1 / classes. The
    # strong penalty suits embeddings as wide as there are clips, and converges in fewer steps.
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=100, tol=1e-3)
    used = np.unique(prop.values[keep])
    answers = _answers(model, prop.embeddings[keep], prop.values[keep], folds)
    score = float(balanced_accuracy_score(prop.values[keep], answers))
    return {"score": score, "chance": 1 / len(used), "measure": measure, "classes": len(used), "folds": description}


def _regress(prop: _Property, seed: int) -> dict:
    if len(prop.values) < 2 or np.ptp(prop.values) == 0:
        return _unmeasured("R²", None, "all clips are equally long")
    names, counts = np.unique(prop.speakers, return_counts=True)
    most = int(counts.argmax())
    if 2 * counts[most] > counts.sum():  # what is left would not be enough to learn from, and of other lengths
        splitter = KFold(min(FOLDS, len(prop.values)), shuffle=True, random_state=seed)
        folds = list(splitter.split(prop.embeddings))
        share = 100 * counts[most] / counts.sum()
        description = f"{len(folds)} folds over clips: {share:.0f} % of them are of one speaker ({names[most]})"
    else:
        splitter = GroupKFold(min(FOLDS, len(names)), shuffle=True, random_state=seed)
        folds = list(splitter.split(prop.embeddings, groups=prop.speakers))
        description = f"{len(folds)} folds that hold {len(names)} speakers apart"
    answers = _answers(RidgeCV(alphas=np.logspace(-1, 5, 7)), prop.embeddings, prop.values, folds)
    score = float(r2_score(prop.values, answers))
    return {"score": score, "chance": 0.0, "measure": "R²", "classes": None, "folds": description}


def _by_speaker(prop: _Property, seed: int) -> tuple[np.ndarray, _Folds, str]:
    """Clips to use, folds that hold speakers apart, and a description of the folds.

    The folds hold clips apart where a class has fewer than two speakers.
    """
    names, first = np.unique(prop.speakers, return_index=True)
    values = prop.values[first]
    classes, counts = np.unique(values, return_counts=True)
    if single := sorted({*prop.values.tolist()} - {*classes[counts > 1].tolist()}):
        return _by_clip(prop, seed, f": '{single[0]}' has fewer than two speakers, whose voice may be what is read")
    # Stratified over speakers, not over clips in groups: so each class is on both sides of each
    # fold.
    splitter = StratifiedKFold(min(FOLDS, int(counts.min())), shuffle=True, random_state=seed)
    held = [np.isin(prop.speakers, names[test]) for _, test in splitter.split(names, values)]
    folds = [(np.flatnonzero(~test), np.flatnonzero(test)) for test in held]
    return np.arange(len(prop.values)), folds, f"{len(folds)} folds that hold {len(names)} speakers apart"


def _by_clip(prop: _Property, seed: int, reason: str = "") -> tuple[np.ndarray, _Folds, str]:
    """Clips to use, stratified folds over them, and a description of the folds.

    There are no folds where fewer than two classes have enough clips.
    """
    classes, counts = np.unique(prop.values, return_counts=True)
    enough = classes[counts >= FOLDS]
    keep = np.flatnonzero(np.isin(prop.values, enough))
    if len(enough) < 2:
        return keep, [], f"fewer than two values have {FOLDS} clips"
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    left = len(classes) - len(enough)
    description = f"{FOLDS} folds over clips" + (
        f" ({left} of {len(classes)} have too few and are left out)" if left else ""
    )
    return keep, list(splitter.split(keep, prop.values[keep])), description + reason


def _answers(model: BaseEstimator, embeddings: np.ndarray, values: np.ndarray, folds: _Folds) -> np.ndarray:
    """Out-of-fold predictions for all clips, by a model on standardised embeddings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are limited on purpose
        return cross_val_predict(make_pipeline(StandardScaler(), model), embeddings, values, cv=folds)


def _unmeasured(measure: str, classes: int | None, reason: str) -> dict:
    description = f"cannot be asked: {reason}"
    return {"score": None, "chance": None, "measure": measure, "classes": classes, "folds": description}


def _warnings(probes: dict[str, dict], corpus_only: dict[str, float]) -> list[str]:
    """A sentence for each property that can be read and may then stand in for the emotion."""
    share = corpus_only["entropy_share"]
    meanings = {
        "corpus": f"and tells {100 * share:.0f} % of the emotion: "
        "part of the accuracy across corpora may be the corpus.",
        "speaker": "so that figures on speakers who were trained on would say nothing about new ones.",
        "sex": "so that the figures of each sex are to be looked at, and not those of both alone.",
        "duration": "so that part of the accuracy may be the length of the clips.",
    }
    if share < MIN_ENTROPY_SHARE:
        del meanings["corpus"]  # it would not help
    sentences = []
    for name, meaning in meanings.items():
        score, chance, measure = (probes[name][key] for key in ("score", "chance", "measure"))
        if score is not None and score >= chance + READABLE * (1 - chance):
            figures = f"{measure} {score:.2f}, chance {chance:.2f}"
            sentences.append(f"The {name} can be read from the embeddings ({figures}), {meaning}")
    return sentences
