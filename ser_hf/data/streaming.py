"""Datasets in Parquet of which only the columns without audio are loaded.

Column projection reads the small columns. A split is made and checked by them. The recordings are
read from the files when they are needed (`ser_hf.data.references`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from os import PathLike

import datasets
import numpy as np
import pyarrow as pa
from huggingface_hub import errors

from ser_hf.data import references
from ser_hf.data.dataset import FEATURES, DatasetError
from ser_hf.data.references import RowGroup, open_parquet
from ser_hf.errors import first_line
from ser_hf.labels import EMOTIONS
from ser_hf.utils import files, hub_errors

LARGEST_GROUP = 512 * 2**20
"""Bytes of a row group, which is read as a whole."""
_BATCH = 1_000  # rows written at a time


def load(source: str | PathLike) -> datasets.Dataset:
    """Load a dataset by folder or Hub id, with references in place of its recordings.

    The rows are those of `ser_hf.data.dataset.load`, in the same order.

    Raises:
        DatasetError: if it is not in Parquet, lacks a column, or has row groups that are too large
            to read one as a whole.
    """
    tables = []
    for file in _parquet_files(source):
        try:
            tables.append(_columns(file, source))
        except (OSError, errors.HTTPError, pa.ArrowException) as error:
            reason, remedy = hub_errors.explain(error) or (first_line(error)[:160], "check the file")
            raise DatasetError(f"'{file}' of '{source}' cannot be read ({reason}): {remedy}") from error
    table = pa.concat_tables(tables)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=FEATURES))


def with_recordings(rows: datasets.Dataset, indices: Sequence[int]) -> datasets.Dataset:
    """Put the recordings of some rows in place of their references.

    All rows are written into the cache folder, a batch at a time, and mapped from there.

    Args:
        rows: of `load`.
        indices: of the rows whose recordings are read.
    """
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[list(indices)] = True
    digest = hashlib.sha256(chosen.tobytes())
    for batch in _batches(rows):
        for record_batch in batch.to_batches():
            digest.update(record_batch.serialize())
    path = files.cache_dir("streaming") / f"{digest.hexdigest()[:32]}.arrow"
    with files.cache_lock(path):  # the processes of a training come here at once, one writes
        if not path.exists():
            with files.replacing(path) as partial, pa.ipc.new_stream(str(partial), FEATURES.arrow_schema) as writer:
                for number, batch in enumerate(_batches(rows)):
                    entries = batch["audio"].to_pylist()
                    for row in np.flatnonzero(chosen[number * _BATCH :][: len(entries)]):
                        entries[row] = references.recording(entries[row])
                    column = pa.array(entries, FEATURES.arrow_schema.field("audio").type)
                    at = batch.column_names.index("audio")
                    writer.write_table(batch.set_column(at, "audio", column).cast(FEATURES.arrow_schema))
    return datasets.Dataset.from_file(str(path), info=datasets.DatasetInfo(features=FEATURES))


def _parquet_files(source: str | PathLike) -> list[str]:
    """The Parquet files of a dataset, of all its splits, in the order of `datasets`."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    pattern = files.pattern_in(source)
    if pattern:
        raise DatasetError(f"'{source}' holds '{pattern}': datasets takes it for a pattern, rename the folder")
    try:
        builder = datasets.load_dataset_builder(str(source))
    except (ValueError, OSError, RuntimeError, errors.HTTPError) as error:
        raise DatasetError(
            f"'{source}' is no dataset that can be streamed ({first_line(error)[:160]}): "
            "give a folder with Parquet files or a Hub id"
        ) from error
    if not isinstance(builder, Parquet):
        raise DatasetError(f"'{source}' is not in Parquet, from which alone rows are streamed: leave out --streaming")
    return [str(file) for of_split in builder.config.data_files.values() for file in of_split]


def _columns(file: str, source: str | PathLike) -> pa.Table:
    """The rows of a file: all columns but the audio, which has references."""
    parquet = open_parquet(file, pre_buffer=True)
    present = parquet.schema_arrow.names
    missing = [name for name in FEATURES if name not in present]
    if missing:
        raise DatasetError(f"'{source}' lacks the column {missing[0]!r}: build it with `ser-hf data`")
    features = datasets.Features.from_arrow_schema(parquet.schema_arrow)
    names = getattr(features["label"], "names", None)
    if names != list(EMOTIONS):
        raise DatasetError(f"'{source}' has the labels {names}: they must be {list(EMOTIONS)}")
    groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    for group in groups:
        if group.total_byte_size > LARGEST_GROUP:
            raise DatasetError(
                f"'{file}' has a row group of {group.total_byte_size / 1e6:,.0f} MB, which is read as a whole: "
                "write it again with `datasets`, in groups of 100 rows"
            )
    columns = parquet.read(columns=list(FEATURES)[1:])
    audio = pa.chunked_array(
        [RowGroup(file, number).references(group.num_rows) for number, group in enumerate(groups)],
        FEATURES.arrow_schema.field("audio").type,
    )
    return columns.append_column("audio", audio).select(list(FEATURES)).cast(FEATURES.arrow_schema)


def _batches(rows: datasets.Dataset) -> Iterator[pa.Table]:
    arrow = rows.with_format("arrow")
    for start in range(0, len(rows), _BATCH):
        yield arrow[start : start + _BATCH]
