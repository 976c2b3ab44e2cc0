"""The recipe of the transformers documentation for audio classification, to compare with.

`set_transform` with the feature extractor on each clip as it is drawn, padding to the longest clip
of a shuffled batch, fp32, the default Trainer, the convolutional feature encoder frozen. A Whisper
has no such encoder to freeze: all its weights are trained, on the 30 s that its extractor pads to.
Two things are better here, so that the comparison does not flatter ours. Decoding is our own
(torchcodec is slower), and the loss is scaled correctly.

    python benchmarks/stock_recipe.py --dataset DIR --model tiny --seed 42 --epochs 4

It prints the validation UAR.
"""

import argparse
import json
import tempfile

import datasets
import numpy as np
import torch
import transformers
from transformers import Trainer, TrainingArguments

from ser_hf import audio, protocols
from ser_hf.data import dataset
from ser_hf.evaluation import metrics
from ser_hf.models import loading
from ser_hf.training.config import SCRATCH


def collator(extractor: transformers.FeatureExtractionMixin):  # noqa: ANN201
    """Pad to the longest of the batch, as `DataCollatorWithPadding` does for text."""
    name = extractor.model_input_names[0]

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = extractor.pad([{name: row[name]} for row in rows], padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}

    return collate


def transformed(rows: datasets.Dataset, extractor: transformers.FeatureExtractionMixin) -> datasets.Dataset:
    """Rows that are decoded and extracted whenever they are drawn."""
    name = extractor.model_input_names[0]

    def transform(batch: dict) -> dict:
        clips = [audio.load(source) for source in batch["audio"]]
        inputs = [extractor(clip, sampling_rate=16_000)[name][0] for clip in clips]
        return {name: [np.asarray(values, dtype=np.float32) for values in inputs], "label": batch["label"]}

    rows = rows.select_columns(["audio", "label"])
    rows.set_transform(transform)
    return rows


def trainer(
    model: transformers.PreTrainedModel,
    extractor: transformers.FeatureExtractionMixin,
    train: datasets.Dataset,
    validation: datasets.Dataset | None,
    output: str,
    **settings: object,
) -> Trainer:
    """The default Trainer on such rows."""
    model.accepts_loss_kwargs = False
    if hasattr(model, "freeze_feature_encoder"):
        model.freeze_feature_encoder()

    def figures(prediction: transformers.EvalPrediction) -> dict[str, float]:
        matrix = metrics.confusion(prediction.label_ids, np.argmax(prediction.predictions, axis=-1))
        return {name: float(value) for name, value in metrics.scores(matrix).items()}

    args = TrainingArguments(
        output, use_cpu=not torch.cuda.is_available(), remove_unused_columns=False, disable_tqdm=True, **settings
    )
    return Trainer(
        model=model,
        args=args,
        train_dataset=transformed(train, extractor),
        eval_dataset=None if validation is None else transformed(validation, extractor),
        data_collator=collator(extractor),
        compute_metrics=figures,
    )


def main() -> None:
    """Train and print the validation UAR of the best epoch and of the last, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--protocol", default="speaker")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    rows = dataset.load(args.dataset)
    split = protocols.split(rows, args.protocol)
    model, extractor = loading.load_for_training(args.model, args.seed)
    settings = {**SCRATCH, "num_train_epochs": args.epochs, "lr_scheduler_type": "cosine", "warmup_steps": 0.1}
    settings |= {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 32, "seed": args.seed}
    settings |= {"eval_strategy": "epoch", "save_strategy": "no", "logging_strategy": "epoch"}
    with tempfile.TemporaryDirectory() as folder:
        sides = (rows.select(split.train), rows.select(split.validation))
        run = trainer(model, extractor, *sides, folder, **settings)
        run.train()
    uar = [row["eval_uar"] for row in run.state.log_history if "eval_uar" in row]
    print(json.dumps({"recipe": "stock", "seed": args.seed, "uar": uar}), flush=True)


if __name__ == "__main__":
    main()
