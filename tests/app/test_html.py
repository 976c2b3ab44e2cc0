"""What the page says, as HTML: nothing unescaped, in order, at its place."""

import re

import numpy as np
import pytest
from helpers.small import ROOT

from ser_hf.app import tabs
from ser_hf.app.examples import write_examples
from ser_hf.app.html import Peaks, batch_html, live_html, message_html, prediction_html, text_colour
from ser_hf.audio import SAMPLING_RATE, load
from ser_hf.inference.prediction import prediction, segment
from ser_hf.labels import COLOURS, EMOTIONS

RATE = SAMPLING_RATE
EVIL = "<img src=x onerror=alert(1)>"


def predicted(segments, seconds=3, label="sad", below=0.0, labels=EMOTIONS):
    row = np.full(len(labels), 0.1)
    row[list(labels).index(label)] = 0.3
    return prediction("a.wav", seconds * RATE, row, segments, list(labels), below)


def peaks(blocks):
    result = Peaks()
    for block in blocks:
        result.add(block)
    return result.values()


def test_bars_stand_in_the_order_of_the_labels():
    html = prediction_html(predicted([segment(0, 3 * RATE, "sad", 0.3)]), peaks([np.sin(np.arange(3 * RATE))]))
    assert re.findall(r'aria-label="(\w+)" aria-valuemin', html) == list(EMOTIONS)
    assert re.findall(r'aria-valuenow="(\d+)"', html) == ["10", "10", "10", "30", "10", "10", "10", "10"]
    assert re.findall(r"background: (#\w+)\"></div>", html) == list(COLOURS.values())
    assert html.count("<svg") == 1
    assert "ser-timeline" not in html


def test_the_waveform_shows_the_loudest_of_each_moment_however_the_recording_is_cut():
    samples = np.random.default_rng(0).normal(size=400 * 128).astype(np.float32) * np.linspace(0, 1, 400 * 128)
    whole = peaks([samples])
    np.testing.assert_array_equal(whole, np.abs(samples).reshape(-1, 32).max(axis=1))
    np.testing.assert_array_equal(whole, peaks(np.split(samples, [5, 5, 1000, 1031, 40_000])))
    assert peaks([samples[:33]]).tolist() == [np.abs(samples[:32]).max(), np.abs(samples[32])]
    assert len(peaks([])) == 0
    html = prediction_html(predicted([segment(0, 3 * RATE, "sad", 0.3)]), whole)
    drawn = [float(y) for y in re.findall(r"M\d+ ([\d.]+)V", html)]
    heights = np.abs(samples).reshape(400, 128).max(axis=1) / whole.max() * 44
    np.testing.assert_allclose(drawn, 45 - np.maximum(heights, 0.5), atol=0.051)
    assert "waveform of 3.0 seconds" in html
    assert len(re.findall(r"M\d+ ", prediction_html(predicted([], 1), np.ones(3)))) == 400


def test_labels_and_messages_cannot_be_markup():
    labels = (EVIL, "b")
    segments = [segment(0, 6 * RATE, EVIL, 0.9), segment(6 * RATE, 12 * RATE, "b", 0.9)]
    shown = predicted(segments, 12, EVIL, labels=labels)
    for html in (prediction_html(shown, np.ones(12)), live_html(shown), message_html(EVIL)):
        assert "<img" not in html
        assert "&lt;img" in html


def test_a_timeline_lies_where_its_segments_are():
    segments = [segment(0, 5 * RATE, "sad", 0.9), segment(10 * RATE, 20 * RATE, "angry", 0.6)]
    html = prediction_html(predicted(segments, 20), np.ones(20))
    places = re.findall(r'data-start="([\d.]+)" title="([^"]*)" style="left: ([\d.]+)%; width: ([\d.]+)%', html)
    assert places == [
        ("0.000", "0:00 to 0:05, sad, 90 %", "0.000", "25.000"),
        ("10.000", "0:10 to 0:20, angry, 60 %", "50.000", "50.000"),
    ]
    assert re.findall(r'aria-label="(play [^"]*)"', html) == [
        "play 0:00 to 0:05, sad, 90 %",
        "play 0:10 to 0:20, angry, 60 %",
    ]


