"""The settings of training on recordings that stay in their files, and what does not go with it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ser_hf.errors import UserError
from ser_hf.protocols import SplitSettings

if TYPE_CHECKING:
    from ser_hf.training.config import FinetuneConfig

SHUFFLE_BUFFER = 1000


@dataclass(kw_only=True)
class StreamingSettings(SplitSettings):
    """A dataset, its split, and whether its training clips stay where they are.

    This module imports nothing heavy, so that `--help` is fast.
    """

    streaming: bool = field(
        default=False, metadata={"help": "leave training clips in Parquet, here or on the Hub, and read a few ahead"}
    )
    shuffle_buffer: int = field(
        default=SHUFFLE_BUFFER, metadata={"metavar": "N", "help": "encoded clips that --streaming holds and shuffles"}
    )

    def __post_init__(self) -> None:
        """Refuse a buffer without a stream, and an empty one.

        Raises:
            UserError: naming the flag and the value.
        """
        super().__post_init__()
        if self.shuffle_buffer < 1:
            raise UserError(f"--shuffle_buffer is {self.shuffle_buffer}: at least 1 is needed")
        if self.shuffle_buffer != SHUFFLE_BUFFER and not self.streaming:
            raise UserError("--shuffle_buffer does nothing without --streaming true: leave it out")


def refuse_whole_data(config: "FinetuneConfig") -> None:
    """Refuse settings of fine-tuning that need all recordings or their features in memory.

    Raises:
        UserError: naming the flag.
    """
    needs = {
        f"--mode probe (--head {config.head}) keeps features of all clips": config.mode == "probe",
        f"--mixup {config.mixup:g} takes a second clip from anywhere": config.mixup > 0,
        "--balance_by sampler draws clips from anywhere": config.balance_by == "sampler",
        "--frame_budget plans batches over all clips": config.frame_budget is not None,
        "--augmented_copies keeps features of all copies": config.augmented_copies > 0,
        "--augment noise without --noise_dir takes silences of all clips": (
            "noise" in config.augment and not config.noise_dir
        ),
    }
    for reason, given in needs.items():
        if given:
            raise UserError(f"{reason}, and --streaming true reads them in passing: leave one of the two out")
