"""The card of a dataset, from the report of its build."""

from pathlib import Path

import datasets
from huggingface_hub import DatasetCardData

from ser_hf.data.corpora import CORPORA
from ser_hf.data.corpora.base import Corpus, confounds, join_words, languages
from ser_hf.labels import EMOTIONS
from ser_hf.utils import templates


def dataset_card(report: dict, features: datasets.Features, shards: list[Path]) -> str:
    """Return the README.md of a dataset, whose `configs` and `dataset_info` every loader reads.

    Args:
        report: of the build (`ser_hf.data.describe.summarise`).
        features: of its columns.
        shards: the Parquet files in `data/`.
    """
    # synthetic voices stand in for both corpora and are under the licence of neither
    corpora = [] if report["notice"] else list(dict.fromkeys(group.split()[0] for group in report["counts"]))
    official = [CORPORA[name] for name in corpora if name in CORPORA]
    only_official = len(official) == len(corpora)  # of other corpora the card knows no more than the name
    size = sum(shard.stat().st_size for shard in shards)
    split = datasets.SplitInfo(name="train", num_bytes=size, num_examples=report["recordings"])
    info = datasets.DatasetInfo(
        features=features, splits=datasets.SplitDict({"train": split}), download_size=size, dataset_size=size
    )
    front_matter = DatasetCardData(
        license=list(dict.fromkeys(CORPORA[name].licence_id if name in CORPORA else "other" for name in corpora))
        or "other",
        language=languages(official) or "en" if only_official else None,
        task_categories=["audio-classification"],
        tags=["speech-emotion-recognition", "ser_hf"],
        pretty_name="Speech emotion: " + (" and ".join(map(str.upper, corpora)) or "synthetic voices"),
        size_categories=_size_category(report["recordings"]),
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        dataset_info=info._to_yaml_dict(),
    )
    return templates.render_card(
        "dataset.md.jinja",
        front_matter,
        r=report,
        emotions=EMOTIONS,
        statements=[f"{corpus.title}: {corpus.statements}" for corpus in CORPORA.values()],
        accents=list(dict.fromkeys(corpus.accent for corpus in official)) if only_official else [],
        confounds=confounds(official) if only_official else "",
        licences=[
            CORPORA[name].licence if name in CORPORA else f"{name}: the licence of its source" for name in corpora
        ],
        conditions=_conditions(official),
        citations=[corpus.citation for corpus in official],
    )


def _conditions(official: list[Corpus]) -> str:
    """What the licences of the corpora forbid, as the beginning of a sentence."""
    titles = [corpus.title for corpus in official if corpus.forbids_commercial_use]
    fixed = [corpus.title for corpus in official if corpus.forbids_changed_forms]
    if len(titles) == len(official) == 2:
        subject, verb = "Both", "forbid"
    else:
        subject, verb = join_words(titles), "forbids" if len(titles) == 1 else "forbid"
    parts = [f"{subject} {verb} commercial use"] if titles else []
    if fixed and titles:
        parts.append(f"and {join_words(fixed)} to pass on a changed form")
    elif fixed:
        parts.append(f"{join_words(fixed)} {'forbids' if len(fixed) == 1 else 'forbid'} to pass on a changed form")
    return ", ".join(parts)


def _size_category(recordings: int) -> str:
    """The Hub's name for an order of magnitude."""
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in steps if recordings < limit), "n>1M")
