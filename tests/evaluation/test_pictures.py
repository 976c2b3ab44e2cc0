"""Every picture names its axes and colours, and its texts fit and can be read."""

import math
from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pytest
from helpers import colours, figures
from helpers.small import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from ser_hf.data import describe
from ser_hf.evaluation import label_report, plots
from ser_hf.evaluation.diagnostics import occlusion
from ser_hf.experiments import leakage_curve
from ser_hf.labels import COLOURS, EMOTIONS
from ser_hf.utils import plotting

LEAST = 11  # points, in a picture of 6.4 inches: 9.7 where a page shows it 34 rem wide
DRAWN = [getattr(plots, name) for name in plots.DESCRIPTIONS]
UNUSUAL = figures.hostile_results()
REPORTS = figures.hostile_reports()
LABELLINGS = {
    "usual": figures.labelling(),
    "billions": figures.labelling(10**11, [f"label {number}" for number in range(45)], figures.LONG),
}


def leakage(corpora=("ravdess", "tess"), name="runs/model"):
    row = {"uar": 0.7, "ci95": {"uar": [0.6, 0.8]}, "chance": 0.125, "n": 10, "accuracy": 0.5, "leaks": False}
    rows = [row | {"protocol": protocol, "new": new} for protocol, new in leakage_curve.NOVELTY.items()]
    return {"model": name, "rows": [one | {"per_corpus": dict.fromkeys(corpora, row)} for one in rows]}


def explanation(seconds=3.0, importance=None, stretch=(0.5, 1.0), layers=None, file="clip.wav"):
    samples = np.sin(np.arange(int(16_000 * seconds)) / 9).astype(np.float32)
    importance = np.sin(np.arange(36)) if importance is None else importance
    cells = (np.arange(len(importance)) + 0.5) * seconds / len(importance)
    without = dict.fromkeys(EMOTIONS, 0.125) if stretch else None
    return occlusion.Explanation(file, "surprised", 0.62, cells, importance, samples, 0.25, stretch, without, layers)


def cases():
    for name, results in UNUSUAL.items():
        for draw in DRAWN:
            if name == "usual" or draw in USEFUL[name]:
                yield f"{draw.__name__}, {name}", draw, results
    for name, report in REPORTS.items():
        for draw in (describe.draw_balance, describe.draw_durations):
            yield f"{draw.__name__}, {name}", draw, report
    yield "levels", describe.draw_levels, REPORTS["usual"]
    for name, summary in LABELLINGS.items():
        for draw in (label_report.scores, label_report.durations, label_report.distances):
            yield f"labelling: {draw.__name__}, {name}", draw, summary
    yield "leakage", leakage_curve.draw_leakage, leakage()
    long = leakage([f"{figures.LONG[:40]}{number}" for number in range(9)], figures.LONG)
    yield "leakage, 9 corpora", leakage_curve.draw_leakage, long
    yield "explanation", occlusion.draw_occlusion, explanation(layers=[0.25, 0.75])
    plain = explanation(0.1, np.zeros(12), None, file=f"/a/{figures.LONG}")
    yield "explanation, short and flat", occlusion.draw_occlusion, plain


# what each kind of results could break
USEFUL = {
    "long names": (plots.confusion_matrix, plots.history, plots.groups, plots.robustness, plots.baselines),
    "3,000 speakers, 60 corpora": (plots.groups,),
    "one class": (plots.confusion_matrix, plots.history, plots.groups, plots.reliability),
    "billions of clips": (plots.confusion_matrix, plots.history, plots.reliability),
    "nothing right": (plots.confusion_matrix, plots.risk_coverage, plots.bias_probes, plots.reliability),
}
CASES = list(cases())


def shown_ticks(axis):
    """The tick labels that are drawn, in the order of their places."""
    low, high = sorted(axis.get_view_interval())
    slack = 1e-9 * (high - low)
    ticks = [tick for tick in axis.get_major_ticks() if low - slack <= tick.get_loc() <= high + slack]
    return [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]


