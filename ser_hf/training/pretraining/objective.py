"""Models for contrastive pretraining, their codebook, and the loss."""

from os import PathLike
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    FeatureExtractionMixin,
    PretrainedConfig,
    PreTrainedModel,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
)
from transformers import initialization as init
from transformers.models.wav2vec2 import modeling_wav2vec2 as wav2vec2
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertPreTrainedModel

from ser_hf.models import loading, padding, presets

SCRATCH = (presets.TINY, presets.SMALL)
"""Names of the models that pretraining starts from random weights."""
_OBJECTIVE_WEIGHTS = ("quantizer.", "project_hid.", "project_q.")
"""Prefixes of weights that a fine-tuned checkpoint lacks, and that may start at random."""


class Codebook(wav2vec2.Wav2Vec2GumbelVectorQuantizer):
    """The stock quantizer, with the codevectors looked up by one matrix product.

    The stock quantizer multiplies every codeword by every frame. For 16 clips of four seconds and
    two groups of 320 that takes 1 GB. Parameters, draws and outputs are the same.
    """

    codewords: torch.Tensor | None = None
    """Number of the codeword combination of each frame of the last batch, `(batch, frames)`."""

    def forward(
        self, hidden_states: torch.Tensor, mask_time_indices: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantise `(batch, frames, features)`.

        Returns:
            Codevectors `(batch, frames, codevector_dim)`, and the perplexity of the codebook over
            the masked frames, summed over its groups. The perplexity goes from the number of groups
            (collapsed) to the number of all codewords (evenly used).
        """
        shape = (*hidden_states.shape[:2], self.num_groups, self.num_vars)
        logits = self.weight_proj(hidden_states).float().view(shape)
        if self.training:
            chosen = nn.functional.gumbel_softmax(logits, tau=self.temperature, hard=True)
            probabilities = logits.softmax(-1)
        else:
            probabilities = chosen = nn.functional.one_hot(logits.argmax(-1), self.num_vars).to(logits)
        factors = self.num_vars ** torch.arange(self.num_groups, device=logits.device)
        self.codewords = (chosen.argmax(-1) * factors).sum(-1)
        counted = logits.new_ones(shape[:2]) if mask_time_indices is None else mask_time_indices.to(logits)
        used = torch.einsum("btgv,bt->gv", probabilities, counted) / counted.sum().clamp(min=1)
        perplexity = torch.exp(-torch.xlogy(used, used).sum(-1)).sum()
        words = self.codevectors.view(self.num_groups, self.num_vars, -1)
        return torch.einsum("btgv,gvd->btgd", chosen, words).flatten(2), perplexity


class Wav2Vec2BertForPreTraining(Wav2Vec2BertPreTrainedModel):
    """The contrastive half of w2v-BERT on mel frames, which transformers lacks.

    Chung et al. 2021 (arXiv:2108.06209). The targets are the normalised frames that
    `Wav2Vec2BertModel` projects, quantised. The model predicts the targets of masked frames.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        """Take a `Wav2Vec2BertConfig`; a hidden size from 512 gets the codebook of wav2vec 2.0."""
        super().__init__(config)
        self.wav2vec2_bert = Wav2Vec2BertModel(config)
        large = config.hidden_size >= 512
        words, size = (320, 256) if large else (64, 128)
        settings = {"conv_dim": (config.feature_projection_input_dim,), "conv_kernel": (1,), "conv_stride": (1,)}
        self.quantizer = Codebook(Wav2Vec2Config(num_codevectors_per_group=words, codevector_dim=size, **settings))
        self.project_hid = nn.Linear(config.hidden_size, size)
        self.project_q = nn.Linear(size, size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, wav2vec2.Wav2Vec2GumbelVectorQuantizer):  # as in wav2vec 2.0
            init.normal_(module.weight_proj.weight, mean=0, std=1)
            init.zeros_(module.weight_proj.bias)
            init.uniform_(module.codevectors)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
    ) -> wav2vec2.Wav2Vec2ForPreTrainingOutput:
        """Predict and quantise `(batch, frames, dimensions)`, without loss.

        The output is that of `Wav2Vec2ForPreTraining` without negatives.
        """
        output = self.wav2vec2_bert(input_features, attention_mask=attention_mask, mask_time_indices=mask_time_indices)
        targets, perplexity = self.quantizer(output.extract_features, mask_time_indices)
        return wav2vec2.Wav2Vec2ForPreTrainingOutput(
            projected_states=self.project_hid(output.last_hidden_state),
            projected_quantized_states=self.project_q(targets),
            codevector_perplexity=perplexity,
        )


CLASSES = {"wav2vec2": Wav2Vec2ForPreTraining, "wav2vec2-bert": Wav2Vec2BertForPreTraining}


