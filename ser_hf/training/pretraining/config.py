"""The settings of `ser-hf pretrain`."""

from dataclasses import dataclass, field

from ser_hf.errors import UserError
from ser_hf.training.streaming.settings import StreamingSettings

_AT_LEAST_ONE = ("epochs", "batch_size", "threads", "mask_time_length", "num_negatives")


@dataclass(kw_only=True)
class PretrainConfig(StreamingSettings):
    """Settings of pretraining; None for a default that depends on the model or the processor."""

    model: str = field(
        metadata={
            "metavar": "DIR|REPO|NAME",
            "help": "wav2vec2 or wav2vec2-bert to go on from; from scratch: tiny, small (of waveforms)",
        }
    )
    output: str = field(metadata={"metavar": "DIR", "help": "must not exist yet"})
    extra_train_speakers: bool = field(
        default=False, metadata={"help": "train on the whole dataset but the speakers of validation and test"}
    )
    epochs: int = field(default=20, metadata={"help": "times that every clip is seen"})
    learning_rate: float | None = field(
        default=None, metadata={"help": "at its height (default: 1e-3 from scratch, 5e-5 else)"}
    )
    batch_size: int = field(default=16, metadata={"help": "clips a process"})
    seed: int = field(default=42, metadata={"help": "of all that is drawn at random"})
    threads: int | None = field(default=None, metadata={"help": "CPU threads a process; the cores shared out if unset"})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"metavar": "true|DIR", "help": "go on after a break, from the last finished epoch"}
    )
    bf16: bool | None = field(default=None, metadata={"help": "default: where the processor has it"})
    mask_time_prob: float = field(default=0.65, metadata={"help": "share of frames under masks if none overlapped"})
    mask_time_length: int | None = field(default=None, metadata={"help": "frames a mask (default: 200 ms of them)"})
    num_negatives: int = field(default=100, metadata={"help": "other frames that the true one is distinguished from"})

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UserError: naming the flag and the value.
        """
        super().__post_init__()
        if self.fold == "all":
            raise UserError("--fold is all: a model is pretrained on one fold, whose number is needed")
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}: at least 1 is needed")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed is {self.seed}: it goes from 0 to {2**32 - 1}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UserError(f"--learning_rate is {self.learning_rate}: more than 0 is needed")
        if not 0 < self.mask_time_prob <= 1:
            raise UserError(f"--mask_time_prob is {self.mask_time_prob}: more than 0 and at most 1 is needed")
