"""What a model's config remembers of its training: written and read by one class."""

import json

from transformers import PretrainedConfig, Wav2Vec2Config

from ser_hf import BUNDLED_MODEL
from ser_hf.models.seen_speakers import CONFIG_KEY, SeenSpeakers


def test_a_config_gives_back_what_was_remembered(tmp_path):
    config = Wav2Vec2Config()
    assert SeenSpeakers.of(config) == SeenSpeakers()  # a model from elsewhere
    seen = SeenSpeakers().trained("speaker", "abc", 3, ["tess-oaf", "ravdess-02"])
    seen = seen.calibrated(2.0, 0.25, ["ravdess-01"]).calibrated(0.75, 0.0)
    seen.remember(config)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())[CONFIG_KEY] == {
        "protocol": "speaker",
        "protocol_hash": "abc",
        "fold": 3,
        "speakers": ["ravdess-01", "ravdess-02", "tess-oaf"],
        "temperature": 1.5,
        "abstain_below": 0.0,
    }
    assert SeenSpeakers.of(Wav2Vec2Config.from_pretrained(tmp_path)) == seen


def test_training_adds_speakers_and_drops_the_calibration():
    earlier = SeenSpeakers("random", "abc", 0, ("a", "c"), 1.5, 0.3, "openai/whisper-base")
    later = SeenSpeakers("speaker", "def", 1, ("a", "b", "c"), backbone="openai/whisper-base")
    assert earlier.trained("speaker", "def", 1, ["b", "a"]) == later


def test_calibrating_a_model_from_elsewhere_makes_no_speakers_known():
    config, shared = Wav2Vec2Config(), {}
    setattr(config, CONFIG_KEY, shared)
    SeenSpeakers.of(config).calibrated(1.5, speakers=["a"]).remember(config)
    assert getattr(config, CONFIG_KEY) == {"temperature": 1.5}
    assert shared == {}


def test_the_bundled_model_remembers_all_speakers():
    seen = SeenSpeakers.of(PretrainedConfig.from_json_file(BUNDLED_MODEL / "config.json"))
    assert (seen.protocol, seen.fold, len(seen.speakers)) == ("all", 0, 26)
    assert seen.backbone == "openai/whisper-base"
