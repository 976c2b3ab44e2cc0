"""Predictions of recordings: the one way to run a model."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from scipy.special import softmax
from transformers import FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel

from ser_hf import BUNDLED_MODEL, audio
from ser_hf.audio import voice_activity
from ser_hf.errors import UserError
from ser_hf.inference import adaptation_head, backends, long_audio, recordings, speaker_adaptation, submission
from ser_hf.inference.pool import InferencePool
from ser_hf.inference.prediction import FailedPrediction, Prediction
from ser_hf.inference.recordings import Deadline, OnSamples, ReadRecording
from ser_hf.inference.session import InferenceSession, OnEmbeddings
from ser_hf.inference.voice_fitting import fit_voice
from ser_hf.models.seen_speakers import SeenSpeakers


class Predictor:
    """A fine-tuned model that predicts recordings; any number of threads may use it.

    A forked process may use it, too, on a CPU. Pickled or copied deeply, it is loaded again from
    its name and settings, and keeps its adaptation and its threshold. Weights that were changed in
    memory are lost.

    A clip's prediction does not depend on other clips, before, after or at the same time. On a CPU
    it is the same to the last bit, since each clip runs alone, in one thread of a pool that has one
    for each core. On torch it equals the one of stock
    `transformers.pipeline("audio-classification")`, and on other backends within 1e-4 in fp32.
    Evaluation calls `logits` and `outputs`, which take the same path.
    """

    def __init__(
        self,
        model: str | PathLike = BUNDLED_MODEL,
        device: str | None = None,
        batch_size: int = 16,
        backend: str = "auto",
        revision: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: a folder that fine-tuning or `ser-hf export` wrote, or a Hub id; the bundled
                model where none is named.
            device: for torch; a GPU where there is one if None.
            batch_size: clips of one length that share a batch at most, on a GPU.
            backend: `auto`, `torch`, `torch-bf16`, `onnx` or `onnx-int8`; the ONNX ones run on the
                CPU. `auto` is the faster of torch and onnx (`ser_hf.inference.backends`).
            revision: a branch, tag or commit of a Hub id.
            threads: that predict on a CPU; as many as cores that the process may use if None.

        Raises:
            UserError: if it cannot be loaded or is not a trained classifier, or something it needs
                is not installed.
        """
        model = os.path.expanduser(model)
        self.name, self.revision = model, revision
        self._settings = {"device": device, "batch_size": batch_size, "backend": backend, "threads": threads}
        # where the process loads it from: the working folder may be another one when it is pickled
        self._folder = os.path.realpath(model) if os.path.isdir(model) else None
        loaded = backends.load(model, backend, device, revision)
        config = loaded.config
        self.seen_speakers = SeenSpeakers.of(config)
        self.adaptation_head = adaptation_head.load_beside(model, revision)
        self.session = InferenceSession(
            backend=loaded,
            pool=InferencePool(loaded.device, threads),
            vad=voice_activity.VoiceActivityDetector(),
            labels=[config.id2label[i] for i in range(config.num_labels)],
            abstain_below=self.seen_speakers.abstain_below or 0.0,
            batch_size=batch_size,
        )
        self.left_out: list[UserError] = []
        self._longest_clip = long_audio.longest_clip(self.session)

    def __getstate__(self) -> dict[str, Any]:
        """What `__setstate__` loads the predictor from; a folder becomes an absolute path."""
        settings = self._settings | {"revision": self.revision}
        if Path(self.name) != BUNDLED_MODEL:  # each installation has its own
            settings["model"] = self._folder or self.name
        return {"settings": settings, "abstain_below": self.abstain_below, "adaptation": self.adaptation}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the model again.

        Raises:
            UserError: where it cannot be loaded.
            AdaptationError: where its weights are others now, and it was adapted.
        """
        Predictor.__init__(self, **state["settings"])
        if state["adaptation"] is not None:
            state["adaptation"].check_model(self.session.backend.digest)
        self.session = replace(self.session, adaptation=state["adaptation"], abstain_below=state["abstain_below"])

    def __copy__(self) -> "Predictor":
        """A predictor that shares the model and the threads."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, session=replace(self.session))
        return twin

    @property
    def labels(self) -> list[str]:
        """Labels of the model, in the order of its logits."""
        return self.session.labels

    @property
    def abstain_below(self) -> float:
        """Score under which the model abstains."""
        return self.session.abstain_below

    @abstain_below.setter
    def abstain_below(self, score: float) -> None:
        self.session.abstain_below = score

    @property
    def adaptation(self) -> speaker_adaptation.Adaptation | None:
        """Voice that the predictor is adapted to."""
        return self.session.adaptation

    @property
    def voice(self) -> voice_activity.VoiceActivityDetector:
        """What finds voice."""
        return self.session.vad

    @property
    def backend(self) -> str:
        """Name of the backend; under `auto`, of the one that it chose."""
        return self.session.backend.name

    @property
    def device(self) -> str:
        """Device of the model, `cpu` for ONNX."""
        return self.session.backend.device

    @property
    def extractor(self) -> FeatureExtractionMixin:
        """Feature extractor of the model."""
        return self.session.backend.extractor

    @property
    def config(self) -> PreTrainedConfig:
        """Config of the model, on any backend."""
        return self.session.backend.config

    @property
    def model(self) -> PreTrainedModel:
        """The model in torch.

        On ONNX it is loaded when it is first asked for, and changing it changes no prediction: load
        with `backend="torch"` what you want to change.

        Raises:
            UserError: on a backend without one.
        """
        if (model := getattr(self.session.backend, "model", None)) is None:
            raise UserError(f"'{self.name}' runs on {self.backend}, without torch's weights: use --backend torch")
        return model

    @property
    def public_name(self) -> str:
        """Name of the model without where it lies: the id on the Hub, or the name of its folder."""
        return Path(self.name).resolve().name if Path(self.name).exists() else self.name

    def adapt(
        self,
        clips: Iterable[audio.Source] | str | PathLike | speaker_adaptation.Adaptation,
        timeout: float | None = None,
        longest: float | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> "Predictor":
        """Adapt to one voice (`ser_hf.inference.speaker_adaptation`).

        Where the model has an adaptation head, it predicts from embeddings that are standardised by
        the clips. Otherwise the logits are moved.

        A few clips without labels are enough. They should hold several emotions, and count as if
        they held all of them about as often. The confidence for the voice is not calibrated.

        Args:
            clips: recordings of the voice, of any length; or an `Adaptation`, or the file that its
                `save` wrote.
            timeout: of `predict`, for each recording.
            longest: of `predict`.
            on_error: `skip` leaves out a recording that cannot be used.

        Returns:
            A predictor with the voice as its `adaptation`, which shares the model and the threads
            with this one. Its `left_out` holds the errors of clips that were left out.

        Raises:
            AdaptationError: where there is no clip or the model does not fit.
            AdaptationHeadError: where the model's adaptation head belongs to other weights.
            AudioError, TimeoutExceeded: for a clip that cannot be used, as `predict`; under `skip`,
                where none can.
        """
        if self.adaptation is not None:
            raise speaker_adaptation.AdaptationError("an adapted predictor cannot be adapted: load the model anew")
        digest = self.session.backend.digest
        if isinstance(clips, str | PathLike):
            clips = speaker_adaptation.Adaptation.load(clips)
        adapted = copy(self)
        if isinstance(clips, speaker_adaptation.Adaptation):
            voice, adapted.left_out = clips, []
        else:
            voice, adapted.left_out = fit_voice(self.session, self.adaptation_head, clips, timeout, longest, on_error)
        voice.check_model(digest)
        adapted.session = replace(self.session, adaptation=voice)
        return adapted

    def adapt_to_one_speaker(
        self,
        clips: Iterable[audio.Source],
        timeout: float | None = None,
        longest: float | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> "Predictor":
        """Adapt to the very recordings that are to be predicted, all of one speaker.

        A clip's prediction then depends on all of them, itself included. Arguments and errors are
        those of `adapt`.

        Raises:
            AdaptationError: for fewer clips than `speaker_adaptation.FEWEST_CLIPS`.
        """
        adapted = self.adapt(clips, timeout, longest, on_error)
        used = adapted.adapted_to
        if used < speaker_adaptation.FEWEST_CLIPS:
            unread = (
                f" ({len(adapted.left_out)} more cannot be used: {adapted.left_out[0]})" if adapted.left_out else ""
            )
            raise speaker_adaptation.AdaptationError(
                f"{used} clips of one speaker are too few to adapt to{unread}: "
                f"give {speaker_adaptation.FEWEST_CLIPS} or more, or predict them without adaptation"
            )
        return adapted

    @property
    def adapted_to(self) -> int:
        """The number of clips that the model is adapted to, 0 without adaptation."""
        return 0 if self.adaptation is None else self.adaptation.clips

    def warm(self) -> "Predictor":
        """Run every thread once, so that the first prediction waits for no kernels and memory."""
        clip = np.zeros(long_audio.WINDOW, dtype=np.float32)
        for future in [self.session.submit([clip]) for _ in range(self.session.pool.count)]:
            future.result()
        return self

    @overload
    def predict(self, source: list[audio.Source], *options: Any, **named_options: Any) -> list[Prediction]: ...
    @overload
    def predict(self, source: audio.Source, *options: Any, **named_options: Any) -> Prediction: ...
    def predict(
        self,
        source: audio.Source | list[audio.Source],
        timeout: float | None = None,
        longest: float | None = None,
        on_samples: OnSamples | None = None,
    ) -> Prediction | list[Prediction]:
        """Predict one recording of any length, or a list of them.

        A recording of up to 10 s, or of up to the window of the model where that is shorter, is one
        clip. A longer one is cut into windows of 4 s every 2 s, and those that hold voice are
        predicted; memory does not grow with its length. A recording without voice has no emotion,
        however long it is: the scores are uniform, and the model abstains.

        Args:
            source: whatever `ser_hf.audio.load` takes, or a list of such.
            timeout: seconds after which a recording is given up, where not None.
            longest: seconds of audio beyond which a recording is refused, where not None.
            on_samples: called with each decoded block, shape `(samples,)` at 16 kHz, in order.

        Returns:
            `file`, `label`, `score`, `scores` (a probability for each label), `abstained` (whether
            the score is below the threshold that the model was calibrated with, or no voice was
            found), `duration` in seconds, and `segments` (`start`, `end`, `label`, `score`), one
            for each stretch of a label; a list of these for a list.

        Raises:
            AudioError: if a recording cannot be used or is too long; it is named.
            TimeoutExceeded: for one that took too long.
        """
        sources = source if isinstance(source, list) else [source]
        predictions: list[Any] = list(self.each(sources, timeout, longest, on_samples=on_samples))  # none has failed
        return predictions if isinstance(source, list) else predictions[0]

    def each(
        self,
        sources: Iterable[audio.Source],
        timeout: float | None = None,
        longest: float | None = None,
        on_error: Literal["raise", "answer"] | Callable[[UserError], None] = "raise",
        on_samples: OnSamples | None = None,
    ) -> Iterator[Prediction | FailedPrediction]:
        """Predict any number of recordings, in their order; only a few are in memory.

        Args:
            sources: of `predict`.
            timeout: of `predict`, for each recording.
            longest: of `predict`.
            on_error: `answer` puts `{"file", "error"}` in the place of a recording that cannot be
                used; so does a function, which is given the error.
            on_samples: of `predict`.

        Raises:
            AudioError, TimeoutExceeded: as `predict`, unless `on_error` is `answer` or a function.
        """
        read = partial(self.read, longest=longest, on_samples=on_samples)
        return submission.each(self.session, sources, read, timeout, on_error)

    def stream(self, chunks: Iterable[np.ndarray], sampling_rate: int = audio.SAMPLING_RATE) -> Iterator[Prediction]:
        """Predict a recording that is going on, once for each second.

        Args:
            chunks: arrays of shape `(samples,)` or `(samples, channels)`, float or integer, of any
                length.
            sampling_rate: in Hz.

        Yields:
            Predictions of the last seconds; see `ser_hf.inference.long_audio.Stream`.

        Raises:
            AudioError: for what is no audio.
        """
        stream = self.start_stream(sampling_rate)
        for chunk in chunks:
            yield from stream.feed(chunk)

    def start_stream(self, sampling_rate: int = audio.SAMPLING_RATE) -> "long_audio.Stream":
        """Begin a stream for a caller that gets chunks one by one; `feed` returns predictions."""
        return long_audio.Stream(self.session, sampling_rate)

    def probabilities(self, waveforms: Iterable[np.ndarray]) -> np.ndarray:
        """Probabilities `(clips, labels)` of 16 kHz waveforms; each is one clip, of any length.

        They are those of `predict` before rounding, where a clip holds voice: here nobody looks
        whether it does. A clip that is longer than the window of the
        model is cut into windows, and has the mean of their probabilities. Any thread may call
        this, on any backend.
        """
        return softmax(self.logits(waveforms), axis=-1)

    def logits(self, waveforms: Iterable[np.ndarray]) -> np.ndarray:
        """Float32 logits `(clips, labels)` of 16 kHz waveforms, as `probabilities` takes them.

        Those of a clip longer than the window of the model are the logarithms of its probabilities.
        Memory holds few of the waveforms at a time, so that a generator may decode them.
        """
        rows = list(long_audio.rows(waveforms, self.session, self.session.submit_logits))
        return np.stack(rows) if rows else np.zeros((0, len(self.labels)), dtype=np.float32)

    def outputs(self, waveforms: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Logits, and the embeddings behind them; `waveforms` are those of `logits`, at least one.

        Returns:
            Float32 logits `(clips, labels)`, and embeddings `(clips, width)`: the inputs of the
            last linear layer, which come before any adaptation. A clip that is longer than the
            window of the model has the mean over its windows.

        Raises:
            UserError: on a backend without embeddings.
        """
        logits, embeddings = zip(*long_audio.rows(waveforms, self.session, self.session.submit_outputs), strict=True)
        return np.stack(logits), np.stack(embeddings)

    def read(self, source: audio.Source, longest: float | None = None, **options: Any) -> ReadRecording:
        """Read a recording for `submit`, in any thread.

        Args:
            source: of `predict`.
            longest: of `predict`.
            options: of `ser_hf.inference.recordings.read`.

        Raises:
            AudioError: as `predict`.
        """
        return recordings.read(source, self._longest_clip, longest, **options)

    def submit(
        self,
        read: Sequence[ReadRecording | UserError],
        timeout: float | None = None,
        watches: Sequence[OnEmbeddings | None] | None = None,
    ) -> list[Callable[[], Prediction]]:
        """Begin to predict recordings that were read; a long one is predicted before the next.

        Args:
            read: recordings, and in the place of one that cannot be read its error.
            timeout: of `predict`.
            watches: of `ser_hf.inference.submission.submit`.

        Returns:
            For each a function that waits for its prediction, and raises what `predict` raises.
        """
        return submission.submit(self.session, read, Deadline(timeout), watches)
