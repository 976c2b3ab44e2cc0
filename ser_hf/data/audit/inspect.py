"""One recording, read once: its format, level, faults, digest and fingerprint."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ser_hf import audio
from ser_hf.audio import containers, fingerprint
from ser_hf.audio.conditioning import Downmixer
from ser_hf.audio.fingerprint import Fingerprint
from ser_hf.data.corpora.base import File
from ser_hf.errors import UserError

FULL_SCALE = 0.999
_UNKNOWN = (1 << 32) - 1


@dataclass(frozen=True)
class FileMeasurement:
    """One recording as it was read; `error` says why the rest is empty."""

    file: File
    error: str | None = None
    rate: int = 0  # Hz
    channels: int = 0
    container: str = ""
    subtype: str = ""
    seconds: float = 0.0
    level: float = 0.0  # dB relative to full scale, of the loudest 25 ms
    clipped: float = 0.0  # share of samples in runs of three or more at full scale
    offset: float = 0.0  # mean of the samples
    broken: int = 0  # samples that are NaN or infinite
    unfinished: bool = False  # broke off before its length was written
    cancelling: bool = False  # a channel is another one inverted
    truncated: bool = False  # the header promises more than the file holds
    digest: str = ""  # sha256 of the 16-bit samples at 16 kHz, as in the dataset
    fingerprint: Fingerprint | None = None

    def misnamed(self, suffix: str) -> bool:
        """Whether the content is of another container than the ending (in lower case) says."""
        return self.container not in containers.ENDINGS.get(suffix, (self.container,))


def inspect_file(file: File) -> FileMeasurement:
    """Read a recording once; a problem is returned in `error`, not raised."""
    try:
        source = file.source()
        with audio.open_recording(source, repr(str(file))) as reader:
            reader.check_length()
            faults, downmixer = _Faults(), Downmixer(reader.rate)
            blocks = faults.watch(reader.blocks())
            samples = audio.concatenate(audio.mono_16k(blocks, reader.rate, reader.name, downmixer))
            unfinished = reader.unfinished
            header = (reader.rate, reader.channels, reader.container, reader.subtype)
    except (UserError, OSError) as error:
        return FileMeasurement(file, error=str(error))
    pcm = audio.to_pcm(samples)
    return FileMeasurement(
        file,
        None,
        *header,
        seconds=audio.duration(samples),
        level=audio.level(samples),
        clipped=faults.clipped / max(faults.samples, 1),
        offset=faults.total / max(faults.samples, 1),
        broken=faults.broken,
        cancelling=downmixer.inverted,
        unfinished=unfinished,
        truncated=_truncated(source),
        digest=hashlib.sha256(pcm.tobytes()).hexdigest(),
        fingerprint=fingerprint.fingerprint(samples),
    )


class _Faults:
    """Counts faults in blocks as they pass.

    Broken samples are passed on as silence, so that the rest can be read.
    """

    def __init__(self) -> None:
        self.samples = self.clipped = self.broken = 0
        self.total = 0.0

    def watch(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            finite = np.isfinite(block)
            self.broken += int(block.size - finite.sum())
            block = np.where(finite, block, 0)
            at_full_scale = np.abs(block) >= FULL_SCALE
            runs = at_full_scale[2:] & at_full_scale[1:-1] & at_full_scale[:-2]
            clipped = np.zeros_like(at_full_scale)
            for shift in range(3):  # all three samples of each
                clipped[shift : len(clipped) - 2 + shift] |= runs
            self.clipped += int(clipped.sum())
            self.samples += block.size
            self.total += float(block.sum(dtype=np.float64))
            yield block


def _truncated(source: str | bytes) -> bool:
    """Whether a file is shorter than its header says, as a download that broke off is.

    WAV, AIFF, RF64, W64, AU, MP4 and Matroska say how long they are; the others show it by not
    decoding, or not at all.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
        if containers.is_cut_off(stream):
            return True
        stream.seek(0)
        head = stream.read(32)
        size = stream.seek(0, io.SEEK_END)
    # bytes of the length, their order, and how many bytes of the file the length leaves out
    lengths: dict[bytes, tuple[slice, Literal["little", "big"], int]] = {
        b"RIFF": (slice(4, 8), "little", 8),
        b"RF64": (slice(20, 28), "little", 8),
        b"riff": (slice(16, 24), "little", 0),
        b"FORM": (slice(4, 8), "big", 8),
        b".snd": (slice(8, 12), "big", int.from_bytes(head[4:8], "big")),
    }
    if head[:4] not in lengths:
        return False
    field, order, excluded = lengths[head[:4]]
    promised = int.from_bytes(head[field], order)
    # a program that writes to a pipe cannot know the length; a pad byte may lack
    return promised not in (0, _UNKNOWN, (1 << 64) - 1) and promised + excluded > size + 1
