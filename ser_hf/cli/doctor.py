"""`ser-hf doctor`: what this installation can do, and the one line that mends what it cannot.

Every import that may fail stands in the check that reports it: the command has to work where torch,
torchaudio or transformers cannot be imported.
"""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ser_hf.cli.output import quiet_transformers
from ser_hf.cli.settings import CommandLine
from ser_hf.errors import UserError, first_line
from ser_hf.utils import files

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "ser-hf"
EXIT_FAILED = 2
GIGABYTE = 1e9
DISK_NEEDED, DISK_WISE = 0.5, 5.0
"""Free gigabytes without which nothing works; with which a backbone and a dataset fit."""
HUB_TIMEOUT = 5.0
"""Seconds to wait for the Hub."""
_ABILITIES = {
    "baselines": "eGeMAPS baselines",
    "ffmpeg": "PyAV: recordings of phones and browsers (m4a, mp4, webm, aac, amr)",
    "mcp": "ser-hf app --mcp",
    "ray": "ser-hf label --engine ray",
    "search": "ser-hf finetune --search",
}
"""What an extra adds. The extra `dev` is for those who change this package."""


@dataclass(frozen=True)
class Check:
    """What a check found, and the line that mends it.

    `warn`: something optional is missing. `fail`: something needed is.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


@dataclass
class DoctorSettings:
    """How `ser-hf doctor` reports."""

    json: bool = field(default=False, metadata={"help": "print the checks as JSON"})


def doctor(line: CommandLine) -> int:
    """Check this installation, and name the one line that mends each problem.

    The exit code is 2 where something fails that is needed.

    Example:
        ser-hf doctor
    """
    settings = line.parse(DoctorSettings)
    checks = run_checks()
    print(json.dumps([asdict(check) for check in checks], indent=2) if settings.json else checks_table(checks))
    return EXIT_FAILED if any(check.status == "fail" for check in checks) else 0


def run_checks() -> list[Check]:
    """Run every check of `CHECKS`, in that order."""
    return [check for function in CHECKS for check in function()]


def checks_table(checks: list[Check]) -> str:
    """A line for each check, and its remedy below it."""
    lines, width = [], max(len(check.name) for check in checks)
    for check in checks:
        lines.append(f"{check.status:4}  {check.name:{width}}  {check.detail}")
        lines += [f"{'':{width + 8}}→ {check.remedy}"] if check.remedy else []
    return "\n".join(lines)


def check_python() -> Iterator[Check]:
    """The version of Python that the package asks for."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    try:
        wanted = metadata.metadata(PACKAGE)["Requires-Python"]
    except metadata.PackageNotFoundError:
        yield Check("python", "ok", version)
        return
    if SpecifierSet(wanted).contains(version, prereleases=True):
        yield Check("python", "ok", version)
    else:
        yield Check("python", "fail", f"{version}, but {wanted} is needed", f"install Python {wanted} and reinstall")


def check_packages() -> Iterator[Check]:
    """The required packages, in the versions that the package pins."""
    requirements = _requirements(PACKAGE)
    if not requirements:
        yield Check("packages", "warn", f"{PACKAGE} is not installed, only on the path", "pip install -e .")
        return
    wrong = list(_unmet(requirements))
    if not wrong:
        names = ("torch", "torchaudio", "transformers", "datasets", "gradio")
        versions = ", ".join(f"{name} {_version(name)}" for name in names)
        yield Check("packages", "ok", f"{len(requirements)} as pinned: {versions}")
        return
    details = [f"{requirement.name} is {_version(requirement.name) or 'not installed'}" for requirement in wrong]
    yield Check("packages", "fail", ", ".join(details), _pip_install(wrong))


def check_torch() -> Iterator[Check]:
    """Whether torch and torchaudio are of one release and can be imported together."""
    versions = {name: _version(name) for name in ("torch", "torchaudio")}
    pins = [pin for pin in _requirements(PACKAGE) if pin.name in versions]
    remedy = _pip_install(pins) if pins else "pip install -e ."
    releases = {(version or "none").split("+")[0] for version in versions.values()}
    pair = " and ".join(f"{name} {version or 'is not installed'}" for name, version in versions.items())
    if len(releases) > 1:
        yield Check("torch", "fail", f"{pair} are no pair: both are of one release", remedy)
        return
    try:
        for name in versions:
            import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # a pair that does not fit: any of these
        yield Check("torch", "fail", f"{pair} cannot be imported: {first_line(error)}", remedy)
        return
    yield Check("torch", "ok", pair)


def check_gpu() -> Iterator[Check]:
    """A GPU that the driver shows and torch cannot use. No GPU at all is fine."""
    if shutil.which("nvidia-smi") is None:
        yield Check("gpu", "ok", "none from NVIDIA: the CPU or Apple's GPU computes")
        return
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Check("gpu", "warn", f"nvidia-smi does not answer: {first_line(error)}", "reinstall the NVIDIA driver")
        return
    gpus = [row.split(" (UUID")[0] for row in listing.stdout.splitlines() if row.startswith("GPU ")]
    if listing.returncode or not gpus:
        yield Check("gpu", "warn", "nvidia-smi shows no GPU", "reinstall the NVIDIA driver, or go on with the CPU")
        return
    try:
        import torch
    except (ImportError, OSError):
        yield Check("gpu", "warn", f"{gpus[0]}: torch cannot be imported", "mend torch first")
        return
    if torch.cuda.is_available():
        yield Check("gpu", "ok", ", ".join(gpus))
        return
    yield Check("gpu", "warn", f"torch cannot use {gpus[0]}", _gpu_remedy(torch.version.cuda))


