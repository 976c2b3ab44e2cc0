"""One entry in a registry adds one: a made-up one of each, used as the commands use the others."""

import dataclasses

import numpy as np
import pytest

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.evaluation import evaluate
from ser_hf.evaluation.predictions import rows_tested
from ser_hf.protocols.base import Protocol


def test_protocol(built, rows, monkeypatch, capsys, fails):
    def women_to_men(columns, fold, seed):
        sexes = [(columns["corpus"] == "ravdess") & (columns["sex"] == sex) for sex in ("female", "male")]
        train, test = sexes[::-1] if fold else sexes
        validation = train & np.isin(columns["speaker"], ["ravdess-01", "ravdess-02"])
        return tuple(np.flatnonzero(mask) for mask in (train & ~validation, validation, test))

    entry = Protocol(women_to_men, corpora=("ravdess",), folds=2)
    monkeypatch.setitem(protocols.PROTOCOLS, "women-men", entry)
    split = protocols.split(rows, "women-men", 1)
    assert set(rows.select(split.test)["sex"]) == {"female"}
    assert set(rows.select(split.validation)["speaker"]) == {"ravdess-01"}
    assert split.held_apart[:2] == ("speakers", "samples")
    assert main(["data", "splits", "--dataset", str(built), "--protocol", "women-men", "--fold", "all"]) == 0
    shown = capsys.readouterr().out
    assert f"protocol women-men fold 1 ({split.hash})" in shown
    assert "protocol women-men fold 0" in shown
    assert ", women-men, or a .yaml" in fails("data", "splits", "--dataset", built, "--protocol", "men-women")
    probabilities = np.eye(8)[np.array(rows.select(rows_tested([split]))["label"])]
    results = evaluate.build_results(probabilities, rows, [split], "dataset", "model")
    assert results.headline().startswith("women-men fold 1: UAR 1.000")

    def careless(columns, fold, seed):
        train, validation, test = women_to_men(columns, fold, seed)
        return train, validation, np.append(test, train[:1])

    monkeypatch.setitem(protocols.PROTOCOLS, "women-men", dataclasses.replace(entry, split=careless))
    with pytest.raises(protocols.LeakError, match="'women-men' leaks: ravdess-04 in train and in test"):
        protocols.split(rows, "women-men")
