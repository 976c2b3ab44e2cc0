"""What the system tells of its processor."""

import pytest
import torch

from ser_hf.utils import processor

AVX2 = (
    "processor\t: 0\nmodel name\t: Core i5\nflags\t\t: fpu avx2\npower management:\n\nprocessor\t: 1\nflags\t: other\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name"), [(AVX2, "Core i5 fpu avx2"), (ARM.format("bf16"), "fp asimd bf16"), ("", "")]
)
def test_the_processor_is_named_by_its_first_core(cpuinfo, name, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor.platform, "machine", lambda: "machine")
    assert processor.name() == f"machine {name}".strip()


def test_without_a_listing_the_system_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(processor.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(processor.platform, "processor", lambda: "apple")
    assert processor.name() == "arm64 apple"


@pytest.mark.parametrize(
    ("cpuinfo", "avx512", "has"),
    [(AVX2, False, False), (AVX2, True, True), (ARM.format("bf16"), False, True), (ARM.format("bf16x"), False, False)],
)
def test_bf16_is_what_the_processor_multiplies(cpuinfo, avx512, has, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert processor.has_bfloat16() is has
