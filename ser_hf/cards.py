"""Model cards from `Results` and nothing else."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ser_hf.evaluation import Results

_PACKAGED = Path(__file__).parent / "cards_templates"
TEMPLATES = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent / "cards"


def model_card(results: Results, summary: dict) -> str:
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
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    body = templates.get_template("model.md.jinja").render(r=results, s=summary)
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n"
