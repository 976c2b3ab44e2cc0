"""Predictions as HTML: the label, a bar for each score, the waveform with its timeline.

Every text is escaped.
"""

from html import escape
from itertools import pairwise

import numpy as np

from ser_hf.inference.prediction import FailedPrediction, Prediction, Segment
from ser_hf.labels import COLOURS

_OTHER_LABEL = "#666666"  # of a label that is none of the eight
_COLUMNS = 400
_STEP = 32  # samples of which the loudest is kept


class Peaks:
    """The loudest of every 32 samples of a recording, by magnitude.

    Of an hour at 16 kHz they take 7 MB.
    """

    def __init__(self) -> None:
        """No sample yet."""
        self._peaks: list[np.ndarray] = []
        self._pending = np.zeros(0, dtype=np.float32)

    def add(self, block: np.ndarray) -> None:
        """Take the next samples, shape `(samples,)`."""
        samples = np.concatenate([self._pending, np.abs(block)])
        complete = len(samples) // _STEP * _STEP
        self._peaks.append(samples[:complete].reshape(-1, _STEP).max(axis=1))
        self._pending = samples[complete:]

    def values(self) -> np.ndarray:
        """Peaks of what was added, shape `(ceil(samples / 32),)`."""
        last = self._pending.max(keepdims=True) if len(self._pending) else self._pending
        return np.concatenate([*self._peaks, last])


def prediction_html(prediction: Prediction, peaks: np.ndarray | None = None, threshold: float = 0.0) -> str:
    """A prediction as the page shows it.

    Args:
        prediction: of `Predictor`.
        peaks: of the recording, to be drawn; no picture where None.
        threshold: the score below which the model abstains.
    """
    picture = "" if peaks is None else _picture(prediction, peaks)
    return (
        f'<div aria-live="polite">{_headline(prediction, threshold)}{_score_bars(prediction["scores"])}{picture}</div>'
    )


def live_html(prediction: Prediction) -> str:
    """A running prediction as the page shows it while somebody speaks."""
    if not prediction["segments"]:
        headline = '<p class="ser-label">Listening</p>'
    elif prediction["segments"][-1]["end"] < prediction["duration"]:
        headline = '<p class="ser-label">Nobody speaks</p>'
    elif prediction["abstained"]:
        headline = f'<p class="ser-label">Not sure, {escape(prediction["label"])}?</p>'
    else:
        headline = f'<p class="ser-label">{_dot(prediction["label"])}{escape(prediction["label"])}</p>'
    timeline = _timeline(prediction["segments"], prediction["duration"]) if prediction["segments"] else ""
    length = f'<p class="ser-sub">{clock(prediction["duration"])} recorded</p>'
    return f'<div aria-live="polite">{headline}{length}</div>{_score_bars(prediction["scores"])}{timeline}'


