"""What all predictions of one `Predictor` share: the model, the threads, and how voice is found."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from scipy.special import softmax

from ser_hf.audio.voice_activity import VoiceActivityDetector
from ser_hf.errors import UserError
from ser_hf.inference.backends import Backend, EmbeddingBackend
from ser_hf.inference.pool import InferencePool
from ser_hf.inference.speaker_adaptation import Adaptation
from ser_hf.models.features import FrontEnd, front_end_of

OnEmbeddings = Callable[[np.ndarray], None]
"""Called with the embeddings `(clips, width)` behind some predictions."""

_SORTED = 128
"""Clips that are sorted by length at a time on a GPU, where clips of one length share a batch."""


@dataclass
class InferenceSession:
    """A model in use: every prediction, of a clip, of a window or of a stream, goes through it.

    Any thread may submit clips: 16 kHz waveforms of shape `(samples,)`.
    """

    backend: Backend
    pool: InferencePool
    vad: VoiceActivityDetector
    labels: list[str]
    """Labels of the model, in the order of its logits."""
    abstain_below: float = 0.0
    """Score under which the model abstains."""
    batch_size: int = 16
    """Clips of one length that share a batch at most, on a GPU."""
    adaptation: Adaptation | None = None
    """Voice for which all logits are moved."""
    front_end: FrontEnd = field(init=False)

    def __post_init__(self) -> None:
        """Take the front end of the model."""
        self.front_end = front_end_of(self.backend.extractor)

    @property
    def batches_clips(self) -> bool:
        """Whether it pays to run clips of one length together."""
        return self.backend.batches and self.pool.on_gpu

    @property
    def batches_windows(self) -> bool:
        """Whether it pays to run several windows of a long recording together.

        On a CPU it does for models on the mel frames of a window alone. The first convolution of a
        waveform takes most of the memory, and in a batch it takes the batch's memory and saves no
        time. A Whisper has as many frames for every window, and a batch takes as long or longer.
        """
        frames = self.front_end.on_frames and not self.front_end.fixed_window
        return self.backend.batches and (self.pool.on_gpu or frames)

    def submit(self, clips: list[np.ndarray], watch: OnEmbeddings | None = None) -> Future[np.ndarray]:
        """Compute probabilities `(clips, labels)` of clips of one length.

        Args:
            clips: more than one needs a backend that batches.
            watch: is given the embeddings before the result is there, from another thread; it needs
                a backend with embeddings.
        """
        return self.pool.submit(self._probabilities, clips, watch)

    def submit_logits(self, clips: list[np.ndarray]) -> Future[np.ndarray]:
        """Logits `(clips, labels)`, as `submit` takes clips."""
        return self.pool.submit(self._logits, clips)

    def submit_outputs(self, clips: list[np.ndarray]) -> Future[tuple[np.ndarray, np.ndarray]]:
        """Logits `(clips, labels)` and embeddings `(clips, width)`, as `submit` takes clips.

        Raises:
            UserError: for a backend that has no embeddings.
        """
        if not isinstance(self.backend, EmbeddingBackend):
            raise UserError("this backend gives no embeddings: use --backend torch")
        return self.pool.submit(self._outputs, clips)

    def submit_has_voice(self, clip: np.ndarray) -> Future[bool]:
        """Whether a recording holds any voice, for a waveform of any length."""
        return self.pool.submit(self.vad.has_voice, clip)

    def rows(self, clips: Iterable[np.ndarray], submit: Callable[[list[np.ndarray]], Future]) -> Iterator:
        """Results of `submit` for any number of clips of any lengths, one a clip, in their order.

        On a CPU each clip runs alone. On a GPU clips of one length share a batch, and 128 clips are
        sorted at a time. Memory holds few of the clips.

        Args:
            clips: waveforms.
            submit: a method of this session.
        """
        waiting: deque[tuple[Future, int]] = deque()
        clips, step = iter(clips), _SORTED if self.batches_clips else 1
        while block := list(islice(clips, step)):
            waiting.extend(self.submit_each(block, submit))
            while len(waiting) > max(2 * self.pool.count, step):
                yield _row(*waiting.popleft())
        while waiting:
            yield _row(*waiting.popleft())

    def submit_each(
        self, clips: list[np.ndarray], submit: Callable[[list[np.ndarray]], Future]
    ) -> list[tuple[Future, int]]:
        """Submit clips of any lengths, those of one length together where that pays.

        Returns:
            For each clip a future, and the row of the clip in its result.
        """
        groups: dict[int, list[int]] = {}
        for index, clip in enumerate(clips):
            groups.setdefault(0 if self.front_end.fixed_window else len(clip), []).append(index)
        size = self.batch_size if self.batches_clips else 1
        rows: dict[int, tuple[Future, int]] = {}
        for group in groups.values():
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                future = submit([clips[index] for index in batch])
                rows |= {index: (future, row) for row, index in enumerate(batch)}
        return [rows[index] for index in range(len(clips))]

    def _features(self, clips: list[np.ndarray]) -> np.ndarray:
        return np.stack([self.front_end.extract(clip) for clip in clips])

    def _logits(self, clips: list[np.ndarray]) -> np.ndarray:
        if self.adaptation is not None and self.adaptation.embedding_weight is not None:
            return self._outputs(clips)[0]
        logits = self.backend.logits(self._features(clips))
        return logits if self.adaptation is None else self.adaptation.moved(logits)

    def _outputs(self, clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(self.backend, EmbeddingBackend)  # whoever asks for embeddings has checked it
        logits, embeddings = self.backend.outputs(self._features(clips))
        return logits if self.adaptation is None else self.adaptation.moved(logits, embeddings), embeddings

    def _probabilities(self, clips: list[np.ndarray], watch: OnEmbeddings | None) -> np.ndarray:
        if watch is None:
            return softmax(self._logits(clips), axis=-1)
        logits, embeddings = self._outputs(clips)
        watch(embeddings)
        return softmax(logits, axis=-1)


def _row(future: Future, row: int) -> object:
    """One row of a result, or of each array of it."""
    result = future.result()
    return tuple(part[row] for part in result) if isinstance(result, tuple) else result[row]
