"""Model soup: one model of the averaged weights of several runs that share a head start.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time" (ICML 2022).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
import torch

from ser_hf import protocols
from ser_hf.data.dataset import decoded_clips
from ser_hf.errors import UserError
from ser_hf.evaluation import calibration, evaluate, metrics
from ser_hf.evaluation.results import Results
from ser_hf.evaluation.run import write_evidence
from ser_hf.inference.predictor import Predictor
from ser_hf.models import loading
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.utils import files


@dataclass(frozen=True)
class Ingredient:
    """A finished run."""

    folder: str
    weights: dict[str, torch.Tensor]
    """Before its temperature was folded in."""
    seen: SeenSpeakers
    results: Results


def cook(
    runs: list[str], settings: protocols.SplitSettings, output: Path, choose: Literal["uniform", "greedy"]
) -> Results:
    """Average runs, calibrate and test the average, and write it with its evidence and card.

    Args:
        runs: folders of models that `ser-hf finetune` wrote.
        settings: the split that they were trained under.
        output: folder that gets the model.
        choose: `uniform` averages all. `greedy` takes the run of the best validation UAR, then each
            next one that does not lower the UAR of the average.

    Raises:
        UserError: naming the run that does not fit, before anything is written.
    """
    files.refuse_existing(output)
    if len(runs) < 2:
        raise UserError(f"a soup of '{runs[0]}' alone is that model: give two runs or more")
    rows, split = protocols.load_split(settings)
    if choose == "greedy" and not split.validation:
        raise UserError("--choose greedy judges by the validation side, which was trained on: give --choose uniform")
    ingredients = [ingredient(run) for run in runs]
    for each in ingredients:
        refuse_unlike(each, ingredients[0], split)
    predictor = Predictor(runs[0], backend="torch")
    taken = ingredients if choose == "uniform" else greedy(ingredients, predictor, rows, split.validation)
    model = predictor.model
    model.load_state_dict(average(taken))
    # Of all runs, since a greedy choice looks at each: nobody that one of them knows is new to it.
    speakers = sorted({speaker for each in ingredients for speaker in each.seen.speakers or ()})
    seen = SeenSpeakers(backbone=ingredients[0].seen.backbone)
    seen.trained(split.name, split.hash, split.fold, speakers).remember(model.config)
    calibrated = _calibrate(predictor, taken, rows, split)
    with files.new_folder(output) as folder:
        model.save_pretrained(folder)
        predictor.extractor.save_pretrained(folder)
        loading.copy_licences(runs[0], folder)
        record = _record(taken, len(runs), choose, calibrated)
        results, probabilities, _ = evaluate.evaluate(
            Predictor(folder, backend="torch"), rows, [split], settings.dataset, str(output), record
        )
        write_evidence(results, folder, probabilities, rows, [split], card=True)
    return results


def ingredient(folder: str) -> Ingredient:
    """Read a finished run.

    Raises:
        UserError: for a folder that fine-tuning did not write.
    """
    if not Path(folder, "results.json").is_file():
        raise UserError(f"'{folder}' holds no results.json: give folders that `ser-hf finetune` wrote")
    model, _, _ = loading.load_for_prediction(folder)
    seen = SeenSpeakers.of(model.config)
    if seen.temperature is not None:  # else the run of the highest temperature would weigh least
        calibration.fold_temperature(model, 1 / seen.temperature)
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return Ingredient(folder, weights, seen, Results.load(Path(folder, "results.json")))


def refuse_unlike(one: Ingredient, first: Ingredient, split: protocols.Split) -> None:
    """Refuse a run whose weights cannot be averaged with those of the first.

    Raises:
        UserError: naming the run and what differs.
    """
    begun = [{**(each.results.training.get("head_start") or {}), "kept": None} for each in (one, first)]
    shapes = [{name: tensor.shape for name, tensor in each.weights.items()} for each in (one, first)]
    problems = {
        "has other labels": one.results.labels != first.results.labels,
        "has another backbone": one.results.training.get("base_model") != first.results.training.get("base_model"),
        "has weights of other shapes": shapes[0] != shapes[1],
        f"was not trained under {split.name} fold {split.fold}": one.seen.protocol_hash != split.hash,
        "has no head start": "shrinkage" not in begun[0],
        "has another head start": begun[0] != begun[1],
    }
    for problem, holds in problems.items():
        if holds:
            raise UserError(f"'{one.folder}' {problem}, so it cannot be averaged with '{first.folder}': leave it out")


def average(ingredients: list[Ingredient]) -> dict[str, torch.Tensor]:
    """The mean of the weights of runs, in float32."""
    return {
        name: torch.stack([each.weights[name].float() for each in ingredients]).mean(dim=0).to(tensor.dtype)
        for name, tensor in ingredients[0].weights.items()
    }


def greedy(
    ingredients: list[Ingredient], predictor: Predictor, rows: datasets.Dataset, validation: list[int]
) -> list[Ingredient]:
    """Choose runs by the validation UAR of their average (recipe 1 of Wortsman et al.)."""

    def uar(parts: list[Ingredient]) -> float:
        predictor.model.load_state_dict(average(parts))
        logits = predictor.logits(decoded_clips(rows.select(validation), "Validating an average"))
        labels = np.array(rows.select(validation)["label"])
        return float(metrics.scores(metrics.confusion(labels, np.argmax(logits, axis=1)))["uar"])

    alone = [uar([each]) for each in ingredients]
    order = sorted(range(len(ingredients)), key=lambda place: -alone[place])
    taken, best = [ingredients[order[0]]], alone[order[0]]
    for place in order[1:]:
        together = uar([*taken, ingredients[place]])
        if together >= best:
            taken, best = [*taken, ingredients[place]], together
    print(f"soup of {len(taken)} of {len(ingredients)} runs: validation UAR {best:.3f}, alone at most {max(alone):.3f}")
    return taken


def _calibrate(
    predictor: Predictor, taken: list[Ingredient], rows: datasets.Dataset, split: protocols.Split
) -> dict | None:
    """Fold in a temperature fitted on validation, or without it the geometric mean of the runs'."""
    if split.validation:
        return calibration.calibrate_or_warn(
            lambda **threshold: calibration.calibrate_model(predictor, rows, split.validation, **threshold), None, None
        )
    temperatures = [each.seen.temperature for each in taken if each.seen.temperature is not None]
    if len(temperatures) == len(taken):
        calibration.apply_temperature(predictor.model, math.exp(np.log(temperatures).mean()))
    return None


def _record(taken: list[Ingredient], runs: int, choose: str, calibrated: dict | None) -> evaluate.TrainingRecord:
    training = taken[0].results.training
    settings = {**training["settings"], "soup": f"{len(taken)} of {runs} runs, {choose}"}
    settings.pop("seed", None)
    start = {**training["head_start"], "kept": False}
    return evaluate.TrainingRecord({**training, "settings": settings, "head_start": start}, calibration=calibrated)
