"""Training speed: the stock recipe against ours, alternately, on the same real clips and the same
weights.

    python benchmarks/train_speed.py --dataset DIR [--size base|tiny] [--clips 64] [--epochs 2]
        [--rounds 3] [--levers [NAME ...] | --processes 2]
    python benchmarks/train_speed.py --dataset DIR --size whisper [--model DIR] [--keep_layers 3]
        [--protocol speaker] [--clips 256] [--epochs 3] [--rounds 3]

Every run is a process of its own, so that it has a peak memory of its own. `base` is a 12-layer
wav2vec2-base of random weights. `train` is the time of the epochs alone. `whole` adds what comes
before the first step: decoding, and computing frozen outputs. The validation loss of the untrained
model must agree.

`--levers` measures ours with every option off, and then each option alone. bf16 is measured where
the processor has it, torch.compile where it is named. `--processes N` measures ours in N processes
(gloo, or a GPU each) against one, at the same clips a step. Nothing is drawn at random in the model
then, so the validation loss after training must agree, too.

`whisper` compares the stock recipe at 30 s with ours, which fits the window to the clips, keeps the
lower layers, begins the head at a regression, and computes what is frozen once. --model is a real
Whisper; without it, the weights of whisper-tiny's shape are random. Training and validation clips
are of different speakers, and the table has the UAR after the last epoch. What ours saves must
predict in the stock pipeline as the trained model did. A training on what is cached must end at the
loss of one that computes it in every step.
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

BATCH = {"base": 8, "tiny": 16, "whisper": 8}
WHISPER_STOCK = {"learning_rate": 3e-5, "warmup_steps": 0.1, "lr_scheduler_type": "linear"}
"""Settings of transformers' audio-classification example for whisper-tiny, batch 8."""
WHISPER_OURS = {"full": ["--mode", "full"], "partial": ["--mode", "partial", "--layers", "1"]}
GOAL = 8.0  # times the stock recipe on Whisper
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


def subset(dataset: str, clips: int, protocol: str | None = None, validated: int = 8):  # noqa: ANN201
    """Clips drawn at random, and the split that trains on them.

    They come from all of the dataset. With a protocol the validation clips are of its validation
    side, whose speakers are others.
    """
    from ser_hf.data.dataset import load
    from ser_hf.protocols import Split, split

    rows, rng = load(dataset), np.random.default_rng(0)
    if protocol:
        whole = split(rows, protocol)
        train, validation = (rng.permutation(side).tolist() for side in (whole.train, whole.validation))
        train, validation = train[:clips], validation[:validated]
        places, taken = list(range(len(train) + len(validation))), len(train)
        return rows.select(train + validation), Split(places[:taken], places[taken:], [], "benchmark", 0, "")
    chosen = np.random.default_rng(0).permutation(len(rows))[: clips + validated].tolist()
    places = list(range(clips + validated))
    return rows.select(chosen), Split(places[:clips], places[clips:], [], "benchmark", 0, "")


