"""The one way to predict: the command line, the page and the evaluation all call it."""

from os import PathLike
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from ser_hf import audio, features, modeling


class Predictor:
    """A fine-tuned model that answers for recordings.

    A clip's answer does not depend on what else is asked with it, and equals the one of stock
    `transformers.pipeline("audio-classification")`.
    """

    def __init__(self, model: str | PathLike, device: str | None = None, batch_size: int = 16) -> None:
        """Load a model.

        Args:
            model: a folder that fine-tuning wrote, or a Hub id.
            device: for torch; a GPU where there is one if None.
            batch_size: clips at a time.

        Raises:
            ModelError: if it cannot be loaded or is not a trained classifier.
        """
        self.name = str(model)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        loaded, self.extractor, rule = modeling.load_for_prediction(model)
        self.batch_size = 1 if rule == modeling.ALONE else batch_size
        self.model = loaded.to(self.device)
        self.labels: list[str] = [loaded.config.id2label[i] for i in range(loaded.config.num_labels)]
        self.abstain_below: float = getattr(loaded.config, "ser_hf", {}).get("abstain_below") or 0.0
        self._last = modeling.last_linear(loaded)
        self._collate = features.Collator(self.extractor, rule)

    def predict(self, source: audio.Source | list[audio.Source]) -> dict | list[dict]:
        """Answer for one recording, or for a list in its order.

        Args:
            source: whatever `ser_hf.audio.load` takes, or a list of such.

        Returns:
            `file`, `label`, `score`, `scores` (a probability for each label), `abstained` (whether the score is below
            the threshold that the model was calibrated with), `duration` in seconds, and `segments` (`start`, `end`,
            `label`, `score`); a list of these for a list.

        Raises:
            AudioError: if a recording cannot be used; it is named.
        """
        sources = source if isinstance(source, list) else [source]
        clips = [audio.load(one) for one in sources]
        answers = [
            self._answer(_name(one), clip, row)
            for one, clip, row in zip(sources, clips, self.probabilities(clips), strict=True)
        ]
        return answers if isinstance(source, list) else answers[0]

    def probabilities(self, clips: list[np.ndarray]) -> np.ndarray:
        """Probabilities of shape `(clips, labels)` for 16 kHz waveforms, in their order."""
        return softmax(self._logits(clips), axis=-1)

    def outputs(self, clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What the model makes of 16 kHz waveforms, in their order; for one thread at a time.

        Returns:
            Float32 logits of shape `(clips, labels)`, and the embeddings `(clips, width)` that its last layer, which is
            linear, made them of.
        """
        heard: list[np.ndarray] = []
        hook = self._last.register_forward_pre_hook(lambda _, args: heard.append(args[0].float().cpu().numpy()))
        try:
            logits = self._logits(clips)
        finally:
            hook.remove()
        embeddings = np.zeros((len(clips), self._last.in_features), dtype=np.float32)
        for batch, values in zip(self._batches(clips), heard, strict=True):
            embeddings[batch] = values
        return logits, embeddings

    def _batches(self, clips: list[np.ndarray]) -> list[list[int]]:
        return list(features.by_length([len(clip) for clip in clips], self.batch_size))

    @torch.inference_mode()
    def _logits(self, clips: list[np.ndarray]) -> np.ndarray:
        result = np.zeros((len(clips), len(self.labels)), dtype=np.float32)
        for batch in self._batches(clips):
            inputs = self._collate([{"features": features.extract(self.extractor, clips[i])} for i in batch])
            logits = self.model(**{name: tensor.to(self.device) for name, tensor in inputs.items()}).logits
            result[batch] = logits.float().cpu().numpy()
        return result

    def _answer(self, file: str | None, clip: np.ndarray, row: np.ndarray) -> dict:
        label, score = self.labels[int(row.argmax())], float(row.max())
        seconds = audio.duration(clip)
        return {
            "file": file,
            "label": label,
            "score": score,
            "scores": {name: float(value) for name, value in zip(self.labels, row, strict=True)},
            "abstained": score < self.abstain_below,
            "duration": seconds,
            "segments": [{"start": 0.0, "end": seconds, "label": label, "score": score}],
        }


def _name(source: audio.Source) -> str | None:
    if isinstance(source, dict):
        source = source.get("path")
    return Path(source).name if isinstance(source, str | PathLike) else None
