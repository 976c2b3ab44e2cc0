"""`ser-hf predict`: answers for recordings, from the shell."""

import json
from pathlib import Path

from ser_hf.errors import UserError
from ser_hf.flags import Parser, add_model, quiet


def predict(argv: list[str]) -> None:
    """answer for recordings"""
    parser = Parser("ser-hf predict", description="Answer for recordings of any length, one JSON line each.")
    parser.add_argument("files", nargs="+", metavar="FILE")
    add_model(parser)
    parser.add_argument("--output", metavar="FILE.jsonl", help="write there instead of printing")
    parser.add_argument(
        "--adapt", nargs="+", default=[], metavar="FILE", help="clips of one voice without labels, or its saved file"
    )
    parser.add_argument("--save_voice", metavar="FILE.safetensors", help="keep what --adapt learnt")
    args = parser.parse_args(argv)
    if args.save_voice and not args.adapt:
        parser.error("--save_voice needs --adapt FILE…")
    if args.output is not None and (Path(args.output).is_dir() or not Path(args.output).parent.is_dir()):
        parser.error(f"--output is '{args.output}': name a file in a folder that exists")
    if missing := [file for file in (*args.files, *args.adapt) if not Path(file).is_file()]:
        raise UserError(f"'{missing[0]}' is not a file: check the path")
    from ser_hf.inference import speaker_adaptation
    from ser_hf.inference.predictor import Predictor

    if args.save_voice:
        speaker_adaptation.check_name(args.save_voice)
    quiet()
    predictor = Predictor(args.model, backend=args.backend, revision=args.revision)
    if args.adapt:
        saved = len(args.adapt) == 1 and Path(args.adapt[0]).suffix == speaker_adaptation.SUFFIX
        predictor = predictor.adapt(args.adapt[0] if saved else args.adapt)
    if args.save_voice:
        predictor.adaptation.save(args.save_voice)
    answers = predictor.each(args.files)
    if args.output is None:
        for answer in answers:
            print(json.dumps(answer), flush=True)
        return
    partial = Path(f"{args.output}.partial")
    try:
        with partial.open("w") as file:
            file.writelines(json.dumps(answer) + "\n" for answer in answers)
        partial.rename(args.output)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{len(args.files):,} answers: {args.output}")
