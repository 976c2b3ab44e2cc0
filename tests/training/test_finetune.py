"""Fine-tuning end to end with a small model: what it writes, and that it means what it says."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from helpers import programs
from helpers.app import free_port
from helpers.small import FAST, ROOT
from safetensors.torch import load_file

from ser_hf import audio, protocols
from ser_hf.cli.main import main
from ser_hf.cli.train import parse_finetune
from ser_hf.data import dataset
from ser_hf.errors import UserError
from ser_hf.evaluation import metrics
from ser_hf.evaluation.results import Results
from ser_hf.inference.predictor import Predictor
from ser_hf.models import loading
from ser_hf.training import setup
from ser_hf.training.optimization import WeightAverage

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_folder_holds_the_model_and_its_evidence(tuned):
    names = {path.name for path in tuned.iterdir() if not path.name.startswith("checkpoint-")}
    assert names == {
        "LICENSE-BACKBONE",
        "README.md",
        "adaptation_head.safetensors",
        "classification_report.txt",
        "config.json",
        "embedding_reference.safetensors",
        "embeddings.npy",
        "history.json",
        "model.safetensors",
        "model_summary.txt",
        "plots",
        "predictions.csv",
        "preprocessor_config.json",
        "results.json",
        "tensorboard",
    }
    assert {path.name for path in (tuned / "plots").iterdir()} == {
        f"{name}.png" for name in ("confusion_matrix", "groups", "history", "reliability", "risk_coverage")
    }
    assert "Wav2Vec2BertForSequenceClassification" in (tuned / "model_summary.txt").read_text()


def test_the_results_are_those_of_the_saved_model(tuned, built):
    results = Results.load(tuned / "results.json")
    rows = dataset.load(built)
    split = protocols.split(rows, "speaker")
    assert (results.protocol, results.protocol_hash, results.fold, results.n) == (
        "speaker",
        split.hash,
        0,
        len(split.test),
    )
    test = rows.select(split.test)
    answers = Predictor(tuned).predict([dict(one) for one in test["audio"]])
    predictions = np.array([results.labels.index(answer["label"]) for answer in answers])
    matrix = metrics.confusion(np.array(test["label"]), predictions)
    assert results.confusion_matrix == matrix.tolist()
    assert results.uar == metrics.scores(matrix)["uar"]
    assert sum(row["n"] for row in results.per_speaker.values()) == results.n
    assert set(results.per_speaker) == {"ravdess-21", "ravdess-22", "ravdess-23", "ravdess-24", "tess-yaf"}
    assert results.split == {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)}


def test_the_history_has_losses_and_accuracies_of_both_sides(tuned):
    history = Results.load(tuned / "results.json").history
    assert [row["epoch"] for row in history] == [1.0, 2.0]
    for row in history:
        assert 0 < row["loss"] < 3
        assert 0 < row["eval_loss"] < 3
        assert 0 <= row["accuracy"] <= 1
        assert 0 <= row["eval_uar"] <= 1
    assert history[1]["loss"] < history[0]["loss"]


def test_the_checkpoint_is_the_best_by_validation_uar(tuned, built):
    history = Results.load(tuned / "results.json").history
    rows = dataset.load(built)
    validation = rows.select(protocols.split(rows, "speaker").validation)
    predictor = Predictor(tuned)
    answers = predictor.predict([dict(one) for one in validation["audio"]])
    predictions = np.array([predictor.labels.index(answer["label"]) for answer in answers])
    uar = metrics.scores(metrics.confusion(np.array(validation["label"]), predictions))["uar"]
    assert uar == pytest.approx(max(row["eval_uar"] for row in history), abs=1e-9)


STOCK = """
import json, sys
sys.modules["ser_hf"] = None  # cannot be imported
import soundfile
from transformers import pipeline
models, files = json.loads(sys.argv[1])
recordings = [soundfile.read(file, dtype="float32") for file in files]
for model in models:
    classify = pipeline("audio-classification", model=model, top_k=None)
    rows = [classify({"array": samples, "sampling_rate": rate}) for samples, rate in recordings]
    print(json.dumps([{row["label"]: row["score"] for row in answer} for answer in rows]))
