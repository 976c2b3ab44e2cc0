"""Small models with random weights, which need no download."""

from transformers import (
    FeatureExtractionMixin,
    NemotronAsrStreamingFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
)

from ser_hf.labels import ID2LABEL, LABEL2ID

BUILT_IN = ("tiny", "tiny-50")
"""Names of the presets: w2v-BERT on 25 and on 50 mel frames a second."""

TINY, TINY_50 = BUILT_IN

SMALL = "small"
"""A wav2vec 2.0 on waveforms, which only pretraining starts from random weights."""

_DROPOUTS = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout")
_DROPOUTS += ("layerdrop", "feat_quantizer_dropout")

_FRAMES_50 = {"feature_size": 80, "hop_length": 320, "n_fft": 512, "win_length": 400, "preemphasis": -1000.0}
"""25 ms every 20 ms. A "pre-emphasis" of -1000 does not filter but amplifies by 60 dB. It lifts
even the quietest recording far above 2⁻²⁴, the smallest power that the extractor resolves."""


def preset_config(name: str = TINY) -> Wav2Vec2BertConfig:
    """Config of a small w2v-BERT 2.0 on mel frames.

    `tiny` has 2.7 M parameters and takes 25 stacked frames a second; `tiny-50` is narrower, with
    1.5 M, and takes 50. Trained from random weights they learn in minutes, where small models on
    waveforms do not. There is no dropout: drawing its masks took a fifth of a training step on a
    CPU. SpecAugment regularises instead.
    """
    frames_50 = name == TINY_50
    return Wav2Vec2BertConfig(
        hidden_size=144 if frames_50 else 192,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384 if frames_50 else 512,
        conv_depthwise_kernel_size=15,
        position_embeddings_type=None,
        feature_projection_input_dim=_FRAMES_50["feature_size"] if frames_50 else 320,
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
    """Extractor of a preset.

    `tiny` takes the frames of w2v-BERT, four of them stacked, each mel bin normalised over the
    clip. Normalisation removes the long-term spectrum, and with it how tense or dark a voice is.
    `tiny-50` takes frames that are not normalised. The layer norm at the input of the model removes
    the level of a clip.
    """
    if name == TINY_50:
        return NemotronAsrStreamingFeatureExtractor(**_FRAMES_50)
    return SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, sampling_rate=16_000, stride=4)


def small_config() -> Wav2Vec2Config:
    """Config of a small wav2vec 2.0 of waveforms with 50 frames a second.

    Its layer norms make pretraining stable. It has four convolutions with long strides instead of
    seven, which cover 23 ms a frame. At this size, the first convolutions would otherwise take most
    of the time. It has no dropout, as `tiny`.
    """
    return Wav2Vec2Config(
        conv_dim=(64, 128, 192, 192),
        conv_kernel=(20, 8, 4, 2),
        conv_stride=(10, 4, 4, 2),
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=768,
        num_conv_pos_embeddings=64,
        num_codevectors_per_group=64,
        codevector_dim=128,
        proj_codevector_dim=128,
        classifier_proj_size=192,
        **dict.fromkeys(_DROPOUTS, 0.0),
    )
