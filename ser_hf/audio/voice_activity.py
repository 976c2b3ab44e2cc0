"""Voice activity: by energy at the edges of a clip, by silero-vad's network wherever one asks."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ser_hf.audio import SAMPLING_RATE
from ser_hf.errors import UserError

_ENERGY_FRAME, _ENERGY_HOP = SAMPLING_RATE // 40, SAMPLING_RATE // 100  # 25 ms every 10 ms
_MARGIN = SAMPLING_RATE // 20  # 50 ms: soft onsets and fading ends lie below the threshold
_SHORTEST_EDGE = SAMPLING_RATE // 5  # 0.2 s: shorter edges tell little about the background noise
MARGIN = 0.2
"""Seconds beside the voice that a clip without its silence may keep in training."""
_LONGEST_ZEROS = SAMPLING_RATE // 100  # 10 ms of exact zeros in a row were never recorded


def voiced_span(samples: np.ndarray, below: float = 35.0) -> tuple[int, int]:
    """Return the first sample of the voice and the one past its last; pauses within count as voice.

    A frame of 25 ms, one every 10 ms, is not silent where its energy lies at most `below` dB under
    that of the loudest one; 50 ms are left on each side. Where the noise floor is higher than that,
    the whole clip counts.

    Args:
        samples: shape `(samples,)`, 16 kHz.
        below: dB.

    Returns:
        `(0, len(samples))` for a clip of zeros or of less than a frame.

    >>> voiced_span(np.repeat(np.float32([0, 1, 0]), 4_000))
    (2880, 9040)
    """
    length = len(samples)
    if length < _ENERGY_FRAME:
        return 0, length
    sums = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    # the last frame ends with the clip, or samples after the last full hop would not count
    starts = np.append(np.arange(0, length - _ENERGY_FRAME, _ENERGY_HOP), length - _ENERGY_FRAME)
    energy = sums[starts + _ENERGY_FRAME] - sums[starts]
    loudest = energy.max()
    if loudest == 0:
        return 0, length
    loud = starts[energy >= loudest * 10 ** (-below / 10)]
    return max(0, int(loud[0]) - _MARGIN), min(length, int(loud[-1]) + _ENERGY_FRAME + _MARGIN)


def unvoiced_edges(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Yield stretches before and after the voice: at least 0.2 s outside `voiced_span`.

    Digital zeros, which were added and not recorded, part stretches and are left out.

    Args:
        samples: shape `(samples,)`, 16 kHz; the stretches are views of it.
    """
    start, end = voiced_span(samples)
    for edge in (samples[:start], samples[end:]):
        sounding = np.flatnonzero(edge)
        parts = np.split(sounding, np.flatnonzero(np.diff(sounding) > _LONGEST_ZEROS) + 1)
        yield from (edge[part[0] : part[-1] + 1] for part in parts if len(part) and np.ptp(part) >= _SHORTEST_EDGE - 1)


FRAME = 512
"""Samples of a frame at 16 kHz."""

CONTEXT = 64
"""Samples before a frame that the network takes with it."""
LIKELY = 0.5
"""Probability from which a frame holds voice, silero's own default."""
FAINTEST = 0.3
"""Probability that one frame of a recording must reach, or the recording holds no voice.

Of 5,247 clips of RAVDESS and TESS about three stay below it. Hiss of any colour and mains hum
nearly always stay below it, too."""
_SHORTEST_CONTEXT = SAMPLING_RATE  # silero needs about a second, so shorter clips are repeated

_TENSOR_NAMES = {
    "stft_conv.weight": "stft.forward_basis_buffer",
    **{
        f"conv{n}.{tensor}": f"encoder.{n - 1}.reparam_conv.{tensor}"
        for n in (1, 2, 3, 4)
        for tensor in ("weight", "bias")
    },
    **{f"lstm.{tensor}_l0": f"decoder.rnn.{tensor}" for tensor in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"final_conv.{tensor}": f"decoder.decoder.2.{tensor}" for tensor in ("weight", "bias")},
}
"""For each of our tensors the name in silero-vad's TorchScript archive, which is private to it."""


