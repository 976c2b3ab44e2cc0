"""One page and one LaTeX table of every evaluation below a folder."""

import base64
import tempfile
from pathlib import Path

from ser_hf import cards, result_plots
from ser_hf.results import Results, ResultsError


def report(folder: Path, output: Path | None = None) -> list[Path]:
    """Write `report.html`, complete in itself (nothing is loaded from elsewhere), and `report.tex`.

    Args:
        folder: searched for `results.json`, at any depth.
        output: where the two go; `folder` where None. Files of these names are replaced.

    Returns:
        The two files.

    Raises:
        ResultsError: for a folder without results, or with some that cannot be read.
    """
    found = sorted(folder.rglob("results.json"))
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise ResultsError(f"'{folder}' holds no results.json: give the folder of a model or an evaluation")
    runs = [Results.load(path) for path in found]
    runs.sort(key=lambda run: (run.protocol, str(run.fold), run.protocol_hash, -run.uar))
    pages = {"report.html": cards.report_page(runs, [_pictures(run) for run in runs])}
    pages["report.tex"] = cards.report_table(runs)
    output = output or folder
    output.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        partial = output / f".{name}.partial"
        partial.write_text(text)
        partial.rename(output / name)
    return [output / name for name in pages]


def _pictures(results: Results) -> dict[str, str]:
    """PNG in base64, by name, drawn anew: so they cannot tell of other results."""
    with tempfile.TemporaryDirectory() as temporary:
        drawn = result_plots.draw(results, Path(temporary))
        return {path.stem.replace("_", " "): base64.b64encode(path.read_bytes()).decode() for path in drawn}
