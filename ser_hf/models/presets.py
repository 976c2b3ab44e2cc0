"""Small models with random weights, which need no download."""

from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2Config

from ser_hf.labels import ID2LABEL, LABEL2ID

TINY = "tiny"
"""A w2v-BERT on mel frames, which fine-tuning and pretraining start from random weights."""

SMALL = "small"
"""A wav2vec 2.0 on waveforms, which only pretraining starts from random weights."""

_DROPOUTS: tuple[str, ...] = (
    "hidden_dropout",
    "activation_dropout",
    "attention_dropout",
    "feat_proj_dropout",
    "final_dropout",
)
_DROPOUTS += ("layerdrop", "feat_quantizer_dropout")


def tiny_config() -> Wav2Vec2BertConfig:
    """Config of a small w2v-BERT 2.0 on mel frames, 25 stacked ones a second.

    It has 2.7 M parameters. Trained from random weights it learns in minutes, where small models on
    waveforms do not. There is no dropout: drawing its masks took a fifth of a training step on a
    CPU. SpecAugment regularises instead.
    """
    return Wav2Vec2BertConfig(
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        conv_depthwise_kernel_size=15,
        position_embeddings_type=None,
        feature_projection_input_dim=320,
        classifier_proj_size=192,
        attention_dropout=0.0,
        conformer_conv_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.1,
        mask_time_length=5,
        id2label=ID2LABEL,
        label2id=LABEL2ID,
    )


def tiny_extractor() -> SeamlessM4TFeatureExtractor:
    """Extractor of `tiny`: frames of w2v-BERT, four of them stacked.

    Each mel bin is normalised over the clip. That removes the long-term spectrum, and with it how
    tense or dark a voice is.
    """
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
