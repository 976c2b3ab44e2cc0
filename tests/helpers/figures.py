"""Figures to draw and to show: usual ones, and those that break layouts."""

import itertools
from dataclasses import replace

import numpy as np
from scipy.special import softmax

from ser_hf.evaluation.results import Results, score
from ser_hf.labels import EMOTIONS

LONG = "interview-of-a-visitor-in-the-kitchen-of-the-institute-" * 4 + "2026-11-28T09:31:07.wav"


def make_results(n=240, strength=2.0, seed=0, **changes):
    """Results of random answers for `n` clips of 12 speakers, with all that evidence can hold."""
    rng = np.random.default_rng(seed)
    references = np.arange(n) % 8
    probabilities = softmax(rng.normal(size=(n, 8)) + strength * np.eye(8)[references], axis=1)
    speakers = np.array([f"ravdess-{number % 12 + 1:02d}" for number in range(n)])
    columns = {
        "speaker": speakers,
        "corpus": np.where(np.arange(n) % 3, "ravdess", "tess"),
        "channel": np.where(np.arange(n) % 2, "speech", "song"),
        "sex": np.where(np.arange(n) % 4 < 2, "female", "male"),
        "intensity": np.where(np.arange(n) % 5 < 2, "normal", "strong"),
    }
    figures = score(references, probabilities, columns)
    interval = {name: [0.4, 0.6] for name in ("accuracy", "uar", "macro_f1", "weighted_f1")}
    simple = {"accuracy": 0.5, "uar": 0.5, "macro_f1": 0.5, "ci95": interval}
    damage = (
        "noise 20 dB",
        "noise 10 dB",
        "noise 0 dB",
        "reverberation 0.8 s",
        "telephone",
        "mp3 16 kb/s",
        "speed 1.2",
    )
    rows = [
        {"name": name, "kind": name.split()[0], "uar": 0.5, "accuracy": 0.5, "share": 0.9, "flips": 0.1 * place}
        for place, name in enumerate(damage)
    ]
    probe = {
        "score": 0.7,
        "chance": 0.5,
        "measure": "balanced accuracy",
        "classes": 2,
        "folds": "5 folds over speakers",
    }
    probes = dict.fromkeys(("corpus", "channel", "sex", "speaker"), probe)
    probes["duration"] = probe | {"score": -3.2, "chance": 0.0, "measure": "R²", "classes": None}
    values = {
        **{
            "protocol": "speaker",
            "protocol_hash": "0123456789abcdef",
            "fold": 0,
            "folds": 1,
            "model": "runs/model",
            "weights": "",
        },
        **{"dataset": "runs/dataset", "labels": list(EMOTIONS), "held_apart": ["speakers", "samples"], "notes": []},
        **{
            "split": {"train": 1000, "validation": 200, "test": n},
            "speakers": {"train": 40, "validation": 8, "test": 12},
        },
        "data": {
            "corpora": {
                "ravdess": {"clips": 900, "speakers": 24, "licence": "CC BY-NC-SA 4.0"},
                "mine": {"clips": 9, "speakers": 2, "licence": ""},
            },
            **{
                "clips": 909,
                "hours": 1.0,
                "aliases": [{"corpus": "mine", "label": "Wut", "counted_as": "angry", "clips": 9}],
            },
        },
        "chance": 0.125,
        **figures,
        "training": {"settings": {"seed": 42, "protocol": "speaker"}, "parameters": 1_234_567, "padding": "masked"},
        "history": [
            {
                "epoch": e,
                "loss": 2 / e,
                "eval_loss": 2.2 / e,
                "accuracy": 1 - 0.9 / e,
                "eval_accuracy": 0.6,
                "eval_uar": 0.5,
            }
            for e in range(1, 13)
        ],
        "environment": {"torch": "2.11.0", "backend": "torch"},
        "seconds": {"predict": 3.2},
        "calibration": {
            **{"temperature": 1.3, "ece_before": 0.2, "reliability_before": figures["reliability"]},
            **{"abstain_below": 0.5, "answered": 0.7, "error": 0.1, "answered_n": 7, "asked_n": 10},
            **{"uar_answered": 0.8, "uar_refusals_wrong": 0.6},
        },
        "robustness": {"n": n, "clean": {"uar": 0.55, "accuracy": 0.5}, "conditions": rows},
        "bias_probes": {"n": n, "probed": n, "probes": probes, "warnings": ["The corpus can be read."]},
        "baselines": [simple | {"name": name} for name in ("mfcc-svm", "egemaps-logistic")],
    }
    return Results(**values | changes)


