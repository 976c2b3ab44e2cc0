"""What pages and docstrings name exists, and no old name is left anywhere."""

import ast
import contextlib
import dataclasses
import importlib
import io
import json
import re

import pytest
from helpers.small import ROOT
from transformers import TrainingArguments

from ser_hf.cli.main import COMMANDS, main
from ser_hf.labels import EMOTIONS

PAGES = sorted(path for folder in (".", "docs", "studies", ".github") for path in (ROOT / folder).glob("*.md"))
CODE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)
PATH = re.compile(r"(?<![\w./])(?:ser_hf|scripts|benchmarks|studies|docs|configs|cards|tests)/[\w./-]*\w/?")
DOTTED = re.compile(r"(?<![\w./])ser_hf(?:\.\w+)+")

COMMAND = re.compile(r"(?:ser-hf(?= )|scripts/(?:build_dataset|finetune|evaluate|pretrain|export_onnx)\.py)[^\n#;]*")
SCRIPTS = {"build_dataset": "data", "finetune": "finetune", "evaluate": "evaluate", "pretrain": "pretrain"}
SCRIPTS |= {"export_onnx": "export"}
FLAG = re.compile(r"(?<![\w-])--([a-z]\w*)(?![\w-])")
OTHERS = {"config_file", "cpu", "fsdp_transformer_layer_cls_to_wrap", "help", "machine_rank", "main_process_ip"}
OTHERS |= {"nproc_per_node", "num_processes", "quiet", "flavor", "secrets", "timeout"}
OTHERS |= {"format", "memory", "tmpfs"}
"""Flags of accelerate, torchrun, `hf jobs` and podman, and of every command."""

FOLDERS = ("ser_hf", "tests", "scripts", "benchmarks", "studies", "cards", "configs", "docs")
OLD_MODULES = (
    "acoustics|adaptation|answers|arguments|augment|averaging|backends|baselines|batch_tab|"
    "batches|calibration|cards|clips|comparison|confidence|corpora|cross_validation|"
    "custom_protocols|data_cli|dataset|deadline|demo|dial|download|dropout|emotions|endings|"
    "evidence|evidence_cli|examples|explanation|export|features|finetune_config|findings|"
    "fingerprint|flags|frozen|functionals|gate|in_the_box|intervals|limits|live_tab|measure|"
    "model_in_the_box|model_tab|modeling|modes|objective|onnx_backend|outputs|plots|precision|"
    "predict_cli|predictor|preparation|pretrain_cli|pretraining|pretraining_data|pretraining_model|"
    "probing|provenance|refusals|rendering|repeats|report|resampling|result_plots|results|"
    "scorecard|serve_cli|serving|sessions|settings|sharpness|shortcuts|silence|space|spectral|"
    "splits|streaming|stress|summary|tiny|trainer|uploads|voice|voice_tab|watch|windows|"
    "workers"
)
OLD_FLAGS = "--(?:more_voices|refit|sharpness|average|egemaps|dial|unpack)"
OLD_NAMES = [
    rf"(?<!HF_HOME/)\bser_hf[./](?:{OLD_MODULES})\b",
    rf"\bfrom ser_hf import (?:\w+, )*(?:{OLD_MODULES})\b",
    rf"(?<![\w-]){OLD_FLAGS}\b",
    r"--silence[ =]either\b",
    r"\bmore_voices\b",
    r"\bin_the_box\b",
    r"(?i)\bmodel in the box\b",
    r"\bIN_THE_BOX\b",
    r"\b(?:FrameBudget|Teller|AdaptedBackend|VoiceStream)\b",
]
PRIVATE = {"house", "rooms", "door", "doors", "box", "gate", "dial", "heard"}


