"""A leaderboard as text, HTML, LaTeX, Markdown, CSV and JSON."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from ser_hf.evaluation import compare
from ser_hf.utils import files, templates

COLUMNS = (
    "protocol",
    "fold",
    "protocol_hash",
    "dataset",
    "n",
    "speakers",
    "rank",
    "name",
    "base_model",
    "seeds",
    "uar",
    "uar_sd",
    "uar_low",
    "uar_high",
    "accuracy",
    "macro_f1",
    "difference",
    "p",
    "p_holm",
    "verdict",
    "distribution",
)
"""Of `leaderboard.csv`: a row for each run, with its split."""


MARKS = {
    "new speakers of a corpus that was trained on": "new speakers, same corpora",
    "new speakers of a new corpus": "new speakers, new corpus",
}
"""What narrow cells say of `Results.distribution`."""


def write_leaderboard(board: dict[str, Any], folder: Path) -> list[Path]:
    """Write `leaderboard.html`, `.tex`, `.md`, `.csv` and `.json`, each in one step.

    Args:
        board: of `ser_hf.evaluation.leaderboard.ranking.build_leaderboard`.
        folder: where they go, made where it is missing. Files of these names are replaced.
    """
    return files.write_texts(
        folder,
        {
            "leaderboard.html": _render("leaderboard.html.jinja", board),
            "leaderboard.tex": _render("leaderboard.tex.jinja", board),
            "leaderboard.md": _render("leaderboard.md.jinja", board),
            "leaderboard.csv": table_of_rows(board),
            "leaderboard.json": json.dumps(board, indent=1, ensure_ascii=False) + "\n",
        },
    )


def _render(template: str, board: dict[str, Any]) -> str:
    text = templates.render(
        template, tables=board["tables"], board=board, caption=caption, tested=tested, count=count, marks=MARKS
    )
    return text.rstrip("\n") + "\n"


def table_of_rows(board: dict[str, Any]) -> str:
    """The rows of all tables as CSV with the columns `COLUMNS`; figures are not rounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for table in board["tables"]:
        for row in table["rows"]:
            low, high = row["ci95"] or ("", "")
            cells = {**table, **row, "uar_low": low, "uar_high": high, "seeds": " ".join(map(str, row["seeds"]))}
            writer.writerow(cells)
    return text.getvalue()


def terminal_table(board: dict[str, Any]) -> str:
    """The tables as text for a terminal, and what stands in none."""
    blocks = [_terminal_block(table) for table in board["tables"]]
    others = [f"  {one['folder']}: {one['reason']}" for one in board["left_out"]]
    if others:
        blocks.append("\n".join(["In no table:", *others]))
    if board["parts"]:
        blocks.append(f"{board['parts']:,} folds and seeds count in the rows of their pooled runs.")
    return "\n\n".join(blocks)


def _terminal_block(table: dict[str, Any]) -> str:
    width = max(5, *(len(row["name"]) for row in table["rows"]))
    lines = [caption(table)]
    head = f"{'':3} {'model':{width}} {'UAR':>13}  {'95 % interval':14} {'acc.':>6} {'F1':>6} {'to best':>8} {'p':>7}"
    lines.append(f"{head} {'p Holm':>7}  the test")
    for row in table["rows"]:
        spread = f"{row['uar']:.3f}" + (f" ± {row['uar_sd']:.3f}" if row["uar_sd"] is not None else "")
        interval = "{:.3f} to {:.3f}".format(*row["ci95"]) if row["ci95"] else "none"
        difference = "" if row["difference"] is None else f"{row['difference']:+.3f}"
        p, corrected = ("" if row[key] is None else f"{row[key]:.4f}" for key in ("p", "p_holm"))
        figures = f"{spread:>13}  {interval:14} {row['accuracy']:6.3f} {row['macro_f1']:6.3f}"
        marks = "; ".join(mark for mark in (row["verdict"], row["distribution"]) if mark)
        rank = "–" if row["rank"] is None else row["rank"]
        lines.append(f"{rank:>3} {row['name']:{width}} {figures} {difference:>8} {p:>7} {corrected:>7}  {marks}")
    lines.append(f"p: {tested(table)}")
    return "\n".join([*lines, *(f"NOTE: {note}" for note in table["notes"])])


def caption(table: dict[str, Any]) -> str:
    """The split of a table in words: protocol, hash, clips, speakers, dataset, chance."""
    hashes = table["protocol_hash"].split("+")
    split = hashes[0] if len(hashes) == 1 else f"{len(hashes)} folds, {hashes[0][:8]}…"
    return (
        f"{table['under']} ({split}): {table['n']:,} clips of {count(table['speakers'])}, "
        f"dataset {table['dataset']}, chance {table['chance']:.3f}"
    )


def count(speakers: int) -> str:
    """How many speakers, in words."""
    return f"{speakers} speaker{'s' * (speakers != 1)}"


def tested(table: dict[str, Any]) -> str:
    """How the p-values of a table were made, and the least that they can be."""
    if table["reference"] is None or not table["comparisons"]:
        return table["p_says"]
    few = ""
    if table["smallest_p"] is not None and table["smallest_p"] > 0.001:
        few = f"; with {count(table['speakers'])} p cannot fall below {table['smallest_p']:.3g}"
    if table["smallest_p"] is not None and table["smallest_p"] * table["comparisons"] > compare.ALPHA:
        few += f"; so many pairs over so few speakers cannot show any difference at {compare.ALPHA:g}"
    return f"UAR against {table['reference']}, {table['p_says']}{few}"
