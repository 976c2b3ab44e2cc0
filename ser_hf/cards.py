"""Cards and pages from what was measured - `Results`, the report of a build or of an audit - and nothing else."""

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import datasets
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ser_hf.corpora import ravdess, tess
from ser_hf.emotions import EMOTIONS

if TYPE_CHECKING:
    from ser_hf.evaluation import Results  # a dataset's card needs none of what it imports

_PACKAGED = Path(__file__).parent / "cards_templates"
TEMPLATES = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent / "cards"


def model_card(results: "Results", summary: dict) -> str:
    """The README.md of a model, with `model-index`.

    Args:
        results: of its evaluation.
        summary: `base_model`, `parameters`, `padding` and `training` (flag to value), as `finetune` knows them.
    """
    task = {
        "task_type": "audio-classification",
        "dataset_type": "ravdess-tess",
        "dataset_name": f"RAVDESS + TESS, protocol {results.protocol} ({results.protocol_hash})",
        "dataset_split": "test",
    }
    data = ModelCardData(
        license="cc-by-nc-sa-4.0",
        language="en",
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "ser_hf"],
        base_model=summary["base_model"]
        if "/" in summary["base_model"] and not Path(summary["base_model"]).exists()
        else None,
        model_name=Path(results.model).name,
        eval_results=[
            EvalResult(**task, metric_type=kind, metric_name=name, metric_value=round(value, 4), verified=False)
            for kind, name, value in (
                ("accuracy", "accuracy", results.accuracy),
                ("recall", "UAR", results.uar),
                ("f1", "macro F1", results.macro_f1),
            )
        ],
    )
    return _rendered("model.md.jinja", data, r=results, s=summary)


def dataset_card(report: dict, features: datasets.Features, shards: list[Path]) -> str:
    """The README.md of a dataset, with `configs` and `dataset_info`, so that every loader finds its rows and columns.

    Args:
        report: of the build (`ser_hf.summary.summarise`).
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
    data = DatasetCardData(
        license=list(dict.fromkeys(_LICENCES.get(corpus, "other") for corpus in corpora)) or "other",
        language="en" if set(corpora) <= set(_LICENCES) else None,  # nobody knows what others speak
        task_categories=["audio-classification"],
        tags=["speech-emotion-recognition", "ser_hf"],
        pretty_name="Speech emotion: " + (" and ".join(map(str.upper, corpora)) or "synthetic voices"),
        size_categories=_size_category(report["recordings"]),
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        dataset_info=info._to_yaml_dict(),
    )
    official = {"ravdess": ravdess.LICENCE, "tess": tess.LICENCE}
    return _rendered(
        "dataset.md.jinja",
        data,
        r=report,
        emotions=EMOTIONS,
        corpora=corpora,
        licences=[official.get(corpus, f"{corpus}: the licence of its source") for corpus in corpora],
    )


def audit_page(
    report: dict, grouped: list[tuple[str, list[dict]]], kinds: dict[str, str], pictures: dict[str, str]
) -> str:
    """The page of an audit, complete in itself: what stands in file names is escaped, nothing is loaded from elsewhere.

    Args:
        report: of `ser_hf.audit.audit`.
        grouped: its findings by kind, in the order to show.
        kinds: what each kind of finding means.
        pictures: PNG in base64, by name.
    """
    return (
        _templates(autoescape=True)
        .get_template("audit.html.jinja")
        .render(r=report, grouped=grouped, kinds=kinds, pictures=pictures, emotions=EMOTIONS)
    )


_LICENCES = {"ravdess": "cc-by-nc-sa-4.0", "tess": "cc-by-nc-nd-4.0"}


def _size_category(recordings: int) -> str:
    """The Hub's name for an order of magnitude."""
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in steps if recordings < limit), "n>1M")


def _rendered(template: str, data: ModelCardData | DatasetCardData, **values: object) -> str:
    return f"---\n{data.to_yaml()}\n---\n\n{_templates().get_template(template).render(**values)}\n"


def _templates(autoescape: bool = False) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=autoescape,
    )
    environment.filters["basename"] = lambda path: PurePath(path).name
    return environment
