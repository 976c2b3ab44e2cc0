"""From recordings to one labelled dataset, in Parquet and Arrow, which is read without FFmpeg."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from os import PathLike
from pathlib import Path

import datasets
import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import errors

from ser_hf import audio
from ser_hf.data import card, describe, references
from ser_hf.data.corpora import synthetic
from ser_hf.data.corpora.base import Recording
from ser_hf.data.corpora.scan import scan_sources
from ser_hf.errors import UserError, first_line
from ser_hf.labels import EMOTIONS
from ser_hf.utils import blas, files, progress

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
MAX_SHARD_SIZE = "256MB"
_BATCH = 64  # recordings in memory at a time, and rows of a Parquet row group


class DatasetError(UserError):
    """A dataset that cannot be built, or a folder that is none."""


class RecordingsBuilder(datasets.ArrowBasedBuilder):
    """Writes scanned recordings, as one `datasets` builder.

    Rows come in the order of the recordings, whatever the number of workers. The builder yields
    Arrow tables because encoding through the `Audio` feature would need FFmpeg.

    Args:
        recordings: of all corpora, in the order of the rows.
        workers: recordings decoded at a time.
        cache_dir: folder for what `datasets` writes.
    """

    VERSION = datasets.Version("1.1.0")

    def __init__(self, recordings: Sequence[Recording], workers: int, cache_dir: str) -> None:
        super().__init__(cache_dir=cache_dir)
        self._recordings = recordings
        self._workers = workers
        self.silent: list[str] = []
        """Names of the rows without sound, once it has run."""

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        generator = datasets.SplitGenerator(name="train")
        # gives the progress bar its total
        generator.split_info = datasets.SplitInfo(name="train", num_examples=len(self._recordings))
        return [generator]

    def _generate_tables(self) -> Iterator[tuple[int, pa.Table]]:
        # Decoding, resampling and FLAC all run outside Python's lock, so threads do. One batch is
        # written while the next is decoded, which bounds the memory. Each matrix product stays on
        # its thread: there are enough of them.
        recordings = iter(self._recordings)
        with blas.one_thread(), ThreadPoolExecutor(self._workers) as pool:

            def start() -> list[Future]:
                return [pool.submit(_row_and_level, recording) for recording in islice(recordings, _BATCH)]

            number, batch = 0, start()
            try:
                while batch:
                    following = start()
                    rows = [future.result() for future in batch]
                    table = [row for row, _ in rows]
                    self.silent += [row["file"] for row, level in rows if level < audio.SILENT]
                    yield number, pa.Table.from_pylist(table, schema=FEATURES.arrow_schema)
                    number, batch = number + 1, following
            finally:
                pool.shutdown(cancel_futures=True)


def build(
    output: str | PathLike,
    folders: Mapping[str, Sequence[str | PathLike]] | None = None,
    descriptions: Sequence[str | PathLike] = (),
    make_synthetic: bool = False,
    num_proc: int | None = None,
) -> dict:
    """Build the dataset into a folder that appears only when it is complete.

    The folder is what the Hub gets - `data/train-*.parquet`, the card `README.md` with `pictures/`,
    `audit.json` - and the same rows as Arrow in `train/`, which `load_from_disk` maps. Rows are
    sorted by corpus and official name, whatever the layout of the folders. Samples of all
    recordings are never in memory at once.

    Args:
        output: must not exist yet.
        folders: folders and zips of each corpus, in any layout, by its name in `CORPORA`.
        descriptions: YAML files of other corpora (`ser_hf.data.corpora.custom`).
        make_synthetic: write RAVDESS and TESS with the synthetic voice into `output/recordings` and
            read those instead.
        num_proc: recordings decoded at a time; the number of cores where None.

    Returns:
        The content of `output/audit.json`: counts, what was dropped, what is flagged
        (`ser_hf.data.describe.summarise`).

    Raises:
        UserError: if `output` exists, cannot be made, or would be read as a pattern.
        CorpusError: if nothing is given, or a folder is missing, empty or of another corpus.
        ArchiveError: if a zip cannot be read.
        AudioError: if a recording cannot be decoded; it is named.
    """
    refuse_output(output)
    # before the folder is made, so that wrong sources leave nothing behind
    scans = {} if make_synthetic else scan_sources(folders or {}, descriptions)
    with files.new_folder(output) as partial:
        if make_synthetic:
            ravdess, tess = synthetic.write_corpora(partial / "recordings")
            scans = scan_sources({"ravdess": [ravdess], "tess": [tess]})
        notice = synthetic.NOTICE if make_synthetic else ""
        recordings = [recording for scan in scans.values() for recording in scan.recordings]
        shards, silent = _write_parquet(recordings, partial, num_proc or joblib.cpu_count())
        _write_arrow(shards, partial, notice)
        columns = pa.concat_tables(pq.read_table(shard, columns=list(FEATURES)[1:]) for shard in shards)
        report = describe.summarise(scans, columns, silent, notice)
        describe.draw_dataset(report, partial / "pictures")
        (partial / "audit.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card.dataset_card(report, FEATURES, shards), encoding="utf-8")
    return report


def refuse_output(output: str | PathLike) -> None:
    """Refuse a folder for a dataset that exists, cannot be made, or could not be loaded.

    Raises:
        UserError: with the remedy.
    """
    files.refuse_existing(output)
    pattern = files.pattern_in(os.path.expanduser(output))
    if pattern:
        place = os.path.abspath(os.path.expanduser(output))
        raise DatasetError(
            f"'{place}' holds '{pattern}': load_dataset would take it for a pattern, choose another name"
        )


def load(source: str | PathLike) -> datasets.Dataset:
    """Load a dataset by folder or Hub id, as one `Dataset` with the columns of `FEATURES`.

    Raises:
        DatasetError: if it is no dataset, or lacks a column.
    """
    path = Path(os.path.expanduser(source))
    stored = _is_arrow_folder(path)
    pattern = files.pattern_in(path)
    if path.exists() and pattern and (pattern == "::" or not stored):
        raise DatasetError(f"'{source}' holds '{pattern}': load_dataset takes it for a pattern, rename the folder")
    if path.exists() and not stored and not any(path.glob("data/*.parquet")):
        raise DatasetError(f"'{source}' is no dataset: build one with `ser-hf data --output {source}-dataset`")
    try:
        name = str(path if path.exists() else source)
        rows = datasets.load_from_disk(name) if stored else datasets.load_dataset(name)
    except (ValueError, OSError, errors.HTTPError, datasets.exceptions.DatasetGenerationError) as error:
        problem = "cannot be read" if path.exists() else "is neither a folder nor a dataset that the Hub gave"
        raise DatasetError(f"'{source}' {problem} ({first_line(error)[:160]})") from error
    if isinstance(rows, datasets.DatasetDict):
        description = next(iter(rows.values())).info.description
        rows = datasets.concatenate_datasets([rows[name] for name in rows])
        rows.info.description = description
    missing = [name for name in FEATURES if name not in rows.column_names]
    if missing:
        raise DatasetError(f"'{source}' lacks the column {missing[0]!r}: build it with `ser-hf data`")
    names = getattr(rows.features["label"], "names", None)
    if names != list(EMOTIONS):
        raise DatasetError(f"'{source}' has the labels {names}: they must be {list(EMOTIONS)}")
    return rows.cast_column("audio", FEATURES["audio"])


def label_aliases(source: str | PathLike) -> list[dict]:
    """Which label of a corpus counts as which of ours (`Scan.aliases`), as the build recorded it.

    Nothing is known of a dataset that is no folder of this machine.
    """
    report = Path(source) / "audit.json"
    return json.loads(report.read_text(encoding="utf-8")).get("aliases", []) if report.is_file() else []


def decoded_clips(rows: datasets.Dataset, what: str = "") -> Iterator[np.ndarray]:
    """Decode the clips of a dataset one after the other.

    Args:
        rows: of the dataset.
        what: is done with them, for a progress bar; none is shown where empty.

    Yields:
        Float32 samples at 16 kHz, shape `(samples,)`.

    Raises:
        AudioError: for a clip that cannot be decoded.
    """
    batches = (rows[start : start + _BATCH]["audio"] for start in range(0, len(rows), _BATCH))
    clips = map(references.load_clip, chain.from_iterable(batches))
    yield from progress.each(clips, what, len(rows)) if what else clips


def _write_parquet(recordings: Sequence[Recording], partial: Path, workers: int) -> tuple[list[Path], list[str]]:
    """Write `data/train-*.parquet` through the builder; return the files, and what is silent.

    The builder works in a folder of its own, because it leaves locks and paths of this machine
    beside the files.
    """
    cache = partial.parent / "cache"
    builder = RecordingsBuilder(recordings, workers, cache_dir=str(cache))
    try:
        builder.download_and_prepare(
            output_dir=str(cache / "built"), file_format="parquet", max_shard_size=MAX_SHARD_SIZE
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    shards = sorted((cache / "built").glob("*.parquet"))
    (partial / "data").mkdir()
    written = [
        shard.rename(partial / "data" / f"train-{number:05d}-of-{len(shards):05d}.parquet")
        for number, shard in enumerate(shards)
    ]
    return written, builder.silent


def _write_arrow(shards: list[Path], partial: Path, notice: str) -> None:
    """Write the rows of the Parquet files where `load_from_disk` finds them, batch by batch."""

    def batches() -> Iterator[pa.RecordBatch]:
        for shard in shards:
            with pq.ParquetFile(shard, pre_buffer=False) as file:  # which would read ahead without bound
                yield from file.iter_batches(batch_size=_BATCH)

    schema = FEATURES.arrow_schema
    digest = hashlib.sha256()
    for batch in batches():
        digest.update("".join(batch.column("sha256").to_pylist()).encode())
    # datasets writes all that lies around the rows, for one batch; then every row takes its place
    first = datasets.Dataset(
        pa.Table.from_batches([next(batches())]).cast(schema),
        info=datasets.DatasetInfo(description=notice, features=FEATURES),
        split="train",
        fingerprint=digest.hexdigest()[:16],
    )
    datasets.DatasetDict(train=first).save_to_disk(partial)
    with pa.ipc.new_stream(str(_arrow_file(partial)), schema) as writer:
        for batch in batches():
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))


# The next two functions rely on how `save_to_disk` of the pinned `datasets` lays out a folder:
# `dataset_dict.json` and a folder a split, in it `state.json`, and one Arrow stream for a small
# dataset. `datasets` promises none of it. It has no way to write a dataset in batches, which bounds
# the memory here.


def _is_arrow_folder(path: Path) -> bool:
    """Whether `load_from_disk` reads a folder: a dict of splits, or one split."""
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def _arrow_file(folder: Path) -> Path:
    """The one Arrow stream of the split `train` that `save_to_disk` wrote."""
    (file,) = (folder / "train").glob("*.arrow")
    return file


def _row_and_level(recording: Recording) -> tuple[dict, float]:
    """A row of the dataset, and the level of its loudest 25 ms in dB."""
    samples = recording.samples()
    pcm = audio.to_pcm(samples)
    row = {
        "audio": {"bytes": audio.to_flac(pcm), "path": f"{recording.key.replace('/', '-')}.flac"},
        "label": EMOTIONS.index(recording.emotion),
        "corpus": recording.corpus,
        "channel": recording.channel,
        "speaker": recording.speaker,
        "sex": recording.sex,
        "intensity": recording.intensity,
        "statement": recording.statement,
        "repetition": recording.repetition,
        "file": recording.key + recording.file.name.suffix.lower(),
        "duration": audio.duration(pcm),
        "sha256": hashlib.sha256(pcm.tobytes()).hexdigest(),
    }
    return row, audio.level(samples)
