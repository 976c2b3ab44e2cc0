"""Recordings -> one labelled Arrow dataset that both `load_from_disk` and `load_dataset` read, without FFmpeg."""

import hashlib
import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path

import datasets
import joblib
import pyarrow as pa

from ser_hf import audio, corpora
from ser_hf.corpora import Recording, Scan, synthetic
from ser_hf.emotions import EMOTIONS
from ser_hf.errors import UserError

FEATURES = datasets.Features(
    {
        "audio": datasets.Audio(sampling_rate=audio.SAMPLING_RATE, decode=False),
        "label": datasets.ClassLabel(names=list(EMOTIONS)),
        "corpus": datasets.Value("string"),
        "channel": datasets.Value("string"),
        "speaker": datasets.Value("string"),
        "sex": datasets.Value("string"),
        "intensity": datasets.Value("string"),
        "statement": datasets.Value("string"),
        "repetition": datasets.Value("int32"),
        "file": datasets.Value("string"),
        "duration": datasets.Value("float64"),
        "sha256": datasets.Value("string"),
    }
)
_BATCH = 64
_CARD = """---
configs:
- config_name: default
  data_files: train/*.arrow
---
# RAVDESS and TESS, merged by ser_hf

{rows} recordings, 16 kHz mono FLAC. {notice}
"""


class DatasetError(UserError):
    """A dataset that cannot be built, or a folder that is none."""


@dataclass
class RavdessTessConfig(datasets.BuilderConfig):
    """The folders of the recordings; either list may be empty."""

    ravdess: list[str] = field(default_factory=list)
    tess: list[str] = field(default_factory=list)
    workers: int = 1


class RavdessTess(datasets.ArrowBasedBuilder):
    """RAVDESS and TESS as one `datasets` builder.

    Rows come sorted by corpus and official name, whatever the layout and the number of workers. It yields Arrow tables
    because encoding through the `Audio` feature would need FFmpeg.
    """

    BUILDER_CONFIG_CLASS = RavdessTessConfig
    BUILDER_CONFIGS = [RavdessTessConfig(name="default", version=datasets.Version("1.0.0"))]  # noqa: RUF012

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        scans = scan(self.config.ravdess, self.config.tess)
        recordings = [recording for found in scans.values() for recording in found.recordings]
        split_info = datasets.SplitInfo(name="train", num_examples=len(recordings))
        generator = datasets.SplitGenerator(name="train", gen_kwargs={"recordings": tuple(recordings)})
        generator.split_info = split_info  # gives the progress bar its total
        return [generator]

    def _generate_tables(self, recordings: tuple[Recording, ...]) -> Iterator[tuple[int, pa.Table]]:
        # Decoding, resampling and FLAC all run outside Python's lock, so threads do; a bounded batch bounds the memory.
        rows = iter(recordings)
        with ThreadPoolExecutor(self.config.workers) as pool:
            number = 0
            while batch := list(islice(rows, _BATCH)):
                yield number, pa.Table.from_pylist(list(pool.map(_row, batch)), schema=FEATURES.arrow_schema)
                number += 1


def scan(ravdess: list[str], tess: list[str]) -> dict[str, Scan]:
    """Scan the folders of each corpus that has any; `DatasetError` where neither has."""
    scans = {
        name: corpora.scan(list(folders), name) for name, folders in (("ravdess", ravdess), ("tess", tess)) if folders
    }
    if not scans:
        raise DatasetError("no recordings given: name folders with --ravdess and --tess, or pass --synthetic")
    return scans


def build(
    output: str | PathLike,
    ravdess: list[str] | None = None,
    tess: list[str] | None = None,
    make_synthetic: bool = False,
    num_proc: int | None = None,
) -> dict:
    """Build the dataset into a folder that appears only when it is complete.

    Args:
        output: must not exist yet.
        ravdess: folders of RAVDESS, in any layout.
        tess: folders of TESS, in any layout.
        make_synthetic: write both corpora with the synthetic voice into `output/recordings` and use those.
        num_proc: recordings decoded at a time; the number of cores where None.

    Returns:
        What `output/audit.json` says: counts, what was dropped, what is flagged.

    Raises:
        DatasetError: if `output` exists or no folder is given.
        CorpusError: if a folder is missing, empty or of another corpus.
        AudioError: if a recording cannot be decoded; it is named.
    """
    output = Path(output)
    if output.exists():
        raise DatasetError(f"'{output}' exists already: choose another --output or remove it")
    if not make_synthetic:
        scan(ravdess or [], tess or [])  # complain before anything is written
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        partial = Path(temporary) / "dataset"
        partial.mkdir()
        folders = (list(map(str, ravdess or [])), list(map(str, tess or [])))
        if make_synthetic:
            folders = tuple([str(folder)] for folder in synthetic.write(partial / "recordings"))
        notice = synthetic.NOTICE if make_synthetic else ""
        rows = _prepare(folders, Path(temporary) / "cache", num_proc or joblib.cpu_count())
        rows.info.description = notice
        datasets.DatasetDict(train=rows).save_to_disk(partial)
        report = _report(scan(*folders), rows, notice, root=Path(temporary))
        (partial / "audit.json").write_text(json.dumps(report, indent=2) + "\n")
        (partial / "README.md").write_text(_CARD.format(rows=len(rows), notice=notice))
        del rows
        partial.rename(output)
    return report


