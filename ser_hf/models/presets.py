"""Models that start from nothing."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from transformers import (
    FeatureExtractionMixin,
    NemotronAsrStreamingFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
)

from ser_hf.labels import ID2LABEL, LABEL2ID

BUILT_IN = ("tiny", "tiny-50")
"""Models that start from nothing: w2v-BERT on 25 and on 50 mel frames a second
(`ser_hf.models.loading`)."""

TINY, TINY_50 = BUILT_IN

_FINE = {"feature_size": 80, "hop_length": 320, "n_fft": 512, "win_length": 400, "preemphasis": -1000.0}
"""25 ms every 20 ms. So strong a "pre-emphasis" is no filter but a gain of 60 dB: it takes even the
quietest recording far above the smallest power that the extractor tells apart, 2⁻²⁴."""


def preset_config(name: str = TINY) -> Wav2Vec2BertConfig:
    """A small w2v-BERT 2.0 on mel frames: 25 stacked ones a second (2.7 M parameters), or 50
    (narrower, 1.5 M).

    It learns from nothing in minutes, where the raw-waveform members of the family do not. No
    dropout: drawing its masks took a fifth of a training step on a CPU; SpecAugment regularises.
    """
    fine = name == TINY_50
    return Wav2Vec2BertConfig(
        hidden_size=144 if fine else 192,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384 if fine else 512,
        conv_depthwise_kernel_size=15,
        position_embeddings_type=None,
        feature_projection_input_dim=_FINE["feature_size"] if fine else 320,
        classifier_proj_size=192,
        attention_dropout=0.0,
        conformer_conv_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.1,
        mask_time_length=5,
        id2label=ID2LABEL,
        label2id=LABEL2ID,
    )


def preset_extractor(name: str = TINY) -> FeatureExtractionMixin:
    """What `tiny` hears: w2v-BERT's frames, four stacked, each mel bin normalised over the clip.

    That removes the long-term spectrum, and with it how tense or dark a voice is. `tiny-50` hears
    frames that are not normalised; how loud a clip is goes with the layer norm that the model
    begins with.
    """
    if name == TINY_50:
        return NemotronAsrStreamingFeatureExtractor(**_FINE)
    return SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, sampling_rate=16_000, stride=4)
