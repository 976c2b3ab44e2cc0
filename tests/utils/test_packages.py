import sys

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from ser_hf.errors import UserError
from ser_hf.utils import packages


def test_a_missing_package_is_named_with_flag_and_remedy():
    with pytest.raises(UserError, match=r"^--better needs the package nowhere_x: pip install nowhere-x$"):
        packages.require("--better", "nowhere_x", "nowhere-x")
    packages.require("--better", "json")


def test_a_package_that_cannot_be_imported_is_no_traceback(tmp_path, monkeypatch):
    (tmp_path / "broken_x.py").write_text("raise OSError('libcuda.so.1 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"^--fast needs the package broken_x, which cannot be imported \(libcuda.so.1 is"
    ):
        packages.require("--fast", "broken_x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"report_to": ["tensorboard", "wandb"]}, "--report_to wandb needs the package wandb: pip install wandb"),
        ({"report_to": "comet_ml"}, "--report_to comet_ml needs the package comet_ml: pip install comet-ml"),
        (
            {"optim": "adamw_bnb_8bit"},
            "--optim adamw_bnb_8bit needs the package bitsandbytes: pip install bitsandbytes",
        ),
        ({"optim": OptimizerNames.ADAMW_TORCH_4BIT}, "--optim adamw_torch_4bit needs the package torchao: pip install"),
        ({"optim": "galore_adamw"}, "--optim galore_adamw needs the package galore_torch: pip install galore-torch"),
        ({"deepspeed": "x.json"}, "--deepspeed needs the package deepspeed: pip install deepspeed"),
        ({"use_liger_kernel": True}, "--use_liger_kernel needs the package liger_kernel: pip install liger-kernel"),
        (
            {"torch_compile_backend": "ipex"},
            "--torch_compile_backend ipex needs the package intel_extension_for_pytorch",
        ),
    ],
)
def test_flags_of_the_trainer_name_their_package(settings, message):
    with pytest.raises(UserError) as caught:
        packages.require_for_trainer({"optim": "adamw_torch", "report_to": [], **settings})
    assert str(caught.value).startswith(message)


def test_every_optimiser_and_reporter_of_transformers_is_known(monkeypatch):
    """A new one in transformers must be looked at: does it need a package?"""
    asked = set()
    monkeypatch.setattr(packages, "require", lambda flag, module, install=None: asked.add(flag.split()[-1]))
    names = {name.value for name in OptimizerNames}
    for optim in names:
        packages.require_for_trainer({"optim": optim})
    plain = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
    assert names - asked == plain
    packages.require_for_trainer({"report_to": list(INTEGRATION_TO_CALLBACK)})
    assert set(INTEGRATION_TO_CALLBACK) - asked == {"kubeflow"}  # which needs a server


def test_nothing_is_asked_of_defaults():
    packages.require_for_trainer({"optim": None, "report_to": ["tensorboard"], "deepspeed": None})
    assert "wandb" not in sys.modules
