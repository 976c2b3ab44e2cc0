"""The command `ser-hf pretrain`."""

import argparse

from ser_hf.cli.flags import Parser, add_protocol


def pretrain(argv: list[str]) -> None:
    """pretrain a model on recordings without their labels"""
    config = vars(_arguments(argv))
    import transformers

    from ser_hf.training.pretraining import pretrain

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    history = pretrain.pretrain(pretrain.PretrainConfig(**config))
    if history is not None:
        output = config["output"]
        print(f"model and history.json: {output}  (go on with `ser-hf finetune --model {output}`)")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser("ser-hf pretrain", description="Pretrain a model on recordings without their labels (wav2vec 2.0).")
    parser.add_argument("--dataset", required=True, metavar="DIR|REPO")
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR|REPO|tiny|tiny-50|small",
        help="wav2vec2 or wav2vec2-bert to go on from; tiny, tiny-50 (mel frames), small (waveform) start from nothing",
    )
    add_protocol(parser)
    parser.add_argument(
        "--extra_train_speakers", action="store_true", help="hear the whole dataset but who validates and tests"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="must not exist yet")
    whole, real = {"type": int, "metavar": "N"}, {"type": float, "metavar": "X"}
    parser.add_argument("--epochs", **whole, default=20, help="default: 20")
    parser.add_argument("--learning_rate", **real, help="at its height (default: 1e-3 from nothing, 5e-5 else)")
    parser.add_argument("--batch_size", **whole, default=16, help="clips a process (default: 16)")
    parser.add_argument("--seed", **whole, default=42, help="of all that is drawn (default: 42)")
    parser.add_argument("--threads", **whole, help="CPU threads a process; the cores shared out if unset")
    parser.add_argument(
        "--resume_from_checkpoint",
        metavar="true|DIR",
        help="go on after a break: from the last epoch that was finished",
    )
    parser.add_argument("--bf16", choices=("true", "false"), help="default: where the processor has it")
    parser.add_argument(
        "--mask_time_prob", **real, default=0.65, help="share of frames under masks if none overlapped (default: 0.65)"
    )
    parser.add_argument("--mask_time_length", **whole, help="frames a mask (default: 200 ms of them)")
    parser.add_argument("--num_negatives", **whole, default=100, help="frames to be told from (default: 100)")
    args = parser.parse_args(argv)
    if args.fold == "all":
        parser.error("--fold is all: a model is pretrained on one fold, whose number is needed")
    for name in ("epochs", "batch_size", "threads", "mask_time_length", "num_negatives"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} is {value}: at least 1 is needed")
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed is {args.seed}: it goes from 0 to {2**32 - 1}")
    if args.learning_rate is not None and not args.learning_rate > 0:
        parser.error(f"--learning_rate is {args.learning_rate}: more than 0 is needed")
    if not 0 < args.mask_time_prob <= 1:
        parser.error(f"--mask_time_prob is {args.mask_time_prob}: more than 0 and at most 1 is needed")
    args.fold = int(args.fold)
    args.bf16 = None if args.bf16 is None else args.bf16 == "true"
    return args