class VoiceActivityDetector:
    """A detector of voice; `open_stream` begins a recording."""

    def __init__(self) -> None:
        """Load the weights of the package silero-vad.

        Raises:
            UserError: where it is not installed, or has no weights where they are looked for.
        """
        self._network = _Silero(_silero_weights())

    def open_stream(self) -> "VadStream":
        """Return a stream for one recording, from its start."""
        return VadStream(self._network)

    def has_voice(self, samples: np.ndarray) -> bool:
        """Whether a recording holds any voice: a frame that reaches `FAINTEST`.

        A clip of less than 1 s is repeated, since silero finds less without context. What follows
        the first voice is not looked at.

        Args:
            samples: of the whole recording, shape `(samples,)` at 16 kHz.
        """
        if 0 < len(samples) < _SHORTEST_CONTEXT:
            samples = np.resize(samples, _SHORTEST_CONTEXT)
        stream = self.open_stream()
        for start in range(0, len(samples), SAMPLING_RATE):
            if (stream.feed(samples[start : start + SAMPLING_RATE]) >= FAINTEST).any():
                return True
        return bool((stream.finish() >= FAINTEST).any())


class VadStream:
    """The voice in one recording, handed over in blocks."""

    def __init__(self, network: "_Silero") -> None:
        """Begin without samples."""
        self._network = network
        self._rest = np.zeros(0, dtype=np.float32)
        self._context, self._state = np.zeros(CONTEXT, dtype=np.float32), None

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples, and return the probability of voice in each completed frame.

        Samples have the shape `(samples,)`, the answer `(frames,)`.
        """
        joined = np.concatenate([self._rest, samples])
        frames, self._rest = np.split(joined, [len(joined) // FRAME * FRAME])
        frames = frames.reshape(-1, FRAME)
        if not len(frames):
            return np.zeros(0, dtype=np.float32)
        contexts = np.concatenate([self._context[None], frames[:-1, -CONTEXT:]])
        self._context = frames[-1, -CONTEXT:]
        probabilities, self._state = self._network(np.concatenate([contexts, frames], axis=1), self._state)
        return probabilities

    def finish(self) -> np.ndarray:
        """Return the same for the last frame, which silence completes."""
        return self.feed(np.zeros(-len(self._rest) % FRAME, dtype=np.float32))


class _Silero(nn.Module):
    """silero-vad 6 at 16 kHz: a spectrum by convolution, four convolutions and an LSTM."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)
        archive = torch.jit.load(weights, map_location="cpu").state_dict()
        self.load_state_dict({name: archive[f"_model.{archive_name}"] for name, archive_name in _TENSOR_NAMES.items()})
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(
        self, frames: np.ndarray, state: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[np.ndarray, tuple[torch.Tensor, torch.Tensor]]:
        """Return the probability of voice in each of `(frames, 64 + 512)` samples, and a state."""
        probabilities, state = self.probabilities(torch.from_numpy(frames), state)
        return probabilities.numpy(), state

    def probabilities(
        self, frames: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """The same of tensors, for a graph."""
        hidden = functional.pad(frames[:, None], (0, 64), mode="reflect")
        hidden = self.stft_conv(hidden)
        hidden = (hidden[:, :129].square() + hidden[:, 129:].square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = layer(hidden).relu()
        hidden, state = self.lstm(hidden.transpose(1, 2), state)
        return self.final_conv(hidden.relu().transpose(1, 2)).sigmoid().flatten(), state


def network() -> nn.Module:
    """The network that finds voice, for an export; it has a method `probabilities`."""
    return _Silero(_silero_weights())


def _silero_weights() -> Path:
    spec = find_spec("silero_vad")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / "data" / "silero_vad.jit" if folders else None
    if path is None or not path.is_file():
        raise UserError("silero-vad, which finds the voice, has no weights here: pip install 'silero-vad>=6.2,<7'")
    return path
