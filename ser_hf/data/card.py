"""The card of a dataset, from the report of its build."""

from pathlib import Path

import datasets
from huggingface_hub import DatasetCardData

from ser_hf.data.corpora import ravdess, tess
from ser_hf.labels import EMOTIONS
from ser_hf.utils import templates

_LICENCES = {"ravdess": "cc-by-nc-sa-4.0", "tess": "cc-by-nc-nd-4.0"}


def dataset_card(report: dict, features: datasets.Features, shards: list[Path]) -> str:
    """Return the README.md of a dataset, whose `configs` and `dataset_info` every loader reads.

    Args:
        report: of the build (`ser_hf.data.describe.summarise`).
        features: of its columns.
        shards: the Parquet files in `data/`.
    """
    # synthetic voices stand in for both corpora and are under the licence of neither
    corpora = [] if report["notice"] else list(dict.fromkeys(group.split()[0] for group in report["counts"]))
    size = sum(shard.stat().st_size for shard in shards)
    split = datasets.SplitInfo(name="train", num_bytes=size, num_examples=report["recordings"])
    info = datasets.DatasetInfo(
        features=features, splits=datasets.SplitDict({"train": split}), download_size=size, dataset_size=size
    )
    front_matter = DatasetCardData(
        license=list(dict.fromkeys(_LICENCES.get(corpus, "other") for corpus in corpora)) or "other",
        language="en" if set(corpora) <= set(_LICENCES) else None,  # the language of others is unknown
        task_categories=["audio-classification"],
        tags=["speech-emotion-recognition", "ser_hf"],
        pretty_name="Speech emotion: " + (" and ".join(map(str.upper, corpora)) or "synthetic voices"),
        size_categories=_size_category(report["recordings"]),
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        dataset_info=info._to_yaml_dict(),
    )
    official = {"ravdess": ravdess.LICENCE, "tess": tess.LICENCE}
    return templates.render_card(
        "dataset.md.jinja",
        front_matter,
        r=report,
        emotions=EMOTIONS,
        corpora=corpora,
        licences=[official.get(corpus, f"{corpus}: the licence of its source") for corpus in corpora],
    )


def _size_category(recordings: int) -> str:
    """The Hub's name for an order of magnitude."""
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in steps if recordings < limit), "n>1M")
