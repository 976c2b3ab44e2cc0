"""The files for `accelerate launch`, and the page about them."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from helpers.small import ROOT
from transformers import AutoConfig, AutoModelForAudioClassification

from ser_hf.cli.train import parse_finetune

FOLDER, PAGE = ROOT / "configs" / "accelerate", ROOT / "docs" / "scaling.md"
FIELDS = {
    "one_gpu": {"distributed_type": DistributedType.NO, "num_machines": 1, "num_processes": 1, "use_cpu": False},
    "one_node": {"distributed_type": DistributedType.MULTI_GPU, "num_machines": 1, "gpu_ids": "all", "use_cpu": False},
    "several_nodes": {
        "distributed_type": DistributedType.MULTI_GPU,
        "num_machines": 2,
        "machine_rank": 0,
        "main_process_port": 29500,
        "rdzv_backend": "static",
        "same_network": True,
    },
    "fsdp": {"distributed_type": DistributedType.FSDP, "num_machines": 1, "use_cpu": False},
    "two_cpu": {"distributed_type": DistributedType.MULTI_GPU, "num_machines": 1, "num_processes": 2, "use_cpu": True},
}


def test_every_file_is_known():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in FIELDS}


@pytest.mark.parametrize("name", FIELDS)
def test_accelerate_reads_each_file(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert {field: getattr(config, field) for field in FIELDS[name]} == FIELDS[name]
    assert config.mixed_precision == "no"  # a string: the flags of fine-tuning decide
    assert config.num_processes % config.num_machines == 0
    assert (config.main_process_ip is not None) == (config.num_machines > 1)
    assert bool(config.fsdp_config) == (name == "fsdp")


def wrapped():
    return load_config_from_file(str(FOLDER / "fsdp.yaml")).fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")


def test_fsdp_is_the_second_with_whole_state_dicts():
    settings = load_config_from_file(str(FOLDER / "fsdp.yaml")).fsdp_config
    assert settings["fsdp_version"] == 2
    assert settings["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    assert settings["fsdp_state_dict_type"] == "FULL_STATE_DICT"


def layers():
    """Model type, stable layer norm or not, and the class of its layers, of each row of the page's
    table."""
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \| `(\w+)` \|$", PAGE.read_text(), re.MULTILINE)
    return [(kind, stable, names[stable]) for kind, *names in rows for stable in (False, True)]


@pytest.mark.parametrize(("kind", "stable", "name"), layers())
def test_the_page_names_the_layers_of_each_backbone(kind, stable, name):
    config = AutoConfig.for_model(kind, num_hidden_layers=1, do_stable_layer_norm=stable)
    with torch.device("meta"):
        model = AutoModelForAudioClassification.from_config(config)
    assert [type(layer).__name__ for layer in model.base_model.encoder.layers] == [name]


def test_the_wrapped_classes_are_in_transformers():
    assert wrapped()
    assert set(wrapped()) <= {name for _, _, name in layers()}  # each of which was found in a model


def test_two_cpu_starts_two(tmp_path):
    script = tmp_path / "who.py"
    script.write_text(
        "import os\nprint(os.environ['RANK'] + '/' + os.environ['WORLD_SIZE'] + '\\n', end='', flush=True)"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "two_cpu.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*launch, str(script)], capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert sorted(run.stdout.split()) == ["0/2", "1/2"]


def test_command_lines_name_files_that_exist():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[0] in ("accelerate", "torchrun", "uv", "hf")
        files = [word for word in words if word.endswith((".py", ".yaml"))]
        if words[0] == "hf":
            assert words[1:4] == ["jobs", "uv", "run"]
            assert any(file.startswith("scripts/jobs/") for file in files)
        elif words[0] != "uv":
            assert "scripts/finetune.py" in files
        assert all((ROOT / file).is_file() for file in files), line


def test_the_table_names_the_files_that_there_are():
    assert set(re.findall(r"^\| `(\w+)\.yaml`", PAGE.read_text(), re.MULTILINE)) == set(FIELDS)


def test_fine_tuning_of_a_pretrained_backbone_is_gentle():
    config, args = parse_finetune([str(ROOT / "configs" / "wav2vec2-base.yaml"), "--dataset", "d"])
    assert (config.model, config.protocol, config.fold) == ("facebook/wav2vec2-base", "emobox-ravdess", "all")
    assert config.head_start
    assert 0 < args.learning_rate <= 5e-5
    assert 0.7 <= config.layer_decay <= 0.9
    assert 0.1 <= args.warmup_steps <= 0.2
    assert (str(args.eval_strategy.value), args.load_best_model_at_end) == ("epoch", True)
    assert config.augment == ""  # it takes waveforms, and its convolutions are computed once


def test_whisper_base_is_fitted_as_the_bundled_model_is():
    of_speech, bundled = (
        yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text()) for name in ("whisper-base", "bundled_model")
    )
    assert parse_finetune([str(ROOT / "configs" / "whisper-base.yaml"), "--dataset", "d"])[0].fold == "all"
    several_corpora = {"extra_train_speakers", "group_weights"}
    assert set(bundled) - set(of_speech) == several_corpora
    assert {name: value for name, value in bundled.items() if name not in several_corpora} == {
        name: value for name, value in of_speech.items() if name != "fold"
    } | {"protocol": "all"}
