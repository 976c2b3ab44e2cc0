"""What public backbones were pretrained on, for cards and reports."""

from pathlib import Path

from transformers import PretrainedConfig

from ser_hf.models.presets import SMALL, TINY
from ser_hf.models.seen_speakers import SeenSpeakers

RANDOM = "random weights"
"""The name of the backbone of a model that was trained from nothing."""

_WHISPER = "680,000 hours of labelled speech from the web (Radford et al. 2022)"
_WHISPER_3 = "5 million hours of speech from the web, a fifth of it labelled, the rest by Whisper large-v2"
_LIBRISPEECH = "LibriSpeech, 960 hours of audiobooks"
_LIBRILIGHT = "Libri-Light, 60,000 hours of audiobooks"
_WAVLM = "94,000 hours: Libri-Light (audiobooks), GigaSpeech and VoxPopuli"
PRETRAINING_DATA: dict[str, str] = {
    **{f"openai/whisper-{size}": _WHISPER for size in ("tiny", "base", "small", "medium", "large", "large-v2")},
    **{f"openai/whisper-{size}.en": _WHISPER for size in ("tiny", "base", "small", "medium")},
    **dict.fromkeys(("openai/whisper-large-v3", "openai/whisper-large-v3-turbo"), _WHISPER_3),
    **dict.fromkeys(("facebook/wav2vec2-base", "facebook/wav2vec2-large", "facebook/wav2vec2-base-960h"), _LIBRISPEECH),
    "facebook/wav2vec2-large-lv60": _LIBRILIGHT,
    "facebook/wav2vec2-xls-r-300m": "436,000 hours of speech in 128 languages (Babu et al. 2021)",
    "facebook/w2v-bert-2.0": "4.5 million hours of speech in 143 languages (Seamless Communication 2023)",
    "facebook/hubert-base-ls960": _LIBRISPEECH,
    "facebook/hubert-large-ll60k": _LIBRILIGHT,
    "microsoft/wavlm-base": _LIBRISPEECH,
    **dict.fromkeys(("microsoft/wavlm-base-plus", "microsoft/wavlm-large"), _WAVLM),
    "facebook/data2vec-audio-base": _LIBRISPEECH,
    "MIT/ast-finetuned-audioset-10-10-0.4593": "AudioSet, clips from YouTube, after ImageNet (Gong et al. 2021)",
}
"""The pretraining data of backbones by Hub id. One entry adds one backbone."""

_AUDIOBOOKS = (_LIBRISPEECH, _LIBRILIGHT)


def backbone_of(name: str, config: PretrainedConfig) -> str | None:
    """The backbone of a model that is to be trained: a Hub id, or `RANDOM`; None where unknown.

    A model that was fine-tuned before remembers it. A local folder is taken for the backbone whose
    id ends as the folder is named.

    Args:
        name: of the model, as `--model` has it.
        config: of the model.
    """
    remembered = SeenSpeakers.of(config).backbone
    if remembered:
        return remembered
    if name in (TINY, SMALL):
        return RANDOM
    if name in PRETRAINING_DATA or not Path(name).exists():
        return name
    return next((known for known in PRETRAINING_DATA if known.split("/")[1] == Path(name).resolve().name), None)


def describe_pretraining(backbone: str | None) -> str:
    """What a backbone was pretrained on, and whether it can hold the recordings of a test.

    >>> describe_pretraining("facebook/wav2vec2-base")
    'LibriSpeech, 960 hours of audiobooks. It holds no acted emotions.'
    """
    if backbone == RANDOM:
        return "nothing: training began from random weights."
    data = PRETRAINING_DATA.get(backbone or "")
    if data is None:
        return "data that are not known here. They may hold recordings of the test."
    if data in _AUDIOBOOKS:
        return f"{data}. It holds no acted emotions."
    return f"{data}. Whether recordings of the test are among it is not known."
