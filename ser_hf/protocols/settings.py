"""The settings that say how a dataset is split."""

from dataclasses import dataclass, field

from ser_hf.errors import UserError


@dataclass(kw_only=True)
class SplitSettings:
    """A dataset and how it is split; commands that split inherit these fields.

    This module imports nothing heavy, so that `--help` is fast.
    """

    dataset: str = field(metadata={"metavar": "DIR|REPO", "help": "folder that `ser-hf data` wrote, or a Hub id"})
    protocol: str = field(
        default="speaker",
        metadata={"metavar": "NAME|FILE", "help": "name of docs/protocols.md, or your .yaml, .json or .csv file"},
    )
    fold: str = field(
        default="0", metadata={"metavar": "K|all", "help": "of a protocol with folds, from 0; `all` pools them"}
    )
    split_seed: int = field(default=42, metadata={"metavar": "N", "help": "of what a protocol draws at random"})
    text_disjoint: bool = field(
        default=False, metadata={"help": "refuse a split that tests sentences seen in training"}
    )

    extra_train_speakers = False
    """Whether to train on speakers that the protocol leaves out; the settings of training make it a
    field."""
    train_on_validation = False
    """Whether to train on the validation side, too; the settings of fine-tuning make it a field."""
    streaming = False
    """Whether training clips stay in their Parquet files; the settings of training make it a
    field."""

    def __post_init__(self) -> None:
        """Refuse a fold and a seed that no split can have.

        Raises:
            UserError: naming the flag and the value.
        """
        self.fold = str(self.fold)
        if self.fold != "all" and not self.fold.isdigit():
            raise UserError(f"--fold is '{self.fold}': a number from 0, or all, is needed")
        if not 0 <= self.split_seed < 2**32:
            raise UserError(f"--split_seed is {self.split_seed}: at least 0 and below {2**32} is needed")
