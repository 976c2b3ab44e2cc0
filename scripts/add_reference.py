"""Add the reference of embeddings to a model that has none: where its training clips lie.

    python scripts/add_reference.py --dataset DIR [--model DIR]

`ser-hf label` then says how many recordings of an archive lie elsewhere. The model stays as it is.
Fine-tuning and `ser-hf calibrate` write the reference themselves.
"""

import argparse
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, whose evaluate.py would hide the package of that name

import numpy as np

from ser_hf import BUNDLED_MODEL
from ser_hf.data import dataset
from ser_hf.errors import UserError
from ser_hf.evaluation.adaptation_head import Embedded, spread_over_speakers
from ser_hf.evaluation.embedding_reference import fit_reference
from ser_hf.inference.embedding_reference import FILE
from ser_hf.inference.predictor import Predictor
from ser_hf.utils import files


def main() -> None:
    """Embed the clips that the model was trained on, fit the reference, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, metavar="DIR|REPO", help="that the model was trained on")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, metavar="DIR")
    args = parser.parse_args()
    add_reference(args.model, args.dataset)


def add_reference(folder: Path, source: str) -> None:
    """Write `embedding_reference.safetensors` into the folder of a model.

    Args:
        folder: of the model.
        source: its dataset; clips of speakers that the model was not trained on are left out.

    Raises:
        UserError: where the dataset holds fewer than two speakers of the training.
    """
    predictor, rows = Predictor(folder), dataset.load(source)
    speakers = rows["speaker"]
    trained = set(speakers if predictor.seen_speakers.speakers is None else predictor.seen_speakers.speakers)
    indices = [index for index, speaker in enumerate(speakers) if speaker in trained]
    chosen = rows.select(spread_over_speakers(rows, indices)) if indices else rows.select([])
    reference = None
    if len(chosen):
        logits, embeddings = predictor.outputs(dataset.decoded_clips(chosen))
        train = Embedded(logits, embeddings, np.asarray(chosen["label"]), np.asarray(chosen["speaker"]))
        reference = fit_reference(train, None, predictor.session.backend.digest)
    if reference is None:
        raise UserError(
            f"'{source}' holds fewer than two of the {len(trained)} speakers that '{folder}' was trained on: "
            "give the dataset of its training"
        )
    with files.replacing(folder / FILE) as partial:
        reference.save(partial)
    print(
        f"{folder / FILE}: {(folder / FILE).stat().st_size:,} bytes, of {reference.clips:,} clips of "
        f"{reference.speakers} speakers, {len(reference.directions)} directions, shrinkage {reference.shrinkage:.3f}"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"add_reference: {error}", file=sys.stderr)
        sys.exit(2)
