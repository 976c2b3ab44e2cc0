"""What several commands share: flags, the parser that ends in one line, silence."""

import argparse

from ser_hf import BACKENDS, BUNDLED_MODEL
from ser_hf.errors import UserError


class Parser(argparse.ArgumentParser):
    """Wrong flags end in one line and exit code 2, without a screen of usage before it."""

    def error(self, message: str) -> None:
        raise UserError(f"{message} (see {self.prog} --help)")


def quiet() -> None:
    """No bars and hints of transformers between our lines."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def add_model(parser: Parser) -> None:
    """`--model`, `--revision` and `--backend`, for asking a model."""
    parser.add_argument("--model", default=str(BUNDLED_MODEL), metavar="DIR|REPO", help="default: the model in the box")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="what it runs on (docs/serving.md)")


def add_workers(parser: Parser) -> None:
    """`--num_proc`."""
    parser.add_argument("--num_proc", type=_positive, metavar="N", help="recordings read at a time (default: cores)")


def add_protocol(parser: Parser) -> None:
    """`--protocol`, `--fold`, `--split_seed` and `--text_disjoint`."""
    parser.add_argument("--protocol", default="speaker", metavar="NAME|FILE", help="of docs/protocols.md, or your own")
    parser.add_argument("--fold", type=_fold, default="0", metavar="K|all", help="from 0 (default), or every fold")
    parser.add_argument("--split_seed", type=_natural, default=42, metavar="N", help="as in fine-tuning")
    parser.add_argument("--text_disjoint", action="store_true", help="refuse to test sentences heard in training")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not at least 1")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"'{text}' is not from 0 to {2**32 - 1}")
    return int(text)


def _fold(text: str) -> str:
    if text != "all" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number from 0 nor all")
    return text
