"""The commands about evidence: evaluate, baseline, calibrate, compare, explain, report and push."""

import argparse
import io
import json
from pathlib import Path

from ser_hf.cli.flags import Parser, add_protocol, quiet
from ser_hf.errors import UserError


def evaluate(argv: list[str]) -> None:
    """test a model under a protocol; --dial: one recipe under four"""
    if "--dial" in argv:
        return leakage_curve([word for word in argv if word != "--dial"])
    parser = Parser("ser-hf evaluate", description="Test a model under a protocol.")
    parser.add_argument("--dial", action="store_true", help="train one recipe under four protocols (--dial --help)")
    parser.add_argument("--model", required=True, metavar="DIR|REPO")
    parser.add_argument("--dataset", required=True, metavar="DIR|REPO")
    add_protocol(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="must not exist yet")
    parser.add_argument(
        "--also",
        nargs="+",
        default=[],
        choices=("stress", "shortcuts", "baselines", "all"),
        help="damaged clips; what else the embeddings tell; simple models beside it",
    )
    parser.add_argument("--into_model", action="store_true", help="renew the evidence and card in the model's folder")
    parser.add_argument("--cache_dir", metavar="DIR", help="of the baselines' features")
    args = parser.parse_args(argv)
    from ser_hf.evaluation import run

    quiet()
    results = run.run_evaluation(
        args.model,
        args.dataset,
        args.protocol,
        args.fold,
        Path(args.output),
        args.split_seed,
        args.text_disjoint,
        run.ALSO if "all" in args.also else tuple(args.also),
        args.into_model,
        args.cache_dir,
    )
    print(f"{results.report()}\nresults.json, plots/ and the card README.md: {args.output}")


def leakage_curve(argv: list[str]) -> None:
    """Train one recipe under protocols from the most flattering to the least, and draw how much
    each flatters."""
    parser = Parser(
        "ser-hf evaluate --dial",
        description="Train one recipe under random, sentence, speaker and across corpora; draw what each flatters.",
        epilog="Every other flag goes to fine-tuning. What is in the output folder already is not trained again.",
    )
    parser.add_argument("--model", required=True, metavar="ID|DIR|tiny|BASELINE", help="of `finetune` or `baseline`")
    parser.add_argument("--dataset", required=True, metavar="DIR|REPO")
    parser.add_argument("--output", required=True, metavar="DIR", help="gets a folder a protocol, dial.json, dial.png")
    args, rest = parser.parse_known_args(argv)
    from ser_hf.experiments import leakage_curve

    quiet()
    print(
        leakage_curve.leakage_table(leakage_curve.run_leakage_curve(args.model, args.dataset, Path(args.output), rest))
    )
    print(f"dial.png, dial.json and each protocol's evidence: {args.output}")


def baseline(argv: list[str]) -> None:
    """train and test a simple model"""
    parser = Parser("ser-hf baseline", description="Train and test a simple model under a protocol.")
    parser.add_argument("name", metavar="NAME", help="egemaps-svm, egemaps-logistic, mfcc-cnn, mfcc-mlp or mfcc-svm")
    parser.add_argument("--dataset", required=True, metavar="DIR|REPO")
    add_protocol(parser)
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the weights")
    parser.add_argument("--output", required=True, metavar="DIR", help="must not exist yet")
    parser.add_argument("--cache_dir", metavar="DIR", help="of features; ser_hf beside the Hub's cache")
    args = parser.parse_args(argv)
    from ser_hf.evaluation import run

    place = (args.dataset, args.protocol, args.fold, Path(args.output), args.split_seed, args.seed, args.cache_dir)
    results = run.run_baseline(args.name, *place)
    print(f"{results.report()}\nresults.json and plots/: {args.output}")


def calibrate(argv: list[str]) -> None:
    """calibrate a model, and set when it abstains"""
    parser = Parser(
        "ser-hf calibrate",
        description="Fold a temperature into a model's last layer, by the validation side of a protocol.",
    )
    parser.add_argument("--model", required=True, metavar="DIR|REPO")
    parser.add_argument("--dataset", required=True, metavar="DIR|REPO")
    add_protocol(parser)
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument("--coverage", type=float, metavar="SHARE", help="of validation clips to answer")
    wish.add_argument("--error", type=float, metavar="SHARE", help="of wrong answers to keep to on validation")
    parser.add_argument("--output", required=True, metavar="DIR", help="gets the calibrated model; must not exist yet")
    args = parser.parse_args(argv)
    from ser_hf.evaluation import run

    quiet()
    split = (args.protocol, args.fold, args.split_seed, args.text_disjoint)
    found = run.run_calibration(args.model, args.dataset, *split, Path(args.output), args.coverage, args.error)
    print(json.dumps(found, indent=2))
    print(f"calibrated model: {args.output}  (test it with `ser-hf evaluate`)")


def compare(argv: list[str]) -> None:
    """tell whether one of two models is better"""
    parser = Parser("ser-hf compare", description="Test whether B is better than A on the same clips, by speaker.")
    parser.add_argument("a", metavar="A", help="folder of a model or an evaluation")
    parser.add_argument("b", metavar="B", help="another, of the same split")
    parser.add_argument("--output", metavar="FILE.json", help="write the figures there, too")
    args = parser.parse_args(argv)
    from ser_hf.evaluation import compare

    report = compare.compare_models(Path(args.a), Path(args.b))
    print(compare.comparison_table(report))
    if args.output is not None:
        _write(Path(args.output), json.dumps(report, indent=2).encode() + b"\n")


def explain(argv: list[str]) -> None:
    """show which stretch of a recording carries the answer"""
    parser = Parser("ser-hf explain", description="Draw which stretch of a recording carries a model's answer.")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--model", required=True, metavar="DIR|REPO")
    parser.add_argument("--output", required=True, metavar="FILE.png")
    args = parser.parse_args(argv)
    _check_place(parser, Path(args.output), ".png")
    from ser_hf import audio
    from ser_hf.evaluation import occlusion
    from ser_hf.inference.predictor import Predictor

    quiet()
    audio.load(args.file)  # a bad file shows before the model is loaded
    found = occlusion.explain(Predictor(args.model), args.file)
    drawn = io.BytesIO()
    occlusion.draw_occlusion(found).savefig(drawn)
    _write(Path(args.output), drawn.getvalue())
    print(json.dumps(occlusion.summary(found)))


def report(argv: list[str]) -> None:
    """write one page and a LaTeX table of all evaluations in a folder"""
    parser = Parser("ser-hf report", description="Write report.html and report.tex of every results.json below DIR.")
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--output", metavar="DIR", help="where the two go (default: DIR)")
    args = parser.parse_args(argv)
    if not Path(args.folder).is_dir():
        raise UserError(f"'{args.folder}' is no folder: give one with models or evaluations in it")
    from ser_hf.evaluation import reports

    page, table = reports.write_report(Path(args.folder), args.output and Path(args.output))
    print(f"page: {page}\ntable: {table}")


def _check_place(parser: argparse.ArgumentParser, path: Path, ending: str) -> None:
    if path.suffix.lower() != ending or path.is_dir() or not path.parent.is_dir():
        parser.error(f"--output is '{path}': name a {ending} file in a folder that exists")


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.rename(path)
