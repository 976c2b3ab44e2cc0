"""Which precision a machine trains in by default, and what is said of one that it emulates."""

from types import SimpleNamespace

import pytest
import torch

from ser_hf.inference.backends import torch_backend
from ser_hf.training import config
from ser_hf.training.pretraining import pretrain
from ser_hf.training.pretraining.config import PretrainConfig
from ser_hf.utils import processor


@pytest.fixture
def machine(monkeypatch):
    """Sets whether there is a GPU, and what computes bf16 in hardware."""

    def make(gpu=False, gpu_bf16=False, cpu_bf16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or gpu_bf16
        )
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(processor, "has_bfloat16", lambda: cpu_bf16)

    return make


@pytest.mark.parametrize(
    ("hardware", "given", "use_cpu", "bf16"),
    [
        ({}, {}, True, False),
        ({"cpu_bf16": True}, {}, True, True),
        ({"gpu": True, "gpu_bf16": True}, {}, False, True),
        ({"gpu": True, "cpu_bf16": True}, {}, False, False),  # an older GPU emulates it
        ({"gpu": True, "gpu_bf16": True}, {"use_cpu": True}, True, False),
        ({"gpu": True, "cpu_bf16": True}, {"use_cpu": True}, True, True),
        ({"cpu_bf16": True}, {"fp16": True}, True, False),  # one of both
    ],
)
def test_bf16_is_the_default_where_what_trains_has_it(hardware, given, use_cpu, bf16, machine):
    machine(**hardware)
    assert processor.training_defaults(given) == {"use_cpu": use_cpu, "bf16": bf16}


@pytest.mark.parametrize(
    ("settings", "cpu_bf16", "said"),
    [
        ({"bf16": True}, False, "the processor emulates bf16, which is far slower than fp32: give --bf16 false"),
        ({"bf16_full_eval": True}, False, "give --bf16_full_eval false"),
        ({"fp16": True}, True, "the processor emulates fp16, which is far slower than fp32: give --fp16 false"),
        ({"bf16": True}, True, ""),
        ({}, False, ""),
    ],
)
def test_a_precision_that_the_processor_emulates_is_said(settings, cpu_bf16, said, machine, tmp_path, capsys):
    machine(cpu_bf16=cpu_bf16)
    args = config.training_arguments(
        config.FinetuneConfig(dataset="d", model="tiny", protocol="speaker"), output_dir=str(tmp_path), **settings
    )
    assert args.bf16 == settings.get("bf16", cpu_bf16 and "fp16" not in settings)
    err = capsys.readouterr().err
    assert said in err
    assert ("emulates" in err) == bool(said)


def test_a_pretraining_says_it_too(machine, tmp_path, capsys):
    machine()
    settings = PretrainConfig(dataset="d", model="tiny", output=str(tmp_path / "model"), bf16=True)
    assert pretrain._arguments(settings, tmp_path).bf16
    assert "the processor emulates bf16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "cpu_bf16", "said"), [("cpu", False, True), ("cpu", True, False), ("meta", False, False)]
)
def test_a_model_in_bf16_says_it_too(device, cpu_bf16, said, machine, monkeypatch, capsys):
    machine(cpu_bf16=cpu_bf16)
    model = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace()
    monkeypatch.setattr(torch_backend.loading, "load_for_prediction", lambda *args: (model, None, None))
    monkeypatch.setattr(torch_backend.loading, "digest", lambda model: "")
    monkeypatch.setattr(torch_backend.loading, "last_linear", lambda model: model)
    torch_backend.TorchBackend("model", device, bfloat16=True)
    assert ("the processor emulates bf16" in capsys.readouterr().err) == said
