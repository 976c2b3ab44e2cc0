"""The files of docs/deployment.md: the unit, the proxy, the container, the alerts, the metrics."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch

import pytest
import yaml
from helpers.small import ROOT

from ser_hf.app.metrics import Metrics
from ser_hf.app.middleware import API
from ser_hf.app.uploads import Limits
from ser_hf.cli.serve import AppSettings
from ser_hf.cli.settings import CommandLine

UNIT = ROOT / "configs" / "systemd" / "ser-hf.service"
FLAGS = ROOT / "configs" / "systemd" / "ser-hf.yaml"
NGINX = (ROOT / "configs" / "nginx" / "ser-hf.conf").read_text()
ALERTS = ROOT / "configs" / "prometheus" / "alerts.yaml"
PAGE = (ROOT / "docs" / "deployment.md").read_text()


def settings(*words):
    return CommandLine("app", list(map(str, words))).parse(AppSettings)


def test_the_flags_of_the_unit_are_those_of_the_proxy():
    app = settings(FLAGS)
    assert f"server {app.host}:{app.port};" in NGINX
    assert app.allowed_host == re.findall(r"^    server_name (\S+);", NGINX, re.MULTILINE)[:1]


def analyzed(*words):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=60)


def test_systemd_takes_the_unit(tmp_path):
    text = UNIT.read_text()
    assert text.count("/opt/ser-hf/bin/ser-hf") == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/ser-hf/bin/ser-hf", sys.executable))
    done = analyzed("verify", "--man=no", copy)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


def test_the_unit_is_as_closed_as_the_page_says():
    done = analyzed("security", "--offline=yes", "--no-pager", UNIT)
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    (promised,) = re.findall(r"rates the unit ([\d.]+)\s+of 10", PAGE)
    assert float(exposure) <= float(promised) + 0.5  # newer versions look at more


def test_the_proxy_lets_through_what_the_app_takes():
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m;", NGINX)
    assert Limits().zip_mb < int(megabytes) < 1.1 * Limits().zip_mb
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", NGINX)
    assert int(seconds) > Limits().timeout
    headers = (
        *("Host $http_host", "X-Forwarded-Host $http_host"),
        *("X-Forwarded-For $remote_addr", "X-Forwarded-Proto $scheme"),
    )
    for name in headers:
        assert f"proxy_set_header {name};" in NGINX
    assert re.search(r"location = /metrics \{\s+return 404;", NGINX)
    (unbuffered,) = re.findall(r"location ~ (\S+) \{\s+proxy_buffering off;", NGINX)
    for route in (f"{API}/queue/data", f"{API}/heartbeat/abc", f"{API}/mcp/"):
        assert re.match(unbuffered, route)


def instructions():
    """Instructions of the container file with their words, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def test_the_container_file_is_well_formed():
    known = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"}
    names = [name for name, _ in instructions()]
    assert set(names) - known == {"ENTRYPOINT"}
    last = instructions()[len(names) - names[::-1].index("FROM") :]
    found = dict(last)
    assert found["USER"] not in ("root", "0")
    for name, step in instructions():
        if name == "RUN":
            assert subprocess.run(["sh", "-n", "-c", step]).returncode == 0
    assert (found["EXPOSE"], found["STOPSIGNAL"]) == (str(AppSettings.port), "SIGTERM")
    program, command, *flags = json.loads(found["ENTRYPOINT"])
    assert (program, command, settings(*flags).host) == ("ser-hf", "app", "0.0.0.0")
    python, option, code = json.loads(found["HEALTHCHECK"].partition("CMD")[2])
    assert (python, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert f":{AppSettings.port}/health" in code
    variables = dict(word.split("=", 1) for _, words in last if _ == "ENV" for word in words.split())
    assert (variables["HF_HUB_OFFLINE"], variables["HF_HOME"]) == ("1", found["VOLUME"])


def test_the_context_of_the_container_holds_what_the_package_is_built_of():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"], *wheel["packages"]}
    needed |= {*project["project"]["license-files"], *wheel["force-include"]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert lines[1] == "*"
    assert [name for name in needed if not any(fnmatch(name, one) or name.startswith(f"{one}/") for one in sent)] == []
    assert all((ROOT / name).exists() for name in sent)


def test_the_metrics_of_the_page_and_of_the_alerts_exist():
    metrics = Metrics()
    metrics.watch_queue("api", lambda: 0)
    families = re.findall(r"^# TYPE (\S+) (\w+)$", metrics.text()[0].decode(), re.MULTILINE)
    kinds = {name: kind for name, kind in families if not name.endswith("_created")}
    endings = {"histogram": ("", "_bucket", "_count", "_sum")}
    exist = {name + ending for name, kind in kinds.items() for ending in endings.get(kind, ("",))}
    for text in (PAGE, ALERTS.read_text()):
        named = set(re.findall(r"\bser_hf_[a-z_]+\b", text))
        assert sorted(named - exist) == []
    assert sorted(name for name in kinds if name.startswith("ser_hf_") and f"`{name}`" not in PAGE) == []
    for reason in re.findall(r'reason="(\w+)"', PAGE + ALERTS.read_text()):
        assert f'reason="{reason}"' in metrics.text()[0].decode()


def test_each_alert_says_what_to_look_at():
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    assert len(group["rules"]) >= 5
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert "$labels.instance" in rule["annotations"]["summary"]