def apart(labels, renderer):
    """Whether no two neighbours of tick labels touch."""
    boxes = [label.get_window_extent(renderer) for label in labels]
    if labels and labels[0].get_rotation():
        angle = math.radians(labels[0].get_rotation())
        height = labels[0].get_fontsize() * renderer.points_to_pixels(1)
        places = [label.get_transform().transform(label.get_position())[0] for label in labels]
        return all(abs(b - a) * math.sin(angle) >= height for a, b in pairwise(places))
    return not any(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.fixture(scope="module", autouse=True)
def style():
    with mpl.rc_context(plotting.STYLE):
        yield


@pytest.mark.parametrize(("draw", "what"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_picture_can_be_read(draw, what):
    figure = draw(what)
    assert figure.get_figwidth() == plotting.WIDTH
    assert figure.get_figheight() * plotting.STYLE["savefig.dpi"] < 2**16  # what Agg can draw
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, texts = canvas.get_renderer(), [*figure.texts, *figure.findobj(lambda one: one is figure._suptitle)]
    for legend in [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]:
        texts += legend.get_texts()
    used = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = shown_ticks(axis)
            assert axis.get_label_text() or not labels or axes.get_shared_x_axes().get_siblings(axes)[1:]
            assert apart(labels, renderer), [label.get_text() for label in labels]
            texts += [*labels, axis.label, axis.offsetText]
        texts += [*axes.texts, axes.title]
        used |= {mpl.colors.to_hex(line.get_color()) for line in axes.lines if line.get_linewidth() >= 1}
        used |= {mpl.colors.to_hex(patch.get_facecolor()) for patch in axes.patches}
    texts = [text for text in texts if isinstance(text, Text) and text.get_text().strip() and text.get_visible()]
    titles = {figure._suptitle, *(axis.label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis))}
    named = [text for text in dict.fromkeys(texts) if text in titles]
    boxes = [text.get_window_extent(renderer) for text in named]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    width, height = canvas.get_width_height()
    for text in texts:
        box = text.get_window_extent(renderer)
        assert min(box.x0, box.y0) >= -1, text.get_text()
        assert box.x1 <= width + 1, text.get_text()
        assert box.y1 <= height + 1, text.get_text()
        assert text.get_fontsize() >= LEAST, text.get_text()
    if len(used) > 1:
        assert figure.legends or any(axes.get_legend() for axes in figure.axes)
    heights = [axes.get_position().height * figure.get_figheight() for axes in figure.axes]
    widths = [axes.get_position().width * figure.get_figwidth() for axes in figure.axes]
    assert (
        min(max(pair) for pair in zip(widths, heights, strict=True)) > 1.5
    )  # inches: titles leave space for what is drawn
    assert min(heights) > 0.1


def test_every_picture_of_a_page_is_described():
    assert list(plots.DESCRIPTIONS) == [draw.__name__ for draw in DRAWN]
    assert set(label_report._pictures(LABELLINGS["usual"])) == set(label_report.DESCRIPTIONS)
    assert set(describe.DESCRIPTIONS) == {"balance", "durations", "levels"}


@pytest.mark.parametrize("sight", colours.SIGHTS)
def test_colours_stay_apart_for_the_colour_blind(sight):
    assert colours.closest([plotting.BLUE, plotting.ORANGE], sight) > 0.15
    assert colours.closest([colour for colour, _, _ in plotting.SERIES], sight) > 0.06
    assert colours.closest(list(COLOURS.values()), sight) > 0.05


def test_series_differ_by_more_than_colour():
    for kind in zip(*plotting.SERIES, strict=True):
        assert len(set(map(str, kind))) == len(plotting.SERIES)


@pytest.mark.parametrize("share", np.linspace(0, 1, 21))
def test_numbers_on_a_colour_map_can_be_read(share):
    cell = mpl.colors.to_hex(mpl.colormaps["Blues"](share))
    assert colours.contrast(cell, {"white": "#ffffff", "black": "#000000"}[plotting.ink(share)]) >= 4.5


def test_every_style_sheet_turns_pictures_round_in_the_dark():
    for sheet in ("cards/page.css.jinja", "ser_hf/app/static/page.css"):
        assert f"filter: {plotting.DARK_FILTER}" in (ROOT / sheet).read_text()