def message_html(text: str, kind: str = "error") -> str:
    """A line for the visitor: screen readers read an `error` at once, a `note` later."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="ser-{kind}" role="{role}">{escape(text)}</div>'


def batch_html(predictions: list[Prediction | FailedPrediction]) -> str:
    """A table with a row for each recording; one that cannot be read has its error there."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("recording", "label", "score", "length"))
    body = "".join(f'<tr><th scope="row">{escape(row["file"] or "")}</th>{_cells(row)}</tr>' for row in predictions)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def clock(seconds: float) -> str:
    """A time in a recording.

    >>> clock(3671.9)
    '61:11'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def percent(score: float) -> str:
    """A probability as people read it.

    >>> percent(0.0713)
    '7 %'
    """
    return f"{100 * score:.0f} %"


def text_colour(background: str) -> str:
    """Black or white, whichever has more contrast (WCAG 2.2) with a background `#rrggbb`."""
    channels = [int(background[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "#ffffff" if 1.05 / (luminance + 0.05) >= (luminance + 0.05) / 0.05 else "#000000"


def _headline(prediction: Prediction, threshold: float) -> str:
    length = _length(prediction["duration"])
    if not prediction["segments"]:
        return f'<p class="ser-label">No voice was found</p><p class="ser-sub">in {length} of audio</p>'
    label, score = escape(prediction["label"]), percent(prediction["score"])
    if prediction["abstained"]:
        reason = f", and the model was calibrated to abstain below {percent(threshold)}" if threshold else ""
        text = f"The likeliest is {label} with {score}{reason}."
        return f'<p class="ser-label">Not sure</p><p class="ser-sub">{text}</p>'
    return (
        f'<p class="ser-label">{_dot(prediction["label"])}{label}</p>'
        f'<p class="ser-sub">{score} sure, {length} of audio</p>'
    )


def _cells(prediction: Prediction | FailedPrediction) -> str:
    if "error" in prediction:
        return f'<td colspan="3">{escape(prediction["error"])}</td>'
    label = escape(prediction["label"])
    if not prediction["segments"]:
        text = "no voice was found"
    elif prediction["abstained"]:
        text = f"not sure, {label}?"
    else:
        text = f"{_dot(prediction['label'])} {label}"
    return f"<td>{text}</td><td>{percent(prediction['score'])}</td><td>{_length(prediction['duration'])}</td>"


def _length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{clock(seconds)} min"


def _dot(label: str) -> str:
    return f'<span class="ser-dot" style="background: {_colour(label)}"></span>'


def _score_bars(scores: dict[str, float]) -> str:
    rows = (
        f'<div class="ser-bar"><span>{escape(label)}</span>'
        f'<div class="ser-track" role="meter" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{score * 100:.0f}"><div class="ser-fill" '
        f'style="width: {score * 100:.1f}%; background: {_colour(label)}"></div></div>'
        f'<span class="ser-score">{score * 100:.1f} %</span></div>'
        for label, score in scores.items()
    )
    return f'<div class="ser-bars">{"".join(rows)}</div>'


def _picture(prediction: Prediction, peaks: np.ndarray) -> str:
    """The waveform, and the timeline of a recording that is long or has several segments."""
    segments, duration = prediction["segments"], prediction["duration"]
    has_timeline = bool(segments) and (len(segments) > 1 or duration > 10)
    timeline = _timeline(segments, duration) if has_timeline else ""
    return (
        f'<div class="ser-picture" data-duration="{duration:.3f}">{_waveform(peaks, duration)}{timeline}'
        f'<div class="ser-cursor" hidden></div></div>{_segment_list(segments) if has_timeline else ""}'
    )


def _waveform(peaks: np.ndarray, seconds: float) -> str:
    """Peaks of a recording as SVG."""
    edges = np.linspace(0, len(peaks), _COLUMNS + 1).astype(int)
    heights = np.array([peaks[a : max(b, a + 1)].max(initial=0) for a, b in pairwise(edges)])
    heights = np.maximum(heights / max(heights.max(), 1e-6) * 44, 0.5)
    path = "".join(f"M{x} {45 - y:.1f}V{45 + y:.1f}" for x, y in enumerate(heights))
    return (
        f'<svg class="ser-wave" viewBox="0 0 {_COLUMNS} 90" preserveAspectRatio="none" role="img" '
        f'aria-label="waveform of {seconds:.1f} seconds">'
        f'<path d="{path}" stroke="currentColor" stroke-width="0.8"/></svg>'
    )


def _timeline(segments: list[Segment], duration: float) -> str:
    """Coloured stretches; a keyboard skips them, since the list below says the same."""
    stretches = []
    for segment in segments:
        left, width = 100 * segment["start"] / duration, 100 * (segment["end"] - segment["start"]) / duration
        colour = _colour(segment["label"])
        text = escape(segment["label"]) if width > 2.2 * len(segment["label"]) + 3 else ""
        stretches.append(
            f'<button class="ser-part" tabindex="-1" aria-hidden="true" data-start="{segment["start"]:.3f}" '
            f'title="{_segment_text(segment)}" style="left: {left:.3f}%; width: {width:.3f}%; background: {colour}; '
            f'color: {text_colour(colour)}">{text}</button>'
        )
    return f'<div class="ser-timeline">{"".join(stretches)}</div>'


def _segment_list(segments: list[Segment]) -> str:
    rows = (
        f'<li><button class="ser-jump" data-start="{segment["start"]:.3f}" aria-label="play {_segment_text(segment)}">'
        f"{_dot(segment['label'])}<span>{clock(segment['start'])} – {clock(segment['end'])}</span>"
        f"<b>{escape(segment['label'])}</b><span>{percent(segment['score'])}</span></button></li>"
        for segment in segments
    )
    return f'<ol class="ser-parts" aria-label="timeline">{"".join(rows)}</ol>'


def _segment_text(segment: Segment) -> str:
    start, end = clock(segment["start"]), clock(segment["end"])
    return f"{start} to {end}, {escape(segment['label'])}, {percent(segment['score'])}"


def _colour(label: str) -> str:
    return COLOURS.get(label, _OTHER_LABEL)
