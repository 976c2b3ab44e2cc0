"""Commands about recordings and datasets: `ser-hf data`, `ser-hf data splits`, `ser-hf audit`."""

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_hf.cli.output import check_output_file, write_file
from ser_hf.cli.settings import CommandLine
from ser_hf.errors import UserError
from ser_hf.protocols.settings import SplitSettings
from ser_hf.utils import files

if TYPE_CHECKING:
    import datasets

    from ser_hf.data.corpora.base import Corpus
    from ser_hf.protocols import Split

NEEDS_DECISION = 3
"""The exit code of an audit that found something about which somebody has to decide."""


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
    """What `ser-hf data` reads, and where the dataset goes.

    `data_settings` adds a field for each corpus.
    """

    output: str = field(kw_only=True, metadata={"metavar": "DIR", "help": "must not exist yet"})
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
        default=None,
        metadata={
            "metavar": "DIR",
            "help": "where downloads are kept (default: our cache, $HF_HOME/ser_hf/recordings)",
        },
    )
    synthetic: bool = field(default=False, metadata={"help": "write and use the synthetic voices instead"})
    push_to_hub: str | None = field(
        default=None, metadata={"metavar": "REPO", "help": "push it to this dataset repository, private"}
    )
    public: bool = field(default=False, metadata={"help": "allow that anyone can read it"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.synthetic and (any(self.folders().values()) or self.other or self.download):
            flags = ", ".join(f"--{name}" for name in [*self.folders(), "other"])
            raise UserError(f"--synthetic makes its own recordings: leave out {flags} and --download")
        if self.download_dir and not self.download:
            raise UserError("--download_dir goes with --download")
        if self.public and not self.push_to_hub:
            raise UserError("--public goes with --push_to_hub REPO")

    def folders(self) -> dict[str, list[str]]:
        """Return the folders and zips of each corpus by its name."""
        from ser_hf.data.corpora import CORPORA

        return {name: getattr(self, name) for name in CORPORA}


def data_settings() -> type[DataSettings]:
    """Return `DataSettings` with a flag for each corpus."""
    from ser_hf.data.corpora import CORPORA

    def flag(corpus: "Corpus") -> Any:
        help_text = f"of {corpus.title}, in any layout"
        metadata = {"metavar": "DIR|ZIP ...", "action": "extend", "help": help_text}
        return field(default_factory=list, metadata=metadata)

    fields = [(name, list[str], flag(corpus)) for name, corpus in CORPORA.items()]
    return make_dataclass("DataSettings", fields, bases=(DataSettings,))


@dataclass
class AuditSettings(ReadSettings):
    """What `ser-hf audit` reads, and where its report goes."""

    folders: list[str] = field(
        kw_only=True, metadata={"positional": True, "metavar": "DIR|ZIP ...", "help": "of any corpora"}
    )
    output: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "gets audit.json and audit.html; must not exist yet"}
    )


def data(line: CommandLine) -> None:
    """Build the dataset from recordings.

    `ser-hf data splits` shows which clips a protocol puts on which side.

    Examples:
        ser-hf data --synthetic --output runs/dataset
        ser-hf data --ravdess path/to/ravdess --tess path/to/tess --output runs/real
    """
    settings = line.parse(data_settings())
    from ser_hf.data import dataset, describe

    dataset.refuse_output(settings.output)
    from ser_hf.data.corpora.scan import scan_sources

    if settings.push_to_hub:
        from ser_hf.hub import repositories

        if not settings.synthetic and not settings.download:
            # a wrong folder must show before a repository is made
            scan_sources(settings.folders(), settings.other)
        repo = repositories.check_push(settings.push_to_hub, private=not settings.public)
    if settings.download:
        _download(settings)
    report = dataset.build(settings.output, settings.folders(), settings.other, settings.synthetic, settings.num_proc)
    print(describe.counts_table(report))
    print(f"dataset: {settings.output}  (with its card README.md, and audit.json)")
    if settings.push_to_hub:
        print(f"pushed: {repositories.push_dataset(settings.output, repo, private=not settings.public)}")


def _download(settings: DataSettings) -> None:
    """Download each corpus that no flag names, and set it as if a flag had."""
    from ser_hf.data import download
    from ser_hf.data.corpora import CORPORA

    folder = Path(settings.download_dir).expanduser() if settings.download_dir else files.cache_dir("recordings")
    available = [name for name, corpus in CORPORA.items() if corpus.record is not None]
    missing = [name for name in available if not getattr(settings, name)]
    if not missing:
        flags = " and ".join(f"--{name}" for name in available)
        raise UserError(f"--download has nothing to fetch beside {flags}: leave one of them out")
    for corpus, paths in download.fetch(missing, folder).items():
        setattr(settings, corpus, [str(path) for path in paths])


@dataclass(kw_only=True)
class SplitsSettings(SplitSettings):
    """The split that `ser-hf data splits` shows, and the file that it may become."""

    export: str | None = field(
        default=None,
        metadata={"metavar": "FILE.yaml|.csv", "help": "write it as a file that --protocol reads, with every fold"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.export is not None and Path(self.export).suffix not in (".yaml", ".csv"):
            raise UserError(f"--export is '{self.export}': name a .yaml or .csv file")


def splits(line: CommandLine) -> None:
    """Show which clips a protocol puts on which side, and what it holds apart.

    Example:
        ser-hf data splits --dataset runs/dataset --protocol emobox-ravdess
    """
    settings = line.parse(SplitsSettings)  # first: the rest of protocols takes a second to import
    if settings.export is not None:
        check_output_file(settings.export, flag="--export")
    from ser_hf import protocols

    rows, folds = protocols.load_splits(settings)
    print("\n\n".join(protocols.describe(rows, split) for split in folds))
    if settings.export is not None:
        _export(settings, settings.export, rows, folds)


def _export(settings: SplitsSettings, output: str, rows: "datasets.Dataset", folds: "list[Split]") -> None:
    from ser_hf.protocols import export
    from ser_hf.protocols.base import columns_of
    from ser_hf.protocols.splitting import find_protocol

    _, protocol = find_protocol(settings.protocol)
    if len(folds) != protocol.fold_count(columns_of(rows)):
        raise UserError(f"--export writes every fold of '{settings.protocol}': add --fold all")
    is_table = Path(output).suffix == ".csv"
    text = export.as_csv(rows, folds) if is_table else export.as_yaml(rows, folds, protocol)
    write_file(output, text.encode())
    print(f"\nprotocol: {output}  (use it as --protocol {output})")


def audit(line: CommandLine) -> int:
    """Report what is wrong with folders of recordings.

    It changes nothing. The exit code is 3 where somebody has to decide about something.

    Example:
        ser-hf audit path/to/ravdess path/to/tess --output runs/audit
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
