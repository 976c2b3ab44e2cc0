import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForAudioClassification

from ser_hf.models.loading import ModelError
from ser_hf.models.padding import ignore_padding
from ser_hf.training import modes, optimization

KINDS = ("bert", "group", "layer")


@pytest.fixture
def deep(models):
    """A small model of so many layers."""

    def make(kind, layers=3):
        config = AutoConfig.from_pretrained(models[kind])
        config.num_hidden_layers = layers
        torch.manual_seed(0)
        return AutoModelForAudioClassification.from_config(config).eval()

    return make


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def named(model, *parts):
    return {name for name, _ in model.named_parameters() if any(part in name for part in parts)}


HEAD = ("projector.", "classifier.")


def inputs(model, frames=120, clips=2):
    torch.manual_seed(1)
    return torch.randn(clips, frames, 320) if model.config.model_type == "wav2vec2-bert" else torch.randn(clips, 16_000)


@pytest.mark.parametrize("kind", KINDS)
def test_full_trains_everything_but_frozen_convolutions(deep, kind):
    model = deep(kind)
    everything = trained(model)
    made = modes.prepare(model, "full", False, None)
    assert (made.front, made.trainable) == (None, model)
    assert trained(model) == everything
    made = modes.prepare(model, "full", True, None)
    convolutions = named(model, "feature_extractor.")
    assert bool(convolutions) == (kind != "bert")
    assert trained(model) == everything - convolutions
    assert (made.front is None) == (kind == "bert")
    assert kind == "bert" or made.front.depth == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "depth"), [(None, 2), (1, 2), (2, 1)])
def test_partial_trains_the_top_layers_and_the_head(deep, kind, layers, depth):
    model = deep(kind)
    made = modes.prepare(model, "partial", False, layers)
    expected = named(model, *HEAD, *(f".encoder.layers.{place}." for place in range(depth, 3)))
    if kind == "layer":  # its norm comes after the layers, not before
        expected |= named(model, ".encoder.layer_norm.")
    assert trained(model) == expected
    assert made.front.depth == depth
    assert made.finished() is model


def test_a_layer_mix_belongs_to_the_head(models):
    config = AutoConfig.from_pretrained(models["group"])
    config.num_hidden_layers, config.use_weighted_layer_sum = 3, True
    model = AutoModelForAudioClassification.from_config(config)
    modes.prepare(model, "partial", False, 1)
    assert "layer_weights" in trained(model)


@pytest.mark.parametrize("layers", [3, 4])
def test_partial_of_too_many_layers_is_refused(deep, layers):
    expected = f"^--layers is {layers}, but the model has 3: train fewer, or use --mode full$"
    with pytest.raises(ModelError, match=expected):
        modes.prepare(deep("group"), "partial", False, layers)


def test_modes_need_layers_in_the_usual_place(deep):
    model = deep("group")
    del model.wav2vec2.encoder.layers
    for mode in ("partial", "lora"):
        with pytest.raises(ModelError, match=r"^the layers of a wav2vec2 are not found: use --mode full, and leave"):
            modes.prepare(model, mode, False, None)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_adapters_leave_a_stock_model(deep, kind, tmp_path):
    model = deep(kind)
    keys, values = set(model.state_dict()), inputs(model)
    with torch.inference_mode():
        before = model(values).logits
        made = modes.prepare(model, "lora", True, None)
        made.adapt(4)
        assert made.trainable is made.adapted
        torch.testing.assert_close(made.adapted(values).logits, before)  # new adapters change nothing
    names = trained(made.adapted)
    assert all(any(part in name for part in ("lora_", "projector", "classifier")) for name in names)
    adapters = {name.split(".lora_")[0] for name in names if "lora_" in name}
    # four projections a layer and two matrices of each feed-forward, of which w2v-BERT has two
    assert len(adapters) == 3 * (8 if kind == "bert" else 6)
    for part in HEAD:
        assert any(part in name for name in names)
    for parameter in made.adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.3
    with torch.inference_mode():
        adapted = made.adapted(values).logits
    assert (adapted - before).abs().max() > 1e-2
    finished = made.finished()
    assert type(finished) is type(model)
    finished.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) <= keys
    assert not list(tmp_path.glob("adapter*"))
    stock, info = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.inference_mode():
        torch.testing.assert_close(stock.eval()(values).logits, adapted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["lora", "partial"])