def _gpu_remedy(cuda: str | None) -> str:
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "unset CUDA_VISIBLE_DEVICES"
    if cuda is None:
        return "install the CUDA builds of torch and torchaudio: these are for the CPU alone"
    return f"update the NVIDIA driver to one for CUDA {cuda}"


def check_disk() -> Iterator[Check]:
    """Free space where models and datasets are cached."""
    place = _cache_home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIGABYTE
    detail = f"{free:,.1f} GB free at {place}"
    remedy = "free some space, or export HF_HOME=DIR on a larger disk"
    if free < DISK_NEEDED:
        yield Check("disk", "fail", f"{detail}: {DISK_NEEDED:g} GB are needed", remedy)
    elif free < DISK_WISE:
        yield Check("disk", "warn", f"{detail}: a backbone and a dataset take about {DISK_WISE:g} GB", remedy)
    else:
        yield Check("disk", "ok", detail)


def check_cache() -> Iterator[Check]:
    """Whether the cache folder can be written."""
    try:
        folder = files.cache_dir()
        with tempfile.TemporaryFile(dir=folder):
            pass
    except ImportError as error:
        yield Check("cache", "fail", f"huggingface_hub cannot be imported: {first_line(error)}", "mend packages first")
    except OSError as error:
        detail = f"'{error.filename or _cache_home()}' cannot be written: {error.strerror}"
        yield Check("cache", "fail", detail, "export HF_HOME=DIR, a folder that you can write")
    else:
        yield Check("cache", "ok", f"{folder} can be written")


def check_ffmpeg() -> Iterator[Check]:
    """The program `ffmpeg`, which nothing here needs."""
    program = shutil.which("ffmpeg")
    yield Check("ffmpeg", "ok", program or "not found, and not needed: libsndfile decodes, and PyAV where installed")


def check_extras() -> Iterator[Check]:
    """Which optional abilities are installed."""
    for extra, ability in _ABILITIES.items():
        requirements = _requirements(PACKAGE, extra)
        if not requirements:
            continue
        wrong = list(_unmet(requirements))
        if wrong:
            yield Check(f"extra {extra}", "warn", f"not installed; it adds {ability}", _pip_install(wrong))
        else:
            yield Check(f"extra {extra}", "ok", ability)


def check_hub() -> Iterator[Check]:
    """Whether the Hub can be reached. Models and datasets in the cache load without it."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield Check("hub", "ok", "HF_HUB_OFFLINE is set: what is in the cache loads")
        return
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # an error status is an answer, too
            urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()
    except (OSError, ValueError) as error:
        error = getattr(error, "reason", error)  # what URLError wraps
        remedy = "check network and proxy, or export HF_HUB_OFFLINE=1 to work from the cache"
        yield Check("hub", "warn", f"{endpoint} cannot be reached: {first_line(error)}", remedy)
        return
    yield Check("hub", "ok", f"{endpoint} can be reached")


def check_bundled_model() -> Iterator[Check]:
    """Whether the bundled model loads and predicts a synthetic voice, and on which backend."""
    remedy = f"mend what fails above, or reinstall {PACKAGE}"
    try:
        import numpy as np

        from ser_hf import BUNDLED_MODEL
        from ser_hf.audio import synthesis
        from ser_hf.inference.backends import auto_backend
        from ser_hf.inference.predictor import Predictor

        quiet_transformers()
        rng = np.random.default_rng(0)
        clip = synthesis.synthesize(
            synthesis.SyntheticVoice.of("doctor", female=True), "happy", [0, 1, 2, 3, 4, 1], rng
        )
        prediction = Predictor().predict(clip.astype(np.float32))
        choice, _ = auto_backend.choose(BUNDLED_MODEL)
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError, UserError) as error:
        yield Check("bundled model", "fail", f"it predicts nothing: {first_line(error)}", remedy)
        return
    total = sum(prediction["scores"].values())
    if not abs(total - 1) <= 1e-3:  # so that NaN fails, too
        yield Check("bundled model", "fail", f"its scores add up to {total:.3f}, not 1", remedy)
    else:
        detail = f"predicts '{prediction['label']}' for a synthetic voice ({prediction['score']:.2f})"
        yield Check("bundled model", "ok", detail)
        yield Check("backend", "ok", f"auto runs the bundled model on {choice.backend}: {choice.reason}")


CHECKS: tuple[Callable[[], Iterable[Check]], ...] = (
    check_python,
    check_packages,
    check_torch,
    check_gpu,
    check_disk,
    check_cache,
    check_ffmpeg,
    check_extras,
    check_hub,
    check_bundled_model,
)


def _cache_home() -> Path:
    """The folder that huggingface_hub would choose, also where that cannot be imported."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{cache}/huggingface")).expanduser()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements(package: str, extra: str = "") -> "list[Requirement]":
    """What a package or one of its extras requires; nothing where it is not installed."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []
    requirements = [Requirement(line) for line in lines]
    plain = [line for line in requirements if line.marker is None or line.marker.evaluate({"extra": ""})]
    if not extra:
        return plain
    return [line for line in requirements if line not in plain and line.marker.evaluate({"extra": extra})]


def _unmet(requirements: "list[Requirement]") -> "Iterator[Requirement]":
    """Those that are not installed, or in another version; extras of extras included."""
    for requirement in requirements:
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            yield requirement
        else:
            nested = [part for extra in requirement.extras for part in _requirements(requirement.name, extra)]
            if any(_unmet(nested)):
                yield requirement


def _pip_install(requirements: "list[Requirement]") -> str:
    names = []
    for requirement in requirements:
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        names.append(f"'{requirement.name}{extras}{requirement.specifier}'")
    return f"pip install {' '.join(names)}"
