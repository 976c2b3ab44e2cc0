"""Occlusion over time: how much each stretch of a clip counts for a model's prediction.

Each stretch is replaced in turn, and the clip is predicted again (Zeiler and Fergus, "Visualizing
and understanding convolutional networks", ECCV 2014). This needs only the model's probabilities.

The replacement must carry no information of its own. Digital zeros do: they lie far below any
recorded level, so they shift all mel bins of a model that normalises them over the clip. A stretch
therefore becomes noise with the spectrum and level of the clip's quietest frames, faded in and out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import fft

from ser_hf import audio
from ser_hf.errors import UserError
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import COLOURS
from ser_hf.utils import progress
from ser_hf.utils.plotting import BLUE, STYLE, WIDTH, shortened, write_title

WINDOW = 0.25
"""Seconds that are replaced at a time: about a syllable."""

MAX_SECONDS = 60
"""Longest recording: each window costs a prediction, and one label for more means little."""

_COVER = 3  # windows that cover a moment
_MOST_CELLS = 120  # a third of a window each, which grow with clips of more than 10 s
_FEWEST_CELLS = 12  # and shrink with those of less than 1 s
_TOGETHER = 16  # copies of the clip in memory
_FADE = audio.SAMPLING_RATE // 100
_FRAME, _HOP = audio.SAMPLING_RATE // 40, audio.SAMPLING_RATE // 100  # 25 ms every 10 ms
_QUIET = 0.1  # share of the frames that are taken for the noise floor
_FAINT = 0.05  # nats: what makes an answer 5 % less probable carries nothing
_HALF = 0.5

_DARK, _PALE = "#4d4d4d", "#c4c4c4"
_COLUMNS = 900  # of the waveform's outline


class ExplanationError(UserError):
    """A recording that cannot be explained; the message names it and what can be done."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """A model's prediction for a clip, and the importance of each moment for it."""

    file: str
    label: str
    score: float
    """Probability of the label."""
    seconds: np.ndarray
    """Middles of the clip's cells, shape `(cells,)`."""
    importance: np.ndarray
    """Nats by which the label's log probability falls without each cell, shape `(cells,)`."""
    samples: np.ndarray
    """Shape `(samples,)`, 16 kHz."""
    window: float
    """Seconds that were replaced at a time."""
    stretch: tuple[float, float] | None
    """Start and end, in seconds, of the shortest stretch with half of all importance, if any."""
    without: dict[str, float] | None
    """Probabilities of the labels when that stretch is replaced."""
    layer_weights: list[float] | None
    """Shares of the layers, the encoder's input first, which sum to 1; None without a mix."""


def explain(predictor: Predictor, source: audio.Source) -> Explanation:
    """Measure how much each moment of a recording counts for the model's prediction.

    Windows of `WINDOW` seconds (shorter for clips below a second, longer for those above ten), a
    third of that apart, are replaced by `noise_floor`, one at a time. A cell, a third of a window
    long, counts as much as the windows that cover it do on average: log p(label | clip) - log
    p(label | clip without the window).

    Args:
        predictor: any model.
        source: whatever `ser_hf.audio.load` takes.

    Raises:
        ser_hf.audio.AudioError: if the recording cannot be used.
        ExplanationError: if it is longer than `MAX_SECONDS`, or holds no voice.
    """
    samples, file = audio.load(source), _name(source)
    if len(samples) > MAX_SECONDS * audio.SAMPLING_RATE:
        seconds = audio.duration(samples)
        raise ExplanationError(f"{file} is {seconds:.0f} s long: cut out the {MAX_SECONDS} s or less that matter")
    if not predictor.voice.has_voice(samples):
        raise ExplanationError(f"nobody speaks in {file}, so there is no emotion to explain: give another recording")
    answer = predictor.probabilities([samples])[0]
    label, cell, floor = int(answer.argmax()), _cell(len(samples)), noise_floor(samples)
    edges = np.append(np.arange(0, len(samples), cell), len(samples))
    windows = [(start, start + _COVER * cell) for start in edges[:-_COVER]]
    drops = _log(answer[label]) - _log(_without(predictor, samples, floor, windows)[:, label])
    importance = np.array([drops[max(0, place - _COVER + 1) : place + 1].mean() for place in range(len(edges) - 1)])
    stretch = without = None
    if importance.max() > _FAINT:
        start, end = (int(edges[place]) for place in _strongest(importance))
        stretch = (start / audio.SAMPLING_RATE, end / audio.SAMPLING_RATE)
        probabilities = _without(predictor, samples, floor, [(start, end)])[0]
        without = {name: float(value) for name, value in zip(predictor.labels, probabilities, strict=True)}
    middles, window = (edges[:-1] + edges[1:]) / 2 / audio.SAMPLING_RATE, _COVER * cell / audio.SAMPLING_RATE
    layers = layer_weights(predictor)
    answered, score = predictor.labels[label], float(answer[label])
    return Explanation(file, answered, score, middles, importance, samples, window, stretch, without, layers)