def hostile_results():
    """Results by what is unusual about them."""
    usual = make_results()
    row = {"n": 1_234_567, "speakers": 1, "accuracy": 0.5, "uar": 0.5, "ci95": None}
    crowd = {
        f"{'a-very-long-corpus-name' if number % 2 else 'c'}-{number:04d}": row | {"uar": number / 3000}
        for number in range(3000)
    }
    one_class = np.zeros((8, 8), dtype=int)
    one_class[4, 4] = 7
    flat = make_results(n=8, strength=0.0)
    nothing = {
        "uar": 0.0,
        "accuracy": 0.0,
        "ece": 0.0,
        "risk_coverage": {"coverage": [1.0], "error": [0.0], "aurc": 0.0},
    }
    return {
        "usual": usual,
        "long names": replace(
            usual,
            model=f"runs/{LONG}",
            protocol=LONG,
            dataset=LONG,
            per_corpus={LONG: row, "tess": row},
            notes=[f"protocol '{LONG}' leaks: all", "SYNTHETIC VOICES: no person speaks"],
            baselines=[usual.baselines[0] | {"name": LONG}],
            robustness=usual.robustness | {"conditions": [usual.robustness["conditions"][0] | {"name": LONG}]},
            data=usual.data | {"aliases": [{"corpus": LONG, "label": LONG, "counted_as": None, "clips": 10**9}]},
        ),
        "3,000 speakers, 60 corpora": replace(
            usual, per_speaker=crowd, per_corpus=dict(list(crowd.items())[:60]), per_sex={}, n=10**9
        ),
        "one class": replace(
            usual,
            confusion_matrix=one_class.tolist(),
            per_channel={},
            per_sex={},
            per_intensity={},
            per_corpus={"a": row},
            per_speaker={"a-1": row},
            history=usual.history[:1],
            reliability=usual.reliability[-1:],
            ci95=None,
        ),
        "billions of clips": replace(
            usual,
            confusion_matrix=(np.array(usual.confusion_matrix) * 10**9).tolist(),
            n=10**11,
            reliability=[bin_ | {"n": bin_["n"] * 10**9} for bin_ in usual.reliability],
            history=[usual.history[0] | {"epoch": epoch, "loss": 1e6 / epoch} for epoch in range(1, 1001)],
        ),
        "nothing right": replace(
            flat,
            **nothing,
            confusion_matrix=np.eye(8, k=1, dtype=int).tolist(),
            history=[{"epoch": 1.0, "loss": 0.0}],
            calibration=None,
            bias_probes={"probes": {}, "warnings": []},
            baselines=[],
            ci95=None,
        ),
    }


def hostile_reports():
    """Reports of datasets and audits by what is unusual about them."""
    rng = np.random.default_rng(0)

    def labels(count):
        return {emotion: int(count * share) for emotion, share in zip(EMOTIONS, (1, 2, 3, 4, 5, 6, 7, 0), strict=True)}

    def report(groups, count=30):
        histogram = {group: rng.poisson(count, 45).tolist() for group in groups}
        return {"balance": {group: labels(count) for group in groups}, "durations": histogram, "levels": histogram}

    return {
        "usual": report(["ravdess female", "ravdess male", "tess female"]),
        "120 groups with long names": report([f"{LONG[:60]}{number} unknown" for number in range(120)]),
        "billions": report(["ravdess male"], 10**9),
        "nothing": {"balance": {}, "durations": {}, "levels": {}},
        "a clip": {"balance": {"a b": labels(0.2)}, "durations": {"a b": [0, 1]}, "levels": {"a b": [1]}},
    }


def labelling(clips=1000, labels=tuple(EMOTIONS), name="usual"):
    """The summary of a labelling."""
    bins = [{"low": place / 15, "high": (place + 1) / 15, "n": clips // 15} for place in range(15)]
    edges = (0, 1, 2, 4, 10, 30, 60, 300, 1800, None)
    spans = [{"low": a, "high": b, "recordings": clips // 9} for a, b in itertools.pairwise(edges)]
    distances = [
        {"low": place / 8, "high": (place + 1) / 8 if place < 16 else None, "n": clips // 17} for place in range(17)
    ]
    share = 1 / len(labels)
    row = {
        "recordings": clips // len(labels),
        "share": share,
        "abstained": clips // 50,
        "hours": clips / 3600,
        "mean_score": 0.5,
    }
    return {
        **{"output": f"/archive/{name}", "version": "0.1.0", "model": {"name": name, "digest": "0123456789abcdef"}},
        **{
            "complete": False,
            "recordings": clips,
            "failed": 3,
            "without_voice": 0,
            "with_voice": clips,
            "abstained": clips // 6,
        },
        "adapted": 0,
        "labels": {label: dict(row) for label in labels},
        "errors": [{"recordings": 3, "kind": f"{name} is no audio", "example": name}],
        "durations": {
            **{"hours": clips / 1200, "hours_without_voice": 0.1, "histogram": spans},
            "quantiles": dict.fromkeys(("0", "0.05", "0.25", "0.5", "0.75", "0.95", "1"), 3.4),
        },
        "channels": {"1": clips},
        "scores": {"mean": 0.5, "bins": bins},
        "drift": {
            **{"measured": clips, "outside": clips // 50, "share": 0.02, "ci95": [0.01, 0.03], "distances": distances},
            "reference": {
                **{"share": 0.01, "highest_share": 0.05, "clips": 3000, "speakers": 26, "held_out": "cross-fitted"},
                **{"quantile": 0.99, "threshold": 2.0},
            },
            "held_out_scores": {"clips": 240, "protocol": name, "bins": _score_bins()},
        },
    }


def _score_bins():
    return [{"low": place / 15, "n": 16} for place in range(15)]
