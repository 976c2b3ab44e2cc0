"""Which backbone a model began from, and what that was pretrained on."""

import re
from dataclasses import replace

import pytest
from transformers import WhisperConfig

from ser_hf.models.backbones import RANDOM, backbone_of, describe_pretraining
from ser_hf.models.seen_speakers import SeenSpeakers


def test_a_backbone_is_named_by_its_id_its_folder_or_what_the_config_remembers(tmp_path):
    config = WhisperConfig()
    assert backbone_of("openai/whisper-base", config) == "openai/whisper-base"
    assert backbone_of("somebody/wav2vec2-emotion", config) == "somebody/wav2vec2-emotion"
    assert backbone_of("tiny", config) == RANDOM
    for name, expected in (("whisper-tiny.en", "openai/whisper-tiny.en"), ("mine", None)):
        (tmp_path / name).mkdir()
        assert backbone_of(str(tmp_path / name), config) == expected
    replace(SeenSpeakers.of(config), backbone="openai/whisper-small").remember(config)
    assert backbone_of(str(tmp_path / "mine"), config) == "openai/whisper-small"


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ("openai/whisper-tiny.en", "680,000 hours of labelled speech from the web .* is not known"),
        ("facebook/hubert-base-ls960", "LibriSpeech, 960 hours of audiobooks. It holds no acted emotions"),
        ("microsoft/wavlm-base-plus", "94,000 hours"),
        ("facebook/w2v-bert-2.0", "4.5 million hours"),
        ("facebook/wav2vec2-xls-r-300m", "436,000 hours"),
        (RANDOM, "nothing"),
        ("somebody/wav2vec2-emotion", "data that are not known here"),
        (None, "data that are not known here"),
    ],
)
def test_the_pretraining_data_are_told(backbone, says):
    assert re.match(f".*{says}", describe_pretraining(backbone))
