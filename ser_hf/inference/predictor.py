"""The one way to predict, for the command line, the page, the API and evaluation."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from copy import copy
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.special import softmax

from ser_hf import BUNDLED_MODEL, audio
from ser_hf.audio import voice_activity
from ser_hf.errors import UserError
from ser_hf.inference import backends, long_audio, prediction, speaker_adaptation
from ser_hf.inference.backends import InferencePool
from ser_hf.models import features, loading, padding
from ser_hf.models.seen_speakers import SeenSpeakers


class TimeoutExceeded(UserError):
    """A recording that took longer than it was given."""


class Deadline:
    """So many seconds from now, or no end."""

    def __init__(self, seconds: float | None) -> None:
        """Begin; no end where `seconds` is None."""
        self._until = None if seconds is None else time.monotonic() + seconds

    def check(self, file: str | None) -> None:
        """Raise `TimeoutExceeded`, which names the file, where the time is over."""
        if self._until is not None and time.monotonic() > self._until:
            raise _too_slow(file)

    def result(self, asked: Future[np.ndarray], file: str | None) -> np.ndarray:
        """Wait for a result; where the time is over before it comes, it is given up and
        `TimeoutExceeded` raised."""
        try:
            return asked.result(None if self._until is None else max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            asked.cancel()
            raise _too_slow(file) from None


def _too_slow(file: str | None) -> TimeoutExceeded:
    return TimeoutExceeded(f"{file!r} took longer than it was given: cut it into parts")


_Waiting = tuple[str | None, Callable[[], dict]]
"""The name of a recording, and what waits for its answer and gives it."""


class Predictor:
    """A fine-tuned model that answers for recordings; any number of threads may ask it.

    A clip's answer does not depend on what else is asked, before, after or at the same time: on a
    CPU it is the same to the last bit, since each clip is worked on alone, by one thread of a pool
    that has one for each core. It equals the one of stock
    `transformers.pipeline("audio-classification")`.
    """

    def __init__(
        self,
        model: str | PathLike = BUNDLED_MODEL,
        device: str | None = None,
        batch_size: int = 16,
        backend: str = "torch",
        voice_kind: voice_activity.Kind | None = None,
        revision: str | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: a folder that fine-tuning or `ser-hf export` wrote, or a Hub id; the model in the
                box where none is named.
            device: for torch; a GPU where there is one if None.
            batch_size: clips at a time in `probabilities` and `outputs`, and clips of one length at
                a time on a GPU.
            backend: `torch`, `torch-bf16`, `onnx` or `onnx-int8`; the ONNX ones run on the CPU.
            voice_kind: how voice is found in long recordings, `silero` or `energy`; the better one
                there is if None.
            revision: a branch, tag or commit of a Hub id.

        Raises:
            UserError: if it cannot be loaded or is not a trained classifier, or something it needs
                is not installed.
        """
        self.name, self.revision, self.backend = str(model), revision, backend
        self._backend = backends.load(model, backend, device, revision)
        config = self._backend.config
        self.extractor = self._backend.extractor
        self.labels: list[str] = [config.id2label[i] for i in range(config.num_labels)]
        self.seen_speakers = SeenSpeakers.of(config)
        self.abstain_below: float = self.seen_speakers.abstain_below or 0.0
        self.voice = voice_activity.VoiceActivityDetector(voice_kind)
        self.adaptation: speaker_adaptation.Adaptation | None = None
        self._workers = InferencePool(self._backend)
        self._in_torch = isinstance(self._backend, backends.TorchBackend)
        if self._in_torch:
            self.model, self.device, rule = self._backend.model, self._backend.device, self._backend.rule
            self.batch_size = 1 if rule == padding.ALONE else batch_size
            self._last = loading.last_linear(self.model)
            self._collate = features.Collator(self.extractor, rule)
        else:
            self.batch_size = batch_size

    def adapt(
        self,
        clips: Iterable[audio.Source] | str | PathLike | speaker_adaptation.Adaptation,
        timeout: float | None = None,
        longest: float | None = None,
    ) -> "Predictor":
        """A predictor of one voice, which shares the model with this one
        (`ser_hf.inference.speaker_adaptation`).

        A few clips without labels are enough; they should hold several emotions, and count as if
        they held all of them about as often. Its confidence was not calibrated.

        Args:
            clips: recordings of the voice, of any length; or an `Adaptation`, or the file that its
                `save` wrote.
            timeout: of `predict`, for each recording.
            longest: of `predict`.

        Returns:
            A predictor like this one, with the voice as its `adaptation`.

        Raises:
            AdaptationError: where there is no clip or the model does not fit.
            AudioError, TimeoutExceeded: for a clip that cannot be used, as `predict`.
        """
        if self.adaptation is not None:
            raise speaker_adaptation.AdaptationError("an adapted predictor cannot be adapted: load the model anew")
        if isinstance(clips, str | PathLike):
            clips = speaker_adaptation.Adaptation.load(clips)
        if not isinstance(clips, speaker_adaptation.Adaptation):
            clips = speaker_adaptation.fit(self._heard(clips, timeout, longest), self._backend.digest)
        other = copy(self)
        other.adaptation = clips
        other._backend = speaker_adaptation.AdaptedBackend(self._backend, clips)
        other._workers = self._workers.of(other._backend)
        return other

    def _heard(self, clips: Iterable[audio.Source], timeout: float | None, longest: float | None) -> np.ndarray:
        """Logits `(parts, labels)` of recordings, of long ones in windows with voice; any thread
        may ask."""
        heard: list[np.ndarray] = []
        for clip in clips:
            deadline = Deadline(timeout)
            for part in self._parts(clip, longest):
                asked = self._workers.run(self._backend.logits, features.extract(self.extractor, part)[None])
                heard.append(deadline.result(asked, prediction.source_name(clip)))
        if not heard:
            raise speaker_adaptation.AdaptationError("there is no voice to adapt to: give at least one clip of it")
        return np.concatenate(heard)

    def _parts(self, source: audio.Source, longest: float | None) -> Iterator[np.ndarray]:
        """A recording of up to `LONG`, or the windows of a longer one."""
        whole, blocks = long_audio.opened(audio.at_most(longest, audio.stream(source), prediction.source_name(source)))
        if whole is None:
            yield from (one.samples for one in long_audio.Windows(blocks, self.voice.listen(), self._workers))
        else:
            yield whole

    @property
    def public_name(self) -> str:
        """The model as strangers may read it: the id on the Hub, or the name of its folder without
        where it lies."""
        return Path(self.name).resolve().name if Path(self.name).exists() else self.name

    def warm(self) -> "Predictor":
        """Ask every worker once, so that the first answer does not wait for kernels and memory."""
        clip = np.zeros(long_audio.WINDOW, dtype=np.float32)
        for ready in [self._workers.ask([clip]) for _ in range(self._workers.count)]:
            ready.result()
        return self

    def predict(
        self,
        source: audio.Source | list[audio.Source],
        timeout: float | None = None,
        longest: float | None = None,
        on_samples: Callable[[np.ndarray], None] | None = None,
    ) -> dict | list[dict]:
        """Answer for one recording of any length, or for a list in its order.

        Up to 10 s are one utterance, asked whole. Longer ones are asked in windows of 4 s every 2 s
        that hold voice; memory does not grow with their length.

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
        answers = list(self.each(sources, timeout, longest, on_samples=on_samples))
        return answers if isinstance(source, list) else answers[0]

    def each(
        self,
        sources: Iterable[audio.Source],
        timeout: float | None = None,
        longest: float | None = None,
        on_error: Literal["raise", "answer"] = "raise",
        on_samples: Callable[[np.ndarray], None] | None = None,
    ) -> Iterator[dict]:
        """Answer for any number of recordings, in their order; only a few are in memory.

        Args:
            sources: of `predict`.
            timeout: of `predict`, for each recording.
            longest: of `predict`.
            on_error: `answer` puts `{"file", "error"}` in the place of a recording that cannot be
                used.
            on_samples: of `predict`.

        Raises:
            AudioError, TimeoutExceeded: as `predict`, unless `on_error` is `answer`.
        """
        waiting: deque[_Waiting] = deque()
        group = self.batch_size if self._workers.on_gpu and self._backend.together else 1
        sources = iter(sources)
        while batch := list(islice(sources, group)):
            waiting.extend(self._begin(batch, timeout, longest, on_samples))
            while len(waiting) > max(2 * self._workers.count, group):
                yield _finished(waiting.popleft(), on_error)
        while waiting:
            yield _finished(waiting.popleft(), on_error)

    def stream(self, chunks: Iterable[np.ndarray], sampling_rate: int = audio.SAMPLING_RATE) -> Iterator[dict]:
        """Running answers for a recording that is still going on, one for each second that has
        come.

        Args:
            chunks: arrays of shape `(samples,)` or `(samples, channels)`, float or integer, of any
                length.
            sampling_rate: in Hz.

        Yields:
            Predictions as `predict` gives them, of the last seconds; see
            `ser_hf.inference.long_audio.Stream`.

        Raises:
            AudioError: for what is no audio.
        """
        running = self.start_stream(sampling_rate)
        for chunk in chunks:
            yield from running.feed(chunk)

    def start_stream(self, sampling_rate: int = audio.SAMPLING_RATE) -> "long_audio.Stream":
        """The same for a caller to whom chunks are handed: `feed` takes one and gives the answers
        that are due."""
        return long_audio.Stream(self._workers, self.voice.listen(), self.labels, self.abstain_below, sampling_rate)

    def probabilities(self, clips: list[np.ndarray]) -> np.ndarray:
        """Probabilities of shape `(clips, labels)` for 16 kHz waveforms, in their order.

        In padded batches, for evaluation: while it runs, the same predictor must not be asked
        anything else.
        """
        if not self._in_torch:
            return np.concatenate([one.result() for one in [self._workers.ask([clip]) for clip in clips]])
        return softmax(self._logits(clips), axis=-1)

    def outputs(self, clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What the model makes of 16 kHz waveforms, in their order; for one thread at a time, and
        torch alone.

        Returns:
            Float32 logits of shape `(clips, labels)`, and the embeddings `(clips, width)` that its
            last layer, which is linear, made them of (before the offset of a voice).
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
        return result if self.adaptation is None else self.adaptation.moved(result)

    def _begin(
        self,
        sources: list[audio.Source],
        timeout: float | None,
        longest: float | None,
        on_samples: Callable[[np.ndarray], None] | None,
    ) -> list[_Waiting]:
        """Read recordings and hand them to the workers."""
        deadline = Deadline(timeout)
        results: dict[int, Callable[[], dict]] = {}
        lengths: dict[int, list[tuple[int, np.ndarray]]] = {}
        files = [prediction.source_name(source) for source in sources]
        for place, source in enumerate(sources):
            try:
                heard = self._hear(source, deadline, longest, on_samples)
            except UserError as error:
                results[place] = partial(_failed, error)
                continue
            if isinstance(heard, dict):
                results[place] = partial(dict, heard)
            else:
                lengths.setdefault(len(heard), []).append((place, heard))
        for length, clips in lengths.items():
            asked = self._workers.ask([clip for _, clip in clips])
            for row, (place, _) in enumerate(clips):
                results[place] = partial(self._whole, files[place], length, asked, row, deadline)
        return [(file, results[place]) for place, file in enumerate(files)]

    def _hear(
        self,
        source: audio.Source,
        deadline: Deadline,
        longest: float | None,
        on_samples: Callable[[np.ndarray], None] | None,
    ) -> np.ndarray | dict:
        """The samples of a recording of up to `LONG`, or the answer for a longer one."""
        file = prediction.source_name(source)
        decoded = audio.at_most(longest, audio.stream(source), file)
        if on_samples is not None:
            decoded = _observed(decoded, on_samples)
        whole, blocks = long_audio.opened(decoded)
        return self._long(file, blocks, deadline) if whole is None else whole

    def _whole(self, file: str | None, length: int, asked: Future[np.ndarray], row: int, deadline: Deadline) -> dict:
        probabilities = deadline.result(asked, file)[row]
        best = int(probabilities.argmax())
        one = prediction.segment(0, length, self.labels[best], probabilities[best])
        return prediction.prediction(file, length, probabilities, [one], self.labels, self.abstain_below)

    def _long(self, file: str | None, blocks: Iterable[np.ndarray], deadline: Deadline) -> dict:
        found = long_audio.Windows(blocks, self.voice.listen(), self._workers)
        # A waveform's first convolution is the largest thing there is: a batch takes its memory and
        # saves no time
        together = self._backend.together and (self._workers.on_gpu or features.hop(self.extractor) > 1)
        whole, segments = long_audio.heard(found, self._workers, self.labels, together, partial(deadline.check, file))
        return prediction.prediction(file, found.length, whole, segments, self.labels, self.abstain_below)


def _observed(blocks: Iterable[np.ndarray], on_samples: Callable[[np.ndarray], None]) -> Iterator[np.ndarray]:
    for block in blocks:
        on_samples(block)
        yield block


def _finished(waiting: _Waiting, on_error: str) -> dict:
    file, result = waiting
    try:
        return result()
    except UserError as error:
        if on_error == "raise":
            raise
        return {"file": file, "error": str(error)}


def _failed(error: UserError) -> dict:
    raise error
