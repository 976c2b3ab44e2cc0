"""What more parameters are worth on these corpora, and pretraining on their sound: UAR on unseen
voices, one fold.

    python studies/model_size.py CONFIG.yaml --dataset DIR --output DIR [--fold 0] [--epochs 8]
        [--rates 1e-4 3e-5] [--larger hidden_size=768 num_hidden_layers=12 num_attention_heads=12
        intermediate_size=1280] [--pretrain 15] [--pretraining "--batch_size 64 --learning_rate
        2e-4"] [--flags "..."]

All arms are fine-tuned by the config file on the same split from the same seed, at the same time:
the model that the file names, a larger sibling (of base size) at each learning rate, and the
sibling after pretraining on the training side's sound at each; `--pretrain 0` leaves these out. A
row an arm: it is for the validation speakers to choose. Made for a GPU; what lies in the output
folder already is not run again.
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
WHOLE = ["--freeze_feature_encoder", "false", "--patience", "0"]


def ser_hf(*words: object) -> None:
    """A command of ours; says why where it fails."""
    run = subprocess.run([sys.executable, "-m", "ser_hf.cli.main", *map(str, words)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{run.stdout[-2000:]}\n{run.stderr[-3000:]}")


def make_sibling(like: str, larger: list[str], folder: Path) -> None:
    """A larger model of the same kind, with random weights, unless it is there."""
    if folder.exists():
        return
    small, extractor = loading.load_for_training(like)
    small.config.update({name: int(value) for name, _, value in (one.partition("=") for one in larger)})
    torch.manual_seed(0)
    AutoModelForAudioClassification.from_config(small.config).save_pretrained(folder)
    extractor.save_pretrained(folder)


def warm_up(sibling: Path, same: dict, args: argparse.Namespace) -> Path:
    """The sibling, pretrained on the sound of those whom the arms train on, unless it is there."""
    folder = args.output / "warmed"
    if not folder.exists():
        split = ["--dataset", args.dataset, "--protocol", same["protocol"], "--fold", args.fold]
        split += ["--extra_train_speakers"] if same.get("extra_train_speakers") else []
        given = ["--output", folder, "--epochs", args.pretrain, *shlex.split(args.pretraining)]
        ser_hf("pretrain", "--model", sibling, *split, *given)
    return folder


def train(name: str, model: str | Path, rate: float, args: argparse.Namespace) -> str:
    """Fine-tune one arm, unless that is done; its row."""
    folder = args.output / name
    if not (folder / "results.json").exists():
        given = ["--dataset", args.dataset, "--model", model, "--output_dir", folder, "--learning_rate", rate]
        given += ["--num_train_epochs", args.epochs, "--fold", args.fold, "--train_on_validation", "false", *WHOLE]
        ser_hf("finetune", args.config, *given, *shlex.split(args.flags))
    found = json.loads((folder / "results.json").read_text())
    judged = [epoch for epoch in found["history"] if "eval_uar" in epoch]
    curve, loss, (low, high) = [epoch["eval_uar"] for epoch in judged], judged[-1]["eval_loss"], found["ci95"]["uar"]
    return (
        f"| {name} | {found['training']['parameters']:,} | {max(curve):.3f} | {loss:.2f} | {found['uar']:.3f}, "
        f"{low:.3f} to {high:.3f} | {found['seconds']['train']:.0f} | {' '.join(f'{uar:.3f}' for uar in curve)} |"
    )


def main() -> None:
    """Make the sibling, train all arms side by side, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--larger", nargs="+", default=BASE, metavar="SETTING=N", help="the sibling's config")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--pretrain", type=int, default=15, help="epochs")
    parser.add_argument("--pretraining", default="--batch_size 64 --learning_rate 2e-4", help="flags of it")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-5], help="of the sibling")
    parser.add_argument("--flags", default="", help="more flags of fine-tuning")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    same, sibling = yaml.safe_load(args.config.read_text()), args.output / "sibling"
    make_sibling(same["model"], args.larger, sibling)
    with ThreadPoolExecutor(1 + 2 * len(args.rates)) as threads:

        def start(kind: str, model: str | Path, rates: list[float]) -> list[Future[str]]:
            return [threads.submit(train, f"{kind}-{rate:g}", model, rate, args) for rate in rates]

        arms = start("as-configured", same["model"], [same["learning_rate"]]) + start("larger", sibling, args.rates)
        if args.pretrain:
            arms += start("larger-pretrained", warm_up(sibling, same, args), args.rates)
        rows = [arm.result() for arm in arms]
    print(torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")
    print("| arm | parameters | best validation UAR | loss, last epoch | test UAR, 95 % | seconds | validation UAR |")
    print("| --- | ---: | ---: | ---: | --- | ---: | --- |", *rows, sep="\n")


if __name__ == "__main__":
    main()
