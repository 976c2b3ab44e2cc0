"""How a model is bundled, and the figures of its cross-validation."""

import json

import pytest
import torch
from helpers.small import FAST
from safetensors.torch import load_file
from transformers import pipeline

from ser_hf import BUNDLED_MODEL, audio
from ser_hf.cli.main import main
from ser_hf.errors import UserError
from ser_hf.evaluation.results import Results
from ser_hf.inference.adaptation_head import AdaptationHead
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS

pytestmark = pytest.mark.usefixtures("all_undrawn")

NAMES = ("accuracy", "uar", "adapted uar", "adapted uar, ten clips", "ece before", "ece")


def measured(*names, **seeds):
    """Of one protocol, with the same figure under every name, of each seed."""
    by_seed = {seed.removeprefix("s"): dict.fromkeys((*NAMES, *names), figure) for seed, figure in seeds.items()}
    return {"speaker": {"n": 1_440, "ci95": {"uar": [0.55, 0.67]}, "seeds": by_seed}}


ABSTAINS = {"abstain_below": 0.4321, "protocols": {"speaker": {"coverage": 0.75, "error": 0.125}}}
THREE = measured(s42=0.60234, s43=0.61234, s44=0.62234)


@pytest.fixture(scope="module")
def all_speakers(built, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("all") / "model"
    base = ["finetune", "--dataset", str(built), "--model", str(models["bert"]), *FAST, "--output_dir", str(folder)]
    assert (
        main([*base, "--protocol", "all", "--train_on_validation", "true", "--temperature", "1.3", "--max_steps", "3"])
        == 0
    )
    return folder


@pytest.fixture
def bundled(bundle_model, all_speakers, tuned, tmp_path):
    folder = tmp_path / "bundled"
    bundle_model.write_bundle(all_speakers, tuned, THREE, ABSTAINS, "this", folder)
    return folder


def test_stock_transformers_answers_as_the_predictor_does(bundled, all_speakers, recordings):
    weights, before = (load_file(folder / "model.safetensors") for folder in (bundled, all_speakers))
    assert all((weights[name].float() == tensor).all() for name, tensor in before.items())
    clip = audio.load(next(recordings[0].rglob("*.wav")))
    classify = pipeline("audio-classification", model=str(bundled), top_k=None)
    assert str(classify.model.dtype) == "torch.float32"
    scores = {row["label"]: row["score"] for row in classify({"array": clip, "sampling_rate": 16_000})}
    assert scores == pytest.approx(Predictor(bundled, backend="torch").predict(clip)["scores"], abs=2e-6)
    assert scores == pytest.approx(Predictor(all_speakers, backend="torch").predict(clip)["scores"], abs=2e-6)


def test_only_what_half_precision_holds_is_stored_so(bundle_model):
    exact, other = torch.tensor([0.5, -3.0, 1024.0]), torch.tensor([0.5, 0.1])
    assert bundle_model._stored(exact).dtype == torch.float16
    assert bundle_model._stored(other).dtype == torch.float32
    assert bundle_model._stored(torch.tensor([1e6])).item() == 1e6


def test_what_lies_beside_the_weights_says_whose_figures_these_are(bundled, tuned):
    names = {path.name for path in bundled.iterdir()}
    data = {"config.json", "preprocessor_config.json", "results.json", "seeds.json"}
    data |= {"adaptation_head.safetensors", "embedding_reference.safetensors"}
    assert names == {"README.md", "model.safetensors", "LICENSE-WHISPER", *data}
    head = AdaptationHead.load(bundled / "adaptation_head.safetensors")
    assert head.model == Predictor(bundled, backend="torch").session.backend.digest
    results = Results.load(bundled / "results.json")
    assert results.uar == Results.load(tuned / "results.json").uar
    (note,) = results.notes
    assert "tested on speakers that it was not trained on" in note
    card = (bundled / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card
    assert "value: 0.6123" in card
    figure = "0.612 ± 0.010"
    assert f"| `speaker` | 1,440 | 3 | {figure} | {figure} | 0.550 to 0.670 | {figure}, {figure} | 0.612 |" in card
    assert json.loads((bundled / "config.json").read_text())["ser_hf"]["temperature"] == 1.3
    assert Predictor(bundled).abstain_below == 0.4321
    assert "where its score is below 0.432" in card
    assert "| `speaker` | 75.0 % | 12.5 % |" in card


def test_a_model_that_is_too_large_is_refused(bundle_model, all_speakers, tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_model, "MAX_BYTES", 1_000)
    with pytest.raises(UserError, match="too many to bundle"):
        bundle_model.write_bundle(all_speakers, tuned, THREE, ABSTAINS, "this", tmp_path / "bundled")
    assert not (tmp_path / "bundled").exists()


def test_seeds_are_added_one_by_one_to_a_model_of_the_same_recipe(bundle_model, all_speakers, tuned, tmp_path):
    folder = tmp_path / "bundled"
    bundle_model.write_bundle(all_speakers, tuned, measured(s42=0.5), ABSTAINS, "this", folder)
    assert "| `speaker` | 1,440 | 1 | 0.500 |" in (folder / "README.md").read_text()
    weights = (folder / "model.safetensors").read_bytes()
    more = measured(s43=0.7)
    more["speaker"]["ci95"] = None  # that of the first seed stays
    every = bundle_model.add_seeds(more, "this", folder)
    assert list(every["speaker"]["seeds"]) == ["42", "43"]
    assert (
        "| `speaker` | 1,440 | 2 | 0.600 ± 0.141 | 0.600 ± 0.141 | 0.550 to 0.670 |"
        in (folder / "README.md").read_text()
    )
    assert (folder / "model.safetensors").read_bytes() == weights
    with pytest.raises(UserError, match="another recipe"):
        bundle_model.add_seeds(more, "that", folder)
    more["speaker"]["n"] = 7
    with pytest.raises(UserError, match=r"1,440 clips and now on 7"):
        bundle_model.add_seeds(more, "this", folder)
    bundle_model.write_bundle(all_speakers, tuned, measured(s42=0.4), ABSTAINS, "that", folder)
    assert json.loads((folder / "seeds.json").read_text()) == {
        "recipe": "that",
        "abstention": ABSTAINS,
        "protocols": measured(s42=0.4),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["bundled"]


def test_the_table_has_a_line_a_corpus_where_there_are_two(bundle_model):
    lines = bundle_model.figures_table(measured("uar ravdess", "uar tess", s42=0.5)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["`speaker`", "… RAVDESS", "… TESS"]
    assert len({line.count("|") for line in lines}) == 1


def test_the_bundled_model_is_small_and_stock_transformers_loads_it(recordings):
    size = sum(path.stat().st_size for path in BUNDLED_MODEL.iterdir())
    assert size < 25_000_000
    clip = audio.load(next(recordings[0].rglob("*.wav")))
    classify = pipeline("audio-classification", model=str(BUNDLED_MODEL), top_k=None)
    assert sum(parameter.numel() for parameter in classify.model.parameters()) < 12_000_000
    scores = {row["label"]: row["score"] for row in classify({"array": clip, "sampling_rate": 16_000})}
    assert scores == pytest.approx(Predictor(BUNDLED_MODEL).predict(clip)["scores"], abs=1e-4)
    assert set(scores) == set(EMOTIONS)


def test_the_bundled_model_was_trained_on_all_speakers_and_tested_on_none(built, fails, tmp_path):
    predictor = Predictor(BUNDLED_MODEL)
    assert len(predictor.seen_speakers.speakers) == 26
    assert "tested on speakers that it was not trained on" in Results.load(BUNDLED_MODEL / "results.json").notes[0]
    words = ("evaluate", "--model", BUNDLED_MODEL, "--dataset", built, "--output", tmp_path / "no")
    assert "/" not in "".join(run["folder"] for run in Results.load(BUNDLED_MODEL / "results.json").repeats["runs"])
    assert "was trained under 'all'" in fails(*words)


def test_it_answers_where_no_model_is_named(recordings, capsys):
    clip = str(next(recordings[0].rglob("*.wav")))
    assert main(["predict", clip]) == 0
    prediction = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (
        prediction["scores"] == Predictor().predict(clip)["scores"] == Predictor(BUNDLED_MODEL).predict(clip)["scores"]
    )


def test_the_bundled_model_is_of_the_recipe_in_the_config_files(bundle_model):
    assert json.loads((BUNDLED_MODEL / "seeds.json").read_text())["recipe"] == bundle_model.recipe_digest()


def test_the_card_of_the_bundled_model_is_what_its_template_renders(bundle_model):
    assert bundle_model.render_card(BUNDLED_MODEL) == (BUNDLED_MODEL / "README.md").read_text()
