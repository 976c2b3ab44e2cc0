"""What a model's config remembers: backbone, split and speakers of its training, and calibration.

The config holds it as a mapping under `CONFIG_KEY`, so that a pushed model carries it. No code but
this class reads or writes that mapping.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from transformers import PretrainedConfig

CONFIG_KEY = "ser_hf"


@dataclass(frozen=True)
class SeenSpeakers:
    """The speakers that a model was trained, chosen or calibrated on; None where nobody knows.

    Every field is a key of the mapping in the config; a key is left out where the field is None.
    """

    protocol: str | None = None
    """The protocol of the split that the model was trained under last."""
    protocol_hash: str | None = None
    fold: int | None = None
    speakers: tuple[str, ...] | None = None
    """Sorted; those of all trainings that led to this model."""
    temperature: float | None = None
    """The product of all temperatures that were folded into the last layer."""
    abstain_below: float | None = None
    """The score below which the model abstains."""
    backbone: str | None = None
    """Hub id of the pretrained model that all trainings began from
    (`ser_hf.models.backbones`)."""

    @classmethod
    def of(cls, config: PretrainedConfig) -> "SeenSpeakers":
        """Read what a model's config remembers; nothing is known of a model from elsewhere."""
        written = getattr(config, CONFIG_KEY, None) or {}
        known = {name: written[name] for name in cls.__dataclass_fields__ if written.get(name) is not None}
        if "speakers" in known:
            known["speakers"] = tuple(known["speakers"])
        return cls(**known)

    def remember(self, config: PretrainedConfig) -> None:
        """Write it into a model's config, as a new mapping: the one there may be shared."""
        written = {name: value for name, value in asdict(self).items() if value is not None}
        if self.speakers is not None:
            written["speakers"] = list(self.speakers)
        setattr(config, CONFIG_KEY, written)

    def trained(self, protocol: str, protocol_hash: str, fold: int, speakers: Iterable[str]) -> "SeenSpeakers":
        """Add the speakers of a training; its weights drop what calibrated the earlier ones."""
        together = tuple(sorted({*(self.speakers or ()), *speakers}))
        return SeenSpeakers(protocol, protocol_hash, fold, together, backbone=self.backbone)

    def calibrated(
        self, temperature: float, abstain_below: float | None = None, speakers: Iterable[str] = ()
    ) -> "SeenSpeakers":
        """Add a calibration.

        An earlier threshold is dropped: the scores that it was set for have changed. Speakers that
        nobody knows stay unknown, since those of the calibration would be taken for all of them.

        Args:
            temperature: that was folded into the last layer now.
            abstain_below: the threshold, where there is one.
            speakers: of the clips that the model was calibrated on.
        """
        together = None if self.speakers is None else tuple(sorted({*self.speakers, *speakers}))
        product = (self.temperature or 1.0) * temperature
        return replace(self, temperature=product, abstain_below=abstain_below, speakers=together)
