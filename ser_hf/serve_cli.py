"""`ser-hf app`: the page and the API of a model, from the shell."""

import inspect
import re
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ser_hf.flags import Parser, add_model, quiet
from ser_hf.limits import Limits

if TYPE_CHECKING:
    import argparse

    from ser_hf.inference.predictor import Predictor


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
    from ser_hf import serving

    quiet()
    load = partial(_load, args.model, args.backend, args.revision)
    serving.run(load, limits, args.host, args.port, args.mcp, args.allowed_host)


def export(argv: list[str]) -> None:
    """write a model as ONNX, in fp32 or int8"""
    parser = Parser("ser-hf export", description="Write a folder with a model as ONNX, if it answers as torch does.")
    parser.add_argument("--model", required=True, metavar="DIR|REPO")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--int8", action="store_true", help="matrix products in int8")
    parser.add_argument("--dataset", metavar="DIR|REPO", help="compare on its clips (default: synthetic voices)")
    args = parser.parse_args(argv)
    from ser_hf.inference import export
    from ser_hf.utils import files

    files.refuse_existing(args.output)
    quiet()
    clips = export.clips_of(args.dataset) if args.dataset else None
    told = export.export(args.model, args.output, args.int8, clips)
    gate = told["gate"]
    print(
        f"{args.output}: {told['backend']}, largest difference of a probability {gate['max_difference']:.2g}, "
        f"the same label for {gate['same_labels']:.1%} of {gate['clips']:,} clips"
    )


def _load(model: str, backend: str, revision: str | None) -> "tuple[Predictor, Path | None, str | None]":
    from ser_hf import hub
    from ser_hf.inference.predictor import Predictor

    predictor = Predictor(model, backend=backend, revision=revision)
    return predictor, *hub.snapshot(model, revision)


def _add_limits(parser: "argparse.ArgumentParser") -> None:
    """A flag for each limit, with the line below it in the class as its help."""
    source = inspect.getsource(Limits)
    group = parser.add_argument_group("limits of a visitor")
    for one in fields(Limits):
        told = re.search(rf'{one.name}: .*\n    """(.+?)"""', source)[1]
        group.add_argument(
            f"--{one.name}", type=type(one.default), default=one.default, metavar="N", help=f"{told} ({one.default:g})"
        )
