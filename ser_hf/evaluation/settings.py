"""Settings of the commands `ser-hf evaluate`, `ser-hf baseline` and `ser-hf calibrate`.

They lie in a module that imports nothing heavy, so that `--help` is fast.
"""

from dataclasses import dataclass, field

from ser_hf.errors import UserError
from ser_hf.inference.backends import BACKENDS
from ser_hf.protocols import SplitSettings

ALSO = ("robustness", "bias-probes", "baselines")
"""Values of `--also`: measurements beside the test itself, each of which takes minutes."""


@dataclass(kw_only=True)
class EvaluateSettings(SplitSettings):
    """A model, the split it is tested on, and what else is measured."""

    model: str = field(metadata={"metavar": "DIR|REPO", "help": "folder or Hub id of the model"})
    output: str = field(metadata={"metavar": "DIR", "help": "must not exist yet; it appears when it is complete"})
    backend: str = field(
        default="auto", metadata={"metavar": "NAME", "help": f"{', '.join(BACKENDS)}, see docs/serving.md"}
    )
    also: list[str] = field(
        default_factory=list,
        metadata={
            "choices": (*ALSO, "all"),
            "help": "robustness to damaged clips; probes of the embeddings; simple models beside it",
        },
    )
    into_model: bool = field(
        default=False, metadata={"help": "renew the evidence and the card in the model's folder, too"}
    )
    cache_dir: str | None = field(default=None, metadata={"metavar": "DIR", "help": "of the baselines' features"})

    def measures(self, name: str) -> bool:
        """Whether one of `ALSO` is to be measured."""
        return name in self.also or "all" in self.also


@dataclass(kw_only=True)
class BaselineSettings(SplitSettings):
    """A simple model and the split that it is trained and tested on."""

    name: str = field(metadata={"positional": True, "metavar": "NAME", "help": "of the baseline"})
    output: str = field(metadata={"metavar": "DIR", "help": "must not exist yet; it appears when it is complete"})
    seed: int = field(default=42, metadata={"help": "of the weights"})
    cache_dir: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "of features; ser_hf beside the Hub's cache if unset"}
    )


@dataclass(kw_only=True)
class CalibrateSettings(SplitSettings):
    """A model, the split whose validation side calibrates it, and how often it abstains."""

    model: str = field(metadata={"metavar": "DIR|REPO", "help": "folder or Hub id of the model"})
    output: str = field(metadata={"metavar": "DIR", "help": "gets the calibrated model; must not exist yet"})
    coverage: float | None = field(default=None, metadata={"metavar": "SHARE", "help": "of validation clips to answer"})
    error: float | None = field(
        default=None, metadata={"metavar": "SHARE", "help": "of wrong answers to allow on validation"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coverage is not None and self.error is not None:
            raise UserError("--coverage and --error each set the threshold: give one of them")
