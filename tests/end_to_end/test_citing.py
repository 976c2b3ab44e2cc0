"""CITATION.cff and docs/citing.md name the same sources, each with what a reader needs."""

import re

import pytest
import yaml
from helpers.small import ROOT

import ser_hf
from ser_hf.data.corpora import CORPORA

CFF = yaml.safe_load((ROOT / "CITATION.cff").read_text())
BIBTEX = re.search(r"```bibtex\n(.*?)```", (ROOT / "docs" / "citing.md").read_text(), re.DOTALL)[1]
TYPES = {"article", "conference-paper", "data", "generic", "software"}


def entries():
    """The BibTeX entries by their keys."""
    return {re.match(r"@\w+{([^,]+),", entry)[1]: entry for entry in re.split(r"\n(?=@)", BIBTEX.strip())}


def plain(text):
    return re.sub(r"[{}\\]", "", text).lower()


def test_the_file_has_the_keys_of_the_format():
    assert {"cff-version", "message", "title", "authors"} <= set(CFF)  # required by CFF 1.2.0
    assert CFF["cff-version"] == "1.2.0"
    assert (CFF["version"], CFF["license"], CFF["type"]) == (ser_hf.__version__, "Apache-2.0", "software")
    assert f"version = {{{ser_hf.__version__}}}" in entries()["serhf"]


@pytest.mark.parametrize("source", CFF["references"], ids=lambda source: source["title"][:20])
def test_a_source_is_whole(source):
    assert {"type", "title", "authors", "year", "notes"} <= set(source)
    assert source["type"] in TYPES
    assert all({"family-names", "given-names"} <= set(author) for author in source["authors"])
    identifier = source.get("doi") or source["identifiers"][0]["value"]
    assert re.fullmatch(r"10\.\d{4,}/\S+|arXiv:\d{4}\.\d{5}", identifier)
    (entry,) = (entry for entry in entries().values() if plain(source["title"]) in plain(entry))
    assert identifier.removeprefix("arXiv:") in entry
    assert f"year = {{{source['year']}}}" in entry
    names = [f"{author['family-names']}, {author['given-names']}" for author in source["authors"]]
    assert " and ".join(names) in " ".join(entry.split())


def test_corpora_and_protocols_have_their_sources():
    given = str(CFF["references"])
    for corpus in CORPORA.values():
        assert corpus.citation in BIBTEX
        assert re.search(r"doi = {(\S+)}", corpus.citation)[1] in given
    for protocol, identifier in (("emobox-ravdess", "2406.07162"), ("luna-ravdess", "10.3390/app12010327")):
        assert identifier in given
        assert identifier in (ROOT / "docs" / "protocols.md").read_text()
        assert f"`{protocol}`" in (ROOT / "docs" / "citing.md").read_text()


def test_keys_of_the_table_are_entries():
    table = (ROOT / "docs" / "citing.md").read_text().split("```bibtex")[0]
    keys = re.findall(r"`([a-z]+\d{4}[a-z]+|serhf)`", table)
    assert sorted(keys) == sorted(entries())
