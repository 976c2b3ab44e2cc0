"""Training speed: the stock recipe against ours, alternately, on the same real clips and the same
weights.

    python benchmarks/train_speed.py --dataset DIR [--size base|tiny] [--clips 64] [--epochs 2]
        [--rounds 3] [--levers [NAME ...] | --processes 2]

Every run is a process of its own, so that it has a peak memory of its own. `base` is a 12-layer
wav2vec2-base of random weights. `train` is the time of the epochs alone. `whole` adds what comes
before the first step: decoding, and computing frozen outputs. The validation loss of the untrained
model must agree.

`--levers` measures ours with every option off, and then each option alone. bf16 is measured where
the processor has it, torch.compile where it is named. `--processes N` measures ours in N processes
(gloo, or a GPU each) against one, at the same clips a step. Nothing is drawn at random in the model
then, so the validation loss after training must agree, too.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

BATCH = {"base": 8, "tiny": 16}
OFF = ["--batching", "shuffled", "--cache_frozen", "false", "--fast_dropout", "false"]
OFF += ["--silence", "keep", "--bf16", "false"]
LEVERS = {
    "nothing": "",
    "like lengths, equal frames": "--batching frames",
    "frozen convolutions once": "--cache_frozen true",
    "a random byte for a dropout": "--fast_dropout true",
    "silence varied": "--silence vary",
    "like lengths + silence varied": "--batching frames --silence vary",
    "bf16 autocast": "--bf16 true",
    "a loading process": "--dataloader_num_workers 1",
    "without fused AdamW": "--optim adamw_torch",
    "without SDPA": "--attention eager",
    "one thread, as accelerate starts it": "--threads 1",
    "torch.compile": "--torch_compile true",
}


def subset(dataset: str, clips: int):  # noqa: ANN201
    """Clips drawn at random from all of the dataset, and the split that trains on them."""
    from ser_hf.data.dataset import load
    from ser_hf.protocols import Split

    rows = load(dataset)
    chosen = np.random.default_rng(0).permutation(len(rows))[: clips + 8].tolist()
    split = Split(list(range(clips)), list(range(clips, clips + 8)), [], "benchmark", 0, "")
    return rows.select(chosen), split


def child(recipe: str, dataset: str, model: str, clips: int, epochs: int, batch: int, flags: list[str]) -> None:
    """One run; prints its seconds, peak memory and the untrained validation loss as JSON."""
    import stock_recipe
    import transformers

    from ser_hf.cli.train import parse_finetune
    from ser_hf.models import loading
    from ser_hf.training import setup

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows, split = subset(dataset, clips)
    began = time.perf_counter()
    if recipe == "stock":
        torch.set_num_threads(os.cpu_count())
        loaded, extractor = loading.load_for_training(model, 0)
        settings = {"per_device_train_batch_size": batch, "per_device_eval_batch_size": 1, "num_train_epochs": epochs}
        settings |= {"save_strategy": "no", "report_to": "none", "learning_rate": 5e-5}
        sides = (rows.select(split.train), rows.select(split.validation))
        trainer = stock_recipe.trainer(loaded, extractor, *sides, tempfile.mkdtemp(), **settings)
        seconds = None
    else:
        words = ["--dataset", dataset, "--model", model, "--output_dir", tempfile.mkdtemp(), "--report_to", "none"]
        words += ["--num_train_epochs", str(epochs), "--per_device_train_batch_size", str(batch), "--seed", "0"]
        words += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
        words += ["--learning_rate", "5e-5", "--cache_dir", tempfile.mkdtemp(), *flags]
        run = setup.prepare(*parse_finetune(words), rows, split)
        trainer, seconds = run.trainer, float(run.trainer.train_dataset.lengths(0).mean())
    prepared = time.perf_counter()
    several = trainer.args.world_size > 1  # evaluated before it trains, the Trainer would not join their gradients
    loss = None if several else trainer.evaluate()["eval_loss"]
    start = time.perf_counter()
    trainer.train()
    train = time.perf_counter() - start
    after = trainer.evaluate()["eval_loss"]
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    figures = {"train": train, "whole": train + prepared - began, "peak": peak, "loss": loss, "seconds": seconds}
    if trainer.args.process_index == 0:
        print("RESULT " + json.dumps(figures | {"after": after, "device": device}))


def measure(
    recipe: str, args: argparse.Namespace, model: str, epochs: int, flags: list[str], processes: int = 1
) -> dict:
    """A run in a process of its own, or in several."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), __file__, "--child", recipe]
    command += ["--dataset", args.dataset, "--model", model, "--clips", str(args.clips), "--epochs", str(epochs)]
    command += ["--batch", str(BATCH[args.size] // processes), "--", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        sys.exit(done.stderr[-3000:])
    return json.loads(line[7:])


def make_base(folder: str, dropout: bool = True) -> str:
    """wav2vec2-base of random weights, with or without dropout, dropped layers and SpecAugment."""
    from transformers import AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2FeatureExtractor

    from ser_hf.labels import ID2LABEL, LABEL2ID

    torch.manual_seed(0)
    probabilities = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop")
    none = {} if dropout else {**dict.fromkeys(probabilities, 0.0), "apply_spec_augment": False}
    config = Wav2Vec2Config(id2label=ID2LABEL, label2id=LABEL2ID, **none)
    AutoModelForAudioClassification.from_config(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def matrix_peak(kind: torch.dtype) -> float:
    """The best GFLOP/s of matrix products of growing size.

    An emulated kind is slow already at small sizes, where the loop ends.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    best = 0.0
    for size in (256, 512, 1024, 2048, 4096):
        matrix = torch.randn(size, size, device=device).to(kind)
        for _ in range(3):
            start = time.perf_counter()
            matrix @ matrix
            torch.cuda.synchronize() if device == "cuda" else None
            duration = time.perf_counter() - start
            best = max(best, 2 * size**3 / duration / 1e9)
        if duration > 0.3:
            break
    return best


def training_gflop(model: str, seconds: float) -> float:
    """GFLOP of a clip through the trained layers: three times those of the forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    from ser_hf.models import loading
    from ser_hf.models.features import front_end_of

    loaded, extractor = loading.load_for_training(model, 0)
    clip = front_end_of(extractor).extract(np.zeros(int(seconds * 16_000), dtype=np.float32))
    batch = torch.from_numpy(clip)[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loaded.eval()(batch)
    total = counter.get_total_flops()
    if hasattr(loaded.base_model, "feature_extractor"):  # frozen: it is no work that training needs
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            loaded.base_model.feature_extractor(batch)
        total -= counter.get_total_flops()
    return 3 * total / 1e9


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def compare_recipes(args: argparse.Namespace, model: str) -> None:
    """The stock recipe and ours alternately."""
    arms = {"stock": [], "ours": []}
    for place in range(args.rounds):
        for recipe, runs in arms.items():
            runs.append(measure(recipe, args, model, args.epochs, []))
            print(f"round {place + 1}, {recipe}: {json.dumps(runs[-1])}", file=sys.stderr, flush=True)
    losses = [runs[0]["loss"] for runs in arms.values()]
    assert abs(losses[0] - losses[1]) < 2e-3, f"the untrained models do not agree: {losses}"
    examples = args.clips * args.epochs
    print(f"{args.size}, {args.clips} clips, {args.epochs} epochs, batch {BATCH[args.size]}, {args.rounds} rounds")
    print("| recipe | clips/s, training | clips/s, whole run | peak MiB |\n| --- | ---: | ---: | ---: |")
    for recipe, runs in arms.items():
        rates = [spread([examples / run[key] for run in runs]) for key in ("train", "whole")]
        print(f"| {recipe} | {rates[0]} | {rates[1]} | {statistics.median(run['peak'] for run in runs):,.0f} |")
    for key in ("train", "whole"):
        ratios = [stock[key] / ours[key] for stock, ours in zip(*arms.values(), strict=True)]
        print(f"stock / ours, {key}: {spread(ratios)}")
    seconds = arms["ours"][0]["seconds"]
    print(f"mean seconds of a clip in training: ours {seconds:.2f}; validation losses agree: {losses}")
    reached = examples / statistics.median(run["train"] for run in arms["ours"]) * training_gflop(model, seconds)
    peaks = {name: matrix_peak(kind) for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    print(f"useful GFLOP/s: {reached:.0f}; matrix peak: " + ", ".join(f"{n} {p:.1f}" for n, p in peaks.items()))
    print(f"MFU: {reached / max(peaks.values()):.2f} of the faster of both")


def compare_levers(args: argparse.Namespace, model: str) -> None:
    """Each option alone over none, one epoch each, in turn; every second round in reverse order."""
    bf16 = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    skipped = {"frozen convolutions once"} if args.size == "tiny" else set()  # it has none
    skipped |= set() if bf16 else {"bf16 autocast"}
    names = {"nothing", *args.levers} if args.levers else set(LEVERS) - {"torch.compile"}
    runs = {name: [] for name in LEVERS if name in names - skipped}
    for place in range(args.rounds):
        for name, done in list(runs.items())[:: -1 if place % 2 else 1]:
            done.append(measure("ours", args, model, 1, [*OFF, *LEVERS[name].split()]))
            print(
                f"round {place + 1}, {name}: {args.clips / done[-1]['train']:.2f} clips/s", file=sys.stderr, flush=True
            )
    print("| lever | clips/s | over nothing | peak MiB |\n| --- | ---: | ---: | ---: |")
    for name, done in runs.items():
        rate = statistics.median(args.clips / run["train"] for run in done)
        ratio = spread([none["train"] / run["train"] for none, run in zip(runs["nothing"], done, strict=True)])
        print(f"| {name} | {rate:.2f} | {ratio} | {statistics.median(run['peak'] for run in done):,.0f} |")


def compare_processes(args: argparse.Namespace, model: str) -> None:
    """One process and several alternately; both must reach the same loss."""
    still = ["--mask_time_prob", "0", "--bf16", "false"]  # and no dropout: see main
    runs = {1: [], args.processes: []}
    for place in range(args.rounds):
        for processes, done in runs.items():
            done.append(measure("ours", args, model, args.epochs, still, processes))
            print(f"round {place + 1}, {processes}: {json.dumps(done[-1])}", file=sys.stderr, flush=True)
    before, (single, several) = runs[1][0]["loss"], (done[0]["after"] for done in runs.values())
    message = f"they learn differently: {before} to {single} and {several}"
    assert abs(single - several) < 0.01 * abs(before - single), message
    ratios = [single["train"] / several["train"] for single, several in zip(*runs.values(), strict=True)]
    print(f"{args.size}, {args.clips} clips, {args.epochs} epochs, {BATCH[args.size]} clips a step, fp32")
    print(f"one process / {args.processes}, train: {spread(ratios)}")
    print(
        f"validation loss {runs[1][0]['loss']:.5f}, after: " + ", ".join(f"{r[0]['after']:.5f}" for r in runs.values())
    )


def main() -> None:
    """Compare recipes, options or numbers of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--size", choices=BATCH, default="base")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levers", nargs="*", choices=LEVERS, help="all but torch.compile, or those that are named")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.dataset, args.model, args.clips, args.epochs, args.batch, args.flags)
    with tempfile.TemporaryDirectory() as folder:
        model = "tiny" if args.size == "tiny" else make_base(folder, dropout=args.processes == 1)
        several = compare_processes if args.processes > 1 else compare_recipes
        compare = several if args.levers is None else compare_levers
        compare(args, model)
    return None


if __name__ == "__main__":
    main()
