"""`ser-hf doctor`: each fault that it names, and the line that mends it."""

import json
import os
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
from helpers.loopback_hub import Hub

from ser_hf.cli import doctor
from ser_hf.cli.main import main
from ser_hf.errors import UserError
from ser_hf.inference.predictor import Predictor

REQUIRES = [
    "torch==2.11.0",
    "torchaudio==2.11.0",
    "gradio<7,>=6.31",
    "optuna>=4; extra == 'search'",
    "gradio[mcp]<7,>=6.31; extra == 'mcp'",
]
VERSIONS = {"torch": "2.11.0+cpu", "torchaudio": "2.11.0", "gradio": "6.31.0"}


@pytest.fixture
def installed(monkeypatch):
    """The versions that are installed, by name; a test changes them."""
    versions = dict(VERSIONS)

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    requires = {"ser-hf": REQUIRES, "gradio": ["mcp>=1.21; extra == 'mcp'"]}
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: requires.get(name, []))
    return versions


def result(function):
    (check,) = function()
    return check


def test_this_installation_is_in_order(monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert {"python", "packages", "torch", "gpu", "disk", "cache", "ffmpeg", "hub", "bundled model"} <= set(checks)
    assert {check["status"] for check in checks.values()} <= {"ok", "warn"}
    assert checks["bundled model"]["status"] == "ok"
    assert "HF_HUB_OFFLINE is set" in checks["hub"]["detail"]


def test_a_failure_ends_with_exit_code_2_and_its_remedy(monkeypatch, capsys):
    checks = [doctor.Check("disk", "ok", "80 GB free"), doctor.Check("torch", "fail", "no pair", "pip install torch")]
    monkeypatch.setattr(doctor, "CHECKS", (lambda: checks,))
    assert main(["doctor"]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "ok    disk   80 GB free",
        "fail  torch  no pair",
        "             → pip install torch",
    ]
    monkeypatch.setattr(doctor, "CHECKS", (lambda: [doctor.Check("hub", "warn", "no answer")],))
    assert main(["doctor"]) == 0


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["torchaudio"] = None  # an import raises ImportError
from ser_hf.cli.main import main
sys.exit(main(["doctor"]))
"""


def test_it_runs_where_torch_cannot_be_imported():
    command = [sys.executable, "-c", WITHOUT_TORCH]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 2, run.stderr[-2000:]
    failed = [line for line in run.stdout.splitlines() if line.startswith("fail")]
    assert [line.split("  ")[1].strip() for line in failed] == ["torch", "bundled model"]
    assert "torchaudio" in run.stdout.split("→ pip install")[1]


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    check = result(doctor.check_python)
    assert (check.status, check.detail) == ("fail", "3.9.1, but >=3.11 is needed")


def test_packages_in_other_versions(installed):
    assert result(doctor.check_packages).status == "ok"
    installed["gradio"] = "5.0.0"
    del installed["torchaudio"]
    check = result(doctor.check_packages)
    assert (check.status, check.detail) == ("fail", "torchaudio is not installed, gradio is 5.0.0")
    assert check.remedy == "pip install 'torchaudio==2.11.0' 'gradio<7,>=6.31'"


def test_torch_and_torchaudio_of_two_releases(installed):
    assert result(doctor.check_torch).status == "ok"  # a local build is of its release
    installed["torchaudio"] = "2.10.0"
    check = result(doctor.check_torch)
    assert (check.status, check.remedy) == ("fail", "pip install 'torch==2.11.0' 'torchaudio==2.11.0'")
    assert "torch 2.11.0+cpu and torchaudio 2.10.0 are no pair" in check.detail


@pytest.mark.parametrize("error", [ImportError("no torch"), OSError("undefined symbol\nmore"), RuntimeError("no ops")])
def test_a_torch_that_cannot_be_imported(installed, monkeypatch, error):
    def import_module(name):
        raise error

    monkeypatch.setattr(doctor, "import_module", import_module)
    check = result(doctor.check_torch)
    assert check.status == "fail"
    assert str(error).splitlines()[0] in check.detail
    assert "more" not in check.detail


@pytest.mark.parametrize(
    ("cuda", "visible", "remedy"),
    [
        (None, None, "install the CUDA builds"),
        ("12.8", None, "update the NVIDIA driver to one for CUDA 12.8"),
        ("12.8", "", "unset CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_torch_cannot_use(monkeypatch, cuda, visible, remedy):
    import torch

    shown = SimpleNamespace(returncode=0, stdout="GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\n")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *args, **kwargs: shown)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    check = result(doctor.check_gpu)
    assert (check.status, check.detail) == ("warn", "torch cannot use GPU 0: NVIDIA H100 80GB HBM3")
    assert remedy in check.remedy
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert result(doctor.check_gpu).status == "ok"


@pytest.mark.parametrize(("free", "status"), [(1e8, "fail"), (1e9, "warn"), (9e9, "ok")])
def test_a_full_disk(monkeypatch, free, status):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    check = result(doctor.check_disk)
    assert check.status == status
    assert ("HF_HOME" in check.remedy) is (status != "ok")


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    def cache_dir():
        raise PermissionError(13, "Permission denied", "/cache")

    monkeypatch.setattr(doctor.files, "cache_dir", cache_dir)
    check = result(doctor.check_cache)
    assert (check.status, check.detail) == ("fail", "'/cache' cannot be written: Permission denied")
    assert "export HF_HOME=DIR" in check.remedy
    monkeypatch.setattr(doctor.files, "cache_dir", lambda: tmp_path)
    assert result(doctor.check_cache).status == "ok"
    assert not list(tmp_path.iterdir())


def test_extras_that_are_missing(installed):
    checks = {check.name: check for check in doctor.check_extras()}
    assert {name: check.status for name, check in checks.items()} == {"extra search": "warn", "extra mcp": "warn"}
    assert checks["extra search"].remedy == "pip install 'optuna>=4'"
    assert checks["extra mcp"].remedy == "pip install 'gradio[mcp]<7,>=6.31'"
    installed.update(optuna="4.1", mcp="1.22.0")
    assert {check.status for check in doctor.check_extras()} == {"ok"}


def test_the_hub_reached_or_not(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with Hub() as remote:
        monkeypatch.setenv("HF_ENDPOINT", remote.url)
        assert result(doctor.check_hub).status == "ok"
    check = result(doctor.check_hub)  # nobody listens there any more
    assert check.status == "warn"
    assert f"{remote.url} cannot be reached" in check.detail


def test_a_bundled_model_that_does_not_predict(monkeypatch):
    def predict(self, clip):
        raise UserError("'pretrained' holds no weights")

    monkeypatch.setattr(Predictor, "predict", predict)
    check = result(doctor.check_bundled_model)
    assert (check.status, check.detail) == ("fail", "it predicts nothing: 'pretrained' holds no weights")
    monkeypatch.setattr(Predictor, "predict", lambda self, clip: {"label": "sad", "score": 0.4, "scores": {"sad": 0.4}})
    assert "add up to 0.400" in result(doctor.check_bundled_model).detail
