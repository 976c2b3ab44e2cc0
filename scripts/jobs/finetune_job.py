# /// script
# requires-python = ">=3.11"
# dependencies = ["ser-hf[ffmpeg]"]
# ///
"""`ser-hf finetune` as a job: `hf jobs uv run scripts/jobs/finetune_job.py --dataset DIR ...`.

Checkpoints lie in --output_dir. --resume_from_checkpoint true goes on from the last one.
"""

import sys

from ser_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
