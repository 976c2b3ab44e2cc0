"""Hidden units that a stock Whisper's head reads: what is pooled, and what is folded."""

import numpy as np
import pytest
import torch
from helpers.small import make_whisper
from transformers import AutoModelForAudioClassification

from ser_hf.models import hidden_units
from ser_hf.models.loading import ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_whisper(tmp_path_factory.mktemp("whisper") / "model", layers=2)


@pytest.fixture
def model(folder):
    torch.manual_seed(0)
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    # a gain of each dimension, or what the norm takes away would not be seen
    torch.nn.init.uniform_(model.encoder.layer_norm.weight, 0.5, 3.0)
    torch.nn.init.normal_(model.encoder.layer_norm.bias)
    return model


def batch_of(model, clips=96):
    frames = model.config.max_source_positions * 2
    # clips differ more than the frames of a clip do, as those of speech
    of_clips = torch.randn(clips, model.config.num_mel_bins, 1)
    return {"input_features": of_clips + 0.1 * torch.randn(clips, model.config.num_mel_bins, frames)}


def frames_of(model, batch):
    """Frames before the norm and hidden units, computed layer by layer."""
    encoder = model.encoder
    hidden = torch.nn.functional.gelu(encoder.conv1(batch["input_features"]))
    hidden = torch.nn.functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1) + encoder.embed_positions.weight
    for layer in encoder.layers[:-1]:
        output = layer(hidden, None)
        hidden = output[0] if isinstance(output, tuple) else output
    last = encoder.layers[-1]
    middle = hidden + last.self_attn(last.self_attn_layer_norm(hidden))[0]
    units = torch.nn.functional.gelu(last.fc1(last.final_layer_norm(middle)))
    return middle + last.fc2(units), units


@torch.inference_mode()
def test_what_is_pooled(model):
    batch = batch_of(model, 3)
    found = hidden_units.pooled(model, batch)
    before, units = frames_of(model, batch)
    deviation = (before.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = [model.encoder.layer_norm(before).mean(1), (units / deviation).mean(1), (1 / deviation).mean(1)]
    torch.testing.assert_close(found, torch.cat(expected, dim=-1), atol=1e-5, rtol=1e-4)
    assert found.shape == (3, sum(hidden_units.sizes(model)) + 1)


@torch.inference_mode()
def test_the_stock_head_gives_what_is_folded(model, tmp_path, monkeypatch):
    monkeypatch.setattr(hidden_units, "_SHARE", 4e-3)  # few of its dimensions are quiet
    batch = batch_of(model)
    features = hidden_units.pooled(model, batch).double().numpy()
    width, units = hidden_units.sizes(model)
    rng = np.random.default_rng(0)
    centre = features[:, width:-1].sum(0) / features[:, -1].sum()
    hidden = rng.normal(size=(3, units)) / features[:, width:-1].std(0)
    asked = hidden_units.Readouts(
        rng.normal(size=(3, width)) * 0.1, hidden, -hidden @ centre, np.array([4.0, 0.0, -2.0])
    )
    folded = hidden_units.fold(model, asked, features, features[:0])
    assert (model.projector.out_features, model.config.classifier_proj_size) == (width + 3, width + 3)
    assert torch.equal(model.encoder.layers[-1].fc2.weight, model.encoder.layers[-1].fc2.weight.half().float())
    model.classifier = torch.nn.Linear(width + 3, 8)
    model.save_pretrained(tmp_path)
    stock = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()
    given = []
    stock.projector.register_forward_hook(lambda *seen: given.append(seen[-1].mean(1)))
    stock(**batch)
    found, wanted, ideal = given[0].double().numpy(), folded(features), asked(features)
    np.testing.assert_allclose(found[:, :width], wanted[:, :width], atol=0.2)
    np.testing.assert_allclose(wanted[:, :width].mean(0), 0, atol=1e-6)
    assert 0.5 < wanted[:, :width].std(0).min() < wanted[:, :width].std(0).max() < 1.05
    found, wanted = found[:, width:], wanted[:, width:]
    assert wanted.std(0).min() > 5
    np.testing.assert_allclose(found.mean(0), wanted.mean(0), atol=0.05 * wanted.std())
    for column in range(3):
        assert np.corrcoef(found[:, column], wanted[:, column])[0, 1] > 0.999
        assert np.corrcoef(ideal[:, column], wanted[:, column])[0, 1] > 0.7
        assert found[:, column].std() == pytest.approx(wanted[:, column].std(), rel=0.05)


@torch.inference_mode()
def test_directions_are_quiet_in_damaged_copies_too(model, folder):
    """A readout of damaged copies is what was asked for, though they move whole dimensions."""
    batch = batch_of(model)
    features = hidden_units.pooled(model, batch).double().numpy()
    width, units = hidden_units.sizes(model)
    rng = np.random.default_rng(0)
    gain = model.encoder.layer_norm.weight.double().numpy()
    quiet = hidden_units._quiet_directions(features[:, :width], gain, 1)[:, 0]
    damaged = features.copy()
    damaged[:, :width] += rng.normal(size=(len(features), 1)) * features[:, :width].std() * 3 * quiet
    asked = hidden_units.Readouts(
        np.zeros((1, width)), rng.normal(size=(1, units)) / features[:, width:-1].std(0), np.zeros(1), np.zeros(1)
    )
    off = {}
    for name, seen in (("whole", damaged[:0]), ("both", damaged)):
        other = AutoModelForAudioClassification.from_pretrained(folder).eval()
        other.encoder.layer_norm.load_state_dict(model.encoder.layer_norm.state_dict())
        found = hidden_units.fold(other, asked, features, seen)(damaged)[:, width:]
        off[name] = (found - asked(damaged)).std() / asked(damaged).std()
    assert off["both"] < 0.25 * off["whole"]


def test_another_architecture_is_refused(models):
    with pytest.raises(ModelError, match=r"^the hidden units of a wav2vec2 .* leave out --hidden_units$"):
        hidden_units.check(AutoModelForAudioClassification.from_pretrained(models["group"]))