def load(source: str | PathLike) -> datasets.Dataset:
    """Load a dataset by folder or Hub id, as one `Dataset` with the columns of `FEATURES`.

    Raises:
        DatasetError: if it is no dataset, or lacks a column.
    """
    path = Path(source)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        rows = datasets.load_from_disk(str(path))
    elif path.exists():
        raise DatasetError(f"'{source}' is no dataset: build one with `ser-hf data --output {source}-dataset`")
    else:
        try:
            rows = datasets.load_dataset(str(source))
        except (FileNotFoundError, ConnectionError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0][:160]
            raise DatasetError(f"'{source}' is neither a folder nor a dataset that the Hub gave ({reason})") from error
    if isinstance(rows, datasets.DatasetDict):
        description = next(iter(rows.values())).info.description
        rows = datasets.concatenate_datasets([rows[name] for name in rows])
        rows.info.description = description
    missing = [name for name in FEATURES if name not in rows.column_names]
    if missing:
        raise DatasetError(f"'{source}' lacks the column {missing[0]!r}: build it with `ser-hf data`")
    if rows.features["label"].names != list(EMOTIONS):
        raise DatasetError(f"'{source}' has the labels {rows.features['label'].names}: they must be {list(EMOTIONS)}")
    return rows.cast_column("audio", FEATURES["audio"])


def same_samples(rows: datasets.Dataset) -> list[list[str]]:
    """Groups of files, under different official names, that hold the same samples."""
    groups = defaultdict(list)
    for name, digest in zip(rows["file"], rows["sha256"], strict=True):
        groups[digest].append(name)
    return [names for names in groups.values() if len(names) > 1]


def _prepare(folders: tuple[list[str], list[str]], cache: Path, workers: int) -> datasets.Dataset:
    builder = RavdessTess(cache_dir=str(cache), ravdess=folders[0], tess=folders[1], workers=workers)
    try:
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    return builder.as_dataset(split="train")


def _row(recording: Recording) -> dict:
    pcm = audio.to_pcm(audio.load(recording.path))
    return {
        "audio": {"bytes": audio.to_flac(pcm), "path": f"{recording.key}.flac"},
        "label": EMOTIONS.index(recording.emotion),
        "corpus": recording.corpus,
        "channel": recording.channel,
        "speaker": recording.speaker,
        "sex": recording.sex,
        "intensity": recording.intensity,
        "statement": recording.statement,
        "repetition": recording.repetition,
        "file": recording.key + Path(recording.path).suffix.lower(),
        "duration": audio.duration(pcm),
        "sha256": hashlib.sha256(pcm.tobytes()).hexdigest(),
    }


def _report(scans: dict[str, Scan], rows: datasets.Dataset, notice: str, root: Path) -> dict:
    def listed(name: str) -> list[str]:
        paths = [path for found in scans.values() for path in getattr(found, name)]
        return [os.path.relpath(path, root) if root in Path(path).parents else path for path in paths]

    groups = [f"{corpus} {channel}" for corpus, channel in zip(rows["corpus"], rows["channel"], strict=True)]
    labels = Counter(zip(groups, (EMOTIONS[label] for label in rows["label"]), strict=True))
    return {
        "recordings": len(rows),
        "speakers": len(set(rows["speaker"])),
        "hours": round(sum(rows["duration"]) / 3600, 3),
        "counts": {group: {e: labels[group, e] for e in EMOTIONS} for group in dict.fromkeys(groups)},
        "dropped_duplicates": listed("duplicates"),
        "unmatched": listed("unmatched"),
        "same_samples": same_samples(rows),
        "notice": notice,
    }


def table(report: dict) -> str:
    """The report of `build` as text: labels by corpus and channel, then what was dropped or is flagged."""
    groups = list(report["counts"])
    lines = ["".join([f"{'':12}", *(f"{c:>16}" for c in groups)])]
    lines += ["".join([f"{e:12}", *(f"{report['counts'][c][e]:16,}" for c in groups)]) for e in EMOTIONS]
    lines.append("".join([f"{'all':12}", *(f"{sum(report['counts'][c].values()):16,}" for c in groups)]))
    labels = sum(any(report["counts"][c][e] for c in groups) for e in EMOTIONS)
    lines.append(
        f"{report['recordings']:,} recordings, {report['speakers']} speakers, {labels} labels, {report['hours']} hours"
    )
    for key, says in (
        ("dropped_duplicates", "second copies dropped"),
        ("unmatched", "files with other names left out"),
        ("same_samples", "group(s) of names share the same samples: kept, on one side of every honest split"),
    ):
        if report[key]:
            shown = ", ".join(Path(x).name if isinstance(x, str) else " = ".join(x) for x in report[key][:3])
            lines.append(f"{len(report[key]):,} {says}: {shown}{' …' if len(report[key]) > 3 else ''}")
    return "\n".join([*lines, *([report["notice"]] if report["notice"] else [])])
