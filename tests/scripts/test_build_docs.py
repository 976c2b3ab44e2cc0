"""The documentation as a site: built whole, read without a network, searched from file://."""

import importlib.util
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from helpers.chromium import launched
from helpers.small import ROOT


@pytest.fixture(scope="module")
def build_docs(load_script):
    return load_script("maintain/build_docs")


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "theme" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def site(load_script, once):
    """The folder of the site with version 1.2.3, built once."""

    def make(folder):
        build_docs = load_script("maintain/build_docs")
        assert build_docs.build("1.2.3", folder / "site", "https://site.example/repository") == 0
        build_docs.write_versions(folder / "site")

    return once("site", lambda folder: make(folder) or folder / "site")


class Page(HTMLParser):
    """What a page of the site links to, what it loads, and its anchors."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        address = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
        if address:
            self.loaded.append(address)


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text()) for path in sorted((site / "1.2.3").rglob("*.html"))}


def test_every_page_names_its_version(site, pages):
    names = {path.relative_to(site / "1.2.3").as_posix() for path in pages}
    assert {"index.html", "data.html", "reference.html", "contributing.html", "changelog.html"} <= names
    assert {"studies/index.html", "studies/bundled_model.html"} <= names
    for path in pages:
        assert re.search(r"md-copyright__highlight\">\s*ser_hf 1\.2\.3\s*<", path.read_text()), path
    assert (site / "versions.js").read_text() == 'window.VERSIONS = ["1.2.3"];\n'
    assert "url=1.2.3/index.html" in (site / "index.html").read_text()


def test_no_page_loads_anything_from_elsewhere(pages):
    assert {address for page in pages.values() for address in page.loaded if "//" in address} == set()
    assert not any('class="mermaid"' in path.read_text() for path in pages)  # the theme would fetch its code


def test_every_link_of_the_site_leads_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            known = pages[target].anchors if target in pages else set()
            if not target.is_file() or (address.fragment and unquote(address.fragment) not in known | {"__top"}):
                broken.append((path.name, link))
    assert broken == []


def test_a_page_is_edited_where_it_lies(site):
    text = (site / "1.2.3" / "contributing.html").read_text()
    assert 'href="https://site.example/repository/edit/main/CONTRIBUTING.md"' in text
    assert "repository/edit/main/docs/data.md" in (site / "1.2.3" / "data.html").read_text()


def test_the_public_names_are_documented(site):
    import ser_hf

    text = (ROOT / "docs" / "reference.md").read_text()
    assert [name for name in ser_hf._PUBLIC.values() if name.rpartition(".")[2] not in text] == []
    page = Page((site / "1.2.3" / "reference.html").read_text())
    shown = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    assert shown <= page.anchors
    assert "ser_hf.inference.predictor.Predictor.predict" in page.anchors


def test_the_search_works_from_a_folder(site):
    with launched("no microphone.wav") as browser:
        visit = browser.new_context(offline=True).new_page()
        visit.goto(f"file://{site}/index.html")
        visit.wait_for_url("**/1.2.3/index.html")
        assert visit.locator(".md-version__current").inner_text() == "1.2.3"
        field = visit.locator("input.md-search__input")
        field.click()
        for word, page in (("abstain_below", "reference"), ("kubernetes", "scaling"), ("reverberation", "evidence")):
            field.fill("")
            field.press_sequentially(word)
            result = visit.locator(f".md-search-result__link[href*='{page}']").first
            result.wait_for()
        result.click()
        visit.wait_for_url("**/1.2.3/evidence.html?h=*")
        assert "everberation" in visit.locator("article").inner_text()


def test_versions_are_listed_newest_first(build_docs, tmp_path):
    for name in ("0.9.0", "dev", "0.10.0", "assets", ".build-1"):
        (tmp_path / name).mkdir()
    assert build_docs.write_versions(tmp_path) == ["0.10.0", "0.9.0", "dev"]
    assert "url=0.10.0/index.html" in (tmp_path / "index.html").read_text()
    for name in ("0.9.0", "0.10.0"):
        (tmp_path / name).rmdir()
    assert build_docs.write_versions(tmp_path) == ["dev"]
    assert "url=dev/index.html" in (tmp_path / "index.html").read_text()


BROKEN = ["nothing.md", "more.md#nothing", "#nothing", "../configs/nothing.yaml", "/more.md", "more"]


def test_a_broken_link_is_an_error_and_leaves_what_was_there(build_docs, tmp_path, monkeypatch, capfd):
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    kept = {name: config[name] for name in ("site_name", "strict", "validation")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(kept | {"theme": {"name": "mkdocs"}, "plugins": []}))
    for folder in ("docs", "site/dev"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs" / "more.md").write_text("# More\n")
    (tmp_path / "docs" / "index.md").write_text(
        "# Here\n\n[this](#here), [more](more.md#more)\n" + "".join(f"[broken]({link})\n" for link in BROKEN)
    )
    (tmp_path / "site" / "dev" / "index.html").write_text("before")
    monkeypatch.setattr(build_docs, "ROOT", tmp_path)
    assert build_docs.build("dev", tmp_path / "site") != 0
    said = capfd.readouterr().err
    assert [link for link in BROKEN if f"link '{link}'" not in said] == []
    assert said.count("WARNING") == 6
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["dev"]
    assert (tmp_path / "site" / "dev" / "index.html").read_text() == "before"


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("README.md", "index.md"),
        ("docs/data.md", "data.md"),
        ("docs/pictures/page.png", "pictures/page.png"),
        ("studies/bundled_model.md", "studies/bundled_model.md"),
        ("CONTRIBUTING.md", "contributing.md"),
        (".github/SECURITY.md", "github/SECURITY.md"),
        ("scripts/maintain/release.py", "source/scripts/maintain/release.py.md"),
        ("web/icon.png", "source/web/icon.png"),
    ],
)
def test_places_in_the_site(hooks, path, uri):
    assert hooks.site_uri(path) == uri


@pytest.mark.parametrize(
    ("page", "markdown", "expected"),
    [
        ("README.md", "[a](docs/data.md#audit)", "[a](data.md#audit)"),
        ("docs/data.md", "[a](../studies/README.md)", "[a](studies/README.md)"),
        ("studies/README.md", "[a](../docs/data.md), [](https://x.example)", "[a](../data.md), [](https://x.example)"),
        ("docs/data.md", "```\n[](../README.md)\n```\n[](../README.md)", "```\n[](../README.md)\n```\n[](index.md)"),
        ("docs/data.md", '<a href="../README.md#x">', '<a href="index.html#x">'),
        ("docs/data.md", "[a](nothing.md) [b](#here)", "[a](nothing.md) [b](#here)"),
    ],
)
def test_links_of_pages(hooks, page, markdown, expected):
    files = importlib.import_module("mkdocs.structure.files")
    config = SimpleNamespace(site_dir="", use_directory_urls=False, plugins=SimpleNamespace(_current_plugin="hooks"))
    paths = ("README.md", "docs/data.md", "studies/README.md")
    known = files.Files(
        [
            files.File("data.md", str(ROOT / "docs"), "", False)
            if path == "docs/data.md"
            else files.File.generated(config, hooks.site_uri(path), abs_src_path=str(ROOT / path))
            for path in paths
        ]
    )
    shown = SimpleNamespace(file=known.get_file_from_path(hooks.site_uri(page)))
    assert hooks.on_page_markdown(markdown, shown, config, known) == expected


def test_a_notebook_becomes_a_page(hooks):
    cells = [
        {"cell_type": "markdown", "source": ["# Tour\n", "words"]},
        {
            "cell_type": "code",
            "source": "1 + 1",
            "outputs": [{"data": {"text/plain": ["2"]}}, {"text": "one\n"}, {"text": ["two\n"]}],
        },
        {"cell_type": "code", "source": "draw()", "outputs": [{"data": {"image/png": "AQI=", "text/plain": "figure"}}]},
    ]
    made = hooks.notebook_page("tour.ipynb", json.dumps({"cells": cells}))
    assert made["tour_2_0.png"] == b"\x01\x02"
    assert made["tour.md"] == (
        "# Tour\nwords\n\n`````python\n1 + 1\n`````\n\n`````text\n2\n`````\n\n`````text\none\ntwo\n`````\n\n"
        "`````python\ndraw()\n`````\n\n![output](tour_2_0.png)\n\n[The notebook itself](tour.ipynb)\n"
    )
