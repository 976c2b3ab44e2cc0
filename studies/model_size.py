"""UAR on unseen voices of one fold: the configured model, a larger one, and that one pretrained.

    python studies/model_size.py CONFIG.yaml --dataset DIR --output DIR [--fold 0] [--epochs 8]
        [--rates 1e-4 3e-5] [--larger hidden_size=768 num_hidden_layers=12 num_attention_heads=12
        intermediate_size=1280] [--pretrain 15] [--pretraining "--batch_size 64 --learning_rate
        2e-4"] [--flags "..."]

All arms are fine-tuned by the config file on the same split from the same seed, at the same time.
They are the model that the file names, a larger model (base size) at each learning rate, and the
larger model after pretraining on the training side's sound at each. `--pretrain 0` leaves the last
ones out. The table has a row an arm, and the validation speakers choose. The study is made for a
GPU. Arms that lie in the output folder already are not run again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForAudioClassification

from ser_hf.models import loading

BASE = ["hidden_size=768", "num_hidden_layers=12", "num_attention_heads=12", "intermediate_size=1280"]
ALL_LAYERS = ["--freeze_feature_encoder", "false", "--patience", "0"]


def ser_hf(*words: object) -> None:
    """Run a command of ours; end with its output where it fails."""
    run = subprocess.run([sys.executable, "-m", "ser_hf.cli.main", *map(str, words)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{run.stdout[-2000:]}\n{run.stderr[-3000:]}")


def make_larger(like: str, larger: list[str], folder: Path) -> None:
    """A larger model of the same kind, with random weights, unless it is there."""
    if folder.exists():
        return
    small, extractor = loading.load_for_training(like)
    small.config.update({name: int(value) for name, _, value in (setting.partition("=") for setting in larger)})
    torch.manual_seed(0)
    AutoModelForAudioClassification.from_config(small.config).save_pretrained(folder)
    extractor.save_pretrained(folder)


def pretrain(larger: Path, config: dict, args: argparse.Namespace) -> Path:
    """The larger model, pretrained on the sound of the training side, unless it is there."""
    folder = args.output / "pretrained"
    if not folder.exists():
        split = ["--dataset", args.dataset, "--protocol", config["protocol"], "--fold", args.fold]
        split += ["--extra_train_speakers"] if config.get("extra_train_speakers") else []
        settings = ["--output", folder, "--epochs", args.pretrain, *shlex.split(args.pretraining)]
        ser_hf("pretrain", "--model", larger, *split, *settings)
    return folder


def train(name: str, model: str | Path, rate: float, args: argparse.Namespace) -> str:
    """Fine-tune one arm, unless that is done; its row."""
    folder = args.output / name
    if not (folder / "results.json").exists():
        settings = ["--dataset", args.dataset, "--model", model, "--output_dir", folder, "--learning_rate", rate]
        settings += ["--num_train_epochs", args.epochs, "--fold", args.fold, "--train_on_validation", "false"]
        ser_hf("finetune", args.config, *settings, *ALL_LAYERS, *shlex.split(args.flags))
    results = json.loads((folder / "results.json").read_text())
    epochs = [epoch for epoch in results["history"] if "eval_uar" in epoch]
    curve, loss, (low, high) = [epoch["eval_uar"] for epoch in epochs], epochs[-1]["eval_loss"], results["ci95"]["uar"]
    return (
        f"| {name} | {results['training']['parameters']:,} | {max(curve):.3f} | {loss:.2f} | {results['uar']:.3f}, "
        f"{low:.3f} to {high:.3f} | {results['seconds']['train']:.0f} | {' '.join(f'{uar:.3f}' for uar in curve)} |"
    )


def main() -> None:
    """Make the larger model, train all arms side by side, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--larger", nargs="+", default=BASE, metavar="SETTING=N", help="config of the larger model")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--pretrain", type=int, default=15, help="epochs")
    parser.add_argument("--pretraining", default="--batch_size 64 --learning_rate 2e-4", help="its flags")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-5], help="of the larger model")
    parser.add_argument("--flags", default="", help="more flags of fine-tuning")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    config, larger = yaml.safe_load(args.config.read_text()), args.output / "larger"
    make_larger(config["model"], args.larger, larger)
    with ThreadPoolExecutor(1 + 2 * len(args.rates)) as threads:

        def start(kind: str, model: str | Path, rates: list[float]) -> list[Future[str]]:
            return [threads.submit(train, f"{kind}-{rate:g}", model, rate, args) for rate in rates]

        arms = start("as-configured", config["model"], [config["learning_rate"]]) + start("larger", larger, args.rates)
        if args.pretrain:
            arms += start("larger-pretrained", pretrain(larger, config, args), args.rates)
        rows = [arm.result() for arm in arms]
    print(torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")
    print("| arm | parameters | best validation UAR | loss, last epoch | test UAR, 95 % | seconds | validation UAR |")
    print("| --- | ---: | ---: | ---: | --- | ---: | --- |", *rows, sep="\n")


if __name__ == "__main__":
    main()
