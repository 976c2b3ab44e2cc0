"""The commands that hand a model on: export and push."""

from pathlib import Path
from typing import TYPE_CHECKING

from ser_hf.cli.flags import Parser, quiet

if TYPE_CHECKING:
    pass


def push(argv: list[str]) -> None:
    """push a model with its card and figures to the Hub, and a Space that serves it"""
    parser = Parser(
        "ser-hf push",
        description="Push a model, its card, pictures and figures to the Hub, and a Space that serves it, private.",
        epilog="A push that broke off goes on where it was when it is run again.",
    )
    parser.add_argument("--model", required=True, metavar="DIR|REPO", help="that fine-tuning wrote; or is on the Hub")
    parser.add_argument("--repo", metavar="REPO", help="owner/name; without it no model is pushed")
    parser.add_argument("--revision", metavar="NAME", help="branch to push to; without --repo: branch, tag or commit")
    parser.add_argument("--space", metavar="REPO", help="owner/name of a Space with the page of the model")
    parser.add_argument("--public", action="store_true", help="allow that anyone can read it")
    parser.add_argument(
        "--allow_leaky", action="store_true", help="figures of speakers heard in training; the card is stamped so"
    )
    args = parser.parse_args(argv)
    model, revision, private, local = args.model, args.revision, not args.public, Path(args.model).is_dir()
    if args.repo is None and (local or args.space is None):
        parser.error(f"--repo is missing: say where to push '{model}'")
    if args.repo is not None and not local:
        parser.error(f"'{model}' is no folder: check the path, or leave out --repo for a --space of a model on the Hub")
    from ser_hf.hub import repositories, space

    quiet()
    if args.space is not None:
        space.check(args.space)
    if args.repo is not None:
        pushed = repositories.push_model(model, args.repo, private, args.allow_leaky, revision)
        print(f"pushed: {pushed}")
        model, revision = pushed.repo_url.repo_id, pushed.oid
    if args.space is not None:
        served = space.push(model, args.space, private, revision, checked=local)
        print(f"space: {served.commit}" + (f"\n{served.secret}" if served.secret else ""))


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
