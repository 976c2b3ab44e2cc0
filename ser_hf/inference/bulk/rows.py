"""The rows of a labelling: one a recording, as Parquet holds them."""

from typing import Any

import pyarrow as pa

from ser_hf.inference.bulk.reading import Fetched
from ser_hf.inference.prediction import Prediction

FORMAT = 1
"""Of the rows; a folder of another one is not gone on with."""

Row = dict[str, Any]


def schema(labels: list[str]) -> pa.Schema:
    """Columns of the rows of a model with these labels.

    `sha256` is of the bytes of the recording. `stamp` is its size, and when it changed or its
    version, as it was listed. A recording with an `error` has no answer, and one with an answer has
    no `error`. `distance` is that of `ser_hf.inference.bulk.drift`, of a sample alone. `adapted`
    says whether the answer was adapted to the recordings of one `speaker`.
    """
    segment = pa.struct(
        [("start", pa.float64()), ("end", pa.float64()), ("label", pa.string()), ("score", pa.float32())]
    )
    return pa.schema(
        [
            ("file", pa.string()),
            ("sha256", pa.string()),
            ("label", pa.string()),
            ("score", pa.float32()),
            *((score_column(label), pa.float32()) for label in labels),
            ("abstained", pa.bool_()),
            ("duration", pa.float64()),
            ("channels", pa.int16()),
            ("segments", pa.list_(segment)),
            ("distance", pa.float32()),
            ("error", pa.string()),
            ("speaker", pa.string()),
            ("adapted", pa.bool_()),
            ("model", pa.string()),
            ("version", pa.string()),
            ("stamp", pa.string()),
        ]
    )


def score_column(label: str) -> str:
    """The column with the probabilities of a label."""
    return f"score_{label}"


def answered_row(fetched: Fetched, prediction: Prediction, adapted: bool = False) -> Row:
    """The row of a recording with its prediction."""
    scores = {score_column(label): score for label, score in prediction["scores"].items()}
    answer = {key: prediction[key] for key in ("label", "score", "abstained", "duration", "segments")}
    return _row(fetched) | answer | scores | {"adapted": adapted}


def failed_row(fetched: Fetched, error: str) -> Row:
    """The row of a recording that cannot be used."""
    return _row(fetched) | {"error": error}


def copied_row(fetched: Fetched, other: Row) -> Row:
    """The row of a recording whose bytes were answered before, under another name or stamp."""
    return other | {key: value for key, value in _row(fetched).items() if key != "channels"}


def _row(fetched: Fetched) -> Row:
    recording = fetched.recording
    return {
        "file": recording.file,
        "sha256": fetched.key,
        "channels": fetched.channels,
        "speaker": recording.speaker or None,
        "stamp": recording.stamp,
    }
