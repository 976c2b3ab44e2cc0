"""What caching frozen outputs saves at base size: a probe trained twice, and each training mode.

    python benchmarks/modes.py --dataset DIR [--clips 200]

The weights of wav2vec2-base's shape are random, since speed does not depend on them. The second
probe must predict what the first one does.
"""

import argparse
import dataclasses
import tempfile

import numpy as np
import train_speed

from ser_hf.cli.train import parse_finetune
from ser_hf.models import loading
from ser_hf.training import setup
from ser_hf.training.heads import probe
from ser_hf.training.inputs import TrainingInputs


def probes(args: argparse.Namespace, model: str, cache: str) -> None:
    """The same probe twice, with one cache."""
    rows, split = train_speed.subset(args.dataset, args.clips)
    split = dataclasses.replace(split, test=split.validation)
    runs = []
    for _ in range(2):
        words = ["--dataset", args.dataset, "--model", model, "--mode", "probe", "--cache_dir", cache]
        config, settings = parse_finetune([*words, "--output_dir", cache])
        setup.set_threads(config.threads, settings)
        loaded, extractor = loading.load_for_training(model, 0)
        runs.append(probe.probe(TrainingInputs(config, settings, rows, split, loaded, extractor)))
    assert np.array_equal(runs[0].probabilities, runs[1].probabilities), "the second probe answers differently"
    totals = [run.seconds["embed"] + run.seconds["train"] for run in runs]
    for name, run, total in zip(("first", "second"), runs, totals, strict=True):
        print(
            f"probe, {name}: embeddings {run.seconds['embed']:.2f} s, head {run.seconds['train']:.2f} s, {total:.2f} s"
        )
    print(f"first / second: {totals[0] / totals[1]:.0f}")


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--clips", type=int, default=200)
    args = parser.parse_args()
    args.size = "base"
    with tempfile.TemporaryDirectory() as folder:
        model = train_speed.make_base(f"{folder}/model")
        probes(args, model, f"{folder}/cache")
        args.clips = min(args.clips, 16)
        for mode in (["--mode", "full"], ["--mode", "partial"], ["--mode", "lora"]):
            run = train_speed.measure("ours", args, model, 1, mode)
            print(
                f"{mode[1]}: {run['train'] / args.clips:.2f} s a clip and epoch, peak {run['peak']:,.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
