"""The split of every protocol over the official recordings, as files for other toolkits.

    python scripts/maintain/freeze_protocols.py [--output docs/protocol_files]

Writes a YAML file for each protocol, and `index.csv` with a line for each fold: its clips, the hash
in our results, and a SHA-256 of its names. Only names are needed, no recordings.
"""

import argparse
from pathlib import Path

from ser_hf.protocols.export import frozen_files
from ser_hf.utils import files

FOLDER = Path(__file__).parents[2] / "docs" / "protocol_files"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR")
    args = parser.parse_args()
    for path in files.write_texts(args.output, frozen_files()):
        print(path)


if __name__ == "__main__":
    main()
