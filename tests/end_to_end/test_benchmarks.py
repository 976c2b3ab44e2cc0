"""Every benchmark and every study starts: its imports resolve and it prints its help."""

import runpy
import sys

import pytest
from helpers.small import ROOT

SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "studies").glob("*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_help(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(script.parent))  # as Python does for a script
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_every_study_is_listed():
    listed = (ROOT / "studies" / "README.md").read_text()
    assert [path.name for path in (ROOT / "studies").glob("*.py") if f"`studies/{path.name}`" not in listed] == []
