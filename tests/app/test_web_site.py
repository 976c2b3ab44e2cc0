"""The site whose page runs a model in the browser: its files, its refusals, and its way into the
app."""

import json
import subprocess

import httpx
import pytest
from helpers.app import serving
from helpers.clients import ser_hf
from helpers.small import make_whisper
from huggingface_hub import ModelCard

from ser_hf.app import web_site
from ser_hf.errors import UserError
from ser_hf.inference import web_graphs


def write_runtime(folder):
    """Write files with the names of the runtime's; gives the folder."""
    folder.mkdir()
    for name in web_site.RUNTIME_FILES:
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def runtime(tmp_path):
    return write_runtime(tmp_path / "runtime")


@pytest.fixture(scope="module")
def site(tuned, tmp_path_factory):
    place = tmp_path_factory.mktemp("exported")
    web_site.write_site(tuned, place / "site", write_runtime(place / "runtime"))
    return place / "site"


def test_the_site_is_complete_and_describes_the_model(site, tuned):
    settings = json.loads((site / "ser_hf.json").read_text())
    for name in [*settings["graphs"].values(), *(one["file"] for one in settings["examples"])]:
        assert name is None or (site / name).stat().st_size > 1000
    for name in web_site.RUNTIME_FILES:
        assert (site / "ort" / name).read_bytes() == name.encode()
    licences = ["LICENSE-BACKBONE", "THIRD_PARTY_LICENSES.txt", *(f"ort/{name}" for name in web_site.RUNTIME_NOTICES)]
    assert all((site / name).stat().st_size for name in licences)
    for path in web_site.BUNDLE.rglob("*.*"):
        assert (site / path.relative_to(web_site.BUNDLE)).read_bytes() == path.read_bytes()
    config = json.loads((site / "config.json").read_text())
    assert settings["labels"] == [config["id2label"][str(number)] for number in range(8)]
    assert "feature_extractor_type" in json.loads((site / "preprocessor_config.json").read_text())
    results = json.loads((tuned / "results.json").read_text())
    assert ["accuracy", f"{results['accuracy']:.3f}"] in settings["card"]
    card = (site / "README.md").read_text()
    assert "sdk: static" in card
    assert "app_file: index.html" in card
    assert f"license: {ModelCard.load(tuned / 'README.md').data.license}\n" in card
    assert not any(str(tuned.parent) in path.read_text() for path in (site / "README.md", site / "ser_hf.json"))


def test_a_graph_that_fails_its_check_in_int8_is_left_out(models, tmp_path, monkeypatch):
    write = web_graphs.write_checked

    def refuse(model, extractor, rule, path, int8=False):
        if int8:
            raise UserError("int8 changes 3 of 16 labels")
        return write(model, extractor, rule, path)

    monkeypatch.setattr(web_graphs, "write_checked", refuse)
    (tmp_path / "site").mkdir()
    graphs = web_graphs.write_web_model(models["bert"], tmp_path / "site")["graphs"]
    assert (graphs["int8"], graphs["int8_refused"]) == (None, "int8 changes 3 of 16 labels")
    assert not (tmp_path / "site" / web_graphs.SMALL_GRAPH).exists()


def test_what_cannot_be_exported_leaves_nothing(models, runtime, tmp_path, fails, monkeypatch):
    site = tmp_path / "site"
    base = ("export", "--web", "--model", models["bert"], "--output", site)
    assert f"--runtime is '{tmp_path}', which lacks" in fails(*base, "--runtime", tmp_path)
    monkeypatch.setattr(web_site, "_INSTALLED", tmp_path / "absent")
    monkeypatch.setattr(web_site.files, "cache_dir", lambda *parts: tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(web_site.shutil, "which", lambda name: None)
    assert "install npm, or unpack that package and name its dist as --runtime" in fails(*base)
    monkeypatch.setattr(web_site.shutil, "which", lambda name: "/bin/false")
    assert "npm cannot fetch onnxruntime-web@" in fails(*base)
    monkeypatch.setattr(web_graphs, "KNOWN_EXTRACTORS", ())
    assert "which no browser has: export it without --web" in fails(*base, "--runtime", runtime)
    assert not site.exists()
    site.mkdir()
    assert "exists already" in fails(*base, "--runtime", runtime)


def test_what_npm_fetches_is_unpacked_and_kept(runtime, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    runtime.rename(package / "dist")
    monkeypatch.setattr(web_site, "_INSTALLED", tmp_path / "absent")
    monkeypatch.setattr(web_site.files, "cache_dir", lambda *parts: (tmp_path / "cache").mkdir() or tmp_path / "cache")
    pack = tmp_path / "npm"
    pack.write_text(f"#!/bin/sh\ntar -czf onnxruntime-web.tgz -C {tmp_path} package\n")
    pack.chmod(0o755)
    monkeypatch.setattr(web_site.shutil, "which", lambda name: str(pack))
    folder = web_site.runtime_folder()
    assert sorted(path.name for path in folder.iterdir()) == sorted(web_site.RUNTIME_FILES)
    monkeypatch.setattr(web_site.files, "cache_dir", lambda *parts: tmp_path / "cache")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("it is there"))
    assert web_site.runtime_folder() == folder


def test_the_app_serves_the_page_beside_its_own(site, tuned):
    with serving("--model", tuned, "--backend", "torch", "--web", site) as address:
        page = httpx.get(f"{address}/")
        assert "Analyse in my browser" in page.text
        answer = httpx.get(f"{address}/browser/ser_hf.json")
        assert answer.json()["model"] == tuned.name
        assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "'wasm-unsafe-eval'" in answer.headers["content-security-policy"]
        assert "unsafe-inline" not in answer.headers["content-security-policy"]
        wasm = httpx.get(f"{address}/browser/ort/{web_site.RUNTIME_FILES[1]}")
        assert wasm.headers["content-type"] == "application/wasm"
        assert httpx.get(f"{address}/browser/examples/synthetic%20happy.wav").status_code == 200
        for path in ("/browser/..%2f..%2fetc%2fpasswd", "/browser/absent.js", "/browser/a/b/c/d.js"):
            assert httpx.get(f"{address}{path}").status_code == 404


def test_a_page_of_another_model_is_refused(site, tmp_path, fails):
    other = make_whisper(tmp_path / "other", seconds=5)
    assert "is a page of other weights than those of" in fails("app", "--model", other, "--web", site)
    assert "holds no ser_hf.json" in fails("app", "--model", other, "--web", tmp_path)
    for content in ("", "{}", "[]"):
        (tmp_path / "ser_hf.json").write_text(content)
        assert "ser_hf.json' names no model: export" in fails("app", "--model", other, "--web", tmp_path)


def test_a_page_is_pushed_as_a_static_space(remote, tuned, runtime, tmp_path):
    words = ("push", "--model", tuned, "--web", "you/page", "--runtime", runtime)
    done = ser_hf(remote, tmp_path, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    repo = remote.repos["space"]["you/page"]
    assert done.stdout.strip() == f"page: {remote.url}/spaces/you/page/commit/{repo.head}"
    assert repo.private
    assert {"index.html", "onnx/model.onnx", "ser_hf.json", "README.md"} <= set(repo.files)
