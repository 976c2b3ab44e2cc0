"""Pretraining end to end with small models: what it writes, what it remembers, and what it
refuses."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForAudioClassification, HubertConfig

from ser_hf import protocols
from ser_hf.cli.settings import CommandLine
from ser_hf.cli.train import pretrain as pretrain_command
from ser_hf.data import dataset
from ser_hf.errors import UserError
from ser_hf.models import loading, presets
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.training.pretraining import masking, objective
from ser_hf.training.pretraining.masking import Masking
from ser_hf.training.pretraining.pretrain import Cooling

pytestmark = pytest.mark.usefixtures("one_thread")


def pretrain(words):
    pretrain_command(CommandLine("pretrain", words))


KINDS = ("bert", "group", "layer")
PREFIX = {"bert": "wav2vec2_bert.", "group": "wav2vec2.", "layer": "wav2vec2."}


def words(built, model, output, *more):
    """One epoch over the few recordings of one TESS voice."""
    base = f"--dataset {built} --model {model} --output {output} --protocol tess-oaf-yaf --epochs 1 --batch_size 4"
    return [*base.split(), "--threads", "1", "--bf16", "false", "--num_negatives", "10", *map(str, more)]


@pytest.fixture(scope="module")
def built(few):
    return few


@pytest.fixture(scope="module")
def rows(few):
    return dataset.load(few)


@pytest.fixture(scope="module")
def pretrained(built, models, tmp_path_factory):
    """The folder that pretraining each kind of small model wrote."""
    folders = {kind: tmp_path_factory.mktemp(f"pretrained-{kind}") / "model" for kind in KINDS}
    for kind, folder in folders.items():
        pretrain(words(built, models[kind], folder, "--epochs", "2", "--learning_rate", "1e-3"))
    return folders


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_gives_every_weight_of_the_encoder(pretrained, models, kind):
    folder = pretrained[kind]
    names = {"config.json", "history.json", "model.safetensors", "preprocessor_config.json"}
    names |= {"LICENSE-BACKBONE"} if kind == "bert" else set()
    assert {path.name for path in folder.iterdir()} == names
    model, info = AutoModelForAudioClassification.from_pretrained(folder, num_labels=8, output_loading_info=True)
    assert all(key.startswith(("projector.", "classifier.")) for key in info["missing_keys"])
    saved = {key.removeprefix(PREFIX[kind]): value for key, value in load_file(folder / "model.safetensors").items()}
    loaded = model.base_model.state_dict()
    assert set(loaded) <= set(saved)
    for name, tensor in loaded.items():
        assert torch.equal(tensor, saved[name]), name
    begun = AutoModelForAudioClassification.from_pretrained(models[kind], num_labels=8).base_model.state_dict()
    changed = [name for name in begun if name in loaded and not torch.equal(begun[name], loaded[name])]
    assert any("encoder.layers" in name for name in changed)
    config, before = (AutoConfig.from_pretrained(each) for each in (folder, models[kind]))
    for setting in ("apply_spec_augment", "mask_time_prob", "mask_feature_prob", "hidden_size"):
        assert getattr(config, setting) == getattr(before, setting)


def test_the_history_has_a_row_an_epoch(pretrained):
    history = json.loads((pretrained["bert"] / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2]
    for row in history:
        assert 0 < row["eval_loss"] < math.log(11) + 1
        assert 0 < row["loss"] < math.log(11) + 1
        assert 0 <= row["accuracy"] <= 1
        assert 2 <= row["perplexity"] <= 128
        assert row["objective"] == pytest.approx(row["loss"] + 0.1 * (1 - row["perplexity"] / 128), abs=0.05)


def test_what_was_heard_is_remembered(pretrained, rows, built, tmp_path):
    config = AutoConfig.from_pretrained(pretrained["bert"])
    split = protocols.split(rows, "tess-oaf-yaf")
    assert config.ser_hf == {
        "protocol": "tess-oaf-yaf",
        "protocol_hash": split.hash,
        "fold": 0,
        "speakers": ["tess-oaf"],
    }
    protocols.refuse_seen(SeenSpeakers.of(config), "m", rows, split)
    with pytest.raises(protocols.LeakError, match="tess-oaf, whom 'tess-yaf-oaf'"):
        protocols.refuse_seen(SeenSpeakers.of(config), "m", rows, protocols.split(rows, "tess-yaf-oaf"))
    with pytest.raises(protocols.LeakError, match="was trained under 'tess-oaf-yaf' fold 0 on tess-oaf"):
        pretrain(words(built, pretrained["layer"], tmp_path / "m", "--protocol", "ravdess-tess"))
    pretrain(words(built, pretrained["bert"], tmp_path / "m", "--protocol", "speaker"))
    heard = AutoConfig.from_pretrained(tmp_path / "m").ser_hf
    assert heard["protocol"] == "speaker"
    assert {"tess-oaf", "ravdess-01", "ravdess-20"} <= set(heard["speakers"])
    assert not {"tess-yaf", "ravdess-21"} & set(heard["speakers"])


def test_more_voices_are_heard_and_those_that_test_are_not(built, models, rows, tmp_path):
    pretrain(words(built, models["bert"], tmp_path / "m", "--extra_train_speakers"))
    config = AutoConfig.from_pretrained(tmp_path / "m")
    assert {"tess-oaf", "ravdess-01", "ravdess-21"} <= set(config.ser_hf["speakers"])
    assert "tess-yaf" not in config.ser_hf["speakers"]
    protocols.refuse_seen(SeenSpeakers.of(config), "m", rows, protocols.split(rows, "tess-oaf-yaf"))


def test_the_same_seed_gives_the_same_weights(built, models, tmp_path, monkeypatch):
    drawn, draw = [], Masking.draw
    monkeypatch.setattr(Masking, "draw", lambda self, *what: drawn.append(what) or draw(self, *what))
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        pretrain(words(built, models["bert"], tmp_path / name, "--epochs", "2", "--seed", seed))
    assert {epoch for _, epoch, _ in drawn} == {0, 1}
    one, two, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two", "other"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("name", "least"), [("tiny", 2.5e6), ("small", 2.0e6)])
def test_models_from_nothing_are_saved_whole(name, least, tmp_path):
    model, extractor, kept = objective.load(name, 0)
    assert least < sum(p.numel() for p in model.parameters()) < 3.5e6
    clip = masking.front_end_of(extractor).extract(np.zeros(16_000, dtype=np.float32))
    assert int(model._get_feat_extract_output_lengths(torch.tensor(len(clip)))) == {"tiny": 24, "small": 49}[name]
    objective.save(model, kept, tmp_path / "m")
    extractor.save_pretrained(tmp_path / "m")
    loaded, _ = loading.load_for_training(tmp_path / "m")
    for key, tensor in model.base_model.state_dict().items():
        assert torch.equal(tensor, loaded.base_model.state_dict()[key])
    if name == "tiny":
        assert loaded.config.mask_time_length == presets.tiny_config().mask_time_length
        assert "attn_implementation" not in (tmp_path / "m" / "config.json").read_text()


def test_layer_norms_hear_float32_in_bf16(built, models, tmp_path, monkeypatch):
    heard, forward = set(), torch.nn.LayerNorm.forward

    def listening(norm, hidden):
        heard.add(hidden.dtype)
        return forward(norm, hidden)

    monkeypatch.setattr(torch.nn.LayerNorm, "forward", listening)
    pretrain(words(built, models["bert"], tmp_path / "model", "--bf16", "true"))
    assert heard == {torch.float32}


def test_other_models_are_refused_at_the_start(tmp_path):
    HubertConfig().save_pretrained(tmp_path / "hubert")
    with pytest.raises(loading.ModelError, match="is of the type hubert: wav2vec2 and wav2vec2-bert") as error:
        pretrain(words("nowhere", tmp_path / "hubert", tmp_path / "m"))
    assert "\n" not in str(error.value)
    with pytest.raises(loading.ModelError, match="cannot be loaded"):
        pretrain(words("nowhere", tmp_path / "nothing", tmp_path / "m"))
    with pytest.raises(UserError, match="exists already"):
        pretrain(words("nowhere", "tiny", tmp_path))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--fold", "all"), "--fold is all"),
        (("--epochs", "0"), "--epochs is 0"),
        (("--mask_time_prob", "1.5"), "--mask_time_prob is 1.5"),
        (("--learning_rate", "-1"), "--learning_rate is -1"),
        (("--seed", "-1"), "--seed is -1"),
        (("--bf16", "perhaps"), "--bf16"),
    ],
)
def test_wrong_flags_are_named(flags, says, tmp_path):
    with pytest.raises(UserError, match=says):
        pretrain(words("nowhere", "tiny", tmp_path / "m", *flags))


def test_a_loss_that_is_no_number_ends_in_one_line(built, models, tmp_path):
    with pytest.raises(
        UserError, match=r"loss is nan at step \d+: lower --learning_rate; no checkpoint had been saved"
    ):
        pretrain(words(built, models["bert"], tmp_path / "m", "--learning_rate", "1e30", "--epochs", "3"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["bert", "group"])
def test_cut_off_it_goes_on_to_the_same_weights(built, models, tmp_path, monkeypatch, kind):
    whole, broken = (words(built, models[kind], tmp_path / name, "--epochs", "3") for name in ("whole", "broken"))
    pretrain(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]  # its checkpoints are gone
    cool = Cooling.on_step_begin

    def cut(self, args, state, control, **kwargs):
        if state.epoch > 1.5:
            raise KeyboardInterrupt
        cool(self, args, state, control, **kwargs)

    monkeypatch.setattr(Cooling, "on_step_begin", cut)
    with pytest.raises(KeyboardInterrupt):
        pretrain(broken)
    monkeypatch.undo()
    assert not (tmp_path / "broken").exists()
    with pytest.raises(
        UserError, match=r"broken\.checkpoints' holds an earlier run: go on with --resume_from_checkpoint"
    ):
        pretrain(broken)
    with pytest.raises(UserError, match="has seed 42, not 7"):
        pretrain([*broken, "--resume_from_checkpoint", "true", "--seed", "7"])
    with pytest.raises(UserError, match=r"has learning_rate \S+, not 0.5"):
        pretrain([*broken, "--resume_from_checkpoint", "true", "--learning_rate", "0.5"])
    pretrain([*broken, "--resume_from_checkpoint", "true"])
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = ((tmp_path / name / "history.json").read_text() for name in ("whole", "broken"))
    assert one == other
    assert not (tmp_path / "broken.checkpoints").exists()
    with pytest.raises(UserError, match="holds no checkpoint"):
        pretrain(words(built, models[kind], tmp_path / "new", "--resume_from_checkpoint", "true"))
