"""The commands that serve a model: predict and app."""

import inspect
import json
import re
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ser_hf.cli.flags import Parser, add_model, quiet
from ser_hf.errors import UserError

if TYPE_CHECKING:
    import argparse

    from ser_hf.inference.predictor import Predictor
from ser_hf.app.uploads import Limits


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


def app(argv: list[str]) -> None:
    """serve the page and the API"""
    parser = Parser("ser-hf app", description="Serve page and API, on this machine alone unless --host says otherwise.")
    add_model(parser)
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for everybody (docs/security.md)")
    parser.add_argument("--mcp", action="store_true", help="tools for language models at /gradio_api/mcp/")
    parser.add_argument(
        "--allowed_host", action="append", default=[], metavar="NAME", help="a host name that a proxy passes on"
    )
    _add_limits(parser)
    args = parser.parse_args(argv)
    if not 1 <= args.port <= 65535:
        parser.error(f"--port is {args.port}: 1 to 65535 can be opened")
    limits = Limits(**{one.name: getattr(args, one.name) for one in fields(Limits)})
    if wrong := [one.name for one in fields(Limits) if getattr(limits, one.name) < 0]:
        parser.error(f"--{wrong[0]} is {getattr(limits, wrong[0]):g}: 0 or more is needed")
    from ser_hf.app import server

    quiet()
    load = partial(_load, args.model, args.backend, args.revision)
    server.run_server(load, limits, args.host, args.port, args.mcp, args.allowed_host)


def _load(model: str, backend: str, revision: str | None) -> "tuple[Predictor, Path | None, str | None]":
    from ser_hf.hub import repositories
    from ser_hf.inference.predictor import Predictor

    predictor = Predictor(model, backend=backend, revision=revision)
    return predictor, *repositories.snapshot(model, revision)


def _add_limits(parser: "argparse.ArgumentParser") -> None:
    """A flag for each limit, with the line below it in the class as its help."""
    source = inspect.getsource(Limits)
    group = parser.add_argument_group("limits of a visitor")
    for one in fields(Limits):
        told = re.search(rf'{one.name}: .*\n    """(.+?)"""', source)[1]
        group.add_argument(
            f"--{one.name}", type=type(one.default), default=one.default, metavar="N", help=f"{told} ({one.default:g})"
        )
