"""The error of a gradient under bf16 on a CPU, with layer norms in bf16 and in float32.

    python studies/bf16_norms.py --dataset DIR [--model DIR] [--clips 32] [--rounds 5]

Errors are ‖g − r‖ / ‖r‖ of a gradient g against the gradient r in float32. The loss is the
cross-entropy with label smoothing of clips drawn at random. The table has all parameters together,
and the layer norm that is furthest off. Times are processor seconds, measured alternately: median
and range of the ratio to bf16 throughout.
"""

import argparse
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AutoModelForAudioClassification

from ser_hf import BUNDLED_MODEL
from ser_hf.data import dataset
from ser_hf.models import loading, padding
from ser_hf.training import cpu_kernels
from ser_hf.training.dataset import SpeechDataset, TrainingCollator


def gradient(model: torch.nn.Module, batch: dict, bf16: bool) -> dict[str, torch.Tensor]:
    """The gradient of every parameter, by name."""
    model.zero_grad()
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    with torch.autocast("cpu", torch.bfloat16, bf16):
        logits = model(**inputs).logits
    torch.nn.functional.cross_entropy(logits.float(), batch["labels"], label_smoothing=0.1).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def relative_error(gradients: dict, reference: dict, names: list[str]) -> float:
    """The error of some parameters, taken together."""
    square = sum(float((gradients[name] - reference[name]).square().sum()) for name in names)
    return (square / sum(float(reference[name].square().sum()) for name in names)) ** 0.5


def main() -> None:
    """Print the table; fails where float32 norms are not nearer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rows = dataset.load(args.dataset)
    indices = np.random.default_rng(0).choice(len(rows), args.clips, replace=False).tolist()
    narrow, wide = (AutoModelForAudioClassification.from_pretrained(args.model).train() for _ in range(2))
    extractor = loading.load_for_training(str(args.model))[1]
    clips = SpeechDataset(rows, indices, extractor)
    batch = TrainingCollator(extractor, padding.padding_rule(narrow))([clips[place] for place in range(len(clips))])
    cpu_kernels.widen_norms(wide, SimpleNamespace(bf16=True, device=torch.device("cpu")))
    reference = gradient(narrow, batch, False)
    norms = [n for n, m in narrow.named_modules() if isinstance(m, torch.nn.LayerNorm)]
    norms = [f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias") if f"{norm}.{kind}" in reference]
    seconds, errors = {"bf16": [], "float32": []}, {}
    for _ in range(args.rounds):
        for name, model in (("bf16", narrow), ("float32", wide)):
            began = time.process_time()
            gradients = gradient(model, batch, True)
            seconds[name].append(time.process_time() - began)
            error_of = {norm: relative_error(gradients, reference, [norm]) for norm in norms}
            worst = max(norms, key=error_of.get)
            errors[name] = (relative_error(gradients, reference, list(reference)), error_of[worst], worst)
    print("| layer norms in | all parameters | the norm furthest off | time |\n| --- | ---: | --- | --- |")
    for name, (total, furthest, worst) in errors.items():
        ratios = [time_of_arm / bf16 for time_of_arm, bf16 in zip(seconds[name], seconds["bf16"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {total:.1%} | {furthest:.1%}, `{worst}` | {spread} |")
    assert errors["float32"][1] < errors["bf16"][1]


if __name__ == "__main__":
    main()
