"""Jobs of clusters: scripts with inline dependencies, YAML of KubeRay, arrays of SLURM."""

import re
import runpy
import subprocess
import sys
import tomllib

import pytest
import yaml
from helpers.small import ROOT

from ser_hf.inference.bulk.rows import schema
from ser_hf.labels import EMOTIONS

JOBS = sorted((ROOT / "scripts" / "jobs").glob("*.py"))
INLINE = re.compile(r"^# /// script\n((?:#.*\n)+?)# ///$", re.M)


@pytest.mark.parametrize("script", JOBS, ids=lambda path: path.stem)
def test_inline_dependencies(script):
    text = INLINE.search(script.read_text())[1]
    settings = tomllib.loads("\n".join(line[2:] for line in text.splitlines()))
    assert settings == {"requires-python": ">=3.11", "dependencies": ["ser-hf[ffmpeg]"]}


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("label_job", ["nothing-there", "--output", "labels"], "'nothing-there' does not exist"),
        ("label_job", ["nothing-there", "--output", "labels", "--workers", "2"], "--workers is of Ray"),
        ("finetune_job", ["--dataset", "nothing-there"], "nothing-there"),
    ],
)
def test_a_job_is_the_command(script, words, said, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / "jobs" / f"{script}.py"), run_name="__main__")
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_kuberay():
    job = yaml.safe_load((ROOT / "configs" / "kubernetes" / "label.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["entrypoint"].startswith("ser-hf label s3://calls/2026 --output ")
    groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    assert all(group["template"]["spec"]["containers"] for group in groups)


def test_slurm():
    subprocess.run(["bash", "-n", str(ROOT / "configs" / "slurm" / "label.sh")], check=True)


def test_the_page_names_every_column():
    page = (ROOT / "docs" / "labelling.md").read_text().split("## Output")[1].split("##")[0]
    named = re.findall(r"^\| `(\w+)`", page, re.M)
    columns = schema(list(EMOTIONS)).names
    assert named == list(dict.fromkeys("score_neutral" if name.startswith("score_") else name for name in columns))
