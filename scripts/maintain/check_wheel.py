"""Build the wheel and use it as a stranger does: in a new environment, in another folder."""

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LICENCES = (
    "LICENSE",
    "LICENSES/CC-BY-NC-SA-4.0.txt",
    "ser_hf/pretrained/LICENSE-WHISPER",
    "ser_hf/app/web/THIRD_PARTY_LICENSES.txt",
)
"""Texts that lie in the wheel's `dist-info/licenses`."""
LARGEST = 60e6
"""Bytes of a wheel. The package index takes 100 MB."""
MEGABYTE = 1e6


class Fault(Exception):
    """What is wrong with the package."""


def main() -> None:
    """Build, compare, install and try, a line for each; ends with 1 at the first fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reuse", action="store_true", help="take the libraries of this Python, and install the wheel")
    parser.add_argument("--contents", action="store_true", help="build and compare the files alone")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the new environment")
    parser.add_argument("--environment", help="keep it there; where it exists, only the wheel is installed anew")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ser_hf-wheel-") as temporary:
        place = Path(temporary)
        try:
            wheel = report("build and compare", lambda: build_and_compare(place))
            if not args.contents:
                home = Path(args.environment or place / "environment").absolute()
                installed = report("install", lambda: Installed.make(home, place, wheel, args.python, args.reuse))
                for check in CHECKS:
                    report(check.__name__.replace("_", " "), lambda check=check: check(installed))
        except Fault as fault:
            sys.exit(f"the wheel is not in order: {fault}")


def report(title: str, step: Callable[[], Any]) -> Any:
    """Run a step, and print what it says and how long it took."""
    started = time.monotonic()
    result = step()
    print(f"{title:20} {time.monotonic() - started:6.1f} s  {result}", flush=True)
    return result


# what is in the wheel


@dataclass
class Wheel:
    """A wheel and its source distribution."""

    path: Path
    source: Path

    def __str__(self) -> str:
        sizes = [f"{path.name} {path.stat().st_size / MEGABYTE:.1f} MB" for path in (self.path, self.source)]
        return ", ".join([*sizes, f"{len(digests(self.path))} files"])


def build_and_compare(place: Path) -> Wheel:
    """Build both, compare their files with the checkout, and rebuild the wheel of the sources."""
    wheel = build(place / "dist")
    if found := [*wrong_files(digests(wheel.path)), *wrong_sources(wheel.source)]:
        raise Fault("; ".join(found))
    if wheel.path.stat().st_size > LARGEST:
        raise Fault(f"{wheel} is larger than {LARGEST / MEGABYTE:.0f} MB")
    with tarfile.open(wheel.source) as archive:
        archive.extractall(place / "source", filter="data")
    (unpacked,) = (place / "source").iterdir()
    if digests(build(place / "again", unpacked, "wheel").path) != digests(wheel.path):
        raise Fault("the source distribution builds another wheel than the checkout")
    return wheel


def build(output: Path, root: Path = ROOT, *targets: str) -> Wheel:
    """Build the targets of a source tree into a folder, with the hatchling of this environment."""
    words = [word for target in targets or ("sdist", "wheel") for word in ("-t", target)]
    run([sys.executable, "-m", "hatchling", "build", "-d", output, *words], root)
    wheels, sources = sorted(output.glob("*.whl")), sorted(output.glob("*.tar.gz"))
    return Wheel(wheels[-1], sources[-1] if sources else wheels[-1])


def digests(wheel: Path) -> dict[str, str]:
    """The files of a wheel, with a digest of each."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def expected_files(root: Path = ROOT) -> set[str]:
    """What a wheel holds besides its `dist-info`: the package and the templates of its cards."""
    package = {path for path in (root / "ser_hf").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    templates = {f"ser_hf/cards_templates/{path.name}" for path in (root / "cards").iterdir()}
    return {path.relative_to(root).as_posix() for path in package} | templates


def wrong_files(names: Iterable[str], root: Path = ROOT) -> list[str]:
    """What a wheel lacks, and what should not be in it."""
    names, expected = set(names), expected_files(root)
    info = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    found = [f"the wheel lacks {name}" for name in sorted(expected - names)]
    found += [f"the wheel holds {name}, too" for name in sorted(names - expected - info)]
    texts = {name.partition("/licenses/")[2] for name in info}
    return found + [f"the wheel lacks the licence text {name}" for name in LICENCES if name not in texts]


def wrong_sources(source: Path) -> list[str]:
    """What a source distribution lacks, and what is no source."""
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "constraints.txt", "Makefile", "README.md", "tests/conftest.py", "web/build.mjs"}
    others = {name for name in names if {".git", ".venv", "runs", "node_modules"} & set(name.split("/"))}
    found = [f"the source distribution lacks {name}" for name in sorted(needed - names)]
    return found + [f"the source distribution holds {name}, too" for name in sorted(others)[:5]]


