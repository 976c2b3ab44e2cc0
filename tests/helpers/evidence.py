"""Folders of evidence, as `ser-hf evaluate` writes them, of answers that a test chooses."""

import dataclasses

import numpy as np

from ser_hf import BUNDLED_MODEL
from ser_hf.evaluation.results import PredictionTable, Results, score


def write_evidence(folder, labels, answers, speakers, *, csv=True, **fields):
    """Write `results.json` and `predictions.csv` of class indices; give the folder.

    The results say that the protocol is `speaker`, that it holds speakers apart, and what `fields`
    says.
    """
    labels, answers, speakers = np.array(labels), np.array(answers), np.array(speakers)
    probabilities = np.eye(8, dtype=np.float32)[answers]
    corpora = np.full(len(labels), "ravdess")
    given = {
        "protocol": "speaker",
        "protocol_hash": "abc",
        "fold": 0,
        "folds": 1,
        "model": folder.name,
        "weights": "",
        "dataset": "runs/dataset",
        "held_apart": ["speakers", "samples"],
        "notes": [],
        "training": {},
        "speakers": {"train": 9, "validation": 2, "test": len(set(speakers.tolist()))},
        "chance": 0.5,
        "repeats": None,
        **score(labels, probabilities, {"corpus": corpora, "speaker": speakers}),
    }
    folder.mkdir(parents=True)
    results = dataclasses.replace(Results.load(BUNDLED_MODEL / "results.json"), **given | fields)
    results.save(folder / "results.json")
    if csv:
        files = np.array([f"clip-{number:04d}.wav" for number in range(len(labels))])
        PredictionTable(files, corpora, speakers, labels, answers, probabilities).write(folder / "predictions.csv")
    return folder
