"""A frozen backbone, embedded once, and heads trained on its embeddings in seconds.

The probe is SUPERB's (Yang et al. 2021): a learned weighted sum of all layers, pooled over time,
then linear layers. With `mean` pooling and the `linear` head it is exactly what stock
`…ForSequenceClassification` computes with `use_weighted_layer_sum`, because weighting and
projecting commute with the mean.
"""

import copy
import time
from dataclasses import dataclass
from functools import partial

import datasets
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from ser_hf import audio
from ser_hf.evaluation import calibration, metrics
from ser_hf.labels import EMOTIONS
from ser_hf.models import padding
from ser_hf.models.encoder_layers import layers_of
from ser_hf.models.features import front_end_of
from ser_hf.training import feature_cache
from ser_hf.training.config import FinetuneConfig
from ser_hf.training.inputs import TrainingInputs
from ser_hf.training.losses import Objective
from ser_hf.training.recovery import TrainingError

STRETCH = 0.1
"""Seconds over which frames are averaged for an attentive head: single frames fill the disk."""


class Head(nn.Module):
    """Layer mix, pooling and classifier over embeddings `(batch, stretches, layers, width)`."""

    def __init__(self, layers: int, width: int, projected: int, pooling: str, kind: str) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.full((layers,), 1 / layers))
        self.projector = nn.Linear(width, projected)
        self.attention = nn.Sequential(nn.Linear(projected, 64), nn.Tanh(), nn.Linear(64, 1))
        self.attention = self.attention if pooling == "attentive" else None
        pooled = 2 * projected if pooling == "attentive" else projected
        hidden = nn.Sequential(nn.Linear(pooled, projected), nn.ReLU(), nn.Dropout(0.2))
        self.hidden = hidden if kind == "mlp" else nn.Identity()
        self.classifier = nn.Linear(projected if kind == "mlp" else pooled, len(EMOTIONS))

    def forward(self, embeddings: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Compute logits `(batch, labels)`; `valid` `(batch, stretches)` is 0 for padding."""
        batch, stretches, layers, width = embeddings.shape
        # One product for each stretch takes half the time of a sum, or of one vector over all.
        weights = self.layer_weights.softmax(0).expand(batch * stretches, 1, layers)
        frames = self.projector((weights @ embeddings.flatten(0, 1)).view(batch, stretches, width))
        if self.attention is None:
            share = valid / valid.sum(1, keepdim=True)
            return self.classifier(self.hidden((frames * share[..., None]).sum(1)))
        # Attentive statistics (Okabe et al. 2018): weighted mean and standard deviation.
        scores = self.attention(frames).squeeze(-1).masked_fill(~valid.bool(), -torch.inf)
        share = scores.softmax(1)[..., None]
        mean = (share * frames).sum(1)
        spread = ((share * frames.square()).sum(1) - mean.square()).clamp_min(1e-6).sqrt()
        return self.classifier(self.hidden(torch.cat([mean, spread], dim=-1)))


@dataclass
class Probed:
    """A trained probe."""

    head: Head
    history: list[dict]
    probabilities: np.ndarray
    """Of the test side, shape `(clips, labels)`."""
    seconds: dict[str, float]
    calibration: dict | None
    """What `calibration.fit_calibration` returned; its temperature is folded into the head."""


def check(config: FinetuneConfig, model: PreTrainedModel) -> None:
    """Refuse at the start what could not be saved at the end.

    Raises:
        TrainingError: for a head that stock transformers cannot load, unless figures alone are
            asked for.
    """
    stock = config.pooling == "mean" and config.head == "linear"
    if not stock and not config.figures_only:
        raise TrainingError(
            f"stock transformers cannot load a head with --pooling {config.pooling} --head {config.head}: use mean and "
            "linear, or --figures_only true for the figures and no model"
        )
    if stock and not (hasattr(model.config, "use_weighted_layer_sum") and hasattr(model, "projector")):
        raise TrainingError(f"a {model.config.model_type} cannot mix its layers: use another --mode or backbone")
    layers_of(model)


def embeddings(inputs: TrainingInputs) -> tuple[feature_cache.FeatureCache, bool]:
    """Compute means over time of every layer, for whole clips or for stretches of them.

    They come from the cache where it holds them.

    Returns:
        Arrays `(1 | stretches, layers + 1, width)`, and whether they had to be computed.
    """
    config, args, model = inputs.config, inputs.args, inputs.model
    stretched = config.pooling == "attentive"
    front_end = front_end_of(inputs.extractor)
    length = 10 * audio.SAMPLING_RATE if front_end.longest is None else front_end.longest
    frames = padding.frames_of(model, front_end.steps(front_end.extract(np.zeros(length, dtype=np.float32))))
    stretch = max(1, round(STRETCH * frames * audio.SAMPLING_RATE / length))

    def compute(batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        hidden = torch.stack(model(**batch, output_hidden_states=True).hidden_states, dim=2)  # its hooks count frames
        lengths = [hidden.shape[1]] * len(hidden)
        if "attention_mask" in batch:
            lengths = [padding.frames_of(model, int(length)) for length in batch["attention_mask"].sum(-1)]
        size = stretch if stretched else max(lengths)
        return [
            torch.stack([part.mean(0) for part in row[:length].float().split(size)])
            for row, length in zip(hidden, lengths, strict=True)
        ]

    name = f"layers {'stretches' if stretched else 'means'} {'bf16' if args.bf16 else 'fp32'}"
    with torch.autocast(args.device.type, torch.bfloat16, args.bf16):
        return feature_cache.feature_cache(
            inputs.split_rows(), name, model.to(args.device), inputs.extractor, compute, config.cache_dir
        )


def probe(inputs: TrainingInputs) -> Probed:
    """Train a head on embeddings, and choose its epoch by validation UAR.

    Raises:
        TrainingError: for what `check` refuses.
    """
    config, args, rows, split, model = inputs.config, inputs.args, inputs.rows, inputs.split, inputs.model
    check(config, model)
    started = time.perf_counter()
    cache, computed = embeddings(inputs)
    embedded = time.perf_counter() - started
    print(f"embeddings of {len(cache):,} clips: {'computed' if computed else 'from the cache'}", flush=True)
    train, validation, test = (_side(rows, side, cache) for side in (split.train, split.validation, split.test))
    torch.manual_seed(args.seed)
    width = train[0].shape[-1]
    projected = getattr(model.config, "classifier_proj_size", width)
    head = Head(train[0].shape[-2], width, projected, config.pooling, config.head).to(args.device)
    history = _fit(head, train, validation, inputs)
    calibrated = None
    if config.calibrate:
        logits = np.log(np.maximum(_probabilities(head, validation, args.device), 1e-30))  # but for a constant
        fit = partial(calibration.fit_calibration, logits, validation[2].numpy())
        calibrated = calibration.calibrate_or_warn(fit, config.abstain_coverage, config.abstain_error)
    if calibrated is not None:
        with torch.no_grad():
            for parameter in head.classifier.parameters():
                parameter.div_(calibrated["temperature"])
    seconds = {"embed": round(embedded, 3), "train": round(time.perf_counter() - started - embedded, 3)}
    return Probed(head, history, _probabilities(head, test, args.device), seconds, calibrated)


def put_into(model: PreTrainedModel, head: Head) -> PreTrainedModel:
    """Put a probe's head into the stock model."""
    model.config.use_weighted_layer_sum = True
    model.layer_weights = nn.Parameter(head.layer_weights.detach().cpu().clone())
    model.projector.load_state_dict(head.projector.state_dict())
    model.classifier.load_state_dict(head.classifier.state_dict())
    return model.cpu()


def save_head(head: Head, path: str) -> None:
    """Save a head that no stock model can hold, as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}, path)


def _fit(
    head: Head,
    train: tuple[torch.Tensor, ...],
    validation: tuple[torch.Tensor, ...],
    inputs: TrainingInputs,
) -> list[dict]:
    config, args, weights = inputs.config, inputs.args, inputs.clip_weights()
    balance = None if weights is None else torch.from_numpy(weights).float()
    loss_of = Objective(args.label_smoothing_factor, config.focal_gamma if config.loss == "focal" else 0.0)
    optimizer = torch.optim.AdamW(head.parameters(), args.learning_rate, weight_decay=args.weight_decay, fused=True)
    epochs, size = int(args.num_train_epochs), args.per_device_train_batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best_uar, stale, best_weights, history = -1.0, 0, None, []
    for epoch in range(1, epochs + 1):
        head.train()
        order = torch.from_numpy(np.random.default_rng([args.seed, epoch]).permutation(len(train[2])))
        total, correct = 0.0, 0
        for batch in order.split(size):
            values, valid, labels = (part.index_select(0, batch).to(args.device) for part in train)
            logits = head(values, valid)
            losses = loss_of(logits, labels)
            loss = (losses if balance is None else losses * balance[batch].to(losses)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
            correct += int((logits.detach().argmax(-1) == labels).sum())
        schedule.step()
        if not np.isfinite(total):
            raise TrainingError(f"loss is no number in epoch {epoch}: lower --learning_rate")
        row = {"epoch": float(epoch), "step": epoch * -(-len(order) // size), "loss": total / len(order)}
        row["accuracy"] = correct / len(order)
        row |= {f"eval_{name}": value for name, value in _validation_figures(head, validation, args.device).items()}
        history.append(row)
        stale += 1
        if row["eval_uar"] > best_uar:
            best_uar, stale, best_weights = row["eval_uar"], 0, copy.deepcopy(head.state_dict())
        if config.patience and stale == config.patience:
            break
    head.load_state_dict(best_weights)
    print(f"probe: validation UAR {best_uar:.3f} in {len(history)} epochs", flush=True)
    return history


def _validation_figures(head: Head, side: tuple[torch.Tensor, ...], device: torch.device) -> dict[str, float]:
    probabilities, labels = _probabilities(head, side, device), side[2].numpy()
    figures = metrics.scores(metrics.confusion(labels, probabilities.argmax(1)))
    loss = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean()
    return {"loss": float(loss), **{name: float(figures[name]) for name in ("accuracy", "uar", "macro_f1")}}


@torch.inference_mode()
def _probabilities(head: Head, side: tuple[torch.Tensor, ...], device: torch.device) -> np.ndarray:
    head.eval()
    parts = [
        head(values.to(device), valid.to(device))
        for values, valid in zip(*(t.split(512) for t in side[:2]), strict=True)
    ]
    return torch.cat(parts).float().softmax(-1).cpu().numpy()


def _side(rows: datasets.Dataset, indices: list[int], cache: feature_cache.FeatureCache) -> tuple[torch.Tensor, ...]:
    """Return embeddings `(clips, stretches, layers, width)`, valid stretches, labels of a side."""
    chosen = rows.select(indices).select_columns(["sha256", "label"])
    clips = [cache[digest][0] for digest in chosen["sha256"]]
    values = np.zeros((len(clips), max(map(len, clips)), *clips[0].shape[1:]), dtype=np.float32)
    valid = np.zeros(values.shape[:2], dtype=np.float32)
    for place, clip in enumerate(clips):
        values[place, : len(clip)], valid[place, : len(clip)] = clip, 1
    return torch.from_numpy(values), torch.from_numpy(valid), torch.tensor(chosen["label"])
