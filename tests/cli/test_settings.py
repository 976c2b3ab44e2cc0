"""Settings of every command, from flags and config files."""

import ast
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml
from helpers.small import ROOT

from ser_hf.cli.main import COMMANDS, main
from ser_hf.cli.settings import CommandLine
from ser_hf.errors import UserError


@dataclass
class Settings:
    """One field of each kind."""

    files: list[str] = field(metadata={"positional": True, "metavar": "FILE ...", "help": "to read"})
    output: str = field(metadata={"metavar": "DIR", "help": "to write"})
    sources: list[str] = field(default_factory=list, metadata={"action": "extend", "help": "more to read"})
    kind: Literal["plain", "odd"] = field(default="plain", metadata={"help": "of the files"})
    count: int | None = field(default=None, metadata={"help": "at most"})
    rate: float = field(default=0.5, metadata={"help": "of them"})
    fast: bool = field(default=False, metadata={"help": "do less"})
    strict: bool = field(default=True, metadata={"help": "refuse more"})


def parse(*words):
    return CommandLine("try", list(map(str, words)), "Try it.\n\nAnd more.").parse(Settings)


@pytest.fixture(params=["c.yaml", "c.json"])
def write(request, tmp_path):
    def written(settings):
        path = tmp_path / request.param
        path.write_text(json.dumps(settings) if path.suffix == ".json" else yaml.safe_dump(settings))
        return path

    return written


def test_flags_fill_the_fields():
    words = "a.wav b.wav --output o --sources x y --sources z --kind odd --count 3 --rate 1e-3 --fast --no_strict"
    assert parse(*words.split()) == Settings(
        ["a.wav", "b.wav"], "o", ["x", "y", "z"], "odd", 3, 0.001, fast=True, strict=False
    )
    assert parse("--output", "o", "a.wav") == Settings(["a.wav"], "o")


def test_flags_win_over_the_file_and_the_file_over_defaults(write):
    settings = {"files": ["a.wav"], "output": "o", "sources": ["x"], "count": 3, "rate": "1e-3", "strict": False}
    path = write(settings)
    assert parse(path) == Settings(["a.wav"], "o", ["x"], count=3, rate=0.001, strict=False)
    changed = parse(path, "b.wav", "--sources", "y", "--count", "4", "--strict", "true")
    assert changed == Settings(["b.wav"], "o", ["y"], count=4, rate=0.001)
    assert parse(write({**settings, "count": None, "sources": []})) == Settings(
        ["a.wav"], "o", rate=0.001, strict=False
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": 1}, "'colour' in the config file is no setting"),
        ({"count": "many"}, "argument --count: invalid int value: 'many'"),
        ({"kind": "even"}, "argument --kind: invalid choice: 'even'"),
        ({"rate": None}, "'rate' in the config file has no value"),
        ({"fast": "perhaps"}, "argument --fast: Truthy value expected: got perhaps"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(write, settings, message):
    with pytest.raises(UserError, match=message):
        parse(write({"files": ["a"], "output": "o", **settings}))


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("count: 1\noutput: o\ncount: 2\n")
    with pytest.raises(UserError, match=r"c\.yaml' cannot be read: the key 'count' stands twice"):
        parse(tmp_path / "c.yaml", "a.wav")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the following arguments are required: FILE ..., --output"),
        ("a.wav", "the following arguments are required: --output"),
        ("a.wav --output o --colour red", "'--colour' is no flag of ser-hf try"),
        ("a.wav --output o --out x", "'--out' is no flag of ser-hf try"),
        ("missing.yaml --output o", "'missing.yaml' does not exist: check the path of the config file"),
    ],
)
def test_what_is_wrong_in_flags_is_named(words, message):
    with pytest.raises(UserError) as error:
        parse(*words.split())
    assert str(error.value).startswith(message)


def test_help_has_a_line_a_flag_with_its_default(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse("--help")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: ser-hf try [CONFIG.yaml|.json] FILE ... --output DIR [flags]"
    assert lines[2] == "Try it."
    assert [" ".join(line.split()) for line in lines[4:12]] == [
        "FILE ... to read (required)",
        "--output DIR to write (required)",
        "--sources TEXT more to read",
        "--kind of the files (plain, odd; default: plain)",
        "--count N at most",
        "--rate X of them (default: 0.5)",
        "--fast do less",
        "--strict refuse more (default: true)",
    ]
    assert lines[-1] == "And more."


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_takes_a_config_file(command, tmp_path, fails):
    path = tmp_path / "c.yaml"
    path.write_text("colour: red\n")
    line = fails(*command.split(), path)
    assert "'colour' in the config file is no setting" in line or "arguments are required" in line
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "--help"])


def test_a_command_runs_from_a_file_alone(built, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"dataset": str(built), "protocol": "luna-ravdess", "fold": 3}))
    assert main(["data", "splits", str(path)]) == 0
    assert "protocol luna-ravdess fold 3" in capsys.readouterr().out
    assert main(["data", "splits", str(path), "--fold", "1"]) == 0
    assert "protocol luna-ravdess fold 1" in capsys.readouterr().out


def test_only_the_command_line_parses_flags():
    for path in sorted((ROOT / "ser_hf").rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
        assert path.parent.name == "cli" or not names & {"argparse", "transformers.hf_argparser"}, path


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("build_dataset", "data"),
        ("evaluate", "evaluate"),
        ("export_onnx", "export"),
        ("finetune", "finetune"),
        ("pretrain", "pretrain"),
    ],
)
def test_each_script_is_a_command(script, command):
    run = subprocess.run([sys.executable, ROOT / "scripts" / f"{script}.py", "--help"], capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stdout.startswith(f"usage: ser-hf {command} ")


def test_home_is_understood_in_flags_and_files(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    path = write({"output": "~/out", "sources": ["~/a", "b~"]})
    assert parse(path, "~/c.wav", "~") == Settings(
        ["/home/anna/c.wav", "/home/anna"], "/home/anna/out", ["/home/anna/a", "b~"]
    )
    assert parse("x", "--output=~/o").output == "/home/anna/o"


@pytest.mark.parametrize(
    "argv",
    [
        ["predict", "n" * 300],
        ["predict", __file__, "--output", f"{'n' * 300}.jsonl"],
        ["predict", __file__, "--output", "/dev/null"],
        ["audit", "n" * 300],
        ["data", "--ravdess", "n" * 300, "--output", "x"],
        ["data", "--synthetic", "--output", "n" * 300],
        ["finetune", f"{'n' * 300}.yaml"],
        ["finetune", "--dataset", "n" * 300, "--output_dir", "x"],
        ["finetune", "--dataset", "x", "--output_dir", "n" * 300],
        ["finetune", "--dataset", "x", "--output_dir", __file__],
        ["data", "splits", "--dataset", "x", "--protocol", f"{'n' * 300}.yaml"],
    ],
)
def test_a_name_of_no_file_ends_in_one_line(argv, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