def run_once(args: argparse.Namespace) -> dict | None:
    """Train once.

    Args:
        args: `child`, the recipe; `dataset`, `model`, `clips`, `epochs`, `batch`, `flags`, and
            `protocol` and `validated` of a Whisper.

    Returns:
        Seconds, peak memory, the untrained validation loss (None where it is not needed), and loss
        and UAR of the trained model; None on all but the first process.
    """
    import stock_recipe
    import transformers

    from ser_hf.cli.train import parse_finetune
    from ser_hf.models import loading
    from ser_hf.training import setup

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows, split = subset(args.dataset, args.clips, args.protocol, args.validated or 8)
    dataset, model, epochs, batch = args.dataset, args.model, args.epochs, args.batch
    began = time.perf_counter()
    if args.child == "stock":
        torch.set_num_threads(os.cpu_count())
        loaded, extractor = loading.load_for_training(model, 0)
        settings = {"per_device_train_batch_size": batch, "per_device_eval_batch_size": 1, "num_train_epochs": epochs}
        settings |= {"save_strategy": "no", "report_to": "none", "learning_rate": 5e-5}
        settings |= WHISPER_STOCK if args.protocol else {}
        sides = (rows.select(split.train), rows.select(split.validation))
        trainer = stock_recipe.trainer(loaded, extractor, *sides, tempfile.mkdtemp(), **settings)
        seconds = None
    else:
        words = ["--dataset", dataset, "--model", model, "--output_dir", tempfile.mkdtemp(), "--report_to", "none"]
        words += ["--num_train_epochs", str(epochs), "--per_device_train_batch_size", str(batch), "--seed", "0"]
        words += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
        words += ["--learning_rate", "5e-5", "--cache_dir", tempfile.mkdtemp(), *args.flags]
        run = setup.prepare(*parse_finetune(words), rows, split)
        trainer, seconds = run.trainer, float(run.trainer.train_dataset.lengths(0).mean())
    prepared = time.perf_counter()
    # Evaluated before it trains, the Trainer would not join the gradients of several processes. A
    # Whisper's windows differ, and so do its untrained losses.
    loss = None if trainer.args.world_size > 1 or args.protocol else trainer.evaluate()["eval_loss"]
    start = time.perf_counter()
    trainer.train()
    train = time.perf_counter() - start
    after = trainer.evaluate()
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    figures = {"train": train, "whole": train + prepared - began, "peak": peak, "loss": loss, "seconds": seconds}
    figures |= {"after": after["eval_loss"], "uar": after["eval_uar"], "device": device}
    if args.protocol and args.child == "ours":
        figures["pipeline"] = distance_from_pipeline(run, rows.select(split.validation[:8]))
    return figures if trainer.args.process_index == 0 else None


def distance_from_pipeline(run, clips) -> float:  # noqa: ANN001
    """How far a probability of the stock pipeline, on what is saved, is from the trained model's.

    Args:
        run: a `ser_hf.training.setup.Prepared` after training.
        clips: rows of the dataset.
    """
    from transformers import pipeline

    from ser_hf import audio
    from ser_hf.models.features import front_end_of

    # without the autocast that accelerate wraps around the model
    model = run.trainer.accelerator.unwrap_model(run.trained.finished(), keep_fp32_wrapper=False).eval()
    sounds = [audio.load(row["audio"]) for row in clips]
    features = torch.from_numpy(np.stack([front_end_of(run.extractor).extract(sound) for sound in sounds]))
    with torch.inference_mode():
        wanted = model(features).logits.softmax(-1).numpy()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        run.extractor.save_pretrained(folder)
        answers = pipeline("audio-classification", model=folder)(sounds, top_k=None)
    scores = [{answer["label"]: answer["score"] for answer in each} for each in answers]
    found = [[each[label] for label in model.config.id2label.values()] for each in scores]
    return float(np.abs(np.array(found) - wanted).max())