def test_a_finished_model_has_its_front_back(deep, mode):
    model = deep("layer")
    values = inputs(model)
    made = modes.prepare(model, mode, True, 1)
    mask = torch.ones_like(values, dtype=torch.long)
    with torch.inference_mode():
        frames = torch.stack(made.front.outputs({"input_values": values, "attention_mask": mask}))
    made.front.bypass()
    if mode == "lora":
        made.adapt(4)
    for parameter in made.trainable.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.3
    with torch.inference_mode():
        stored = made.trainable(frames).logits
        finished = made.finished()
        torch.testing.assert_close(finished(values).logits, stored, atol=1e-4, rtol=1e-4)
    assert any("feature_extractor.conv_layers" in name for name in finished.state_dict())


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_adapters_leave_padding_unheard(deep, kind):
    model = deep(kind)
    ignore_padding(model)
    made = modes.prepare(model, "lora", True, None)
    made.adapt(4)
    values = inputs(model)
    mask = torch.ones_like(values, dtype=torch.long)
    mask[1, 9_000:] = 0
    with torch.inference_mode():
        alone = made.adapted(values[1:, :9_000]).logits
        made.adapted(values[:, :5_000], attention_mask=torch.ones(2, 5_000, dtype=torch.long))
        padded = made.adapted(values * mask, attention_mask=mask).logits[1:]
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)


def test_layers_without_linear_parts_are_not_adapted(deep):
    model = deep("group")
    for layer in model.wav2vec2.encoder.layers:
        layer.attention = layer.feed_forward = torch.nn.Identity()
    with pytest.raises(ModelError, match=r"^a wav2vec2 has nothing to adapt: use --mode partial$"):
        modes.prepare(model, "lora", False, None)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_decay_from_the_top(deep, kind):
    model = deep(kind)
    rates = optimization.layer_decayed_groups(model, 1.0, 0.5)
    assert set(rates) == trained(model)
    for name, rate in rates.items():
        found = [place for place in range(3) if f".encoder.layers.{place}." in name]
        expected = 0.5 ** (3 - found[0]) if found else 1.0 if name.startswith(HEAD) else 0.5**4
        if kind == "layer" and ".encoder.layer_norm." in name:
            expected = 0.5  # it follows the last layer
        assert rate == pytest.approx(expected), name
    assert {1.0, 0.5, 0.25, 0.125, 0.0625} == set(rates.values())


def test_rates_are_of_what_is_trained(deep):
    model = deep("group")
    modes.prepare(model, "partial", False, 1)
    rates = optimization.layer_decayed_groups(model, 2e-4, 0.9)
    assert set(rates) == trained(model)
    assert set(rates.values()) == {2e-4, 2e-4 * 0.9}
    assert set(optimization.layer_decayed_groups(model, 2e-4, 1.0).values()) == {2e-4}


def test_rates_of_adapters_go_by_their_layer(deep):
    made = modes.prepare(deep("group"), "lora", True, None)
    made.adapt(2)
    rates = optimization.layer_decayed_groups(made.trainable, 1.0, 0.5)
    assert {rate for name, rate in rates.items() if "layers.0." in name} == {0.125}
    assert {rate for name, rate in rates.items() if "classifier" in name} == {1.0}


def test_a_head_that_mixes_layers_is_trained_on_all_of_them(deep):
    config = deep("layer").config
    config.use_weighted_layer_sum = True
    model = AutoModelForAudioClassification.from_config(config)
    with pytest.raises(ModelError, match="cannot train a head that mixes layers"):
        modes.prepare(model, "lora", True, None)
    made = modes.prepare(model, "partial", True, 1)
    assert made.front.depth == 0  # the layers are computed each step
    made.model(inputs(model)).logits.sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad and "norm" not in n)