def noise_floor(samples: np.ndarray, seed: int = 0) -> np.ndarray:
    """Gaussian noise with the mean spectrum of a clip's quietest frames.

    The quietest frames are the tenth of the frames of 25 ms with the least energy. Digital zeros do
    not count, as they were added and not recorded. The frames may lie anywhere: many clips have no
    silence at the edges.

    Args:
        samples: shape `(samples,)`, 16 kHz, at least 400.
        seed: of the noise.

    Returns:
        Float32, shape `(samples,)`; zeros for a silent clip.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP]
    energy = np.square(frames, dtype=np.float64).sum(axis=1)
    recorded = np.flatnonzero((frames != 0).mean(axis=1) > _HALF)
    if not len(recorded):
        return np.zeros_like(samples)
    quietest = recorded[np.argsort(energy[recorded], kind="stable")[: max(1, round(_QUIET * len(recorded)))]]
    taper = np.hanning(_FRAME)
    density = np.square(np.abs(fft.rfft(frames[quietest] * taper))).mean(axis=0) / np.square(taper).sum()
    length = fft.next_fast_len(len(samples), real=True)
    places = np.linspace(0, len(density) - 1, length // 2 + 1)
    shape = np.sqrt(np.interp(places, np.arange(len(density)), density))
    noise = fft.irfft(fft.rfft(np.random.default_rng(seed).standard_normal(length)) * shape, length)
    return noise[: len(samples)].astype(np.float32)


def layer_weights(predictor: Predictor) -> list[float] | None:
    """Shares with which a model mixes its layers, the encoder's input first; None without a mix."""
    if not getattr(getattr(predictor, "config", None), "use_weighted_layer_sum", False):
        return None
    return predictor.model.layer_weights.detach().float().softmax(-1).tolist()


def summary(explanation: Explanation) -> dict:
    """An explanation as a dict that can be written as JSON.

    Returns:
        `file`, `label`, `score`, `window` (seconds), `stretch` ([start, end] in seconds, or None),
        `without` (the probabilities when it is replaced, or None), `seconds` and `importance`
        (nats) of each cell, `layer_weights`, and `says`, a sentence.
    """
    return {
        "file": explanation.file,
        "label": explanation.label,
        "score": explanation.score,
        "window": explanation.window,
        "stretch": explanation.stretch and [round(second, 3) for second in explanation.stretch],
        "without": explanation.without,
        "seconds": [round(second, 4) for second in explanation.seconds.tolist()],
        "importance": explanation.importance.tolist(),
        "layer_weights": explanation.layer_weights,
        "says": _sentence(explanation),
    }


def draw_occlusion(explanation: Explanation) -> Figure:
    """Draw the waveform, coloured by importance, above the importance over time.

    Below them stand the shares of the layers, where the model mixes layers.
    """
    with mpl.rc_context(STYLE):
        layers = explanation.layer_weights
        heights = [3, 3] + ([2.2] if layers else [])
        figure = Figure(figsize=(WIDTH, 1.6 + 0.65 * sum(heights)))
        wave, curve, *panels = figure.subplots(len(heights), 1, height_ratios=heights)
        curve.sharex(wave)
        colour = COLOURS.get(explanation.label, BLUE)
        _draw_wave(wave, explanation, colour)
        _draw_curve(curve, explanation, colour)
        if layers:
            panels[0].bar(range(len(layers)), layers, color=_DARK)
            panels[0].set(
                xlabel="layer in the mix (0: input of the encoder)", ylabel="share", xlim=(-0.6, len(layers) - 0.4)
            )
            panels[0].locator_params(axis="x", integer=True)
        heading = f"{shortened(Path(explanation.file).name, 36)}: {explanation.label}, {explanation.score:.2f}"
        write_title(figure, f"{heading}\n{_sentence(explanation)}")
        _draw_legend(figure, explanation, colour)
    return figure