def measure(
    recipe: str, args: argparse.Namespace, model: str, epochs: int, flags: list[str], processes: int = 1
) -> dict:
    """A run in a process of its own, or in several."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), __file__, "--child", recipe]
    command += ["--dataset", args.dataset, "--model", model, "--clips", str(args.clips), "--epochs", str(epochs)]
    if args.size == "whisper":
        command += ["--protocol", args.protocol, "--validated", str(args.validated)]
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


def make_whisper(folder: str) -> str:
    """whisper-tiny of random weights at 30 s."""
    from transformers import AutoModelForAudioClassification, WhisperConfig, WhisperFeatureExtractor

    from ser_hf.labels import ID2LABEL, LABEL2ID

    torch.manual_seed(0)
    shape = {"encoder_layers": 4, "d_model": 384, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
    config = WhisperConfig(**shape, id2label=ID2LABEL, label2id=LABEL2ID)
    AutoModelForAudioClassification.from_config(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
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


def compare_whisper(args: argparse.Namespace, model: str) -> None:
    """The stock recipe at 30 s, and ours in two modes, alternately; then what they must share."""
    arms = {"stock": ("stock", [])}
    arms |= {
        f"ours, {mode}": ("ours", ["--keep_layers", str(args.keep_layers), *flags])
        for mode, flags in WHISPER_OURS.items()
    }
    runs = {name: [] for name in arms}
    for place in range(args.rounds):
        for name, (recipe, flags) in list(arms.items())[:: -1 if place % 2 else 1]:
            runs[name].append(measure(recipe, args, model, args.epochs, flags))
            print(f"round {place + 1}, {name}: {json.dumps(runs[name][-1])}", file=sys.stderr, flush=True)
    distance = max(run["pipeline"] for name, done in runs.items() if name != "stock" for run in done)
    assert distance < 1e-4, f"the stock pipeline moves a probability by {distance}"
    examples = args.clips * args.epochs
    print(f"whisper, {args.clips} clips, {args.epochs} epochs, batch {BATCH['whisper']}, {args.rounds} rounds")
    print("| recipe | clips/s, training | times stock | times stock, whole run | UAR | peak MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, done in runs.items():
        rate = spread([examples / run["train"] for run in done])
        ratios = [
            spread([stock[key] / run[key] for stock, run in zip(runs["stock"], done, strict=True)])
            for key in ("train", "whole")
        ]
        uar, peak = (statistics.median(run[key] for run in done) for key in ("uar", "peak"))
        print(f"| {name} | {rate} | {ratios[0]} | {ratios[1]} | {uar:.3f} | {peak:,.0f} |")
        if name != "stock":
            faster = statistics.median(s["train"] / run["train"] for s, run in zip(runs["stock"], done, strict=True))
            as_good = uar >= statistics.median(run["uar"] for run in runs["stock"])
            reached = "reached" if faster >= GOAL and as_good else "not reached"
            print(f"{name}: {GOAL:g} times the stock recipe at no worse UAR is {reached}", file=sys.stderr)
    print(f"the stock pipeline moves no probability by more than {distance:.1e}")


def cached_equals_uncached(args: argparse.Namespace, model: str) -> None:
    """Both modes in fp32 on few clips, on cached frames and without: they must end at one loss."""
    few = argparse.Namespace(**vars(args) | {"clips": min(args.clips, 32)})
    for mode, flags in WHISPER_OURS.items():
        words = ["--keep_layers", str(args.keep_layers), *flags, "--bf16", "false", "--silence", "keep"]
        losses = [
            measure("ours", few, model, 1, [*words, "--cache_frozen", cached])["after"] for cached in ("true", "false")
        ]
        assert abs(losses[0] - losses[1]) < 2e-3, f"{mode} learns differently on cached frames: {losses}"
        print(f"{mode}: validation loss on cached frames {losses[0]:.5f}, without a cache {losses[1]:.5f}")


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
    parser.add_argument("--clips", type=int, help="64; of whisper 256")
    parser.add_argument("--epochs", type=int, help="2; of whisper 3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levers", nargs="*", choices=LEVERS, help="all but torch.compile, or those that are named")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--model", metavar="DIR", help="a Whisper, for --size whisper; random weights if unset")
    parser.add_argument("--keep_layers", type=int, default=3, help="that ours keeps of a Whisper")
    parser.add_argument("--validated", type=int, help="validation clips of a Whisper; 256 if unset")
    parser.add_argument("--protocol", help="of a Whisper's training and validation side; speaker if unset")
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        figures = run_once(args)
        return None if figures is None else print("RESULT " + json.dumps(figures))
    whisper = args.size == "whisper"
    args.clips, args.epochs = args.clips or (256 if whisper else 64), args.epochs or (3 if whisper else 2)
    if whisper:
        args.protocol, args.validated = args.protocol or "speaker", args.validated or 256
        with tempfile.TemporaryDirectory() as folder:
            model = args.model or make_whisper(folder)
            compare_whisper(args, model)
            return cached_equals_uncached(args, model)
    with tempfile.TemporaryDirectory() as folder:
        model = "tiny" if args.size == "tiny" else make_base(folder, dropout=args.processes == 1)
        several = compare_processes if args.processes > 1 else compare_recipes
        compare = several if args.levers is None else compare_levers
        compare(args, model)
    return None


if __name__ == "__main__":
    main()
