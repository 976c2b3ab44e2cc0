"""`ser-hf pretrain` as a script, for `accelerate launch`."""

import sys

sys.path.pop(0)  # this folder: its evaluate.py would hide the package of that name

from ser_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
