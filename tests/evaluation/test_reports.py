"""A card says what was measured, and nothing else."""

import copy
import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from huggingface_hub import ModelCard

from ser_hf import protocols
from ser_hf.data.corpora import CORPORA
from ser_hf.evaluation import evaluate, reports
from ser_hf.evaluation.results import Results
from ser_hf.labels import EMOTIONS
from ser_hf.utils import templates

PICTURES = ["confusion_matrix.png", "groups.png", "history.png", "reliability.png", "risk_coverage.png"]


def figures(results, seed):
    """The same results with every figure drawn anew, none like another, and with all that evidence
    can hold."""
    rng = np.random.default_rng(seed)

    def anew(value):
        if isinstance(value, dict):
            return {key: anew(one) for key, one in value.items()}
        if isinstance(value, list):
            return [anew(one) for one in value]
        if isinstance(value, float):
            return float(rng.uniform(0.05, 0.95))
        return int(rng.integers(10_000, 99_999)) if isinstance(value, int) and not isinstance(value, bool) else value

    raw = asdict(results)
    ci95 = {name: [0.1, 0.9] for name in ("accuracy", "uar", "macro_f1", "weighted_f1")}
    raw["robustness"] = {
        "n": 5,
        "clean": {"uar": 0.5, "accuracy": 0.5},
        "conditions": [{"name": "noise", "kind": "noise", "uar": 0.4, "accuracy": 0.4, "share": 0.8, "flips": 0.3}],
    }
    probe = {"score": 0.9, "chance": 0.5, "measure": "balanced accuracy", "classes": 2, "folds": "over clips"}
    raw["bias_probes"] = {"probes": {"corpus": probe}, "warnings": ["The corpus can be read."]}
    raw["baselines"] = [{"name": "mfcc-svm", "accuracy": 0.3, "uar": 0.3, "macro_f1": 0.3, "ci95": ci95}]
    raw["calibration"] = {"temperature": 1.3, "ece_before": 0.2, "abstain_below": 0.5, "answered": 0.7, "error": 0.1}
    raw["calibration"] |= {"answered_n": 7, "asked_n": 10, "uar_answered": 0.8, "uar_refusals_wrong": 0.6}
    raw["ci95"] = ci95
    raw["data"]["aliases"] = [{"corpus": "emodb", "label": "Wut", "counted_as": "angry", "clips": 9}]
    for kind in ("corpus", "channel", "sex", "intensity", "speaker"):
        for row in raw[f"per_{kind}"].values():
            row["ci95"] = ci95
    kept = ("environment", "training", "confusion_matrix", "protocol_hash")
    made = {key: value if key in kept else anew(value) for key, value in raw.items()}
    made["fold"] = 3
    return Results(**made)


@pytest.fixture(scope="module")
def results(tuned):
    return Results.load(tuned / "results.json")


