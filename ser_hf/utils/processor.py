"""The processor: its name, the number formats that it has, and what a training takes of them."""

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainingArguments

CPUINFO = Path("/proc/cpuinfo")


def name() -> str:
    """Name and instruction sets of the processor, as far as the system tells them."""
    if not CPUINFO.is_file():
        return f"{platform.machine()} {platform.processor()}".strip()
    fields = _cpuinfo()
    known = [fields[name] for name in ("model name", "flags", "Features") if name in fields]  # Features: on Arm
    return " ".join([platform.machine(), *known])


def has_bfloat16() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware; False where nothing tells it.

    Without such instructions bf16 is emulated, at about a hundredth of the speed of fp32.
    """
    import torch

    arm = CPUINFO.is_file() and "bf16" in _cpuinfo().get("Features", "").split()
    return arm or torch.cpu._is_avx512_bf16_supported()


def training_defaults(given: Mapping[str, Any]) -> dict:
    """Settings of `TrainingArguments` for this machine: its GPU, and whether it computes bf16.

    Args:
        given: the settings that the user gave; `use_cpu` and `fp16` among them decide on bf16.
    """
    import torch

    gpu, apple = torch.cuda.is_available(), torch.backends.mps.is_available()
    use_cpu = given.get("use_cpu", not (gpu or apple))
    of_gpu = gpu and torch.cuda.is_bf16_supported(including_emulation=False)  # older ones emulate it
    bf16 = has_bfloat16() if use_cpu else of_gpu
    return {"use_cpu": use_cpu, "bf16": bf16 and not given.get("fp16", False)}


def warn_of_emulation(args: "TrainingArguments") -> None:
    """Say on stderr that the processor emulates the precision that was asked for."""
    asked = [name for name in ("bf16", "bf16_full_eval", "fp16", "fp16_full_eval") if getattr(args, name)]
    emulated = [name for name in asked if name.startswith("fp16") or not has_bfloat16()]
    if emulated and args.device.type == "cpu" and args.process_index == 0:
        flags = " ".join(f"--{name} false" for name in emulated)
        print(f"the processor emulates {emulated[0][:4]}, which is far slower than fp32: give {flags}", file=sys.stderr)


def _cpuinfo() -> dict[str, str]:
    """The fields of the first core."""
    first = CPUINFO.read_text().strip().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
