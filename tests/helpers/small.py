"""Where the project lies, a small model of each kind, and flags of a short training."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForAudioClassification,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from ser_hf.labels import ID2LABEL, LABEL2ID

ROOT = Path(__file__).parents[2]

FAST = ["--num_train_epochs", "2", "--learning_rate", "3e-3", "--bf16", "false", "--patience", "0"]


def make_model(kind, folder, seed=0):
    """Write a small untrained model with the eight labels: `bert` (mel frames), `group` or `layer`
    (waveform)."""
    torch.manual_seed(seed)
    common = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "classifier_proj_size": 16,
        "hidden_dropout": 0.0,
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "final_dropout": 0.0,
        "layerdrop": 0.0,
        "apply_spec_augment": False,
        "id2label": ID2LABEL,
        "label2id": LABEL2ID,
    }
    if kind == "bert":
        config = Wav2Vec2BertConfig(
            **common,
            conv_depthwise_kernel_size=5,
            position_embeddings_type=None,
            feature_projection_input_dim=320,
            conformer_conv_dropout=0.0,
        )
        extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, sampling_rate=16_000, stride=4)
    else:
        config = Wav2Vec2Config(
            **common,
            conv_dim=(16, 16, 16),
            conv_kernel=(10, 8, 8),
            conv_stride=(10, 8, 4),
            feat_extract_norm=kind,
            do_stable_layer_norm=kind == "layer",
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
        )
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=kind == "layer")
    model = AutoModelForAudioClassification.from_config(config)
    if kind != "bert":
        model.classifier.weight.data *= 50  # answers that differ from clip to clip, as those of a trained model do
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def make_whisper(folder, seconds=30, layers=3, seed=0, **settings):
    """Write a small untrained Whisper classifier with the eight labels, and its extractor."""
    torch.manual_seed(seed)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=layers,
        encoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_layers=1,
        classifier_proj_size=32,
        max_source_positions=50 * seconds,
        init_std=0.2,  # answers that differ from clip to clip, as those of a trained model do
        id2label=ID2LABEL,
        label2id=LABEL2ID,
        **settings,
    )
    AutoModelForAudioClassification.from_config(config).save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=seconds).save_pretrained(folder)
    return folder
