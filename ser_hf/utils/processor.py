"""The processor: its name, and the number formats that it computes in hardware."""

import platform
from pathlib import Path

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


def _cpuinfo() -> dict[str, str]:
    """The fields of the first core."""
    first = CPUINFO.read_text().strip().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
