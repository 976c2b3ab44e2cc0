"""What more parameters are worth on these corpora, and pretraining on their sound: UAR on unseen voices, one fold.

    python benchmarks/sibling.py CONFIG.yaml --dataset DIR --output DIR [--epochs 8] [--pretrain 15]
        [--rates 1e-4 3e-5] [--flags "..."]

All arms are fine-tuned by the config file on the same split from the same seed, at the same time: the model that the
file names, a sibling of base size at each learning rate, and the sibling after pretraining on the training side's sound
at each. Of the rates the validation speakers choose. Made for a GPU; what lies in the output folder already is not run
again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForAudioClassification

from ser_hf import modeling

LARGER = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1280}
WHOLE = ["--freeze_feature_encoder", "false", "--patience", "0"]
PRETRAINING = ["--batch_size", 64, "--learning_rate", 2e-4]


def ser_hf(*words: object) -> None:
    """A command of ours; says why where it fails."""
    run = subprocess.run([sys.executable, "-m", "ser_hf.cli", *map(str, words)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{run.stdout[-2000:]}\n{run.stderr[-3000:]}")


def make_sibling(like: str, folder: Path) -> None:
    """A larger model of the same kind, with random weights, unless it is there."""
    if folder.exists():
        return
    small, extractor = modeling.load_for_training(like)
    small.config.update(LARGER)
    torch.manual_seed(0)
    AutoModelForAudioClassification.from_config(small.config).save_pretrained(folder)
    extractor.save_pretrained(folder)


def warm_up(sibling: Path, same: dict, args: argparse.Namespace) -> Path:
    """The sibling, pretrained on the sound of those whom the arms train on, unless it is there."""
    folder = args.output / "warmed"
    if not folder.exists():
        split = ["--dataset", args.dataset, "--protocol", same["protocol"]]
        split += ["--more_voices"] if same.get("more_voices") else []
        ser_hf("pretrain", "--model", sibling, *split, "--output", folder, "--epochs", args.pretrain, *PRETRAINING)
    return folder


def train(name: str, model: str | Path, rate: float, args: argparse.Namespace) -> dict:
    """Fine-tune one arm, unless that is done; its results."""
    folder = args.output / name
    if not (folder / "results.json").exists():
        given = ["--dataset", args.dataset, "--model", model, "--output_dir", folder, "--learning_rate", rate]
        given += ["--num_train_epochs", args.epochs, "--fold", 0, "--refit", "false", *WHOLE]
        ser_hf("finetune", args.config, *given, *shlex.split(args.flags))
    found = json.loads((folder / "results.json").read_text())
    curve = [row["eval_uar"] for row in found["history"] if "eval_uar" in row]
    print(f"{name}: {' '.join(f'{uar:.3f}' for uar in curve)}", file=sys.stderr, flush=True)
    return {"name": name, "rate": rate, "validation": max(curve), **found}


def row(arms: list[dict]) -> str:
    """The line of the arm that the validation speakers choose."""
    best = max(arms, key=lambda arm: arm["validation"])
    low, high = best["ci95"]["uar"]
    others = ", ".join(f"{arm['rate']:g}: {arm['validation']:.3f}" for arm in arms)
    return (
        f"{best['name']}: {best['training']['parameters']:,} parameters, test UAR {best['uar']:.3f} "
        f"({low:.3f} to {high:.3f}), {best['seconds']['train']:.0f} s; validation by learning rate {others}"
    )


def main() -> None:
    """Make the sibling, train all arms side by side, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--pretrain", type=int, default=15, help="epochs")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-5], help="of the sibling")
    parser.add_argument("--flags", default="", help="more flags of fine-tuning")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    same, sibling = yaml.safe_load(args.config.read_text()), args.output / "sibling"
    make_sibling(same["model"], sibling)
    with ThreadPoolExecutor(2 + 2 * len(args.rates)) as threads:
        warmed = threads.submit(warm_up, sibling, same, args)

        def start(kind: str, model: str | Path, rate: float) -> object:
            return threads.submit(train, f"{kind}-{rate:g}", model, rate, args)

        kinds = {"as-configured": [start("as-configured", same["model"], same["learning_rate"])]}
        kinds["larger"] = [start("larger", sibling, rate) for rate in args.rates]
        kinds["larger-pretrained"] = [start("larger-pretrained", warmed.result(), rate) for rate in args.rates]
        rows = [row([arm.result() for arm in arms]) for arms in kinds.values()]
    print(torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU", *rows, sep="\n")


if __name__ == "__main__":
    main()
