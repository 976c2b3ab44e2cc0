"""Predictions as HTML: the answer, a bar for each label, the waveform with its timeline. Every word
is escaped."""

from collections.abc import Iterable
from html import escape
from itertools import pairwise

import numpy as np

from ser_hf.labels import COLOURS

_OTHER = "#666666"  # of a label that is none of the eight
_COLUMNS = 400
_STEP = 32  # samples whose loudest is kept


def prediction_html(answer: dict, loudest: np.ndarray | None = None, below: float = 0.0) -> str:
    """What the page says of a recording.

    Args:
        answer: of `Predictor`.
        loudest: of the recording, as `peaks` gives it, to be drawn; not where None.
        below: the score under which the model abstains.
    """
    picture = "" if loudest is None else _picture(answer, loudest)
    return f'<div aria-live="polite">{_headline(answer, below)}{_bars(answer["scores"])}{picture}</div>'


def peaks(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """The loudest of every 32 samples, by magnitude; of an hour at 16 kHz 7 MB.

    Args:
        blocks: of a recording, each of shape `(samples,)`.
    """
    found, rest = [], np.zeros(0, dtype=np.float32)
    for block in blocks:
        rest = np.concatenate([rest, np.abs(block)])
        whole = len(rest) // _STEP * _STEP
        found.append(rest[:whole].reshape(-1, _STEP).max(axis=1))
        rest = rest[whole:]
    return np.concatenate([*found, rest.max(keepdims=True) if len(rest) else rest])


def running(answer: dict) -> str:
    """What the page says while somebody speaks."""
    if not answer["segments"]:
        head = '<p class="ser-label">Listening</p>'
    elif answer["segments"][-1]["end"] < answer["duration"]:
        head = '<p class="ser-label">Nobody speaks</p>'
    elif answer["abstained"]:
        head = f'<p class="ser-label">Not sure, {escape(answer["label"])}?</p>'
    else:
        dot = f'<span class="ser-dot" style="background: {_colour(answer["label"])}"></span>'
        head = f'<p class="ser-label">{dot}{escape(answer["label"])}</p>'
    timeline = _timeline(answer["segments"], answer["duration"]) if answer["segments"] else ""
    sub = f'<p class="ser-sub">{clock(answer["duration"])} heard</p>'
    return f'<div aria-live="polite">{head}{sub}</div>{_bars(answer["scores"])}{timeline}'


def message(words: str, kind: str = "error") -> str:
    """A line for the visitor: `error` is read out at once, `note` is not."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="ser-{kind}" role="{role}">{escape(words)}</div>'


def batch_table(answers: list[dict]) -> str:
    """Answers for many recordings, a row each; what cannot be read has its reason there."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("recording", "label", "score", "length"))
    body = "".join(f'<tr><th scope="row">{escape(one["file"] or "")}</th>{_cells(one)}</tr>' for one in answers)
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


def ink(colour: str) -> str:
    """Black or white, whichever can be read better on a colour `#rrggbb` (contrast of WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "#ffffff" if 1.05 / (luminance + 0.05) >= (luminance + 0.05) / 0.05 else "#000000"


def _headline(answer: dict, below: float) -> str:
    length = _length(answer["duration"])
    if not answer["segments"]:
        return f'<p class="ser-label">No voice was found</p><p class="ser-sub">in {length} of audio</p>'
    label, sure = escape(answer["label"]), percent(answer["score"])
    if answer["abstained"]:
        why = f", and the model was calibrated to stay silent below {percent(below)}" if below else ""
        says = f"The likeliest is {label} with {sure}{why}."
        return f'<p class="ser-label">Not sure</p><p class="ser-sub">{says}</p>'
    dot = f'<span class="ser-dot" style="background: {_colour(answer["label"])}"></span>'
    return f'<p class="ser-label">{dot}{label}</p><p class="ser-sub">{sure} sure, {length} of audio</p>'


def _cells(answer: dict) -> str:
    if "error" in answer:
        return f'<td colspan="3">{escape(answer["error"])}</td>'
    label = escape(answer["label"])
    dot = f'<span class="ser-dot" style="background: {_colour(answer["label"])}"></span> '
    if not answer["segments"]:
        said = "no voice was found"
    else:
        said = f"not sure, {label}?" if answer["abstained"] else dot + label
    return f"<td>{said}</td><td>{percent(answer['score'])}</td><td>{_length(answer['duration'])}</td>"


def _length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{clock(seconds)} min"


def _bars(scores: dict[str, float]) -> str:
    rows = (
        f'<div class="ser-bar"><span>{escape(label)}</span>'
        f'<div class="ser-track" role="meter" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{score * 100:.0f}"><div class="ser-fill" '
        f'style="width: {score * 100:.1f}%; background: {_colour(label)}"></div></div>'
        f'<span class="ser-score">{score * 100:.1f} %</span></div>'
        for label, score in scores.items()
    )
    return f'<div class="ser-bars">{"".join(rows)}</div>'


def _picture(answer: dict, loudest: np.ndarray) -> str:
    long = len(answer["segments"]) > 1 or answer["duration"] > 10
    timeline = _timeline(answer["segments"], answer["duration"]) if long and answer["segments"] else ""
    wave = _waveform(loudest, answer["duration"])
    return (
        f'<div class="ser-picture" data-duration="{answer["duration"]:.3f}">{wave}{timeline}'
        f'<div class="ser-cursor" hidden></div></div>{_parts(answer["segments"]) if timeline else ""}'
    )


def _waveform(loudest: np.ndarray, seconds: float) -> str:
    """Peaks of a recording as SVG."""
    edges = np.linspace(0, len(loudest), _COLUMNS + 1).astype(int)
    found = np.array([loudest[a : max(b, a + 1)].max(initial=0) for a, b in pairwise(edges)])
    found = np.maximum(found / max(found.max(), 1e-6) * 44, 0.5)
    path = "".join(f"M{x} {45 - y:.1f}V{45 + y:.1f}" for x, y in enumerate(found))
    return (
        f'<svg class="ser-wave" viewBox="0 0 {_COLUMNS} 90" preserveAspectRatio="none" role="img" '
        f'aria-label="waveform of {seconds:.1f} seconds">'
        f'<path d="{path}" stroke="currentColor" stroke-width="0.8"/></svg>'
    )


def _timeline(segments: list[dict], duration: float) -> str:
    """Coloured stretches; what they say is in the list below, too, so they are no stop for a
    keyboard."""
    parts = []
    for one in segments:
        left, width = 100 * one["start"] / duration, 100 * (one["end"] - one["start"]) / duration
        colour = _colour(one["label"])
        word = escape(one["label"]) if width > 2.2 * len(one["label"]) + 3 else ""
        parts.append(
            f'<button class="ser-part" tabindex="-1" aria-hidden="true" data-start="{one["start"]:.3f}" '
            f'title="{_spoken(one)}" style="left: {left:.3f}%; width: {width:.3f}%; background: {colour}; '
            f'color: {ink(colour)}">{word}</button>'
        )
    return f'<div class="ser-timeline">{"".join(parts)}</div>'


def _parts(segments: list[dict]) -> str:
    rows = (
        f'<li><button class="ser-jump" data-start="{one["start"]:.3f}" aria-label="play {_spoken(one)}">'
        f'<span class="ser-dot" style="background: {_colour(one["label"])}"></span>'
        f"<span>{clock(one['start'])} – {clock(one['end'])}</span><b>{escape(one['label'])}</b>"
        f"<span>{percent(one['score'])}</span></button></li>"
        for one in segments
    )
    return f'<ol class="ser-parts" aria-label="timeline">{"".join(rows)}</ol>'


def _spoken(one: dict) -> str:
    return f"{clock(one['start'])} to {clock(one['end'])}, {escape(one['label'])}, {percent(one['score'])}"


def _colour(label: str) -> str:
    return COLOURS.get(label, _OTHER)
