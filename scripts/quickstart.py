"""The whole job, from recordings to a prediction; what is there is reused."""

import argparse
import hashlib
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.pop(0)  # this folder: its evaluate.py would hide the package of that name

ACCELERATE = "accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no --quiet"
SAMPLE = "03-01-05-01-01-01-21"  # angry, by an actor of the test side
PREDICT = """
import soundfile
from transformers import logging, pipeline
logging.set_verbosity_error(), logging.disable_progress_bar()
samples, rate = soundfile.read({file!r}, dtype="float32")
classify = pipeline("audio-classification", model={model!r}, top_k=None)
for row in classify({{"array": samples, "sampling_rate": rate}}):
    print(f"  {{row['label']:10}} {{row['score']:.3f}}")
"""


def main() -> None:
    """Run the steps one after the other and end with where everything lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ravdess", help="folder of RAVDESS; the synthetic voices where neither corpus is given")
    parser.add_argument("--tess", help="folder of TESS")
    args = parser.parse_args()
    if bool(args.ravdess) != bool(args.tess):
        missing = "TESS" if args.ravdess else "RAVDESS"
        sys.exit(stop(f"{missing} is not given: pass both, make quickstart RAVDESS=DIR TESS=DIR, or neither"))
    if args.ravdess:
        sources = f"--ravdess {shlex.quote(args.ravdess)} --tess {shlex.quote(args.tess)}"
        places = f"{Path(args.ravdess).resolve()}:{Path(args.tess).resolve()}"
        run = Path("runs") / f"real-{hashlib.sha256(places.encode()).hexdigest()[:6]}"
    else:
        sources, run = "--synthetic", Path("runs/quickstart")
    data, model, flattering, evidence = run / "dataset", run / "model", run / "model-random", run / "evaluation"

    step("dataset", f"python scripts/build_dataset.py {sources} --output {data}", data / "audit.json")
    for protocol, folder in (("speaker", model), ("random", flattering)):
        resume = " --resume_from_checkpoint true" if list(folder.glob("checkpoint-*")) else ""
        command = f"{ACCELERATE} scripts/finetune.py --dataset {data} --model tiny --protocol {protocol}"
        step(f"fine-tune under '{protocol}'", f"{command} --output_dir {folder}{resume}", folder / "results.json")
    tested = f"python scripts/evaluate.py --model {model} --dataset {data} --protocol speaker --output {evidence}"
    step("evaluate what was saved", tested, evidence / "results.json")

    root = Path(args.ravdess) if args.ravdess else data / "recordings"
    file = next((path for path in sorted(root.rglob(f"{SAMPLE}.*"))), None)
    if file is None:
        sys.exit(stop(f"'{root}' lacks the recording {SAMPLE}, which the last step asks about"))
    print(f"\n== what stock transformers.pipeline predicts for {file.name} (acted: angry)", flush=True)
    run_command([sys.executable, "-c", PREDICT.format(file=str(file), model=str(model))])
    remark = "" if args.ravdess else ", not on synthetic voices"
    print(f"\n== what the bundled model predicts, which was trained on RAVDESS and TESS{remark}", flush=True)
    run_command([str(Path(sys.executable).parent / "ser-hf"), "predict", str(file)])
    closing(run, data, model, flattering, evidence, file)


def closing(run: Path, data: Path, model: Path, flattering: Path, evidence: Path, file: Path) -> None:
    """Where everything lies, the honest figure beside the flattering one, and what to do next."""
    from ser_hf.evaluation.results import Results

    print("\n== figures")
    for folder in (model, flattering):
        results = Results.load(folder / "results.json")
        print("\n  NOTE: ".join([results.headline(), *results.notes]))
    print(f"""
== where it lies
dataset     {data}
model       {model}  (card: README.md, figures: results.json, pictures: plots/)
evaluation  {evidence}

predict:        .venv/bin/ser-hf predict --model {model} {file}
start the app:  .venv/bin/python app.py --model {model}   (without --model: the bundled model)""")


def step(title: str, command: str, product: Path) -> None:
    """Run a command unless its product is there; show it as a person would type it."""
    if product.exists():
        print(f"\n== {title}: reusing {product.parent}", flush=True)
        return
    print(f"\n== {title}\n$ {command}", flush=True)
    program, *rest = shlex.split(command)
    run_command([str(Path(sys.executable).parent / program), *rest])


def run_command(arguments: list[str]) -> None:
    """Run it; end with its exit code where it fails."""
    code = subprocess.run(arguments).returncode
    if code:
        sys.exit(code)


def stop(message: str) -> int:
    """One line on stderr; the exit code of what the user can mend."""
    print(f"ser-hf: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
