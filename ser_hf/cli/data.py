"""Commands about recordings and datasets: `ser-hf data`, `ser-hf data splits`, `ser-hf audit`."""

from dataclasses import dataclass, field
from pathlib import Path

from ser_hf.cli.settings import CommandLine
from ser_hf.errors import UserError
from ser_hf.utils import files

NEEDS_DECISION = 3
"""The exit code of an audit that found something about which somebody has to decide."""
DOWNLOADS = "~/.cache/ser_hf/recordings"


@dataclass
class ReadSettings:
    """How recordings are read."""

    num_proc: int | None = field(
        default=None, metadata={"metavar": "N", "help": "recordings read at a time (default: cores)"}
    )

    def __post_init__(self) -> None:
        if self.num_proc is not None and self.num_proc < 1:
            raise UserError(f"argument --num_proc: '{self.num_proc}' is not at least 1")


@dataclass
class DataSettings(ReadSettings):
    """What `ser-hf data` reads, and where the dataset goes."""

    output: str = field(kw_only=True, metadata={"metavar": "DIR", "help": "must not exist yet"})
    ravdess: list[str] = field(
        default_factory=list,
        metadata={"metavar": "DIR|ZIP ...", "action": "extend", "help": "of RAVDESS, in any layout"},
    )
    tess: list[str] = field(
        default_factory=list,
        metadata={"metavar": "DIR|ZIP ...", "action": "extend", "help": "of TESS, in any layout"},
    )
    other: list[str] = field(
        default_factory=list,
        metadata={
            "metavar": "FILE.yaml ...",
            "action": "extend",
            "help": "descriptions of other corpora",
        },
    )
    download: bool = field(default=False, metadata={"help": "fetch what is not given from the official records"})
    download_dir: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": f"where downloads are kept (default: {DOWNLOADS})"}
    )
    synthetic: bool = field(default=False, metadata={"help": "write and use the synthetic voices instead"})
    push_to_hub: str | None = field(
        default=None, metadata={"metavar": "REPO", "help": "push it to this dataset repository, private"}
    )
    public: bool = field(default=False, metadata={"help": "allow that anyone can read it"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.synthetic and (self.ravdess or self.tess or self.other or self.download):
            raise UserError("--synthetic makes its own recordings: leave out --ravdess, --tess, --other and --download")
        if self.download_dir and not self.download:
            raise UserError("--download_dir goes with --download")
        if self.public and not self.push_to_hub:
            raise UserError("--public goes with --push_to_hub REPO")


@dataclass
class AuditSettings(ReadSettings):
    """What `ser-hf audit` reads, and where its report goes."""

    folders: list[str] = field(
        kw_only=True, metadata={"positional": True, "metavar": "DIR|ZIP ...", "help": "of RAVDESS, TESS or both"}
    )
    output: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "gets audit.json and audit.html; must not exist yet"}
    )


def data(line: CommandLine) -> None:
    """Build the dataset from recordings.

    `ser-hf data splits` shows which clips a protocol puts on which side.
    """
    settings = line.parse(DataSettings)
    files.refuse_existing(settings.output)
    from ser_hf.data import dataset, describe

    if settings.push_to_hub:
        from ser_hf.hub import repositories

        if not settings.synthetic and not settings.download:
            # a wrong folder must show before a repository is made
            dataset.scan(settings.ravdess, settings.tess, settings.other)
        repo = repositories.check_push(settings.push_to_hub, private=not settings.public)
    if settings.download:
        _download(settings)
    sources = (settings.ravdess, settings.tess, settings.synthetic, settings.num_proc, settings.other)
    report = dataset.build(settings.output, *sources)
    print(describe.counts_table(report))
    print(f"dataset: {settings.output}  (with its card README.md, and audit.json)")
    if settings.push_to_hub:
        print(f"pushed: {repositories.push_dataset(settings.output, repo, private=not settings.public)}")


def _download(settings: DataSettings) -> None:
    """Download each corpus that no flag names, and set it as if a flag had."""
    from ser_hf.data import download

    folder = Path(settings.download_dir or DOWNLOADS).expanduser()
    missing = [corpus for corpus in ("ravdess", "tess") if not getattr(settings, corpus)]
    if not missing:
        raise UserError("--download has nothing to fetch beside --ravdess and --tess: leave one of the three out")
    for corpus, paths in download.fetch(missing, folder).items():
        setattr(settings, corpus, [str(path) for path in paths])


def splits(line: CommandLine) -> None:
    """Show which clips a protocol puts on which side, and what it holds apart."""
    from ser_hf import protocols

    settings = line.parse(protocols.SplitSettings)  # first: the rest of protocols takes a second to import
    rows, folds = protocols.load_splits(settings)
    print("\n\n".join(protocols.describe(rows, split) for split in folds))


def audit(line: CommandLine) -> int:
    """Report what is wrong with folders of recordings.

    It changes nothing. The exit code is 3 where somebody has to decide about something.
    """
    settings = line.parse(AuditSettings)
    if settings.output is not None:
        files.refuse_existing(settings.output)
    from ser_hf.data.audit.report import audit_recordings, audit_table, write_audit

    report = audit_recordings(settings.folders, settings.num_proc)
    print(audit_table(report))
    if settings.output is not None:
        write_audit(report, settings.output)
        print(f"report: {Path(settings.output) / 'audit.html'}")
    return NEEDS_DECISION if report["needs_decision"] else 0
