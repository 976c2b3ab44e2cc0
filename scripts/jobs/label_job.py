# /// script
# requires-python = ">=3.11"
# dependencies = ["ser-hf[ffmpeg]"]
# ///
"""`ser-hf label` as a job: `hf jobs uv run scripts/jobs/label_job.py INPUT... --output DIR`.

A job that reached its time limit is run again with the same line, and goes on.
"""

import sys

from ser_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["label", *sys.argv[1:]]))