"""


def test_stock_transformers_gives_the_same_scores(tuned, models, recordings, tmp_path, capsys):
    other_rate = tmp_path / "48k.wav"  # both resample it
    samples, _ = soundfile.read(sorted(recordings[0].rglob("*.wav"))[100])
    soundfile.write(other_rate, np.repeat(samples, 3) * 0.9, 48_000)
    unheard = sorted(recordings[0].rglob("*-21.wav"))[:3]
    files = [str(path) for path in (*unheard, *sorted(recordings[1].rglob("*.wav"))[:2], other_rate)]
    folders = [str(folder) for folder in (tuned, models["group"], models["layer"])]
    run = programs.run(["-c", STOCK, json.dumps([folders, files])], ours=False)
    for folder, line in zip(folders, run.stdout.splitlines(), strict=True):
        capsys.readouterr()
        assert main(["predict", "--model", folder, *files]) == 0
        ours = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        for stock, mine in zip(json.loads(line), ours, strict=True):
            assert stock.keys() == mine["scores"].keys()
            for label, score in stock.items():
                assert abs(score - mine["scores"][label]) < 1e-4


def train(built, models, folder, *flags):
    """The words of three steps over 8 clips each, with a log and without anything drawn at
    random."""
    words = f"finetune --dataset {built} --model {models['bert']} --output_dir {folder} --bf16 false"
    words += " --max_steps 3 --logging_strategy steps --logging_steps 1 --eval_strategy steps --eval_steps 3"
    words += " --save_strategy steps --save_steps 3 --patience 0 --adaptation_head false --calibrate false"
    return [*words.split(), *flags]


def losses(folder):
    state = json.loads(next(Path(folder).glob("checkpoint-3/trainer_state.json")).read_text())
    return [row["loss"] for row in state["log_history"] if "loss" in row]


def side_by_side(words, log):
    """What two processes print, each with the variables that `accelerate launch` gives it."""
    log.touch()
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environments = [os.environ | group | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    started = [programs.Program(words, log, environment=environment) for environment in environments]
    assert [program.wait(timeout=240) for program in started] == [0, 0], log.read_text()[-3000:]
    return log.read_text()


def test_one_process_two_and_accumulated_gradients_train_alike(few, models, tmp_path):
    assert main(train(few, models, tmp_path / "one", "--per_device_train_batch_size", "8")) == 0
    accumulated = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4")
    assert main(train(few, models, tmp_path / "accumulated", *accumulated)) == 0
    two = train(few, models, tmp_path / "two", "--per_device_train_batch_size", "4", "--use_cpu", "true")[1:]
    printed = side_by_side([ROOT / "scripts" / "finetune.py", *two], tmp_path / "log")
    assert "2 process(es) on cpu" in printed
    assert "in 2 batch(es), fp32" in printed
    assert Results.load(tmp_path / "two" / "results.json").environment["processes"] == 2

    one = losses(tmp_path / "one")
    assert len(one) == 3
    assert 1 < one[0] < 3  # a mean over clips, not a sum over batches
    np.testing.assert_allclose(losses(tmp_path / "accumulated"), one, rtol=1e-4)
    np.testing.assert_allclose(losses(tmp_path / "two"), one, rtol=1e-4)
    weights = [load_file(tmp_path / run / "model.safetensors") for run in ("one", "accumulated", "two")]
    for name, tensor in weights[0].items():
        for other in weights[1:]:
            torch.testing.assert_close(other[name], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "cached"),
    [("bert", "false"), ("group", "false"), ("group", "true"), ("layer", "false"), ("layer", "true")],
)
def test_validation_hears_a_clip_alone_as_in_any_batch(few, models, tmp_path, kind, cached):
    rows = dataset.load(few)
    split = protocols.split(rows, "speaker")
    logits = []
    for size in ("1", "7", "32"):
        words = ["--dataset", few, "--model", models[kind], "--output_dir", tmp_path / "m", "--bf16", "false"]
        words += ["--cache_frozen", cached, "--cache_dir", tmp_path / "cache", "--per_device_eval_batch_size", size]
        words += ["--freeze_feature_encoder", cached, "--report_to", "none"]
        made = setup.prepare(*parse_finetune(list(map(str, words))), rows, split)
        logits.append(made.trainer.predict(made.trainer.eval_dataset).predictions)
    differ = logits[0].std(0).min()  # small, in a model that has learnt nothing
    assert differ > 1e-6
    for other in logits[1:]:
        np.testing.assert_allclose(other, logits[0], atol=min(1e-4, differ / 50), rtol=0)


def test_a_broken_run_goes_on_to_the_same_end(few, models, tmp_path):
    base = ["finetune", "--dataset", str(few), "--model", str(models["bert"]), *FAST, "--protocol", "tess-oaf-yaf"]
    base += ["--adaptation_head", "false"]
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    assert main([*base, "--output_dir", whole, "--num_train_epochs", "3", "--save_total_limit", "5"]) == 0
    checkpoints = sorted(Path(whole).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) == 3
    shutil.copytree(checkpoints[0], Path(broken) / checkpoints[0].name)  # all that a kill in the second epoch leaves
    assert main([*base, "--output_dir", broken, "--num_train_epochs", "3", "--resume_from_checkpoint", "true"]) == 0
    assert len(Results.load(Path(broken) / "results.json").history) == 3
    one, other = (load_file(Path(folder) / "model.safetensors") for folder in (whole, broken))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=0)


def test_what_is_saved_and_validated_is_the_average_of_the_weights(few, models, tmp_path, monkeypatch):
    seen = []

    def watched(self, args, state, control, **kwargs):
        update(self, args, state, control, **kwargs)
        seen.append({name: one.detach().clone() for name, one in self._trained.items()})

    update = WeightAverage.on_step_end
    monkeypatch.setattr(WeightAverage, "on_step_end", watched)
    base = ["finetune", "--dataset", str(few), "--model", str(models["bert"]), "--output_dir", str(tmp_path / "run")]
    torch.manual_seed(0)
    flags = ["--ema_decay", "0.5", "--max_steps", "3", "--eval_strategy", "steps", "--eval_steps", "3", *FAST]
    assert (
        main(
            [
                *base,
                *flags,
                "--save_strategy",
                "steps",
                "--save_steps",
                "3",
                "--calibrate",
                "false",
                "--adaptation_head",
                "false",
            ]
        )
        == 0
    )
    saved = load_file(tmp_path / "run" / "model.safetensors")
    begun = loading.load_for_training(models["bert"], 42)[0].state_dict()
    for name in ("classifier.weight", "projector.bias"):
        wanted = begun[name]
        for step, one in enumerate(seen, 1):
            decay = min(0.5, (1 + step) / (10 + step))
            wanted = decay * wanted + (1 - decay) * one[name]
        assert torch.allclose(saved[name], wanted, atol=1e-7)
        assert not torch.equal(saved[name], seen[-1][name])
    row = json.loads((tmp_path / "run" / "history.json").read_text())[-1]
    rows, split = dataset.load(few), protocols.split(dataset.load(few))
    chances = Predictor(tmp_path / "run").probabilities([audio.load(rows[i]["audio"]) for i in split.validation])
    right = chances[np.arange(len(chances)), rows.select(split.validation)["label"]]
    assert row["eval_loss"] == pytest.approx(-np.log(right).mean(), abs=0.02)  # validation is in bf16


def test_a_folder_with_an_earlier_run_is_not_mixed(tuned, built, models, fails, tmp_path):
    before = sorted(path.name for path in tuned.iterdir())
    base = ("finetune", "--dataset", built, "--model", models["bert"])
    assert "holds an earlier run" in fails(*base, "--output_dir", tuned)
    assert sorted(path.name for path in tuned.iterdir()) == before
    line = fails(*base, "--output_dir", tmp_path / "new", "--resume_from_checkpoint", "true")
    assert "holds no checkpoint" in line
    line = fails(*base, "--output_dir", tmp_path / "new", "--resume_from_checkpoint", tmp_path / "nowhere")
    assert "is no checkpoint" in line
    assert not (tmp_path / "new").exists()


def test_a_run_goes_on_only_as_what_it_began(few, models, trained, fails, tmp_path):
    checkpoint = next(trained.glob("checkpoint-*"))
    shutil.copytree(checkpoint, tmp_path / "m" / checkpoint.name)
    base = ("finetune", "--dataset", few, "--output_dir", tmp_path / "m", "--resume_from_checkpoint", "true")
    assert "has protocol_hash" in fails(*base, "--model", models["bert"], "--protocol", "random")
    assert "has model_type wav2vec2-bert, not wav2vec2" in fails(*base, "--model", models["layer"])
    assert "has seed 42, not 7" in fails(*base, "--model", models["bert"], "--seed", "7")
    same = (*base, "--model", models["bert"], *FAST)
    assert "has learning_rate " in fails(*same, "--learning_rate", "1e-6")
    assert "has num_train_epochs 2" in fails(*same, "--num_train_epochs", "9")
    assert "has clips a step 16, not 8" in fails(*same, "--per_device_train_batch_size", "8")
    assert "has layer_decay 0.8, not 0.5" in fails(*same, "--layer_decay", "0.5")
    assert "has balance none, not label" in fails(*same, "--balance", "label")
    (tmp_path / "m" / checkpoint.name / "trainer_state.json").unlink()  # cut off while it was saved
    assert "holds no checkpoint" in fails(*base, "--model", models["bert"])


def test_what_a_base_model_heard_counts_as_seen(few, trained, fails, tmp_path):
    base = ("finetune", "--dataset", few, "--model", trained, "--output_dir", tmp_path / "m")
    assert "was trained under 'speaker'" in fails(*base, "--protocol", "emobox-ravdess", "--fold", "1")
    assert not (tmp_path / "m").exists()
    words = [*map(str, base), "--protocol", "tess-oaf-yaf", "--num_train_epochs", "1", "--bf16", "false"]
    assert main(words) == 0
    heard = json.loads((tmp_path / "m" / "config.json").read_text())["ser_hf"]["speakers"]
    assert {"tess-oaf", "ravdess-01", "ravdess-20"} <= set(heard)


def test_augmentation_of_mel_frames_is_refused_where_there_are_none(built, models, fails, tmp_path):
    base = ["finetune", "--dataset", built, "--model", models["group"], "--output_dir", tmp_path / "run"]
    assert "--augment tempo is of mel frames" in fails(*base, "--augment", "gain,tempo", *FAST)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_ends_in_one_line(few, models, fails, tmp_path):
    base = ("finetune", "--dataset", few, "--model", models["bert"], "--output_dir", tmp_path / "m")
    line = fails(*base, "--learning_rate", "1e30", "--max_grad_norm", "0", "--num_train_epochs", "2", "--bf16", "false")
    assert "lower --learning_rate" in line
    assert not (tmp_path / "m" / "results.json").exists()


def test_a_file_and_flags_make_the_configuration(tmp_path):
    settings = {"dataset": "d", "model": "tiny", "learning_rate": "3e-4", "num_train_epochs": 2, "bf16": False}
    for file, content in (("c.yaml", yaml.safe_dump(settings)), ("c.json", json.dumps(settings))):
        (tmp_path / file).write_text(content)
        config, args = parse_finetune([str(tmp_path / file), "--num_train_epochs", "7", "--protocol", "random"])
        assert (config.dataset, config.model, config.protocol, config.fold) == ("d", "tiny", "random", "0")
        assert (args.learning_rate, args.num_train_epochs, args.bf16) == (3e-4, 7, False)
        assert args.metric_for_best_model == "uar"
        assert args.output_dir == "runs/tiny-random"


def test_a_file_may_hold_lists_and_mappings(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "dataset: d\nmodel: tiny\nlr_scheduler_kwargs: {num_cycles: 2}\nreport_to: [none]\n"
    )
    _, args = parse_finetune([str(tmp_path / "c.yaml")])
    assert args.lr_scheduler_kwargs == {"num_cycles": 2}
    assert args.report_to == []


def test_pretrained_models_get_gentler_defaults():
    _, scratch = parse_finetune(["--dataset", "d", "--model", "tiny"])
    _, pretrained = parse_finetune(["--dataset", "d", "--model", "some/backbone"])
    assert pretrained.learning_rate < scratch.learning_rate / 10
    flags = {"tiny": [], "some/backbone": [], "a/b": ["--mode", "lora"], "c/d": ["--mode", "probe"]}
    parsed = [parse_finetune(["--dataset", "d", "--model", name, *more])[0] for name, more in flags.items()]
    assert [config.layer_decay for config in parsed] == [1.0, 0.8, 1.0, None]
    assert parse_finetune(["--dataset", "d"])[0].model == "facebook/wav2vec2-base"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--model", "tiny"], "dataset"),
        (["--dataset", "d", "--lerning_rate", "1"], "'--lerning_rate' is no flag"),
        (["--dataset", "d", "--learning_rate", "fast"], "learning_rate"),
        (["--dataset", "d", "--eval_strategy", "sometimes"], "sometimes"),
        (["--dataset", "d", "--threads", "-1"], "--threads is -1"),
        (["--dataset", "d", "--split_seed", "-1"], "--split_seed is -1"),
        (["missing.yaml"], "'missing.yaml' does not exist"),
        (["config.txt"], "must end in .yaml"),
    ],
)
def test_wrong_flags_are_named(argv, says):
    with pytest.raises(UserError, match=says):
        parse_finetune(argv)


def test_wrong_lines_of_a_file_are_named(tmp_path):
    for content, says in (
        ("lerning_rate: 1", "'lerning_rate' in the config file"),
        ("a: [", "cannot be read"),
        ("just text", "no settings"),
    ):
        (tmp_path / "c.yaml").write_text(content)
        with pytest.raises(UserError, match=says):
            parse_finetune([str(tmp_path / "c.yaml"), "--dataset", "d"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--mode probe --mixup 0.4", "--mixup does nothing in --mode probe"),
        ("--streaming true --mode probe --head closed_form", "--mode probe .--head closed_form. keeps features of all"),
        ("--streaming true --mode probe", "--mode probe .--head linear. keeps features of all clips, and --streaming"),
        ("--streaming true --mixup 0.4", "--mixup 0.4 takes a second clip from anywhere, and --streaming true"),
        ("--streaming true --balance label --balance_by sampler", "--balance_by sampler draws clips from anywhere"),
        ("--streaming true --frame_budget 60", "--frame_budget plans batches over all clips"),
        ("--streaming true --augment noise:10-30", "--augment noise without --noise_dir takes silences of all clips"),
        ("--streaming true --augment gain:6 --augmented_copies 1 --head_start true", "--augmented_copies keeps"),
        ("--shuffle_buffer 9", "--shuffle_buffer does nothing without --streaming true"),
        ("--streaming true --shuffle_buffer 0", "--shuffle_buffer is 0"),
        ("--mode probe --augment gain:6", "--augment does nothing in --mode probe"),
        ("--mode probe --num_train_epochs 0.5", "a probe trains whole epochs"),
        ("--mode probe --max_steps 3", "a probe trains whole epochs"),
        ("--mode lora --layers 2", "--layers does nothing in --mode lora, only in partial"),
        ("--head mlp", "--head does nothing in --mode full, only in probe"),
        ("--balance_by sampler", "needs a --balance"),
        ("--frame_budget 60 --augment speed", "--frame_budget cannot be kept"),
        ("--metric_for_best_model foo", "--metric_for_best_model is 'foo': choose one of loss"),
        ("--noise_dir d --augment gain:6", "but no noise is added"),
        ("--save_only_model true", "leaves nothing that a run could go on from"),
        ("--push_to_hub true", "run `ser-hf push` afterwards"),
        ("--auto_find_batch_size true", "use --frame_budget"),
        ("--average_tokens_across_devices false", "would weigh clips unequally"),
        ("--train_on_validation true --eval_strategy epoch", "has no validation after --train_on_validation"),
        ("--train_on_validation true --mode probe", "by validation"),
        ("--train_on_validation true --abstain_error 0.1", "needs validation clips"),
        ("--temperature 2", "needs --train_on_validation true"),
        ("--train_on_validation true --temperature 0", "a positive number"),
        ("--ema_decay -1", "at least 0 is needed"),
        ("--layer_mix true --mode lora", "does nothing in --mode lora, only in full, partial"),
        ("--report_to foo", "--report_to is 'foo': choose of azure_ml, .*, wandb, or none"),
        ("--report_to wandb", "--report_to wandb needs the package wandb: pip install wandb"),
        ("--optim paged_lion_8bit", "--optim paged_lion_8bit needs the package bitsandbytes"),
        ("--deepspeed x.json", "--deepspeed needs the package deepspeed: pip install deepspeed"),
        ("--fsdp full_shard", "start them with `accelerate launch`"),
        ("--torch_compile_backend foo", "--torch_compile_backend is 'foo': choose one of aot_eager"),
        ("--torch_compile_mode foo", "--torch_compile_mode is 'foo': choose one of default"),
        ("--neftune_noise_alpha 5", "--neftune_noise_alpha is for embeddings of words"),
        ("--optim_args foo", r"--optim adamw_torch_fused cannot be made \(not enough values"),
        ("--learning_rate -1", r"--optim adamw_torch_fused cannot be made \(Invalid learning rate"),
        (
            "--lr_scheduler_type cosine_with_min_lr",
            "--lr_scheduler_type cosine_with_min_lr cannot be made .*min_lr_rate",
        ),
        ('--lr_scheduler_kwargs {"foo":1}', r"--lr_scheduler_type cosine cannot be made \(.*'foo'\): check --lr_sch"),
        ('--accelerator_config {"foo":1}', "unexpected keyword argument 'foo'"),
        ("--dataloader_num_workers -1", "--dataloader_num_workers is -1: at least 0"),
        ("--per_device_train_batch_size 0", "--per_device_train_batch_size is 0: at least 1"),
        ("--gradient_accumulation_steps 0", "--gradient_accumulation_steps is 0: at least 1"),
        ("--eval_accumulation_steps 0", "--eval_accumulation_steps is 0: at least 1"),
        ("--num_train_epochs -1", "--num_train_epochs is -1: more than 0 is needed, or --max_steps"),
        ("--prediction_loss_only true", "gives no UAR of all validation clips"),
        ("--eval_do_concat_batches false", "--eval_do_concat_batches false gives no UAR"),
        ("--debug tpu_metrics_debug", "needs a TPU"),
    ],
)
def test_flags_that_could_not_be_kept_are_refused(flags, says):
    with pytest.raises(UserError, match=says):
        parse_finetune(["--dataset", "d", "--model", "tiny", *flags.split()])
