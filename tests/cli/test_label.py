"""`ser-hf label`: killed and gone on with, dry, and refused."""

import json
import shutil
import signal
import sys
import time

import pyarrow.parquet as pq
import pytest
from helpers.programs import Program

from ser_hf.cli.main import main

COUNT = 40


@pytest.fixture
def archive(recordings, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    for number, path in enumerate(sorted(recordings[0].rglob("*.wav"))[: COUNT - 1]):
        shutil.copy(path, folder / f"{number:02}.wav")
    (folder / "text.wav").write_text("this is no sound")
    return folder


def words(models, archive, output, *flags):
    base = ["label", archive, "--output", output, "--model", models["group"], "--backend", "torch", *flags]
    return [str(word) for word in base]


def started(command, log):
    log.touch()
    return Program(["-m", "ser_hf.cli.main", *command], log)


def rows(folder):
    table = pq.read_table(folder).to_pylist()
    return sorted(table, key=lambda row: row["file"])


def test_killed_three_times_it_ends_as_an_unbroken_run(models, archive, tmp_path, capsys):
    assert main(words(models, archive, tmp_path / "whole")) == 3  # one recording cannot be used
    out = capsys.readouterr().out
    assert "40 asked, 0 copied, 0 of 40 listed were answered before" in out
    broken = words(models, archive, tmp_path / "broken", "--flush_seconds", "0", "--readers", "1", "--threads", "1")
    for times in (1, 2, 3):
        program = started(broken, tmp_path / "log")
        until = time.monotonic() + 120
        while program.poll() is None and time.monotonic() < until:
            if len(list((tmp_path / "broken").glob("part-*"))) >= 8 * times:
                break
            time.sleep(0.002)
        program.send_signal(signal.SIGKILL)
        assert program.wait(60) == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert not json.loads((tmp_path / "broken" / "_manifest.json").read_text())["complete"]
    assert main(broken) == 3
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    capsys.readouterr()
    assert main(broken) == 3
    assert "0 asked, 0 copied, 40 of 40 listed were answered before" in capsys.readouterr().out


def test_told_to_end_it_keeps_what_is_done(models, archive, tmp_path):
    broken = words(models, archive, tmp_path / "out", "--shard_rows", "5", "--readers", "1", "--threads", "1")
    program = started(broken, tmp_path / "log")
    until = time.monotonic() + 120
    while not list((tmp_path / "out").glob("part-*")) and time.monotonic() < until:
        time.sleep(0.002)
    program.terminate()
    assert program.wait(60) == 128 + signal.SIGTERM
    done = len(rows(tmp_path / "out"))
    assert 5 <= done < COUNT
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert main(broken) == 3
    assert len(rows(tmp_path / "out")) == COUNT


def test_a_dry_run_says_how_long_it_would_take(models, archive, tmp_path, capsys):
    assert main(words(models, archive, tmp_path / "out", "--dry_run")) == 0
    assert "0 of 40 listed are answered; 40 would be asked, at " in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_labelled_ends_in_one_line(models, archive, tmp_path, fails, monkeypatch):
    out = tmp_path / "out"
    base = words(models, archive, out)
    assert "--workers is of Ray: give --engine ray, too" in fails(*base, "--workers", "2")
    assert "--threads is 0: 1 or more is needed" in fails(*base, "--threads", "0")
    assert "--num_cpus is -1: 0 or more is needed" in fails(*base, "--engine", "ray", "--num_cpus", "-1")
    assert "--adapt_by needs a list with that column" in fails(*base, "--adapt_by", "speaker")
    gone = ("label", "/gone", "--output", out, "--model", "/gone/model")  # looked for before the model
    assert "'/gone' does not exist: check the path" in fails(*gone)
    assert "'/gone' does not exist: check the path" in fails(*gone, "--dry_run")
    assert "INPUT" in fails("label", "--output", out)
    assert "--output" in fails("label", archive)
    monkeypatch.setitem(sys.modules, "ray", None)
    line = fails(*base, "--engine", "ray")
    assert "--engine ray needs the package ray" in line
    assert "pip install 'ser-hf[ray]'" in line
    assert not list(out.glob("part-*"))