def _draw_legend(figure: Figure, explanation: Explanation, colour: str) -> None:
    """What the colours say, below the panels."""
    handles = [Patch(color=colour, label=f"for {explanation.label}"), Patch(color=_PALE, label="no importance")]
    if (explanation.importance < 0).any():
        handles.append(Patch(facecolor="white", edgecolor=_DARK, hatch="///", label="against it"))
    if explanation.stretch:
        handles.append(Patch(color="#dcdcdc", label="half of all importance"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def _draw_wave(axes: Axes, explanation: Explanation, colour: str) -> None:
    """The outline of the waveform, from grey to `colour` by the importance of each moment."""
    samples, cells = explanation.samples, len(explanation.importance)
    step = max(1, len(samples) // _COLUMNS)
    starts = np.arange(0, len(samples), step)
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    importance = np.maximum(explanation.importance, 0)
    strength = importance / max(float(importance.max()), _FAINT)
    mix = strength[np.minimum((starts / len(samples) * cells).astype(int), cells - 1), None]
    colours = (1 - mix) * np.array(mpl.colors.to_rgb(_PALE)) + mix * np.array(mpl.colors.to_rgb(colour))
    thin = 0.005 * float(np.abs(samples).max() or 1.0)  # so that silence is a line
    axes.vlines(starts / audio.SAMPLING_RATE, low - thin, high + thin, colors=colours, linewidth=1)
    axes.locator_params(axis="y", nbins=5)
    axes.set(ylabel="amplitude", xlim=(0, len(samples) / audio.SAMPLING_RATE))
    axes.tick_params(labelbottom=False)


def _draw_curve(axes: Axes, explanation: Explanation, colour: str) -> None:
    """Importance over time: the strongest stretch is marked, negative importance is hatched."""
    seconds, importance = explanation.seconds, explanation.importance
    axes.fill_between(seconds, importance, where=importance >= 0, interpolate=True, color=colour, linewidth=0)
    axes.fill_between(
        seconds, importance, where=importance <= 0, interpolate=True, facecolor="white", edgecolor=_DARK, hatch="///"
    )
    axes.axhline(0, color="black", linewidth=1)
    if explanation.stretch:
        start, end = explanation.stretch
        for panel in (axes, axes.figure.axes[0]):
            panel.axvspan(start, end, color="black", alpha=0.07, linewidth=0, zorder=0)
        axes.plot([start, end], [0, 0], color="black", linewidth=5, solid_capstyle="butt")
    lowest, highest = axes.get_ylim()
    axes.locator_params(axis="y", nbins=5)
    axes.set(xlabel="time (s)", ylabel="importance (nats)", ylim=(min(lowest, -_FAINT), max(highest, _FAINT)))


def _sentence(explanation: Explanation) -> str:
    if explanation.stretch is None or explanation.without is None:
        return f"no stretch of {explanation.window:.2g} s carries it alone"
    start, end = explanation.stretch
    answer = max(explanation.without, key=explanation.without.__getitem__)
    still, score = "still " if answer == explanation.label else "", explanation.without[answer]
    return f"{start:.1f} to {end:.1f} s carries most of it; without it: {still}{answer} ({score:.2f})"


def _without(
    predictor: Predictor, samples: np.ndarray, floor: np.ndarray, windows: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Probabilities `(windows, labels)` of the clip with each window replaced by `floor`."""
    answers = []
    with progress.bar("Leaving out stretches", len(windows), "stretches") as bar:
        for first in range(0, len(windows), _TOGETHER):
            clips = [_replaced(samples, floor, *window) for window in windows[first : first + _TOGETHER]]
            answers.append(predictor.probabilities(clips))
            bar.update(len(clips))
    return np.concatenate(answers)


def _replaced(samples: np.ndarray, floor: np.ndarray, start: int, end: int) -> np.ndarray:
    """A copy that is `floor` from start to end; both are faded into each other within that."""
    end = min(end, len(samples))
    fade = min(_FADE, (end - start) // 4)
    rise = np.sin(np.pi / 2 * (np.arange(fade) + 0.5) / max(fade, 1)) ** 2
    share = np.ones(end - start, dtype=np.float32)
    share[:fade], share[len(share) - fade :] = rise, rise[::-1]
    replaced = samples.copy()
    replaced[start:end] += share * (floor[start:end] - samples[start:end])
    return replaced


def _strongest(importance: np.ndarray) -> tuple[int, int]:
    """First and one-past-last cell of the shortest stretch with half of the positive importance.

    Of several such stretches, the strongest.
    """
    sums = np.append(0, np.cumsum(np.maximum(importance, 0)))
    for length in range(1, len(sums)):
        within = sums[length:] - sums[:-length]
        if within.max() >= _HALF * sums[-1]:
            return int(within.argmax()), int(within.argmax()) + length
    return 0, len(importance)


def _cell(length: int) -> int:
    """Samples of a cell."""
    usual = round(WINDOW * audio.SAMPLING_RATE / _COVER)
    return min(max(usual, -(-length // _MOST_CELLS)), max(1, length // _FEWEST_CELLS))


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny, dtype=np.float64))


def _name(source: audio.Source) -> str:
    source = source.get("path") if isinstance(source, dict) else source
    return str(source) if isinstance(source, str | PathLike) else "the recording"
