"""Models that learn from sound alone: a masked stretch is distinguished from others of its clip by
its codeword."""

from os import PathLike

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

SMALL = "small"
SCRATCH = (*presets.BUILT_IN, SMALL)
_DROPOUTS = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout")
_DROPOUTS += ("layerdrop", "feat_quantizer_dropout")
_FRESH = ("quantizer.", "project_hid.", "project_q.")
"""What a fine-tuned checkpoint has not, and a new objective may begin with."""


class Codebook(wav2vec2.Wav2Vec2GumbelVectorQuantizer):
    """The stock quantizer, with its codewords looked up by one matrix product.

    The stock one multiplies every codeword by every frame: for 16 clips of four seconds and two
    groups of 320 that is 1 GB. Same parameters, same draws, same answer.
    """

    codewords: torch.Tensor | None = None
    """The number of the combination that each frame of the last batch became, `(batch, frames)`."""

    def forward(
        self, hidden_states: torch.Tensor, mask_time_indices: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantise `(batch, frames, features)`.

        Returns:
            Codevectors `(batch, frames, codevector_dim)` and the perplexity of the codebook over
            the masked frames, summed over its groups: from the number of groups (collapsed) to that
            of all codewords (evenly used).
        """
        shape = (*hidden_states.shape[:2], self.num_groups, self.num_vars)
        logits = self.weight_proj(hidden_states).float().view(shape)
        if self.training:
            chosen = nn.functional.gumbel_softmax(logits, tau=self.temperature, hard=True)
            spread = logits.softmax(-1)
        else:
            spread = chosen = nn.functional.one_hot(logits.argmax(-1), self.num_vars).to(logits)
        places = self.num_vars ** torch.arange(self.num_groups, device=logits.device)
        self.codewords = (chosen.argmax(-1) * places).sum(-1)
        counted = logits.new_ones(shape[:2]) if mask_time_indices is None else mask_time_indices.to(logits)
        used = torch.einsum("btgv,bt->gv", spread, counted) / counted.sum().clamp(min=1)
        perplexity = torch.exp(-torch.xlogy(used, used).sum(-1)).sum()
        words = self.codevectors.view(self.num_groups, self.num_vars, -1)
        return torch.einsum("btgv,gvd->btgd", chosen, words).flatten(2), perplexity


class Wav2Vec2BertForPreTraining(Wav2Vec2BertPreTrainedModel):
    """The contrastive half of w2v-BERT (Chung et al. 2021, arXiv:2108.06209) on mel frames;
    transformers has none.

    Targets are the normalised frames that `Wav2Vec2BertModel` projects, quantised; it predicts
    those of masked frames.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        """Take a `Wav2Vec2BertConfig`; the codebook is as large as wav2vec 2.0's for models as
        large as those."""
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
        if isinstance(module, wav2vec2.Wav2Vec2GumbelVectorQuantizer):  # as wav2vec 2.0 begins
            init.normal_(module.weight_proj.weight, mean=0, std=1)
            init.zeros_(module.weight_proj.bias)
            init.uniform_(module.codevectors)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
    ) -> wav2vec2.Wav2Vec2ForPreTrainingOutput:
        """Predict and quantise `(batch, frames, dimensions)`, as `Wav2Vec2ForPreTraining` answers
        without negatives."""
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
    """wav2vec 2.0's loss, equation 3 (Baevski et al. 2020, arXiv:2006.11477), frame by frame.

    All cosine similarities within a clip are one matrix product. Negatives of the positive's own
    codeword do not count.

    Args:
        predicted: the encoder's output for each frame, `(batch, frames, size)`.
        targets: the quantised frames, of the same shape.
        codewords: which combination each frame became, `(batch, frames)`.
        negatives: frames of the same clip, `(batch, frames, negatives)`.
        mask: which frames were masked, `(batch, frames)`, bool.
        temperature: what similarities are divided by.

    Returns:
        The loss in nats, 0 where nothing was masked; and whether the positive is more similar than
        every negative, both `(batch, frames)`. Where no negative counts, the loss is 0 and the
        answer not right.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, targets = (nn.functional.normalize(each.float(), dim=-1) for each in (predicted, targets))
        similar = predicted @ targets.transpose(1, 2) / temperature
    positive = similar.diagonal(dim1=1, dim2=2)
    same = codewords.gather(1, negatives.flatten(1)).view_as(negatives) == codewords[..., None]
    others = similar.gather(2, negatives).masked_fill(same, float("-inf"))
    losses = torch.cat([positive[..., None], others], dim=-1).logsumexp(-1) - positive
    right = (positive > others.amax(-1)) & ~same.all(-1) & mask
    return losses.where(mask, 0.0), right


def load(name: str | PathLike, seed: int) -> tuple[PreTrainedModel, FeatureExtractionMixin, dict]:
    """A model with its codebook, its feature extractor, and the settings of its config that `save`
    puts back.

    Args:
        name: a Hub id or folder of wav2vec2 or wav2vec2-bert, or one of `SCRATCH` to start from
            nothing.
        seed: of the weights that are new; those are the codebook's where a checkpoint has none.

    Raises:
        ModelError: for another type, and for what cannot be loaded.
    """
    torch.manual_seed(seed)
    if name in SCRATCH:
        model, extractor = _new(str(name))
        kept = {}
    else:
        model, extractor, kept = _pretrained(name)
    if isinstance(model, Wav2Vec2ForPreTraining):
        stock, model.quantizer = model.quantizer, Codebook(model.config)
        model.quantizer.load_state_dict(stock.state_dict())
    padding.ignore_padding(model)
    return model, extractor, kept


def save(model: PreTrainedModel, kept: dict, folder: str | PathLike) -> None:
    """Write what `AutoModelForAudioClassification.from_pretrained` takes every weight of the
    encoder from."""
    for setting, value in kept.items():
        setattr(model.config, setting, value)
    whole = isinstance(model, Wav2Vec2ForPreTraining)  # else the class is ours, and no program would know it
    (model if whole else model.base_model).save_pretrained(folder)


def small_config() -> Wav2Vec2Config:
    """A small wav2vec 2.0 on the waveform, 50 frames a second, in the layout that pretrains stably
    (layer norm).

    Four convolutions with long strides instead of seven, which cover 23 ms a frame: at this size
    most of the time would go into the first ones. No dropout, as in `tiny`.
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


