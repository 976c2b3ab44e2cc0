"""What more parameters are worth on these corpora, and pretraining on their sound: UAR on unseen voices, one fold.

    python benchmarks/sibling.py CONFIG.yaml --dataset DIR --output DIR [--epochs 8] [--pretrain 5] [--flags "..."]

All arms are fine-tuned by the config file on the same split from the same seed, at the same time: the model that the
file names, a sibling of base size, and the sibling after pretraining on the training side's sound. The sibling's
learning rate is smaller as its width is larger, which is how Adam's best rate moves (Yang et al., "Tensor programs V",
NeurIPS 2021). Made for a GPU; what lies in the output folder already is not run again.
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


def ser_hf(*words: object) -> None:
    """A command of ours; says why where it fails."""
    run = subprocess.run([sys.executable, "-m", "ser_hf.cli", *map(str, words)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{run.stdout[-2000:]}\n{run.stderr[-3000:]}")


def make_sibling(like: str, folder: Path) -> float:
    """A larger model of the same kind, with random weights, unless it is there; the small one's share of its width."""
    small, extractor = modeling.load_for_training(like)
    config, share = small.config, small.config.hidden_size / LARGER["hidden_size"]
    if not folder.exists():
        config.update(LARGER)
        torch.manual_seed(0)
        AutoModelForAudioClassification.from_config(config).save_pretrained(folder)
        extractor.save_pretrained(folder)
    return share


def arm(name: str, model: str | Path, warmed: bool, slower: float, args: argparse.Namespace) -> str:
    """Train one, at so much less than the config's learning rate; its row."""
    folder = args.output / name
    where = ["--dataset", args.dataset]
    same = yaml.safe_load(args.config.read_text())
    if warmed and not (args.output / "warmed").exists():
        given = ["--protocol", same["protocol"], *where, "--output", args.output / "warmed"]
        given += ["--epochs", args.pretrain, "--batch_size", 64, "--learning_rate", 1e-3 * slower]
        ser_hf("pretrain", "--model", model, *given)
    if not (folder / "results.json").exists():
        model = args.output / "warmed" if warmed else model
        given = [*where, "--model", model, "--output_dir", folder, "--num_train_epochs", args.epochs]
        given += ["--learning_rate", same["learning_rate"] * slower]
        ser_hf("finetune", args.config, *given, "--fold", 0, "--refit", "false", *WHOLE, *shlex.split(args.flags))
    found = json.loads((folder / "results.json").read_text())
    curve = " ".join(f"{row['eval_uar']:.3f}" for row in found["history"] if "eval_uar" in row)
    size = found["training"]["parameters"]
    row = f"{name}: {size:,} parameters, test UAR {found['uar']:.3f}, {found['seconds']['train']:.0f} s; {curve}"
    print(row, file=sys.stderr, flush=True)
    return row


def main() -> None:
    """Make the sibling, train all arms side by side, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--pretrain", type=int, default=5)
    parser.add_argument("--flags", default="", help="more flags of fine-tuning")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    small, larger = yaml.safe_load(args.config.read_text())["model"], args.output / "sibling"
    share = make_sibling(small, larger)
    arms = [("as-configured", small, False, 1.0), ("larger", larger, False, share)]
    arms += [("larger-pretrained", larger, True, share)]
    with ThreadPoolExecutor(len(arms)) as threads:
        rows = list(threads.map(lambda one: arm(*one, args), arms))
    print(torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU", *rows, sep="\n")


if __name__ == "__main__":
    main()
