"""The commands about recordings and datasets: `ser-hf data`, `ser-hf data splits` and `ser-hf
audit`."""

import argparse
from pathlib import Path

from ser_hf.cli.flags import Parser, add_protocol, add_workers
from ser_hf.errors import UserError
from ser_hf.utils import files

DECIDE = 3
"""The exit code of an audit that found something about which somebody has to decide."""
DOWNLOADS = "~/.cache/ser_hf/recordings"


def data(argv: list[str]) -> None:
    """build the dataset from recordings; `data splits` shows a protocol"""
    if argv[:1] == ["splits"]:
        return splits(argv[1:])
    args = _data_arguments(argv)
    from ser_hf.data import dataset, describe

    if args.push_to_hub:
        from ser_hf.hub import repositories

        if not args.synthetic and not args.download:
            dataset.scan(args.ravdess, args.tess, args.other)  # complains before a repository is made
        repo = repositories.check_push(args.push_to_hub, private=not args.public)
    if args.download:
        _download(args)
    report = dataset.build(args.output, args.ravdess, args.tess, args.synthetic, args.num_proc, args.other)
    print(describe.counts_table(report))
    print(f"dataset: {args.output}  (with its card README.md, and audit.json)")
    if args.push_to_hub:
        print(f"pushed: {repositories.push_dataset(args.output, repo, private=not args.public)}")


def _data_arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        "ser-hf data",
        description="Build the dataset from recordings.",
        epilog="`ser-hf data splits` shows what a protocol puts on which side.",
    )
    many = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("--ravdess", **many, metavar="DIR|ZIP", help="of RAVDESS, in any layout")
    parser.add_argument("--tess", **many, metavar="DIR|ZIP", help="of TESS, in any layout")
    parser.add_argument("--other", **many, metavar="FILE.yaml", help="descriptions of other corpora (docs/data.md)")
    parser.add_argument("--download", action="store_true", help="fetch what is not given from the official records")
    parser.add_argument("--download_dir", metavar="DIR", help=f"where downloads are kept (default: {DOWNLOADS})")
    parser.add_argument("--unpack", action="store_true", help="unpack downloaded zips, for other programs")
    parser.add_argument("--synthetic", action="store_true", help="write and use the synthetic voices instead")
    parser.add_argument("--output", required=True, metavar="DIR", help="must not exist yet")
    parser.add_argument("--push_to_hub", metavar="REPO", help="push it to this dataset repository, private")
    parser.add_argument("--public", action="store_true", help="allow that anyone can read it")
    add_workers(parser)
    args = parser.parse_args(argv)
    if args.synthetic and (args.ravdess or args.tess or args.other or args.download):
        parser.error("--synthetic makes its own recordings: leave out --ravdess, --tess, --other and --download")
    if (args.download_dir or args.unpack) and not args.download:
        parser.error("--download_dir and --unpack go with --download")
    if args.public and not args.push_to_hub:
        parser.error("--public goes with --push_to_hub REPO")
    files.refuse_existing(args.output)
    return args


def _download(args: argparse.Namespace) -> None:
    """Fetch what is not given by hand, and read it as if it had been."""
    from ser_hf.data import download
    from ser_hf.utils import zip_reader

    folder = Path(args.download_dir or DOWNLOADS).expanduser()
    wanted = [corpus for corpus in ("ravdess", "tess") if not getattr(args, corpus)]
    if not wanted:
        raise UserError("--download has nothing to fetch beside --ravdess and --tess: leave one of the three out")
    for corpus, places in download.fetch(wanted, folder).items():
        for place in places:
            unpacked = place.with_suffix("")  # TESS comes as a folder, which this leaves as it is
            if args.unpack and not unpacked.exists():
                zip_reader.unpack(place, unpacked)
            setattr(args, corpus, [*getattr(args, corpus), str(unpacked if args.unpack else place)])


def splits(argv: list[str]) -> None:
    """Print what a protocol puts on which side, and what it holds apart."""
    parser = Parser("ser-hf data splits", description="Show what a protocol puts on which side, and holds apart.")
    parser.add_argument("--dataset", required=True, metavar="DIR|REPO", help="that `ser-hf data` built")
    add_protocol(parser)
    args = parser.parse_args(argv)
    from ser_hf import protocols
    from ser_hf.data import dataset

    rows = dataset.load(args.dataset)
    near = protocols.near_duplicates_of(rows)
    found = protocols.folds(
        rows, args.protocol, args.fold, args.split_seed, near=near, text_disjoint=args.text_disjoint
    )
    print("\n\n".join(protocols.describe(rows, split) for split in found))


def audit(argv: list[str]) -> int:
    """report what is wrong with folders of recordings"""
    parser = Parser("ser-hf audit", description="Read recordings and report what is wrong with them. Changes nothing.")
    parser.add_argument("folders", nargs="+", metavar="DIR|ZIP", help="of RAVDESS, TESS or both")
    parser.add_argument("--output", metavar="DIR", help="gets audit.json and the page audit.html; must not exist yet")
    add_workers(parser)
    args = parser.parse_args(argv)
    if args.output is not None:
        files.refuse_existing(args.output)
    from ser_hf.data.audit.report import audit_recordings, audit_table, write_audit

    report = audit_recordings(args.folders, args.num_proc)
    print(audit_table(report))
    if args.output is not None:
        write_audit(report, args.output)
        print(f"report: {Path(args.output) / 'audit.html'}")
    return DECIDE if report["needs_decision"] else 0
