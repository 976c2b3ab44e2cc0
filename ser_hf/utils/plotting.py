"""The style that all pictures share."""

from pathlib import Path

from matplotlib.figure import Figure

STYLE = {"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100, "savefig.dpi": 150}


def save(figures: dict[str, Figure], folder: Path) -> list[Path]:
    """Write pictures by their names into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name, bbox_inches="tight")
    return [folder / name for name in figures]
