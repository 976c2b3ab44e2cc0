"""Every page and card of ours fits a phone and a desktop, and can be read in either scheme."""

import base64
import io
import json
import os
import re
from pathlib import Path

import datasets
import pytest
from helpers import colours, figures
from helpers.small import ROOT
from PIL import Image

from ser_hf.app import web_site
from ser_hf.data import card, dataset
from ser_hf.data.audit import report as audit_report
from ser_hf.evaluation import label_report, reports
from ser_hf.evaluation.leaderboard import pages as leaderboard_pages
from ser_hf.evaluation.leaderboard.ranking import build_leaderboard
from ser_hf.hub import space
from ser_hf.labels import EMOTIONS

SCREENSHOTS = os.environ.get("SER_HF_SCREENSHOT", "")  # a folder
PROBLEMS = (ROOT / "scripts" / "maintain" / "page_problems.js").read_text()


@pytest.fixture(scope="module")
def screenshots(load_script):
    return load_script("maintain/screenshots")


def white():
    content = io.BytesIO()
    Image.new("L", (960, 700), 255).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def audit_page(long, count):
    finding = {"files": [long], "says": f"'/archive/{long}' is not what its name says"}
    findings = [
        finding | {"kind": kind, "decide": kind == "conflict"} for kind in ("conflict", "offset") for _ in range(30)
    ]
    counts = dict.fromkeys(EMOTIONS, count)
    report = {
        **{"files": count, "recordings": count, "needs_decision": True, "findings": findings, "others": [long]},
        **{"inventory": {long: [count, count]}, "formats": {long: {"48,000 Hz, 2 channel(s), WAV PCM_16": count}}},
        **{"counts": {long: counts}, "balance": {long: counts}, "confounds": [f"every voice of {long} is female"]},
        "speakers": {f"{long[:40]}-{number}": counts for number in range(45)},
    }
    return audit_report._audit_page(report, dict.fromkeys(("balance", "durations", "levels"), white()))


def dataset_card(long, count):
    counts = {group: dict.fromkeys(EMOTIONS, count) for group in ("ravdess speech", f"{long} unknown", "tess speech")}
    report = {
        **{"recordings": count, "speakers": count, "hours": 1.5, "counts": counts, "balance": counts, "notice": ""},
        **{"dropped_duplicates": [long], "unmatched": [], "missing": [], "silent": [], "same_samples": [[long, long]]},
        **{"notes": [f"{long} is short"], "aliases": []},
    }
    return card.dataset_card(report, datasets.Features(dataset.FEATURES), [])


def leaderboards(unusual, folder):
    """The page and the Markdown of a leaderboard of all of these results."""
    for name, results in unusual.items():
        place = folder / (figures.LONG[:200] if name == "long names" else name)
        place.mkdir(parents=True)
        results.save(place / "results.json")
    board = build_leaderboard([folder])
    return (leaderboard_pages._render(f"leaderboard.{kind}.jinja", board) for kind in ("html", "md"))


def pages(card_page, monkeypatch, folder):
    """The text of each page, with names and numbers that are as long as they come."""
    unusual, long = figures.hostile_results(), figures.LONG
    runs = [unusual[name] for name in ("usual", "long names", "one class", "billions of clips", "nothing right")]
    pictures = [dict.fromkeys(list(reports.plots.DESCRIPTIONS), white())] + [{}] * 4
    yield "report", reports.report_page(runs, pictures)
    monkeypatch.setattr(label_report, "_pictures", lambda summary: dict.fromkeys(label_report.DESCRIPTIONS, white()))
    labels = [*EMOTIONS, *(f"another-label-{number}" for number in range(40))]
    yield "labelling", label_report.page(figures.labelling(10**9, labels, f"/archive/{long}"))
    yield "audit", audit_page(long, 1_234_567)
    page, markdown = leaderboards(unusual, folder)
    yield "leaderboard", page
    yield "leaderboard as Markdown", card_page(markdown)
    yield "model card", card_page(reports.model_card(unusual["long names"], ["history.png"]))
    yield "dataset card", card_page(dataset_card(long, 1_234_567))
    yield (
        "Space card",
        card_page(
            space._card(f"you/{long[:90]}", space.requirements(), commit="0" * 40, space="you/it", closed="gated")
        ),
    )
    yield "web card", card_page(web_site._card(f"you/{long[:90]}", None))


def test_every_page_fits_and_can_be_read(browser, screenshots, tmp_path, monkeypatch):
    found, context = {}, browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    shown = context.new_page()
    for name, text in pages(screenshots.card_page, monkeypatch, tmp_path / "runs"):
        (tmp_path / f"{name}.html").write_text(text)
        for width in (390, 1280):
            shown.set_viewport_size({"width": width, "height": 844})
            shown.goto((tmp_path / f"{name}.html").as_uri())
            for scheme in ("light", "dark"):
                shown.emulate_media(color_scheme=scheme)
                problems = shown.evaluate(PROBLEMS)
                if problems:
                    found[f"{name}, {width} px, {scheme}"] = problems
                if SCREENSHOTS:
                    shown.screenshot(path=Path(SCREENSHOTS) / f"{name}-{width}-{scheme}.png", full_page=True)
    context.close()
    assert not found, json.dumps(found, indent=1)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<div style='width: 600px'>x</div>", "the page is 6"),
        ("<p style='color: #999'>pale</p>", 'contrast 2.85: p "pale"'),
        ("<p style='opacity: .5; color: #333'>faint</p>", "contrast 2.85"),
        ("<img src='data:,'style='width: 9px; height: 9px'>", "without alt"),
        ("<table><tr><td>1</table>", "a table without headers"),
        ("<p style='font-size: 9px'>small</p>", "letters of 9px"),
        ("<p style='position: absolute; left: -50px'>cut off</p>", "beyond the window"),
    ],
)
def test_what_cannot_be_read_is_found(browser, body, problem):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_content(f"<body style='background: #fff; color: #000'>{body}")
    found = page.evaluate(PROBLEMS)
    page.close()
    assert [line for line in found if line.startswith(problem)], found


def test_a_table_may_scroll_in_its_own_box(browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_content("<div style='overflow-x: auto'><table><tr><th style='min-width: 900px'>wide</table></div>")
    assert page.evaluate(PROBLEMS) == []
    page.close()


@pytest.mark.parametrize("block", ["root", "dark"])
def test_the_colours_of_the_style_sheets_can_be_read(block):
    for file, grounds, inks in (
        ("cards/page.css.jinja", ("page", "tint"), ("text", "quiet", "link", "warn")),
        ("web/static/style.css", ("page", "card"), ("text",)),
    ):
        rules = re.findall(r":root \{(.*?)\}", (ROOT / file).read_text(), re.DOTALL)
        values = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", rules[block == "dark"]))
        long = {
            name: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:])
            for name, value in values.items()
        }
        for ground in grounds:
            for ink in inks:
                assert colours.contrast(long[ground], long[ink]) >= 4.5, (file, ground, ink)