# what it does once it is installed


@dataclass
class Installed:
    """A new environment with the wheel, and an empty folder to work in."""

    python: Path
    folder: Path
    size: str

    def __str__(self) -> str:
        return self.size

    @classmethod
    def make(cls, home: Path, place: Path, wheel: Wheel, interpreter: str, reuse: bool) -> "Installed":
        """Make the environment `home`; with `reuse`, of the libraries of this Python."""
        made = cls(home / "bin" / "python", place / "work", "")
        made.folder.mkdir()
        exists = made.python.exists()
        if not exists:
            run([interpreter, "-m", "venv", home], place)
        pip = [made.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if reuse:
            (libraries,) = (home / "lib").glob("python*/site-packages")
            (libraries / "reused.pth").write_text(sysconfig.get_path("purelib") + "\n")
        if reuse or exists:
            run([*pip, "--no-deps", "--force-reinstall", wheel.path], place)
        else:
            run([*pip, "-c", ROOT / "constraints.txt", wheel.path], place)
        made.size = made._measured()
        return made

    def _measured(self) -> str:
        def size(pattern: str) -> float:
            folders = list((self.python.parents[1] / "lib").glob(f"python*/site-packages{pattern}"))
            files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
            return sum(path.stat().st_size for path in files) / 1e9

        gpu = sum(size(f"/{name}") for name in ("nvidia", "triton", "cuda"))
        return f"{size(''):.2f} GB, of it {gpu:.2f} GB for NVIDIA's GPUs alone"

    def run(self, *words: str, code: int = 0) -> str:
        """Run `ser-hf` and give what it printed."""
        return run([self.python.with_name("ser-hf"), *words], self.folder, code)


def run(words: list, folder: Path, code: int = 0) -> str:
    """Run a program in a folder, away from this checkout; give what it printed.

    Raises:
        Fault: with the end of what it said, where it fails.
    """
    done = subprocess.run([str(word) for word in words], cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode not in (0, code):
        shown = " ".join(Path(str(word)).name for word in words[:4])
        raise Fault(f"{shown} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-3000:]}")
    return done.stdout


def environment() -> dict[str, str]:
    """Without a path to the checkout, and without a network for models."""
    left = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return left | {"HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}


IMPORTS = """
import importlib, pkgutil
from importlib import metadata
import ser_hf
for module in pkgutil.walk_packages(ser_hf.__path__, "ser_hf."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if (error.name, module.name) != ("ray", "ser_hf.inference.bulk.ray_engine"):
            raise
print(ser_hf.__file__, metadata.metadata("ser-hf")["License-Expression"], sep="\\n")
"""


def imports(installed: Installed) -> str:
    """Every module can be imported without any extra, but for the one that is an extra's own."""
    place, licence = run([installed.python, "-c", IMPORTS], installed.folder).splitlines()
    if not Path(place).is_relative_to(installed.python.parents[1]):
        raise Fault(f"ser_hf is imported from {place}")
    return licence


def doctor(installed: Installed) -> str:
    """`ser-hf doctor` finds nothing that fails."""
    checks = json.loads(installed.run("doctor", "--json"))
    return ", ".join(f"{check['name']}: {check['status']}" for check in checks)


def data(installed: Installed) -> str:
    """`ser-hf data` builds a dataset of synthetic voices with its card and pictures."""
    installed.run("data", "--synthetic", "--output", "dataset")
    installed.run("audit", "dataset/recordings/ravdess", "--output", "audit", code=3)  # something to decide about
    there(installed, "dataset/README.md", "dataset/pictures/*.png", "dataset/data/*.parquet", "audit/*.html")
    shutil.copy(next((installed.folder / "dataset").rglob("*.wav")), installed.folder / "clip.wav")
    return "dataset with card and pictures, audit"


def predict(installed: Installed) -> str:
    """The bundled model answers."""
    answer = json.loads(installed.run("predict", "clip.wav"))
    if abs(sum(answer["scores"].values()) - 1) > 1e-3:
        raise Fault(f"the scores of {answer} are no probabilities")
    return f"{answer['label']} {answer['score']:.3f}"


def finetune(installed: Installed) -> str:
    """Two steps of training write a model, its card and its plots; reports are made of it."""
    steps = ("--max_steps", "2", "--bf16", "false", "--per_device_train_batch_size", "4")
    installed.run("finetune", "--dataset", "dataset", "--model", "tiny", *steps, "--output_dir", "runs/model")
    installed.run("report", "runs", "--output", "report")
    there(installed, "runs/model/README.md", "runs/model/results.json", "runs/model/plots/*.png")
    there(installed, "report/report.html", "report/report.tex")
    return "model with card and plots, report"


def label(installed: Installed) -> str:
    """`ser-hf label` and its report."""
    installed.run("label", "clip.wav", "--output", "labels")
    installed.run("label-report", "labels")
    there(installed, "labels/*.parquet", "labels/_report/report.html", "labels/_report/report.json")
    return "labels as Parquet, report"


def export(installed: Installed) -> str:
    """`ser-hf export` as a graph and as a page, with the licences of what is in both."""
    where = run([installed.python, "-c", "import ser_hf; print(ser_hf.BUNDLED_MODEL)"], installed.folder).strip()
    installed.run("export", "--model", where, "--output", "graph")
    there(installed, "graph/model.onnx", "graph/LICENSE-WHISPER")
    runtime = ROOT / "web" / "node_modules" / "onnxruntime-web" / "dist"
    if not runtime.is_dir() and shutil.which("npm") is None:
        return "graph; no page, since npm is not installed"
    words = ("--runtime", str(runtime)) if runtime.is_dir() else ()
    installed.run("export", "--web", "--model", where, "--output", "page", *words)
    there(installed, "page/index.html", "page/onnx/model.onnx", "page/examples/*.wav", "page/ort/*.wasm")
    there(installed, "page/THIRD_PARTY_LICENSES.txt", "page/ort/ThirdPartyNotices.txt", "page/LICENSE-WHISPER")
    return "graph and page"


def app(installed: Installed) -> str:
    """`ser-hf app` says that it is well, shows its page and answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    words = [installed.python.with_name("ser-hf"), "app", "--port", address.rpartition(":")[2]]
    with (installed.folder / "app.log").open("w") as log:
        started = subprocess.Popen(
            [str(word) for word in words], cwd=installed.folder, env=environment(), stdout=log, stderr=log
        )
        try:
            return asked(address, started, installed.folder)
        finally:
            started.terminate()
            started.wait(timeout=60)


def asked(address: str, started: subprocess.Popen, folder: Path, seconds: float = 300) -> str:
    """Ask a starting app until it answers, then for its page and for a prediction."""
    until = time.monotonic() + seconds
    while True:
        try:
            health = json.load(urllib.request.urlopen(f"{address}/health", timeout=5))
            break
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if started.poll() is not None or time.monotonic() > until:
                raise Fault(f"the app does not answer:\n{(folder / 'app.log').read_text()[-3000:]}") from None
            time.sleep(0.5)
    page = urllib.request.urlopen(f"{address}/", timeout=60).read().decode()
    content = (folder / "clip.wav").read_bytes()
    answer = json.load(urllib.request.urlopen(f"{address}/predict?name=clip.wav", data=content, timeout=120))
    if health["status"] != "ok" or "gradio" not in page or answer["label"] not in answer["scores"]:
        raise Fault(f"the app answers {health} and {answer}")
    return f"health {health['status']}, page {len(page):,} characters, {answer['label']} {answer['score']:.3f}"


def there(installed: Installed, *patterns: str) -> None:
    """See that a command wrote what it should."""
    missing = [pattern for pattern in patterns if not any(installed.folder.glob(pattern))]
    if missing:
        raise Fault(f"no {', '.join(missing)} was written")


CHECKS: tuple[Callable[[Installed], str], ...] = (imports, doctor, data, predict, finetune, label, export, app)


if __name__ == "__main__":
    main()