def sources():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".md", ".yaml", ".jinja", ".js", ".css"}:
                yield path
    names = ("Makefile", "pyproject.toml", "mkdocs.yml", "app.py", "CITATION.cff")
    yield from [*sorted(ROOT.glob("*.md")), *(ROOT / name for name in names)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_paths_exist(page):
    code = " ".join(CODE.findall(page.read_text()))
    assert [path for path in PATH.findall(code) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_dotted_names_import(page):
    for name in DOTTED.findall(" ".join(CODE.findall(page.read_text()))):
        assert imported(name) is not None, f"{name} does not exist"


def docstrings(source):
    """Docstrings, and the strings that describe a constant or a field."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def unknown_names(source):
    spans = [span for text in docstrings(source) for span in re.findall(r"`[^`]+`", text)]
    return [name for span in spans for name in DOTTED.findall(span) if imported(name) is None]


def test_dotted_names_of_docstrings_import():
    names = {
        path.relative_to(ROOT).as_posix(): unknown_names(path.read_text())
        for path in sources()
        if path.suffix == ".py" and path.is_relative_to(ROOT / "ser_hf")
    }
    assert {path: unknown for path, unknown in names.items() if unknown} == {}


def test_unknown_names_of_docstrings_are_found():
    source = '"""See `ser_hf.labels.EMOTIONS`."""\nN = 1\n"""As `ser_hf.labels.MOODS` (`ser_hf.nothing`)."""\n'
    assert unknown_names(source) == ["ser_hf.labels.MOODS", "ser_hf.nothing"]


def imported(name):
    """The module or attribute of a dotted name, or None."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            thing = getattr(thing, part, None)
        return thing
    return None


@pytest.fixture(scope="module")
def flags():
    """The flags of each command, of which fine-tuning takes the Trainer's, too."""
    known = {}
    for name in COMMANDS:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            main([*name.split(), "--help"])
        known[name] = set(FLAG.findall(output.getvalue()))
    trainer = {field.name for field in dataclasses.fields(TrainingArguments)}
    known["finetune"] |= trainer
    known["leakage-curve"] |= known["finetune"]
    return known


def code_lines(text):
    """Lines of fenced blocks, continued ones joined, and code spans."""
    for piece in CODE.findall(text):
        if piece.startswith("```"):
            yield from piece.replace("\\\n", " ").splitlines()[1:-1]
        else:
            yield " ".join(piece.strip("`").split())


def commands(page):
    """Each command in the code of a page: its name and its flags."""
    for line in code_lines(page.read_text()):
        for command in COMMAND.findall(line):
            first, *words = command.split()
            if first.endswith(".py"):
                yield SCRIPTS[first.removeprefix("scripts/").removesuffix(".py")], FLAG.findall(command)
            elif words and not words[0].startswith("COMMAND"):
                two = " ".join(words[:2])
                yield (two if two in COMMANDS else words[0]), FLAG.findall(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_commands_and_flags_are_todays(page, flags):
    for command, used in commands(page):
        assert command in COMMANDS
        assert sorted(set(used) - flags[command] - {"help"}) == [], command


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_flag_exists(page, flags):
    scripts = [path for folder in ("benchmarks", "studies", "scripts") for path in (ROOT / folder).rglob("*.py")]
    known = {flag for path in scripts for flag in FLAG.findall(path.read_text())}.union(*flags.values(), OTHERS)
    assert sorted(set(FLAG.findall(" ".join(CODE.findall(page.read_text())))) - known) == []


def test_the_picture_of_the_folders_is_complete():
    tree = re.search(r"```\n(ser_hf/\n.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL)[1]
    listed, folders = set(), []
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        folders[len(indent) // 2 :] = [name] if name.endswith("/") else []
        if name.endswith(".py"):
            listed.add("".join([*folders, name]))
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ser_hf").rglob("*.py")}
    modules = {path for path in modules if not path.endswith("__init__.py")}
    assert sorted(listed - modules) == []
    assert sorted(modules - listed) == []


def test_the_readme_shows_a_whole_prediction():
    (example,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    prediction = json.loads(example)
    assert list(prediction) == ["file", "label", "score", "scores", "abstained", "duration", "segments"]
    assert tuple(prediction["scores"]) == EMOTIONS
    assert sum(prediction["scores"].values()) == pytest.approx(1, abs=1e-5)


def old_names(text):
    return [match[0] for pattern in OLD_NAMES for match in re.finditer(pattern, text)]


def test_no_old_name_is_left():
    here = "tests/end_to_end/test_docs_names.py"
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sources()}
    assert {name: old_names(text) for name, text in texts.items() if name != here and old_names(text)} == {}


def test_old_names_are_found():
    assert old_names("see ser_hf/endings.py, ser_hf.stress and --dial") == ["ser_hf/endings", "ser_hf.stress", "--dial"]
    assert old_names("from ser_hf import audio, gate") == ["from ser_hf import audio, gate"]
    assert old_names("from ser_hf.data import dataset; ser-hf evaluate --egemaps_weight 1") == []
    assert old_names("a cache in $HF_HOME/ser_hf/frozen, not ser_hf/frozen") == ["ser_hf/frozen"]


def identifiers(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def private_identifiers(source):
    return sorted({name for name in identifiers(ast.parse(source)) if set(name.lower().split("_")) & PRIVATE})


def test_identifiers_are_words_of_the_field():
    folders = ("ser_hf", "scripts", "benchmarks", "studies")
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    names = {path.relative_to(ROOT).as_posix(): private_identifiers(path.read_text()) for path in paths}
    assert {path: words for path, words in names.items() if words} == {}


def test_private_identifiers_are_found():
    assert private_identifiers("def f(heard):\n    the_gate = heard\n    bbox = 1\n") == ["heard", "the_gate"]