def cells(card, start):
    line = next(line for line in card.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_card_beside_a_model_is_rendered_from_its_results(tuned, results):
    pictures = [path.name for path in (tuned / "plots").glob("*.png")]
    assert (tuned / "README.md").read_text() == reports.model_card(results, pictures)


def test_every_figure_stands_where_it_belongs(results):
    made = figures(results, 1)
    card = reports.model_card(made, PICTURES)
    assert cells(card, "UAR (mean recall of the emotions)") == [
        f"{made.uar:.3f}",
        "{:.3f} to {:.3f}".format(*made.ci95["uar"]),
    ]
    assert cells(card, "accuracy (WA)")[0] == f"{made.accuracy:.3f}"
    assert cells(card, "calibration error (ECE)")[0] == f"{made.ece:.3f}"
    assert cells(card, "Brier score")[0] == f"{made.brier:.3f}"
    for emotion in EMOTIONS:
        row = made.per_class[emotion]
        shares = [f"{row[name]:.3f}" for name in ("precision", "recall", "f1", "auroc")]
        assert cells(card, emotion) == [*shares, f"{row['support']:,}"]
    for kind in ("corpus", "channel", "sex", "intensity", "speaker"):
        for group, row in getattr(made, f"per_{kind}").items():
            interval = "{:.3f} to {:.3f}".format(*row["ci95"]["uar"])
            expected = [f"{row['n']:,}", str(row["speakers"]), f"{row['accuracy']:.3f}", f"{row['uar']:.3f}", interval]
            assert cells(card, f"{kind}: {group}") == expected
    damage = made.robustness["conditions"][0]
    assert cells(card, "noise") == [
        f"{damage['uar']:.3f}",
        f"{100 * damage['share']:.1f} %",
        f"{damage['accuracy']:.3f}",
        f"{100 * damage['flips']:.1f} %",
    ]
    assert cells(card, "mfcc-svm")[:2] == [f"{made.baselines[0][name]:.3f}" for name in ("accuracy", "uar")]
    assert f"{made.calibration['temperature']:.3f}" in card
    assert f"{100 * made.calibration['answered']:.1f} %" in card
    assert f"| emodb | Wut | angry | {made.data['aliases'][0]['clips']:,} |" in card
    assert f"{made.calibration['uar_refusals_wrong']:.3f}" in card
    assert "> **Warning.** The corpus can be read." in card


@pytest.mark.parametrize("seed", range(3))
def test_no_figure_in_a_card_is_without_a_source(results, seed):
    made = figures(results, seed)
    card = reports.model_card(made, PICTURES)
    assert reports.unfounded(card, made) == []
    other = reports.model_card(figures(results, seed + 10), PICTURES)
    assert len(reports.unfounded(other, made)) > 50  # the figures of other results are no figures of these


@pytest.mark.parametrize("lie", ["UAR 0.9871", "better than 4,711 humans", "reaches 98.7 %", "since 1997"])
def test_a_figure_without_a_source_is_found(results, lie):
    card = reports.model_card(results, PICTURES)
    number = re.search(r"\d[\d,.]*\d", lie)[0]
    assert reports.unfounded(f"{card}\n{lie}\n", results) == [number]


def test_a_figure_below_zero_has_a_source(results):
    probe = {"score": -0.80123, "chance": 0.0, "measure": "R²", "classes": None, "folds": "5 folds over clips"}
    probes = {"n": 5, "probed": 5, "probes": {"duration": probe}, "warnings": []}
    card = reports.model_card(replace(results, bias_probes=probes), PICTURES)
    assert cells(card, "duration")[:2] == ["-0.801", "0.000"]


def test_a_template_that_invents_a_figure_is_refused(results, monkeypatch, tmp_path):
    for template in templates.TEMPLATES.glob("*.jinja"):
        (tmp_path / template.name).write_text(template.read_text())
    model = tmp_path / "model.md.jinja"
    model.write_text(model.read_text() + "\nSums up to {{ r.uar + 1 }}.\n")
    monkeypatch.setattr(templates, "TEMPLATES", tmp_path)
    with pytest.raises(reports.CardError, match="no figure of the results by name"):
        reports.model_card(results, PICTURES)


def test_the_front_matter_is_what_the_hub_reads(results):
    card = ModelCard(reports.model_card(results, PICTURES))
    assert card.data.pipeline_tag == "audio-classification"
    assert card.data.library_name == "transformers"
    found = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert found == {
        "accuracy": round(results.accuracy, 4),
        "UAR": round(results.uar, 4),
        "macro F1": round(results.macro_f1, 4),
    }
    assert results.protocol_hash in card.data.eval_results[0].dataset_name


def test_licences_come_from_the_recordings(results):
    card = reports.model_card(results, PICTURES)
    assert "CC BY-NC-SA 4.0" in card
    assert "forbid commercial use" in card
    assert "license: cc-by-nc-sa-4.0" in card
    own = copy.deepcopy(results)
    own.data["corpora"] = {"mine": {"clips": 3, "speakers": 2, "licence": ""}}
    card = reports.model_card(own, PICTURES)
    assert "CC BY" not in card
    assert "license: other" in card
    assert "North American English" not in card


def test_limits_come_from_the_corpora(results, monkeypatch):
    both = copy.deepcopy(results)
    licences = {name: {"clips": 3, "speakers": 2, "licence": corpus.licence} for name, corpus in CORPORA.items()}
    both.data["corpora"] = licences
    card = reports.model_card(both, PICTURES)
    assert "- The emotions are acted, by a few speakers of North American English. The model recognises" in card
    assert (
        "- Calm is acted in RAVDESS alone and every TESS voice is a woman's, "
        "so that emotion, corpus and sex are confounded.\n" in card
    )
    assert "\nThey forbid commercial use, so this model" in card
    german = replace(CORPORA["tess"], language="de", accent="Standard German", forbids_commercial_use=False)
    monkeypatch.setitem(CORPORA, "tess", german)
    card = reports.model_card(both, PICTURES)
    assert ModelCard(card).data.language == ["en", "de"]
    assert "by a few speakers of North American English and Standard German." in card
    assert "\nRAVDESS forbids commercial use, so this model" in card
    both.data["corpora"] = {"tess": licences["tess"]}
    card = reports.model_card(both, PICTURES)
    assert "forbid" not in card
    assert "confounded" not in card
    assert "\nWhoever passes on recordings is bound by their licences.\n" in card
    assert ModelCard(card).data.license == "other"


def test_what_leaks_is_stamped(models, rows):
    split = protocols.split(rows, "random")
    answers = np.eye(8, dtype=np.float32)[np.array(rows.select(split.test)["label"])]
    results = evaluate.build_results(answers, rows, [split], "d", "m")
    card = reports.model_card(results, PICTURES)
    assert f"> **{reports.STAMP}.** protocol 'random' leaks: 26 of 26" in card
    assert "leaky-evaluation" in card
    honest = evaluate.build_results(
        np.eye(8)[np.array(rows.select(protocols.split(rows).test)["label"])], rows, [protocols.split(rows)], "d", "m"
    )
    assert reports.STAMP not in reports.model_card(honest, PICTURES)


def test_results_of_json_make_the_same_card(results, tmp_path):
    made = figures(results, 5)
    made.save(tmp_path / "r.json")
    again = Results(**json.loads((tmp_path / "r.json").read_text()))
    assert reports.model_card(again, PICTURES) == reports.model_card(made, PICTURES)


def test_a_figure_of_another_line_does_not_found_a_changed_one(results):
    card = reports.model_card(replace(results, uar=0.468, ece=0.5), PICTURES)
    changed = card.replace("| UAR (mean recall of the emotions) | 0.468", "| UAR (mean recall of the emotions) | 0.500")
    assert changed != card
    assert "0.500" in reports.unfounded(changed, replace(results, uar=0.468, ece=0.5))


def test_words_with_digits_are_no_figures(results):
    card = reports.model_card(results, PICTURES)
    added = f"Fine-tuned with wav2vec2 in mind, kept in {results.model} and made from {results.dataset}."
    assert reports.unfounded(f"{card}\n{added}\n", results) == []


def test_the_public_card_is_that_of_the_public_results(results):
    public = replace(results, model="you/voices-2", dataset="voices")
    card = reports.model_card(results, PICTURES).splitlines()
    place = card.index("## Limits")
    card[place:place] = ["Written by me about OLD.", ""]
    text = reports.public_card("\n".join(card), results, public, lambda line: line.replace("OLD", "NEW"), "trial/2")
    expected = reports.model_card(public, PICTURES, "trial/2").splitlines()
    assert text.splitlines() == [*expected[:place], "Written by me about NEW.", "", *expected[place:]]