def _new(name: str) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    config = small_config() if name == SMALL else presets.preset_config(name)
    # at these sizes plain attention is quicker on a CPU than the fused kernel
    model = CLASSES[config.model_type]._from_config(config, attn_implementation="eager")
    if isinstance(model, Wav2Vec2ForPreTraining):
        return model, Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return model, presets.preset_extractor(name)


def _pretrained(name: str | PathLike) -> tuple[PreTrainedModel, FeatureExtractionMixin, dict]:
    try:
        config = AutoConfig.from_pretrained(name)
        _refuse_other(name, config)
        # Without SpecAugment, transformers ignores masks that it is given, and has no vector to put
        # in their place.
        changed = {
            "apply_spec_augment": True,
            "mask_time_prob": config.mask_time_prob or 0.05,
            "mask_feature_prob": 0.0,
        }
        kept = {setting: getattr(config, setting) for setting in changed}
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
    missing = [key for key in info["missing_keys"] if not key.startswith(_FRESH) and "masked_spec_embed" not in key]
    if missing:
        raise loading.ModelError(f"'{name}' has no weights for {sorted(missing)[0]}: give a whole {config.model_type}")
    return model, extractor, kept


def _refuse_other(name: str | PathLike, config: PretrainedConfig) -> None:
    if config.model_type not in CLASSES:
        known = f"{' and '.join(CLASSES)} can be pretrained, {' and '.join(SCRATCH)} from nothing"
        raise loading.ModelError(f"'{name}' is of the type {config.model_type}: {known}")
    if config.add_adapter:
        raise loading.ModelError(f"'{name}' has an adapter that merges frames: give a checkpoint without one")
