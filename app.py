"""Serve the page: `python app.py --model DIR|REPO [--port N]`."""

import sys

from ser_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