def contrastive(
    predicted: torch.Tensor,
    targets: torch.Tensor,
    codewords: torch.Tensor,
    negatives: torch.Tensor,
    mask: torch.Tensor,
    temperature: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrastive loss of each frame, equation 3 of wav2vec 2.0.

    Baevski et al. 2020 (arXiv:2006.11477). One matrix product gives all cosine similarities within
    a clip. Negatives with the codeword of the positive do not count.

    Args:
        predicted: output of the encoder for each frame, `(batch, frames, size)`.
        targets: the quantised frames, of the same shape.
        codewords: number of the codeword combination of each frame, `(batch, frames)`.
        negatives: indices of frames of the same clip, `(batch, frames, negatives)`.
        mask: True for masked frames, `(batch, frames)`.
        temperature: divisor of the similarities.

    Returns:
        The loss in nats, 0 for unmasked frames, and whether the positive is more similar than every
        negative, both `(batch, frames)`. Where no negative counts, the loss is 0 and the prediction
        is not correct.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, targets = (nn.functional.normalize(frames.float(), dim=-1) for frames in (predicted, targets))
        similarities = predicted @ targets.transpose(1, 2) / temperature
    positive = similarities.diagonal(dim1=1, dim2=2)
    same_codeword = codewords.gather(1, negatives.flatten(1)).view_as(negatives) == codewords[..., None]
    negative = similarities.gather(2, negatives).masked_fill(same_codeword, float("-inf"))
    losses = torch.cat([positive[..., None], negative], dim=-1).logsumexp(-1) - positive
    correct = (positive > negative.amax(-1)) & ~same_codeword.all(-1) & mask
    return losses.where(mask, 0.0), correct


def load(name: str | PathLike, seed: int) -> tuple[PreTrainedModel, FeatureExtractionMixin, dict]:
    """Load a model with its codebook, its extractor, and the settings that `save` restores.

    Args:
        name: Hub id or folder of a wav2vec2 or wav2vec2-bert, or one of `SCRATCH` for random
            weights.
        seed: seed of the random weights. For a checkpoint without a codebook, they are the weights
            of the codebook.

    Raises:
        ModelError: for a model of another type, or one that cannot be loaded.
    """
    torch.manual_seed(seed)
    if name in SCRATCH:
        model, extractor = _new(str(name))
        original_settings: dict[str, Any] = {}
    else:
        model, extractor, original_settings = _pretrained(name)
    if isinstance(model, Wav2Vec2ForPreTraining):
        stock, model.quantizer = model.quantizer, Codebook(model.config)
        model.quantizer.load_state_dict(stock.state_dict())
    padding.ignore_padding(model)
    return model, extractor, original_settings


def save(model: PreTrainedModel, original_settings: dict, folder: str | PathLike) -> None:
    """Write a model folder from which fine-tuning loads every weight of the encoder.

    Args:
        model: model that `load` returned.
        original_settings: settings that `load` returned, put back into the config.
        folder: folder to write into.
    """
    for setting, value in original_settings.items():
        setattr(model.config, setting, value)
    stock = isinstance(model, Wav2Vec2ForPreTraining)  # transformers does not know our own class
    (model if stock else model.base_model).save_pretrained(folder)


def _new(name: str) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    config = presets.small_config() if name == presets.SMALL else presets.tiny_config()
    # at these sizes, plain attention is faster on a CPU than the fused kernel
    model = CLASSES[config.model_type]._from_config(config, attn_implementation="eager")
    if isinstance(model, Wav2Vec2ForPreTraining):
        return model, Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return model, presets.tiny_extractor()


def _pretrained(name: str | PathLike) -> tuple[PreTrainedModel, FeatureExtractionMixin, dict]:
    try:
        config = AutoConfig.from_pretrained(name)
        _refuse_unfit(name, config)
        # Without SpecAugment, transformers ignores the masks of a batch, and has no vector that
        # replaces masked frames.
        changed = {
            "apply_spec_augment": True,
            "mask_time_prob": config.mask_time_prob or 0.05,
            "mask_feature_prob": 0.0,
        }
        original_settings = {setting: getattr(config, setting) for setting in changed}
        config.update(changed)
        extractor = AutoFeatureExtractor.from_pretrained(name)
        model, info = CLASSES[config.model_type].from_pretrained(
            name, config=config, output_loading_info=True, dtype=torch.float32
        )
    except loading.ModelError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:160]
        remedy = f"give a folder, or --model {' or '.join(SCRATCH)}, which need no download"
        raise loading.ModelError(f"model '{name}' cannot be loaded ({reason}): {remedy}") from error
    missing = [
        key for key in info["missing_keys"] if not key.startswith(_OBJECTIVE_WEIGHTS) and "masked_spec_embed" not in key
    ]
    if missing:
        raise loading.ModelError(
            f"'{name}' has no weights for {sorted(missing)[0]}: give a complete {config.model_type}"
        )
    return model, extractor, original_settings


def _refuse_unfit(name: str | PathLike, config: PretrainedConfig) -> None:
    if config.model_type not in CLASSES:
        choices = f"{' and '.join(CLASSES)} can be pretrained, {' and '.join(SCRATCH)} from nothing"
        raise loading.ModelError(f"'{name}' is of the type {config.model_type}: {choices}")
    if config.add_adapter:
        raise loading.ModelError(f"'{name}' has an adapter that merges frames: give a checkpoint without one")
