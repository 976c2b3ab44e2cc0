"""Commands of pages, and a process that runs them in a folder, with a Hub of its own."""

import re
import shlex

FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELLS = ("bash", "console", "sh", "shell")
OURS = {"build_dataset": "data", "evaluate": "evaluate", "export_onnx": "export"}
OURS |= {"finetune": "finetune", "pretrain": "pretrain"}
"""Scripts that are a command of `ser-hf`."""


def blocks(text, *kinds):
    """The fenced blocks of these kinds."""
    return [body for kind, body in FENCE.findall(text) if kind in kinds]


def shell_commands(text):
    """Each command of a text as its words, without comments; one a line, or joined by `;`, `&&`."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        command = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|()"):
                if command:
                    yield command
                command = []
            else:
                command.append(word)


def words_of_ours(command):
    """The words after `ser-hf`, however a command of ours is started; None for another one."""
    if command[0] == "ser-hf":
        return command[1:]
    if command[:2] == ["python", "app.py"]:
        return ["app", *command[2:]]
    if command[0] in ("accelerate", "python", "torchrun"):
        for place, word in enumerate(command):
            if script := re.fullmatch(r"scripts/(\w+)\.py", word):
                name = OURS.get(script[1])
                return [name, *command[place + 1 :]] if name else None
    return None


RUN = """
import contextlib, io, json, os, shutil, sys, traceback
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ser_hf.app import server
from ser_hf.cli.main import main
from ser_hf.data.corpora import synthetic
from ser_hf.evaluation import baselines

point = io.BytesIO()
Image.new("L", (1, 1)).save(point, "PNG")

def draw(figure, place, **how):  # a picture takes longer than a small training
    place.write(point.getvalue()) if hasattr(place, "write") else Path(place).write_bytes(point.getvalue())

def served(guard, host, port):  # the page is built, and nobody asks it
    raise SystemExit(0)

def synthesized(folder, **how):  # as they lie in the folder already
    for name in ("ravdess", "tess"):
        shutil.copytree(Path("path/to", name).resolve(), Path(folder, name))
    return Path(folder, "ravdess"), Path(folder, "tess")

Figure.savefig, server.serve, synthetic.write_corpora = draw, served, synthesized
baselines.EPOCHS = 2
prepared = set(map(str, Path("runs").glob("*"))) | {"labels"}

def run(words):
    words = [word.replace("s3://bucket", Path.cwd().as_uri()) for word in words]
    outputs = [word for flag, word in zip(words, words[1:]) if flag in ("--output", "--output_dir")]
    output = Path(outputs[0]) if outputs else None
    aside = Path("aside")
    if output and os.path.lexists(output):
        if str(output) in prepared:
            output.rename(aside)
        else:
            shutil.rmtree(output) if output.is_dir() else output.unlink()
    said, told = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(told):
            code = main(words)
    except SystemExit as end:
        code = end.code
    except BaseException:
        code = 1
        said.write(traceback.format_exc())
    if os.path.lexists(aside):
        if output.exists():
            shutil.rmtree(output)
        aside.rename(output)
    return code, said.getvalue()[-2000:]

def execute(code):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, {})
        return 0, ""
    except BaseException:
        return 1, traceback.format_exc()[-2000:]

for kind, job in json.load(open(sys.argv[1])):
    print(json.dumps(run(job) if kind == "command" else execute(job)), flush=True)
"""
"""Runs jobs in its folder: commands of ours in their order, and Python; prints a line for each.

An output that is there already is made anew; what was prepared below `runs` lies there again after
that.
"""
