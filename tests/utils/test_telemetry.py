"""Libraries send nothing to their makers."""

import os
import subprocess
import sys

import pytest

NAMES = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
SHOW = "import os; print(*(os.environ.get(name) for name in {names!r}))"


def run(code, tmp_path, **more):
    """What a program prints whose settings are not those of the tests."""
    kept = {name: value for name, value in os.environ.items() if name not in NAMES and name != "CI"}
    environment = kept | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)} | more
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("first", ["ser_hf", "ser_hf.inference.backends.onnx_runtime", "ser_hf.cli.main"])
def test_onnx_runtime_keeps_no_device_id_and_no_events(first, tmp_path):
    """It writes both where it would send them from, as soon as it is imported."""
    run(f"import {first}, onnxruntime", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("chosen", [{}, {"ORT_DISABLE_TELEMETRY": "0"}, {"RAY_USAGE_STATS_ENABLED": "1"}])
def test_who_wants_to_send_statistics_may(chosen, tmp_path):
    shown = run(f"import ser_hf; {SHOW.format(names=list(NAMES))}", tmp_path, **chosen)
    assert shown == list((NAMES | chosen).values())
