"""Where somebody speaks: by energy in a short recording, by a detector in a long one."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ser_hf import audio
from ser_hf.audio import SAMPLING_RATE
from ser_hf.errors import UserError

_ENERGY_FRAME, _ENERGY_HOP = audio.SAMPLING_RATE // 40, audio.SAMPLING_RATE // 100  # 25 ms every 10 ms
_MARGIN = audio.SAMPLING_RATE // 20  # 50 ms: soft onsets and fading ends lie below the threshold
_STRETCH = audio.SAMPLING_RATE // 5  # 0.2 s: shorter edges say little about the background
MARGIN = 0.2
"""Seconds beside the voice that a clip without its silence may keep in training."""
_ZEROS = audio.SAMPLING_RATE // 100  # 10 ms of exact zeros in a row were never recorded


def voiced(samples: np.ndarray, below: float = 35.0) -> tuple[int, int]:
    """First and one-past-last sample of what is not silence at the edges; pauses within do not
    count.

    A frame of 25 ms, one every 10 ms, is not silent where its energy lies at most `below` dB under
    that of the loudest one; 50 ms are left on each side. Where the noise floor is higher than that,
    the whole clip counts.

    Args:
        samples: shape `(samples,)`, 16 kHz.
        below: dB.

    Returns:
        `(0, len(samples))` for a clip of zeros or of less than a frame.

    >>> voiced(np.repeat(np.float32([0, 1, 0]), 4_000))
    (2880, 9040)
    """
    length = len(samples)
    if length < _ENERGY_FRAME:
        return 0, length
    sums = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    # the last frame ends with the clip, or what follows the last full hop would be lost
    starts = np.append(np.arange(0, length - _ENERGY_FRAME, _ENERGY_HOP), length - _ENERGY_FRAME)
    energy = sums[starts + _ENERGY_FRAME] - sums[starts]
    loudest = energy.max()
    if loudest == 0:
        return 0, length
    loud = starts[energy >= loudest * 10 ** (-below / 10)]
    return max(0, int(loud[0]) - _MARGIN), min(length, int(loud[-1]) + _ENERGY_FRAME + _MARGIN)


def edges(samples: np.ndarray) -> Iterator[np.ndarray]:
    """What was recorded before and after the voice: stretches of at least 0.2 s outside `voiced`.

    Digital zeros, which were added and not recorded, part stretches and are left out.

    Args:
        samples: shape `(samples,)`, 16 kHz; the stretches are views of it.
    """
    start, end = voiced(samples)
    for edge in (samples[:start], samples[end:]):
        sounding = np.flatnonzero(edge)
        parts = np.split(sounding, np.flatnonzero(np.diff(sounding) > _ZEROS) + 1)
        yield from (edge[part[0] : part[-1] + 1] for part in parts if len(part) and np.ptp(part) >= _STRETCH - 1)


FRAME = 512
"""Samples of a frame at 16 kHz."""

_CONTEXT = 64  # samples before a frame that silero takes with it
_THRESHOLD = 0.5  # of silero's probability, its own default
_BELOW, _QUIETEST = 35.0, -60.0  # dB under the loudest frame so far, as in `silence`; and of full scale
_FORGETS = 1.0  # dB a second by which the loudest frame so far fades

_PACKAGED = {
    "stft_conv.weight": "stft.forward_basis_buffer",
    **{f"conv{n}.{of}": f"encoder.{n - 1}.reparam_conv.{of}" for n in (1, 2, 3, 4) for of in ("weight", "bias")},
    **{f"lstm.{of}_l0": f"decoder.rnn.{of}" for of in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"final_conv.{of}": f"decoder.decoder.2.{of}" for of in ("weight", "bias")},
}
"""Our names of silero's weights and its own."""

Kind = Literal["silero", "energy"]


class VoiceError(UserError):
    """A voice detector that is not there."""


class VoiceActivityDetector:
    """A detector of voice; `listen` begins a recording."""

    def __init__(self, kind: Kind | None = None) -> None:
        """Load it: `silero` where its package is installed, `energy` elsewhere, if None.

        Raises:
            VoiceError: for an unknown kind, or silero without its package.
        """
        weights = _silero_weights()
        self.kind: Kind = kind or ("silero" if weights else "energy")
        if self.kind not in ("silero", "energy"):
            raise VoiceError(f"'{kind}' is no voice detector: choose silero or energy")
        if self.kind == "silero" and weights is None:
            raise VoiceError("silero needs its package: pip install 'ser-hf[vad]', or choose energy")
        self._network = _Silero(weights) if self.kind == "silero" else None

    def listen(self) -> "VadStream":
        """For one recording, from its start."""
        return VadStream(self._network)


class VadStream:
    """The voice in one recording, handed over in blocks."""

    def __init__(self, network: "_Silero | None") -> None:
        """`network` tells voice; energy does where it is None."""
        self._network = network
        self._rest = np.zeros(0, dtype=np.float32)
        self._context, self._state = np.zeros(_CONTEXT, dtype=np.float32), None
        self._loudest = -np.inf

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples, shape `(samples,)`; whether there is voice in each frame that they
        complete."""
        joined = np.concatenate([self._rest, samples])
        frames, self._rest = np.split(joined, [len(joined) // FRAME * FRAME])
        frames = frames.reshape(-1, FRAME)
        if not len(frames):
            return np.zeros(0, dtype=bool)
        return self._loud(frames) if self._network is None else self._spoken(frames)

    def finish(self) -> np.ndarray:
        """The same for the last frame, which silence completes."""
        return self.feed(np.zeros(-len(self._rest) % FRAME, dtype=np.float32))

    def _spoken(self, frames: np.ndarray) -> np.ndarray:
        contexts = np.concatenate([self._context[None], frames[:-1, -_CONTEXT:]])
        self._context = frames[-1, -_CONTEXT:]
        probabilities, self._state = self._network(np.concatenate([contexts, frames], axis=1), self._state)
        return probabilities >= _THRESHOLD

    def _loud(self, frames: np.ndarray) -> np.ndarray:
        levels = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
        found = np.zeros(len(levels), dtype=bool)
        for index, level in enumerate(levels):
            self._loudest = max(level, self._loudest - _FORGETS * FRAME / SAMPLING_RATE)
            found[index] = level >= max(self._loudest - _BELOW, _QUIETEST)
        return found


class _Silero(nn.Module):
    """silero-vad 6 at 16 kHz: a spectrum by convolution, four convolutions, an LSTM from frame to
    frame."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)
        packaged = torch.jit.load(weights, map_location="cpu").state_dict()
        self.load_state_dict({mine: packaged[f"_model.{theirs}"] for mine, theirs in _PACKAGED.items()})
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(
        self, frames: np.ndarray, state: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[np.ndarray, tuple[torch.Tensor, torch.Tensor]]:
        """Probability of voice in each of `(frames, 64 + 512)` samples that follow each other, and
        the new state."""
        hidden = functional.pad(torch.from_numpy(frames)[:, None], (0, 64), mode="reflect")
        hidden = self.stft_conv(hidden)
        hidden = (hidden[:, :129].square() + hidden[:, 129:].square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = layer(hidden).relu()
        hidden, state = self.lstm(hidden.transpose(1, 2), state)
        return self.final_conv(hidden.relu().transpose(1, 2)).sigmoid().flatten().numpy(), state


def _silero_weights() -> Path | None:
    spec = find_spec("silero_vad")
    path = Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.jit" if spec else None
    return path if path and path.is_file() else None
