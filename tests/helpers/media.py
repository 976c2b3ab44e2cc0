"""Recordings as phones and browsers make them, by PyAV."""

from fractions import Fraction

import av
import numpy as np

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
"""Options of an MP4 as Safari's recorder writes it."""


def write_media(path, samples, rate, codec, video=False, tracks=1, default=0, options=None, container=None):
    """Write samples `(frames,)` or `(frames, channels)`, into each of `tracks` one octave higher or
    lower in level; gives the path."""
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    layout = {1: "mono", 2: "stereo"}[channels]
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        pictures = output.add_stream("mpeg4", rate=25) if video else None
        if pictures is not None:
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
        streams = [output.add_stream(codec, rate=rate, layout=layout) for _ in range(tracks)]
        if tracks > 1:
            streams[default].disposition = av.stream.Disposition.default
        if pictures is not None:
            for number in range(25 * len(samples) // rate):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number % 256, dtype=np.uint8))
                picture.pts, picture.time_base = number, Fraction(1, 25)
                output.mux(pictures.encode(picture))
            output.mux(pictures.encode(None))
        for number, stream in enumerate(streams):
            for frame in _frames(samples / 2**number, rate, layout, stream.codec_context):
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return path


def _frames(samples, rate, layout, encoder):
    planes = np.ascontiguousarray(samples.reshape(len(samples), -1).T, dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    waiting = av.AudioFifo()
    kind = encoder.codec.audio_formats[0].name
    for part in av.AudioResampler(format=kind, layout=layout, rate=rate).resample(frame):
        waiting.write(part)
    while (part := waiting.read(encoder.frame_size or 1024, partial=True)) is not None:
        yield part
