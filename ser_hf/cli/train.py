"""Commands that train models: finetune, pretrain, soup and leakage-curve."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ser_hf.cli.output import quiet_transformers
from ser_hf.cli.settings import CommandLine
from ser_hf.errors import UserError
from ser_hf.protocols import SplitSettings
from ser_hf.training.config import FinetuneConfig, training_arguments

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass
class LeakageCurveSettings:
    """Which recipe `ser-hf leakage-curve` trains under every protocol."""

    model: str = field(metadata={"metavar": "ID|DIR|tiny|NAME", "help": "of `finetune`, or a name of `baseline`"})
    dataset: str = field(metadata={"metavar": "DIR|REPO", "help": "folder that `ser-hf data` wrote, or a Hub id"})
    output: str = field(
        metadata={"metavar": "DIR", "help": "gets leakage_curve.json, leakage_curve.png and a folder a protocol"}
    )


@dataclass(kw_only=True)
class SoupSettings(SplitSettings):
    """Which runs `ser-hf soup` averages, and under which split they were trained."""

    runs: list[str] = field(metadata={"positional": True, "metavar": "RUN ...", "help": "folders of finished runs"})
    output: str = field(metadata={"metavar": "DIR", "help": "gets the model and its evidence; must not exist yet"})
    choose: Literal["greedy", "uniform"] = field(
        default="greedy", metadata={"help": "greedy: runs that do not lower the validation UAR of the average"}
    )
    extra_train_speakers: bool = field(default=False, metadata={"help": "as the runs were trained"})
    train_on_validation: bool = field(default=False, metadata={"help": "as the runs were trained"})


def finetune(line: CommandLine) -> None:
    """Fine-tune a model, and write it with its evidence and card.

    Every flag of transformers.TrainingArguments works, too: --output_dir, --num_train_epochs,
    --learning_rate, --per_device_train_batch_size, --gradient_accumulation_steps,
    --resume_from_checkpoint true, --bf16 false, and so on. A config file may hold both.

    Examples:
        ser-hf finetune --dataset runs/dataset --model tiny --output_dir runs/model
        ser-hf finetune configs/whisper-base.yaml --dataset runs/dataset
    """
    config, args = _finetune_settings(line)
    from ser_hf.experiments import repeats

    quiet_transformers()
    results = repeats.run_repeats(config, args)
    if results is not None:
        print(f"\n{results.report()}\nresults.json, plots/ and what was trained: {results.model}")


def parse_finetune(words: list[str]) -> "tuple[FinetuneConfig, TrainingArguments]":
    """Settings of fine-tuning from flags over the config file over our defaults.

    Args:
        words: optionally a `.yaml`, `.yml` or `.json` file first, then `--flag value` pairs.

    Raises:
        UserError: naming the flag, the key or the value.
    """
    return _finetune_settings(CommandLine("finetune", words, finetune.__doc__))


def _finetune_settings(line: CommandLine) -> "tuple[FinetuneConfig, TrainingArguments]":
    # ours first: the defaults of TrainingArguments depend on model and mode
    config = line.parse(FinetuneConfig, partial=True)
    from transformers import TrainingArguments

    return config, line.parse(TrainingArguments, make=partial(training_arguments, config))


def pretrain(line: CommandLine) -> None:
    """Pretrain a model on recordings without their labels, by wav2vec 2.0's objective.

    Example:
        ser-hf pretrain --dataset runs/dataset --model tiny --output runs/pretrained
    """
    from ser_hf.training.pretraining.config import PretrainConfig

    config = line.parse(PretrainConfig)
    from ser_hf.training.pretraining.pretrain import pretrain

    quiet_transformers()
    history = pretrain(config)
    if history is not None:
        output = config.output
        print(f"model and history.json: {output}  (go on with `ser-hf finetune --model {output}`)")


def soup(line: CommandLine) -> None:
    """Average the weights of runs that share a head start, and test the average.

    The output folder gets the model with its evidence and card.

    Example:
        ser-hf soup runs/a runs/b --dataset runs/dataset --output runs/soup
    """
    settings = line.parse(SoupSettings)
    from ser_hf.experiments.soup import cook

    quiet_transformers()
    results = cook(settings.runs, settings, Path(settings.output), settings.choose)
    print(f"{results.report()}\nthe model, results.json and the card README.md: {settings.output}")


def leakage_curve(line: CommandLine) -> None:
    """Train one recipe under protocols from leaky to strict, and draw how much each flatters.

    The protocols are random, sentence, speaker, and across corpora in both directions. Every other
    flag goes to fine-tuning. What the output folder holds already is not trained again.

    Example:
        ser-hf leakage-curve --model mfcc-svm --dataset runs/dataset --output runs/b
    """
    settings = line.parse(LeakageCurveSettings, partial=True)
    from ser_hf.evaluation import baselines
    from ser_hf.experiments import leakage_curve

    of_the_curve = ("output_dir", "protocol", "fold")
    for name in of_the_curve:  # a recipe's file may name the split that it was written for
        line.file_values.pop(name, None)
    flags = line.rest()
    for flag in (flag.split("=")[0] for flag in flags if flag.startswith("--")):
        if flag.removeprefix("--") in of_the_curve:
            raise UserError(f"{flag} is set by the leakage curve, for each protocol: leave it out")
    if settings.model in baselines.BASELINES:
        baselines.require_packages([settings.model])
    if settings.model in baselines.BASELINES and flags:
        raise UserError(f"{flags[0]}: a baseline takes no flags of fine-tuning, leave it out")

    def recipe(protocol: str, folder: Path, resume: bool) -> "tuple[FinetuneConfig, TrainingArguments]":
        words = [f"--model={settings.model}", f"--dataset={settings.dataset}"]
        words += [f"--protocol={protocol}", f"--output_dir={folder}"]
        words += ["--resume_from_checkpoint=true"] if resume else []
        config, args = _finetune_settings(line.with_words("finetune", words))
        if config.search:
            raise UserError(f"--search {config.search} gives no results to draw: search with `ser-hf finetune` first")
        return config, args

    quiet_transformers()
    output = Path(settings.output)
    curve = leakage_curve.run_leakage_curve(settings.model, settings.dataset, output, recipe, flags)
    print(leakage_curve.leakage_table(curve))
    print(f"leakage_curve.png, leakage_curve.json and each protocol's evidence: {settings.output}")
