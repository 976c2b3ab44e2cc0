"""Pages keep to the style: short lines and sentences, the field's words."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for folder in (".", "docs", "studies", ".github") for path in (ROOT / folder).glob("*.md"))
COLUMNS, WORDS = 100, 25
PRIVATE = re.compile(r"\b(houses?|rooms?|doors?|box|boxes|gates?|gated|dials?|hears?|heard|hearing|unheard)\b", re.I)
ABBREVIATIONS = re.compile(r"\b(et al|e\.g|i\.e|vs|approx|Fig)\.")


def without_code(text):
    """Lines of a page outside its fenced blocks, with their numbers."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            yield number, line


def is_table(line):
    return line.lstrip().startswith("|")


def long_lines(text):
    return [
        f"{number}: {len(line)} columns"
        for number, line in without_code(text)
        if len(line) > COLUMNS and not is_table(line) and "http" not in line
    ]


def paragraphs(text):
    """Paragraphs and list items as single lines, without tables and headings."""
    block = []
    for _, line in [*without_code(text), (0, "")]:
        starts = re.match(r"\s*([-*]|\d+\.)\s", line)
        if not line.strip() or is_table(line) or line.startswith("#") or starts:
            if block:
                yield " ".join(block)
            block = []
        if line.strip() and not is_table(line) and not line.startswith("#"):
            block.append(re.sub(r"^\s*([-*]|\d+\.)\s+", "", line).strip())


def sentences(text):
    for paragraph in paragraphs(text):
        plain = re.sub(r"`[^`]*`", "code", paragraph)
        plain = re.sub(r"\]\([^)]*\)", "]", plain).replace("**", "")
        plain = ABBREVIATIONS.sub(r"\1", plain)
        yield from re.split(r"(?<=[.!?])(?:\s+|$)", plain)


def long_sentences(text):
    return [s for s in sentences(text) if len([word for word in s.split() if re.search(r"\w", word)]) > WORDS]


def private_words(text):
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", "\n".join(line for _, line in without_code(text)))
    return PRIVATE.findall(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_lines_are_short(page):
    assert long_lines(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_sentences_are_short(page):
    assert long_sentences(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_words_are_those_of_the_field(page):
    assert private_words(page.read_text()) == []


def test_the_checks_find_what_they_look_for():
    text = "# Title\n\n" + "word " * 26 + "end.\n\nThe model heard `a room`.\n\n```\n" + "x" * 200 + "\n```\n"
    assert long_lines(text) == ["3: 134 columns"]
    assert len(long_sentences(text)) == 1
    assert private_words(text) == ["heard"]
    assert long_sentences("- one " * 3 + "\n" + "| cell " * 40 + "|\n") == []
