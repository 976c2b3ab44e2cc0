"""Bars: what they say, where, and that short work has none."""

import io
from weakref import WeakSet

import pytest
from tqdm import tqdm

from ser_hf.utils import progress


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Bars of other tests, whose work broke off, take no line of the screen."""
    monkeypatch.setattr(tqdm, "_instances", WeakSet())


@pytest.fixture
def screen(monkeypatch):
    """Puts a terminal in the place of stderr; pytest sets its own before each phase of a test."""

    def put():
        shown = Screen()
        monkeypatch.setattr("sys.stderr", shown)
        return shown

    return put


def test_items_are_given_on_and_counted(screen, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0)
    shown = screen()
    assert list(progress.each("abc", "Reading", 3, "recordings")) == ["a", "b", "c"]
    last = shown.getvalue().split("\r")[-1]
    assert last.startswith("Reading: 100%")
    assert "3/3" in last


@pytest.mark.parametrize("total", [3, None])
def test_short_work_has_no_bar(screen, total):
    shown = screen()
    with progress.bar("Reading", total) as bar:
        bar.update(3)
    assert shown.getvalue() == ""


def test_a_log_gets_no_states_between(capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0)
    list(progress.each(range(1000), "Reading", 1000))
    assert capsys.readouterr().err.count("Reading") == 2  # the first and the last


def test_a_bar_of_an_epoch_goes(screen, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0)
    shown = screen()
    with progress.bar("Epoch 1 of 2", 2, "steps", leave=False) as bar:
        bar.update(2)
    assert shown.getvalue().split("\r")[-1].strip() == ""


def test_work_that_cannot_be_counted_is_a_line_on_stderr(capsys):
    progress.say("the model is loaded")
    assert capsys.readouterr() == ("", "the model is loaded\n")
