import csv
import json

import numpy as np
import pytest
import torch
from helpers.small import make_model
from safetensors.torch import load_file
from transformers import Wav2Vec2Model

from ser_hf import audio, protocols
from ser_hf.cli.main import main
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS
from ser_hf.training import feature_cache
from ser_hf.training.heads import probe

pytestmark = pytest.mark.usefixtures("all_undrawn")

FLAGS = ["--mode", "probe", "--num_train_epochs", "4", "--learning_rate", "3e-2", "--bf16", "false"]


@pytest.fixture(scope="module")
def tools(built, tmp_path_factory):
    """A probe through the command line: of a kind of model, into a folder, with one cache for
    all."""
    cache = tmp_path_factory.mktemp("cache")
    backbone = make_model("group", tmp_path_factory.mktemp("backbone"))

    def run(folder, *flags):
        how = ["--dataset", built, "--model", backbone, "--output_dir", folder, "--cache_dir", cache]
        return [str(word) for word in ("finetune", *how, *FLAGS, *flags)]

    return run


@pytest.fixture(scope="module")
def probed(tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed") / "model"
    assert main(tools(folder)) == 0
    return folder


def answers(folder):
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def probabilities(folder):
    return np.array([[float(row[label]) for label in EMOTIONS] for row in answers(folder)])


def test_the_stock_model_answers_as_the_probe_did(probed, rows):
    split = protocols.split(rows, "speaker")
    predictor = Predictor(probed)
    assert predictor.labels == list(EMOTIONS)
    assert [row["file"] for row in answers(probed)] == rows.select(split.test)["file"]
    expected = probabilities(probed)
    got = predictor.probabilities([audio.load(row["audio"]) for row in rows.select(split.test)])
    np.testing.assert_allclose(got, expected, atol=5e-4)  # embeddings are kept in half precision
    assert expected.std(0).mean() > 1e-3  # what tells clips apart is far more
    weights = load_file(probed / "model.safetensors")
    assert weights["layer_weights"].shape == (2,)
    assert predictor.model.config.use_weighted_layer_sum
    history = json.loads((probed / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_backbone_is_as_it_was(probed, tools):
    flags = tools("unused")
    before = load_file(flags[flags.index("--model") + 1] + "/model.safetensors")
    after = load_file(probed / "model.safetensors")
    backbone = [name for name in before if name.startswith("wav2vec2.")]
    assert len(backbone) > 10
    assert all(torch.equal(before[name], after[name]) for name in backbone)
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_a_second_probe_never_calls_the_backbone(probed, tools, tmp_path, monkeypatch, capsys):
    def called(*args, **kwargs):
        raise AssertionError("the backbone was called")

    monkeypatch.setattr(Wav2Vec2Model, "forward", called)
    assert main(tools(tmp_path / "again", "--figures_only", "true")) == 0
    assert "from the cache" in capsys.readouterr().out
    assert answers(tmp_path / "again") == answers(probed)


def test_a_second_probe_writes_the_same_model(probed, tools, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "_outputs", None)  # what would call the backbone for each recording
    assert main(tools(tmp_path / "again")) == 0
    one, two = (load_file(folder / "model.safetensors") for folder in (probed, tmp_path / "again"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_probe_stops_when_patience_is_over(tools, tmp_path):
    flags = ["--patience", "2", "--learning_rate", "1e-9", "--num_train_epochs", "9", "--figures_only", "true"]
    assert main(tools(tmp_path / "patient", *flags)) == 0  # it never gets better
    history = json.loads((tmp_path / "patient" / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert main(tools(tmp_path / "stubborn", *flags, "--patience", "0")) == 0
    assert len(json.loads((tmp_path / "stubborn" / "history.json").read_text())) == 9


@pytest.mark.parametrize("flags", [["--pooling", "attentive"], ["--head", "mlp"]])
def test_a_head_no_stock_model_holds_is_refused_at_the_start(tools, fails, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(probe, "probe", None)  # never reached
    message = fails(*tools(tmp_path / "refused", *flags))
    assert " ".join(flags) in message
    assert message.endswith("or --figures_only true for the figures and no model")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("flags", [["--pooling", "attentive"], ["--head", "mlp"]], ids=["attentive", "mlp"])
def test_figures_of_such_a_head_can_be_had(tools, tmp_path, flags):
    folder = tmp_path / "figures"
    assert main(tools(folder, *flags, "--figures_only", "true")) == 0
    names = {path.name for path in folder.iterdir()}
    assert {"head.safetensors", "results.json", "predictions.csv", "history.json"} <= names
    assert not names & {"model.safetensors", "config.json", "README.md"}
    head = load_file(folder / "head.safetensors")
    assert head["classifier.weight"].shape == (8, 32 if "attentive" in flags else 16)
    assert ("hidden.0.weight" in head) == ("mlp" in flags)
    np.testing.assert_allclose(probabilities(folder).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "attentive"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_heads_hear_nothing_of_padding(pooling, kind):
    torch.manual_seed(0)
    head = probe.Head(3, 6, 5, pooling, kind).eval()
    clip = torch.randn(1, 7, 3, 6)
    padded = torch.cat([clip, torch.full((1, 4, 3, 6), 1e3)], dim=1)
    valid = torch.tensor([[1.0] * 7 + [0.0] * 4])
    alone = head(clip, torch.ones(1, 7))
    torch.testing.assert_close(head(padded, valid), alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(head(padded, torch.ones(1, 11)), alone, atol=1e-2)


def test_attentive_statistics_of_even_attention_are_mean_and_deviation():
    head = probe.Head(1, 2, 2, "attentive", "linear").eval()
    head.projector.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
    for parameter in head.attention.parameters():
        parameter.data.zero_()
    head.classifier = torch.nn.Identity()
    frames = torch.tensor([[1.0, 0.0], [3.0, 0.0], [8.0, 0.0]])
    pooled = head(frames[None, :, None], torch.ones(1, 3))[0]
    torch.testing.assert_close(pooled, torch.tensor([4, 0, (26 / 3) ** 0.5, 1e-3]))


def test_layers_are_mixed_by_softmax():
    head = probe.Head(2, 1, 1, "mean", "linear").eval()
    head.projector.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    head.layer_weights.data = torch.tensor([1.0, 3.0]).log()
    head.classifier = torch.nn.Identity()
    assert head(torch.tensor([[[[4.0], [8.0]]]]), torch.ones(1, 1)).item() == pytest.approx(7)
