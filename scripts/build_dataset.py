"""`ser-hf data` as a script."""

import sys

sys.path.pop(0)  # this folder: its evaluate.py would hide the package of that name

from ser_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", *sys.argv[1:]]))
