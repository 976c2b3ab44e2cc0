"""Recordings -> one labelled dataset, in Parquet and in Arrow, that every loader reads without
FFmpeg."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path

import datasets
import joblib
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from ser_hf import audio
from ser_hf.data import card, describe
from ser_hf.data.corpora import base, custom, synthetic
from ser_hf.data.corpora.base import Recording, Scan
from ser_hf.errors import UserError
from ser_hf.labels import EMOTIONS
from ser_hf.utils import files

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


@dataclass
class RavdessTessConfig(datasets.BuilderConfig):
    """The folders and zips of the recordings, and the descriptions of other corpora; any list may
    be empty."""

    ravdess: list[str] = field(default_factory=list)
    tess: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    workers: int = 1


class RavdessTess(datasets.ArrowBasedBuilder):
    """RAVDESS, TESS and whatever else is described, as one `datasets` builder.

    Rows come sorted by corpus and official name, whatever the layout and the number of workers. It
    yields Arrow tables because encoding through the `Audio` feature would need FFmpeg.
    """

    BUILDER_CONFIG_CLASS = RavdessTessConfig
    BUILDER_CONFIGS = [RavdessTessConfig(name="default", version=datasets.Version("1.1.0"))]  # noqa: RUF012

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        scans = scan(self.config.ravdess, self.config.tess, self.config.other)
        recordings = tuple(recording for found in scans.values() for recording in found.recordings)
        generator = datasets.SplitGenerator(name="train", gen_kwargs={"recordings": recordings})
        # gives the progress bar its total
        generator.split_info = datasets.SplitInfo(name="train", num_examples=len(recordings))
        return [generator]

    def _generate_tables(self, recordings: tuple[Recording, ...]) -> Iterator[tuple[int, pa.Table]]:
        # Decoding, resampling and FLAC all run outside Python's lock, so threads do. One batch is
        # written while the next is decoded, which bounds the memory. Each matrix product stays on
        # its thread: there are enough of them.
        rows = iter(recordings)
        with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(self.config.workers) as pool:

            def start() -> list[Future]:
                return [pool.submit(_row, recording) for recording in islice(rows, _BATCH)]

            number, batch = 0, start()
            try:
                while batch:
                    following = start()
                    table = [future.result() for future in batch]
                    yield number, pa.Table.from_pylist(table, schema=FEATURES.arrow_schema)
                    number, batch = number + 1, following
            finally:
                pool.shutdown(cancel_futures=True)


def scan(ravdess: Sequence[str], tess: Sequence[str], other: Sequence[str] = ()) -> dict[str, Scan]:
    """Scan the folders of each corpus that has any, by corpus; what one corpus uses is not
    unmatched in another.

    Raises:
        DatasetError: where nothing is given, or two descriptions have one name.
        CorpusError: where a folder or description does not hold what it should.
    """
    scans = {name: base.scan(list(given), name) for name, given in (("ravdess", ravdess), ("tess", tess)) if given}
    for spec in other:
        name = custom.Spec.read(spec).corpus
        if name in scans:
            raise DatasetError(f"two corpora are called '{name}': give '{spec}' another name")
        scans[name] = custom.scan(spec)
    if not scans:
        raise DatasetError("no recordings given: name folders with --ravdess and --tess, or pass --synthetic")
    for name, found in scans.items():
        if left := {file.place: file for file in found.unmatched}:
            for other in (its for its_name, its in scans.items() if its_name != name):
                for file in (*(recording.file for recording in other.recordings), *other.duplicates):
                    left.pop(file.place, None)
            found.unmatched = list(left.values())
    return scans


def build(
    output: str | PathLike,
    ravdess: Sequence[str] = (),
    tess: Sequence[str] = (),
    make_synthetic: bool = False,
    num_proc: int | None = None,
    other: Sequence[str] = (),
) -> dict:
    """Build the dataset into a folder that appears only when it is complete.

    The folder is what the Hub gets - `data/train-*.parquet`, the card `README.md` with `pictures/`,
    `audit.json` - and the same rows as Arrow in `train/`, which `load_from_disk` maps. Memory does
    not grow with the recordings.

    Args:
        output: must not exist yet.
        ravdess: folders and zips of RAVDESS, in any layout.
        tess: folders and zips of TESS, in any layout.
        make_synthetic: write both corpora with the synthetic voice into `output/recordings` and use
            those.
        num_proc: recordings decoded at a time; the number of cores where None.
        other: descriptions of other corpora (`ser_hf.data.corpora.custom`).

    Returns:
        What `output/audit.json` says: counts, what was dropped, what is flagged
        (`ser_hf.data.describe.summarise`).

    Raises:
        UserError: if `output` exists.
        DatasetError: if no folder is given.
        CorpusError: if a folder is missing, empty or of another corpus.
        ArchiveError: if a zip cannot be read.
        AudioError: if a recording cannot be decoded; it is named.
    """
    files.refuse_existing(output)
    folders = {"ravdess": list(map(str, ravdess)), "tess": list(map(str, tess)), "other": list(map(str, other))}
    scans = {} if make_synthetic else scan(**folders)  # complains before anything is written
    with files.new_folder(output) as partial:
        if make_synthetic:
            made = synthetic.write_corpora(partial / "recordings")
            folders = {"ravdess": [str(made[0])], "tess": [str(made[1])]}
            scans = scan(**folders)
        notice = synthetic.NOTICE if make_synthetic else ""
        for found in scans.values():
            found.recordings.clear()  # the builder finds them again, and one list of them is enough
        shards = _write_parquet(folders, partial, num_proc or joblib.cpu_count())
        _write_arrow(shards, partial, notice)
        columns = pa.concat_tables(pq.read_table(shard, columns=list(FEATURES)[1:]) for shard in shards)
        report = describe.summarise(scans, columns, notice)
        describe.draw_dataset(report, partial / "pictures")
        (partial / "audit.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card.dataset_card(report, FEATURES, shards), encoding="utf-8")
    return report


def load(source: str | PathLike) -> datasets.Dataset:
    """Load a dataset by folder or Hub id, as one `Dataset` with the columns of `FEATURES`.

    Raises:
        DatasetError: if it is no dataset, or lacks a column.
    """
    path = Path(source)
    stored = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
    if path.exists() and not stored and not any(path.glob("data/*.parquet")):
        raise DatasetError(f"'{source}' is no dataset: build one with `ser-hf data --output {source}-dataset`")
    try:
        rows = datasets.load_from_disk(str(path)) if stored else datasets.load_dataset(str(source))
    except (
        FileNotFoundError,
        ConnectionError,
        ValueError,
        OSError,
        datasets.exceptions.DatasetGenerationError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        what = "cannot be read" if path.exists() else "is neither a folder nor a dataset that the Hub gave"
        raise DatasetError(f"'{source}' {what} ({reason})") from error
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


def _write_parquet(folders: dict[str, list[str]], partial: Path, workers: int) -> list[Path]:
    """`data/train-*.parquet`, through the builder, which leaves locks and the folders of this
    machine beside them."""
    cache = partial.parent / "cache"
    builder = RavdessTess(cache_dir=str(cache), workers=workers, **folders)
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
    return [
        shard.rename(partial / "data" / f"train-{number:05d}-of-{len(shards):05d}.parquet")
        for number, shard in enumerate(shards)
    ]


def _write_arrow(shards: list[Path], partial: Path, notice: str) -> None:
    """The same rows where `load_from_disk` finds them, copied batch by batch."""

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
    (file,) = (partial / "train").glob("*.arrow")
    with pa.ipc.new_stream(str(file), schema) as writer:
        for batch in batches():
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))


def _row(recording: Recording) -> dict:
    pcm = audio.to_pcm(audio.load(recording.file.source(), name=repr(str(recording.file))))
    return {
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
