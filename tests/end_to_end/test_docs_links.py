"""Links of every page lead somewhere, anchors too; pages stand in the navigation of the site."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "docs", "docs/*", "studies", ".github", ".github/ISSUE_TEMPLATE", "ser_hf/pretrained")
PAGES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md"))
LINK = re.compile(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)|\b(?:src|href)=\"([^\"]+)\"")
CODE = re.compile(r"^( *)(`{3,})[^\n]*\n.*?^\1\2`* *$|(?<!`)`[^`\n]+`(?!`)", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
HOSTS = {"huggingface.co", "keepachangelog.com", "semver.org"}
"""Where pages lead outside of the repository. No test fetches them; a new one is added here."""


def links(text):
    """Addresses that a page leads to, outside of its code."""
    return [first or second for first, second in LINK.findall(CODE.sub("", text))]


def anchors(text):
    """Anchors of the headings of a page, as code hosts and the site name them."""
    found = set(re.findall(r"\b(?:id|name)=\"([^\"]+)\"", text))
    plain = re.sub(r"^( *)(`{3,})[^\n]*\n.*?^\1\2`* *$", "", text, flags=re.MULTILINE | re.DOTALL)
    for heading in HEADING.findall(plain):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-"))
    return found


def broken(page, text):
    """Links of a page, read as `text`, to files or anchors that do not exist."""
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        if ":" in link.split("/")[0]:
            continue
        text_of_target = text if target == page else target.read_text() if anchor and target.exists() else ""
        if not target.exists() or (anchor and anchor not in anchors(text_of_target)):
            yield link


def unknown_hosts(text):
    return [host for host in re.findall(r"\]\(https?://([^/)\s]+)", text) if host not in HOSTS]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert list(broken(page, page.read_text())) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_outside_are_listed(page):
    assert unknown_hosts(page.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "[no file](nothing.md)",
        "[no anchor](data.md#no-such-heading)",
        "# Here\n\n[not here](#there)",
        '<img src="no/picture.png">',
        "[no file](../studies/nothing.md#anchor)",
    ],
)
def test_broken_links_are_found(text):
    assert len(list(broken(ROOT / "docs" / "security.md", text))) == 1


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("## How a recording is read", "how-a-recording-is-read"),
        ("### `make test`, and its files", "make-test-and-its-files"),
        ("# A – B", "a--b"),
        ("## See [data](data.md)", "see-data"),
        ('<a id="own"></a>', "own"),
    ],
)
def test_anchors_of_headings(heading, anchor):
    assert anchors(heading) == {anchor}
    assert list(broken(ROOT / "docs" / "security.md", f"{heading}\n\n[there](#{anchor})")) == []


def test_links_in_code_are_none():
    assert links("`[a](b.md)`\n\n```\n[c](d.md)\n```\n\n[e](f.md) ![g](h.png)") == ["f.md", "h.png"]
    assert unknown_hosts("[a](https://huggingface.co/x) [b](https://nowhere.example/y)") == ["nowhere.example"]


def pages_of(navigation):
    """Pages of a navigation, however deep."""
    for entry in navigation if isinstance(navigation, list) else navigation.values():
        if isinstance(entry, str):
            yield entry
        else:
            yield from pages_of(entry)


def test_every_page_is_in_the_navigation():
    listed = list(pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    written = [path for pattern in ("*.md", "*.ipynb") for path in (ROOT / "docs").rglob(pattern)]
    pages = {path.relative_to(ROOT / "docs").with_suffix(".md").as_posix() for path in written}
    pages |= {f"studies/{path.name}" for path in (ROOT / "studies").glob("*.md")}
    pages |= {path.name.lower() for path in ROOT.glob("*.md") if path.name != "README.md"}
    assert sorted(listed) == sorted(pages | {"index.md"})
