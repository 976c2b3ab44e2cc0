"""What a CPU must not add up in bf16."""

from types import SimpleNamespace

import torch
from torch import nn

from ser_hf import protocols
from ser_hf.cli.train import parse_finetune
from ser_hf.training import setup
from ser_hf.training.cpu_kernels import widen_norms

ON_CPU = ("--use_cpu", "true")


def gradient(model, clips, bf16):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, bf16):
        heard = model(clips)
    (heard.float() ** 2).mean().backward()
    return model[1].bias.grad.clone()


def test_the_gradient_of_a_norm_is_added_up_in_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16))
    clips = torch.randn(20_000, 16)
    right, rough = gradient(model, clips, False), gradient(model, clips, True)
    for bf16, device in ((False, "cpu"), (True, "cuda")):
        widen_norms(model, SimpleNamespace(bf16=bf16, device=torch.device(device)))
        assert torch.equal(gradient(model, clips, True), rough)
    widen_norms(model, SimpleNamespace(bf16=True, device=torch.device("cpu")))
    kept = gradient(model, clips, True)
    off = [float((one - right).norm() / right.norm()) for one in (rough, kept)]
    assert off[1] < 0.005
    assert off[1] < off[0] / 3
    assert torch.equal(gradient(model, clips, False), right)


def test_a_training_in_bf16_on_a_cpu_widens_the_norms_that_it_trains(built, models, rows, tmp_path):
    def widened(*more):
        words = [
            "--dataset",
            built,
            "--model",
            models["bert"],
            "--output_dir",
            tmp_path,
            "--bf16",
            "true",
            *ON_CPU,
            *more,
        ]
        made = setup.prepare(*parse_finetune(list(map(str, words))), rows, protocols.split(rows))
        heard = []
        for module in made.trained.trainable.modules():
            if isinstance(module, nn.LayerNorm):
                module.register_forward_hook(lambda module, inputs, output: heard.append(output.dtype))
        made.trainer.evaluate()
        return set(heard)

    assert widened() == {torch.float32}
    assert torch.bfloat16 in widened("--mode", "lora")  # the norms of what is frozen have no gradient
