"""What mkdocs.yml cannot say: pages from outside docs/, links between them, and the version.

A link in a page leads from file to file of the repository, so that it works on a code host. In the
site a page from outside docs/ has a place of its own, and any other file that a page links to
becomes a page with its text.
"""

import json
import os
import posixpath
import re
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[2]
PICTURES = {".png", ".jpg", ".svg", ".gif", ".webp"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sh": "bash", ".json": "json"}
FENCED = re.compile(r"^( *)(`{3,})[^\n]*\n.*?^\1\2`* *$", re.MULTILINE | re.DOTALL)
MARKDOWN_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=[)\s])")
HTML_LINK = re.compile(r"(?<=(?:src|set|ref)=\")([^\"\s#:]+)(#[^\"\s]*)?(?=[\"\s])")
"""Of `src`, `srcset` and `href`."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the version that is documented, and the anchors of headings as code hosts name them."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    config.extra["documented"] = version = os.environ.get("DOCS_VERSION", "dev")
    config.copyright = f"ser_hf {version}"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, the notebooks, and what any page links to."""
    for path in (*ROOT.glob("*.md"), *(ROOT / "studies").glob("*.md")):
        uri = site_uri(path.relative_to(ROOT).as_posix())
        if uri not in files:  # docs/index.md comes before README.md
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        for name, content in notebook_page(notebook.src_uri, notebook.content_string).items():
            files.append(File.generated(config, name, content=content))
    for page in list(files.documentation_pages()):
        for path in linked_files(page):
            if (uri := site_uri(path)) not in files:
                files.append(shown_file(config, path, uri))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""

    def in_site(match: re.Match, address: Callable[[File], str]) -> str:
        path = target(page.file, match[1])
        if path != repository_path(page.file):  # which a notebook's page offers for download
            path = re.sub(r"\.ipynb$", ".md", path)
        file = files.get_file_from_path(site_uri(path))
        if file is None:
            return match[0]  # the check of links names it
        return posixpath.relpath(address(file), posixpath.dirname(address(page.file)) or ".") + (match[2] or "")

    def outside_of_code(text: str) -> str:
        text = MARKDOWN_LINK.sub(lambda match: in_site(match, lambda file: file.src_uri), text)
        return HTML_LINK.sub(lambda match: in_site(match, lambda file: file.dest_uri), text)

    if repository := os.environ.get("DOCS_REPOSITORY"):
        page.edit_url = f"{repository.rstrip('/')}/edit/main/{repository_path(page.file)}"
    return replace_outside_of_code(markdown, outside_of_code)


def replace_outside_of_code(markdown: str, replace: Callable[[str], str]) -> str:
    """Change the text of a page without its fenced blocks."""
    parts, end = [], 0
    for block in FENCED.finditer(markdown):
        parts += [replace(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, replace(markdown[end:])])


def site_uri(path: str) -> str:
    """The place in the site of a file of the repository, as if it lay in docs/.

    >>> site_uri("docs/data.md"), site_uri("CHANGELOG.md"), site_uri("configs/tiny.yaml")
    ('data.md', 'changelog.md', 'source/configs/tiny.yaml.md')
    """
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(".md"):
        return path.removeprefix(".") if "/" in path else path.lower()  # mkdocs leaves out hidden files
    return f"source/{path}" if Path(path).suffix in PICTURES else f"source/{path}.md"


def repository_path(file: File) -> str:
    """The path in the repository of a page."""
    if file.generated_by is None:
        return f"docs/{file.src_uri}"
    if file.abs_src_path:
        return Path(file.abs_src_path).relative_to(ROOT).as_posix()
    if file.src_uri.startswith("source/"):
        return file.src_uri.removeprefix("source/").removesuffix(".md")
    return f"docs/{file.src_uri.removesuffix('.md')}.ipynb"


def target(page: File, link: str) -> str:
    """The path in the repository that a link of a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(page)), link))


def linked_files(page: File) -> list[str]:
    """Paths of the files outside docs/ that a page links to, where they exist."""
    found = []

    def collect(text: str) -> str:
        found.extend(match[1] for pattern in (MARKDOWN_LINK, HTML_LINK) for match in pattern.finditer(text))
        return text

    replace_outside_of_code(page.content_string, collect)
    paths = {target(page, link) for link in found}
    return sorted(path for path in paths if not path.startswith(("docs/", "..")) and (ROOT / path).exists())


def shown_file(config: MkDocsConfig, path: str, uri: str) -> File:
    """A page with the text of a file, or with the names of a folder; a page or picture as it is."""
    source = ROOT / path
    if source.suffix in PICTURES | {".md"}:
        return File.generated(config, uri, abs_src_path=str(source), inclusion=InclusionLevel.NOT_IN_NAV)
    if source.is_dir():
        text = "\n".join(sorted(entry.name for entry in source.iterdir() if not entry.name.startswith((".", "__"))))
    else:
        text = source.read_text()
    language = LANGUAGES.get(source.suffix, "text")
    content = f"# {path}\n\n`````{language}\n{text}\n`````\n"
    return File.generated(config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV)


def notebook_page(uri: str, text: str) -> dict[str, str | bytes]:
    """A notebook as a Markdown page, and the pictures of its outputs, by their places."""
    stem = uri.removesuffix(".ipynb")
    parts, pictures = [f"[The notebook itself]({Path(uri).name})"], {}
    for number, cell in enumerate(json.loads(text)["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"`````python\n{source}\n`````")
        printed = ""
        for index, output in enumerate([*cell["outputs"], {"text": ""}]):
            if "text" in output:
                printed += "".join(output["text"])
            if ("data" in output or index == len(cell["outputs"])) and printed.strip():
                parts.append(f"`````text\n{printed.rstrip()}\n`````")
                printed = ""
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}_{number}_{index}.png"
                pictures[name] = b64decode("".join(data["image/png"]))
                parts.append(f"![output]({Path(name).name})")
            elif plain := "".join(data.get("text/plain", "")).rstrip():
                parts.append(f"`````text\n{plain}\n`````")
    return {f"{stem}.md": "\n\n".join([*parts[1:], parts[0]]) + "\n", **pictures}
