"""A static site whose page runs a model in the visitor's own browser.

The folder is complete: page, model, runtime, examples. It is a static Space of the Hub, too, and
any server of files serves it. Nothing that a visitor says leaves their machine.
"""

import json
import shutil
import subprocess
import tarfile
import tempfile
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, SpaceCardData

from ser_hf import __version__
from ser_hf.app.examples import write_examples
from ser_hf.app.figures import result_rows, warnings
from ser_hf.errors import UserError
from ser_hf.evaluation.results import Results
from ser_hf.inference import web_graphs
from ser_hf.utils import files, templates

BUNDLE = Path(__file__).parent / "web"
"""The page as `make web` builds it."""
RUNTIME_FILES = tuple(
    f"ort-wasm-simd-threaded{kind}.{ending}" for kind in ("", ".asyncify") for ending in ("mjs", "wasm")
)
"""Files of ONNX Runtime Web: for WebAssembly alone, and for WebGPU."""
RUNTIME_NOTICES = ("LICENSE", "ThirdPartyNotices.txt")
"""Licences of the runtime and of what it is built of, as its package for Python ships them."""
_INSTALLED = Path(__file__).parents[2] / "web" / "node_modules" / "onnxruntime-web" / "dist"


def write_site(
    model: str | PathLike,
    output: str | PathLike,
    runtime: str | PathLike | None = None,
    revision: str | None = None,
    beside: Path | None = None,
) -> dict[str, Any]:
    """Write a folder that predicts in the browser of whoever opens its page.

    Args:
        model: a folder that fine-tuning wrote, or a Hub id.
        output: must not exist yet.
        runtime: folder with `RUNTIME_FILES` of onnxruntime-web; found or fetched by npm if None.
        revision: of a Hub id.
        beside: folder with the model's `results.json`; that of the model if None.

    Returns:
        What the page is told: the settings of `web_graphs.write_web_model`, and its own.

    Raises:
        UserError: where the model cannot be exported or the runtime is missing; nothing is written.
    """
    files.refuse_existing(output)
    runtime = runtime_folder(runtime)
    folder = beside or (Path(model) if Path(model).is_dir() else None)
    results = Results.beside(folder)
    name = Path(model).resolve().name if Path(model).exists() else str(model)
    with files.new_folder(output) as site:
        settings = web_graphs.write_web_model(model, site, revision)
        shutil.copytree(BUNDLE, site, dirs_exist_ok=True)
        (site / "ort").mkdir()
        for file in RUNTIME_FILES:
            shutil.copy(runtime / file, site / "ort" / file)
        spec = find_spec("onnxruntime")
        assert spec is not None  # the model was written by it
        assert spec.origin is not None
        for file in RUNTIME_NOTICES:
            shutil.copy(Path(spec.origin).with_name(file), site / "ort")
        examples = write_examples(site / "examples")
        rows = [("model", name), ("labels", ", ".join(settings["labels"]))]
        settings |= {
            "model": name,
            "version": __version__,
            "examples": [{"file": f"examples/{path.name}", "label": path.stem} for path in examples],
            "card": [*rows, *(result_rows(results) if results else [])],
            "warnings": warnings(results),
        }
        (site / "ser_hf.json").write_text(json.dumps(settings, ensure_ascii=False) + "\n")
        (site / "README.md").write_text(_card(name, folder))
    return settings


def runtime_folder(given: str | PathLike | None = None) -> Path:
    """The folder with onnxruntime-web: the one given, that of a checkout, or one that npm fetches.

    Raises:
        UserError: where none has its files.
    """
    version = json.loads((BUNDLE / "versions.json").read_text())["onnxruntime-web"]
    if given is not None or _has_runtime(_INSTALLED):
        folder = Path(given or _INSTALLED)
        if not _has_runtime(folder):
            raise UserError(
                f"--runtime is '{folder}', which lacks {RUNTIME_FILES[0]}: name dist of onnxruntime-web {version}"
            )
        return folder
    cached = files.cache_dir("onnxruntime-web", version)
    with files.cache_lock(cached):
        if not _has_runtime(cached / "package" / "dist"):
            _fetch(version, cached)
    return cached / "package" / "dist"


def _has_runtime(folder: Path) -> bool:
    return all((folder / name).is_file() for name in RUNTIME_FILES)


def _fetch(version: str, folder: Path) -> None:
    package = f"onnxruntime-web@{version}"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"a page needs {package}: install npm, or unpack that package and name its dist as --runtime")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:  # cut off, it leaves nothing half unpacked
        done = subprocess.run([npm, "pack", package, "--silent"], cwd=temporary, capture_output=True, text=True)
        archives = sorted(Path(temporary).glob("*.tgz"))
        if done.returncode or not archives:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:160]
            raise UserError(f"npm cannot fetch {package} ({reason}): name its dist as --runtime")
        with tarfile.open(archives[-1]) as archive:
            archive.extractall(temporary, filter="data")
        Path(temporary, "package").rename(folder / "package")


def _card(model: str, folder: Path | None) -> str:
    # the folder holds the weights: their licence is the stricter one
    card = folder / "README.md" if folder else None
    licence = ModelCard.load(card).data.license if card and card.is_file() else None
    data = SpaceCardData(
        title=f"Speech emotion: {model.rpartition('/')[2]}",
        emoji="🎤",
        sdk="static",
        app_file="index.html",
        license=licence or "other",
        short_description="Which emotion does a voice express?",
        tags=["speech-emotion-recognition", "audio-classification", "ser_hf"],
        # the page asks for these headers by itself where a host does not send them
        custom_headers={"cross-origin-embedder-policy": "require-corp", "cross-origin-opener-policy": "same-origin"},
    )
    return templates.render_card("web.md.jinja", data, model=model)