def test_a_table_has_a_row_for_each_recording_and_the_reason_where_there_is_no_answer():
    segments = [segment(0, 3 * RATE, "sad", 0.3)]
    rows = [
        predicted(segments),
        predicted(segments, 95, below=0.5),
        predicted([], 20),
        {"file": EVIL, "error": f"'{EVIL}'!"},
    ]
    html = batch_html(rows)
    assert "<img" not in html
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in html.split("<tr>")[1:]]
    cells = [[re.sub("<[^>]+>", "", cell).strip() for cell in row] for row in cells]
    escaped = EVIL.replace("<", "&lt;").replace(">", "&gt;")
    assert cells == [
        ["recording", "label", "score", "length"],
        ["a.wav", "sad", "30 %", "3.0 s"],
        ["a.wav", "not sure, sad?", "30 %", "1:35 min"],
        ["a.wav", "no voice was found", "30 %", "20.0 s"],
        [escaped, f"&#x27;{escaped}&#x27;!"],
    ]
    assert html.count('colspan="3"') == 1
    assert COLOURS["sad"] in html


def test_abstention_is_said_plainly():
    unsure = prediction_html(predicted([segment(0, 3 * RATE, "sad", 0.3)], below=0.5), None, 0.5)
    assert "Not sure" in unsure
    assert "The likeliest is sad with 30 %, and the model was calibrated to abstain below 50 %." in unsure
    assert "No voice was found" in prediction_html(predicted([], 20))


def test_running_answers_tell_silence_from_doubt():
    segments = [segment(0, 3 * RATE, "sad", 0.3)]
    assert "Listening" in live_html(predicted([]))
    assert ">sad</p>" in live_html(predicted(segments))
    assert "Not sure, sad?" in live_html(predicted(segments, below=0.5))
    assert "Nobody speaks" in live_html(predicted(segments, seconds=5, below=np.inf))


@pytest.mark.parametrize("colour", COLOURS.values())
def test_words_on_a_colour_can_be_read(colour):
    """4.5 to 1, as WCAG 2.2 asks of text (success criterion 1.4.3)."""

    def luminance(text):
        channels = np.array([int(text[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    low, high = sorted((luminance(colour), luminance(text_colour(colour))))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_no_cell_is_a_formula():
    formulas = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\tx"]
    shown = [{"file": name, "error": "no, 'sound'"} for name in formulas]
    lines = tabs.csv_text([*shown, predicted([segment(0, RATE, "sad", 0.3)])]).splitlines()
    assert lines[0].split(",") == ["file", "label", "score", "abstained", "duration", "error", *EMOTIONS]
    assert [line[:2] for line in lines[1:5]] == ["'=", "'+", "'-", "'@"]
    assert lines[-1].startswith("a.wav,sad,0.3,False,3.0,,0.1,0.1,0.1,0.3,")


def test_a_card_is_shown_without_its_front_matter_and_pictures():
    card = "---\ntags: [x]\n---\n# Voices\n\n![Matrix](plots/m.png)\n\nWords.\n"
    assert tabs.card_body(card) == "# Voices\n\nWords.\n"


def test_examples_are_the_same_every_time_and_say_what_they_are(tmp_path):
    first, again = write_examples(tmp_path / "a"), write_examples(tmp_path / "b")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in again]
    assert all(file.name.startswith("synthetic ") for file in first)
    seconds = [len(load(file)) / RATE for file in first]
    assert max(seconds[:-1]) < 5
    assert 12 < seconds[-1] < 40


def test_nothing_of_the_page_is_elsewhere():
    folder = ROOT / "ser_hf" / "app" / "static"
    for file in folder.iterdir():
        assert not re.search(r"https?://|@import|url\(", file.read_text())
