"""From folders, zips and descriptions to labelled recordings, by corpus."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import PurePath

from ser_hf.data.corpora import CORPORA, custom
from ser_hf.data.corpora.base import CorpusError, File, Recording, Scan, list_files


def scan_sources(
    folders: Mapping[str, Sequence[str | PathLike]], descriptions: Sequence[str | PathLike] = ()
) -> dict[str, Scan]:
    """Scan the folders of each corpus that has any, and the corpora that files describe.

    A file that one corpus uses is not unmatched in another.

    Args:
        folders: of each corpus, by its name in `CORPORA`.
        descriptions: YAML files of other corpora (`ser_hf.data.corpora.custom`).

    Raises:
        CorpusError: where nothing is given, two corpora have one name, or a folder or description
            does not hold what it should.
        ArchiveError: where a zip cannot be read.
    """
    unknown = sorted(set(folders) - set(CORPORA))
    if unknown:
        raise CorpusError(f"'{unknown[0]}' is no corpus with official names: choose of {', '.join(CORPORA)}")
    scans = {name: scan_corpus(folders[name], name) for name in CORPORA if folders.get(name)}
    for path in descriptions:
        description = custom.Description.read(path)
        if description.corpus in scans:
            raise CorpusError(f"two corpora are called '{description.corpus}': give '{path}' another name")
        scans[description.corpus] = custom.scan(description)
    if not scans:
        flags = " and ".join(f"--{name}" for name in CORPORA)
        raise CorpusError(f"no recordings given: name folders with {flags}, or pass --synthetic")
    for name, scan in scans.items():
        unmatched = {file.place: file for file in scan.unmatched}
        if unmatched:
            for other_scan in (scans[other_name] for other_name in scans if other_name != name):
                for file in (*(recording.file for recording in other_scan.recordings), *other_scan.duplicates):
                    unmatched.pop(file.place, None)
            scan.unmatched = list(unmatched.values())
    return scans


def scan_corpus(folders: Sequence[str | PathLike], name: str) -> Scan:
    """Find the recordings of one corpus in some folders and zips, in whatever layout.

    Args:
        folders: each a zip file, or a folder, searched recursively for zips and audio
            (`ser_hf.audio.SUFFIXES`, any casing).
        name: of the corpus, a key of `CORPORA`.

    Raises:
        CorpusError: where a folder is missing, empty, or holds none of the corpus.
        ArchiveError: where a zip cannot be read.
    """
    recordings: dict[str, Recording] = {}
    scan = Scan()
    seen = set()
    for folder in folders:
        audio_files, other_files = list_files(folder)
        matched = 0
        for file in audio_files:
            fields = CORPORA[name].parse(file.name)
            if fields is None:
                other_files.append(file)
                continue
            matched += 1
            recording = Recording(file=file, corpus=name, **fields)
            if file.place not in seen and recordings.setdefault(recording.key, recording) is not recording:
                scan.duplicates.append(file)
            seen.add(file.place)
        if not matched:
            raise CorpusError(_why_nothing(folder, audio_files, name))
        scan.unmatched += other_files
    scan.recordings = [recordings[key] for key in sorted(recordings)]
    scan.unmatched = sorted({file.place: file for file in scan.unmatched}.values(), key=str)
    return scan


def _why_nothing(folder: str | PathLike, audio_files: Iterable[File], name: str) -> str:
    for other_name, corpus in CORPORA.items():
        count = sum(corpus.parse(file.name) is not None for file in audio_files)
        if count:
            return f"'{folder}' holds {count} recordings of {other_name} and none of {name}: pass it as --{other_name}"
    first = PurePath(str(next(iter(audio_files)))).name
    return f"'{folder}' holds no file with an official {name} name (first: '{first}'): check the folder"
