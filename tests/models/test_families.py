"""Every training mode on every family of backbones, from a small random config to stock
transformers."""

from functools import partial

import numpy as np
import pytest
import torch
import transformers
from helpers.small import ROOT
from transformers import AutoModelForAudioClassification

from ser_hf.inference.backends import onnx_graph
from ser_hf.labels import ID2LABEL, LABEL2ID
from ser_hf.models import padding
from ser_hf.models.encoder_layers import final_norm
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.frozen_frontend import evaluation_mode
from ser_hf.models.loading import ModelError
from ser_hf.training import modes, optimization
from ser_hf.training.heads import probe

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
UNDROPPED = dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "final_dropout"), 0.0)
UNDROPPED |= {"feat_proj_dropout": 0.0, "layerdrop": 0.0, "apply_spec_augment": False}
SPEECH = {**SIZES, **UNDROPPED, "classifier_proj_size": 12}
WAVES = {**SPEECH, "conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 8), "conv_stride": (10, 8, 4)}
POSITIONS = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
WHISPER = {"d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "dropout": 0.0}

wave = partial(transformers.Wav2Vec2FeatureExtractor, return_attention_mask=True)
FAMILIES = {
    "wav2vec2": ("Wav2Vec2", {**WAVES, **POSITIONS}, wave),
    "wav2vec2, stable": ("Wav2Vec2", {**WAVES, **POSITIONS, **STABLE}, wave),
    "hubert": ("Hubert", {**WAVES, **POSITIONS}, wave),
    "wavlm": ("WavLM", {**WAVES, **POSITIONS}, wave),
    "wavlm, stable": ("WavLM", {**WAVES, **POSITIONS, **STABLE}, wave),
    "unispeech-sat": ("UniSpeechSat", {**WAVES, **POSITIONS}, wave),
    "data2vec-audio": ("Data2VecAudio", {**WAVES, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}, wave),
    "wav2vec2-bert": (
        "Wav2Vec2Bert",
        {**SPEECH, "feature_projection_input_dim": 64, "conv_depthwise_kernel_size": 5, "conformer_conv_dropout": 0.0},
        partial(transformers.SeamlessM4TFeatureExtractor, feature_size=32, num_mel_bins=32, sampling_rate=16_000),
    ),
    "audio-spectrogram-transformer": (
        "AST",
        {
            **SIZES,
            "max_length": 98,
            "num_mel_bins": 32,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        partial(transformers.ASTFeatureExtractor, max_length=98, num_mel_bins=32),
    ),
    "whisper": (
        "Whisper",
        {**WHISPER, "decoder_layers": 1, "classifier_proj_size": 12, "max_source_positions": 50},
        partial(transformers.WhisperFeatureExtractor, chunk_length=1),
    ),
}


def make(family, **settings):
    """A small model whose answers differ from clip to clip, and its extractor."""
    name, sizes, extractor = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**{**sizes, **settings}, id2label=ID2LABEL, label2id=LABEL2ID)
    torch.manual_seed(0)
    model = AutoModelForAudioClassification.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim in (2, 4) and parameter.requires_grad:
            torch.nn.init.xavier_normal_(parameter, 2)  # layers that do something
        elif parameter.ndim == 3 and name == "AST":
            torch.nn.init.normal_(parameter)  # the gradient of a norm of zeros has no bound
    return model, extractor()


def noises():
    """Noise of three lengths, up to the window."""
    rng = np.random.default_rng(0)
    sizes = {9_000: 0.1, 16_000: 0.02, 12_345: 0.3}
    return [rng.normal(0, deviation, size).astype(np.float32) for size, deviation in sizes.items()]


def collated(extractor, rule):
    """A batch of the clips; of the longest alone where no padding may reach them."""
    clips = noises()[1:2] if rule == padding.ALONE else noises()
    return Collator(extractor, rule)([{"features": front_end_of(extractor).extract(clip)} for clip in clips])


def cached(made, batch, extractor, rule):
    """The batch of the frozen outputs of a batch."""
    with evaluation_mode(made.model):
        frames = [{"features": tensor.clone().numpy()} for tensor in made.front.outputs(batch)]
    return Collator(extractor, rule)(frames)


def gradients(model, batch):
    """The loss of a batch in training mode, and the gradient of each trained parameter."""
    model.zero_grad()
    clips = len(next(iter(batch.values())))
    loss = model.train()(**batch, labels=torch.arange(clips)).loss
    loss.backward()
    found = {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None}
    return loss.detach(), found


def step(model):
    """Descend along the gradients that the parameters hold."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is not None:
            parameter.data -= 0.1 * parameter.grad


@torch.inference_mode()
def alone(model, extractor):
    """Logits of each clip without padding, in evaluation mode."""
    front_end, name = front_end_of(extractor), extractor.model_input_names[0]
    features = [torch.from_numpy(front_end.extract(clip))[None] for clip in noises()]
    return torch.cat([model.eval()(**{name: each}).logits for each in features])


def loads_in_stock(model, extractor, folder):
    """Save a model, and compare it with what stock transformers loads."""
    expected = alone(model, extractor)
    model.save_pretrained(folder)
    stock, info = AutoModelForAudioClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(alone(stock, extractor), expected, atol=1e-5, rtol=1e-4)
    assert expected.std(0).min() > 1e-3
    return expected


@pytest.mark.parametrize(("mode", "depth"), [("full", 0), ("partial", 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_on_cached_frames_is_that_of_the_whole_model(family, mode, depth, tmp_path):
    model, extractor = make(family)
    rule = padding.ignore_padding(model)
    made = modes.prepare(model, mode, True, None)
    batch, before = collated(extractor, rule), alone(model, extractor)
    loss, whole = gradients(model, batch)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if mode == "full" and family in ("wav2vec2-bert", "audio-spectrogram-transformer"):
        assert made.front is None  # one matrix product lies below the layers
    else:
        assert made.front.depth == depth
        frames = cached(made, batch, extractor, rule)
        made.front.bypass()
        stored, upper = gradients(model, frames)
        torch.testing.assert_close(stored, loss, atol=1e-5, rtol=1e-5)
        assert set(upper) == set(whole)
        largest = max(float(tensor.abs().max()) for tensor in whole.values())
        for name, tensor in upper.items():
            torch.testing.assert_close(tensor, whole[name], atol=1e-4 * largest, rtol=1e-3, msg=name)
    # what the forward pass does not use, as the vector of masked frames, has no gradient
    assert trained - set(whole) <= {f"{model.base_model_prefix}.masked_spec_embed"}
    if mode == "partial":
        norm = final_norm(model)
        top = {name for name in trained if "layers.2." in name}
        head = {name for name in trained if name.startswith(("projector.", "classifier."))}
        assert trained == top | head | ({f"{norm}.weight", f"{norm}.bias"} if norm else set())
    step(model)
    after = loads_in_stock(made.finished(), extractor, tmp_path)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_are_merged_into_attention_and_feed_forward(family, tmp_path):
    model, extractor = make(family)
    rule = padding.ignore_padding(model)
    made = modes.prepare(model, "lora", True, None)
    batch, before = collated(extractor, rule), alone(model, extractor)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if made.front is not None:
        batch = cached(made, batch, extractor, rule)
        made.front.bypass()
    made.adapt(4)
    for name, parameter in made.adapted.named_parameters():
        if "lora_B" in name:  # an adapter begins with zeros, which leave no gradient for the other factor
            torch.nn.init.normal_(parameter, std=0.1)
    gradients(made.adapted, batch)
    factors = [tensor for name, tensor in made.adapted.named_parameters() if "lora_" in name]
    assert all(tensor.grad.abs().max() > 0 for tensor in factors)
    rates = optimization.layer_decayed_groups(made.adapted, 1.0, 0.5)
    assert {rate for name, rate in rates.items() if "lora_" in name} == {0.5, 0.25, 0.125}
    step(made.adapted)
    finished = made.finished()
    after = loads_in_stock(finished, extractor, tmp_path)
    assert (after - before).abs().max() > 1e-3
    changed = {name for name, tensor in finished.state_dict().items() if not torch.equal(tensor, weights[name])}
    layers = {name.split(".layers.")[1] for name in changed if ".layers." in name}
    assert {name for name in changed if ".layers." not in name} == {
        name for name in weights if name.startswith(("projector.", "classifier."))
    }
    parts = {name.split(".", 1)[1] for name in layers}
    assert layers == {f"{number}.{part}" for number in range(3) for part in parts}
    assert parts == {f"{part}.weight" for part in ADAPTED[family]}


FEED_FORWARD = {"feed_forward.intermediate_dense", "feed_forward.output_dense"}
PROJECTIONS = {f"attention.{name}_proj" for name in ("q", "k", "v", "out")} | FEED_FORWARD
ADAPTED = dict.fromkeys(FAMILIES, PROJECTIONS)
ADAPTED |= {"wavlm": FEED_FORWARD, "wavlm, stable": FEED_FORWARD}
ADAPTED["wav2vec2-bert"] = {f"self_attn.linear_{name}" for name in ("q", "k", "v", "out")}
ADAPTED["wav2vec2-bert"] |= {f"ffn{number}.{name}_dense" for number in (1, 2) for name in ("intermediate", "output")}
ADAPTED["audio-spectrogram-transformer"] = {f"attention.{name}_proj" for name in "qkvo"} | {"mlp.fc1", "mlp.fc2"}
ADAPTED["whisper"] = {f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")} | {"fc1", "fc2"}


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "audio-spectrogram-transformer"])
def test_a_probe_answers_in_stock_as_its_head(family, tmp_path):
    model, extractor = make(family)
    padding.ignore_padding(model)
    front_end, name = front_end_of(extractor), extractor.model_input_names[0]
    features = [torch.from_numpy(front_end.extract(clip))[None] for clip in noises()]
    with torch.inference_mode():
        states = [model(**{name: each}, output_hidden_states=True).hidden_states for each in features]
    means = torch.stack([torch.cat(each).mean(1) for each in states])[:, None]
    assert means.shape == (3, 1, 4, 16)
    head = probe.Head(4, 16, 12, "mean", "linear")
    torch.nn.init.normal_(head.layer_weights)
    expected = head(means, torch.ones(3, 1)).detach()
    put = probe.put_into(model, head)
    assert put.layer_weights.shape == (4,)
    torch.testing.assert_close(loads_in_stock(put, extractor, tmp_path), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_a_layer_mix_is_trained_with_convolutions_alone_cached(family, tmp_path):
    model, extractor = make(family)
    rule = padding.ignore_padding(model)
    modes.mix_layers(model)
    made = modes.prepare(model, "partial", True, 1)
    assert made.front.depth == 0
    batch = collated(extractor, rule)
    loss, whole = gradients(model, batch)
    frames = cached(made, batch, extractor, rule)
    made.front.bypass()
    stored, upper = gradients(model, frames)
    torch.testing.assert_close(stored, loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(upper["layer_weights"], whole["layer_weights"], atol=1e-5, rtol=1e-3)
    step(model)
    assert loads_in_stock(made.finished(), extractor, tmp_path).isfinite().all()
    with pytest.raises(ModelError, match="cannot train a head that mixes layers"):
        modes.prepare(model, "lora", True, None)


def test_a_spectrogram_transformer_mixes_no_layers():
    model, _ = make("audio-spectrogram-transformer")
    with pytest.raises(ModelError, match=r"^the head of a audio-spectrogram-transformer cannot mix layers: "):
        modes.mix_layers(model)


@pytest.mark.parametrize("family", ["data2vec-audio", "audio-spectrogram-transformer", "whisper", "unispeech-sat"])
def test_the_graph_of_a_family_predicts_as_torch(family, tmp_path):
    model, extractor = make(family)
    onnx_graph.write_graph(model, extractor, padding.ignore_padding(model), tmp_path / "model.onnx")
    assert onnx_graph.compare(model, extractor, tmp_path / "model.onnx", noises())["max_difference"] < 1e-4


def kept(model, mode):
    """What the documentation calls the part that a mode computes once."""
    front = modes.prepare(model, mode, True, None).front
    return "nothing" if front is None else "lower layers" if front.depth else "convolutions"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_the_documentation_is_right(family):
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "training.md").read_text().splitlines()]
    (row,) = [row for row in rows if row[0] == family and len(row) == 7]
    model, _ = make(family)
    attention = any("feed_forward" not in part for part in ADAPTED[family])
    mixes = hasattr(model.config, "use_weighted_layer_sum")
    expected = [padding.padding_rule(model), kept(model, "full"), kept(model, "partial")]
    expected += ["attention, " * attention + "feed-forward", "yes" if mixes else "no"]
    assert row[1:6] == expected
    assert kept(model, "lora") == row[2]
