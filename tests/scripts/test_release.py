"""A release: what is refused, and what it leaves, in a small repository of its own."""

import datetime
import os
import shutil
import subprocess
import sys

import pytest
from helpers.small import ROOT

from ser_hf.errors import UserError

CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing that works.\n"
FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "small"
version = "0.1.0"
readme = "README.md"
requires-python = ">=3.11"
license = "Apache-2.0"

[tool.hatch.build.targets.wheel]
packages = ["ser_hf"]
""",
    "ser_hf/__init__.py": '"""Small."""\n\n__version__ = "0.1.0"\n',
    "CITATION.cff": "cff-version: 1.2.0\ntitle: small\nversion: 0.1.0\nlicense: Apache-2.0\n",
    "CHANGELOG.md": CHANGELOG,
    "README.md": "# Small\n",
    ".gitignore": "dist/\n__pycache__/\n",
    "Makefile": "test:\n\ttest ! -e broken\n",
}
IDENTITY = {f"GIT_{who}_{what}": "tester@site.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture(scope="module")
def release(load_script):
    return load_script("maintain/release")


def git(root, *words):
    done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, env=os.environ | IDENTITY)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, that can be released as 0.1.0 or above."""
    root = tmp_path / "repository"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root.parent, "init", "--quiet", "--initial-branch", "main", str(root))
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "First")
    return root


def change(root, name, old, new):
    """Change a file and commit that."""
    assert old in (root / name).read_text()
    (root / name).write_text((root / name).read_text().replace(old, new))
    git(root, "commit", "--quiet", "--all", "--message", "Change")


def texts(root):
    return {name: (root / name).read_text() for name in FILES}


def remove(root, name):
    git(root, "rm", "--quiet", name)
    git(root, "commit", "--quiet", "--message", "Remove")


def uncommitted(root):
    (root / "new.py").write_text("")


def tagged(root):
    git(root, "tag", "v0.9.0")
    git(root, "tag", "v0.10.0")
    git(root, "tag", "vault")


REFUSALS = [
    ("1.0", None, "'1.0' is no version: make release VERSION=1.2.3"),
    ("v1.0.0", None, "'v1.0.0' is no version"),
    ("", None, "'' is no version"),
    ("1.0.0", uncommitted, "1 file(s) are not committed, such as new.py: commit or remove them"),
    ("0.9.5", tagged, "0.9.5 is not above v0.10.0, the last tag: choose a higher version"),
    ("0.10.0", tagged, "0.10.0 is not above v0.10.0, the last tag"),
    ("0.0.9", None, "0.0.9 is below 0.1.0 of pyproject.toml: choose a higher version"),
    (
        "1.0.0",
        lambda root: change(root, "CITATION.cff", "0.1.0", "0.2.0"),
        "(pyproject.toml 0.1.0, ser_hf/__init__.py 0.1.0, CITATION.cff 0.2.0): write the same into each",
    ),
    ("1.0.0", lambda root: change(root, "ser_hf/__init__.py", "0.1.0", "0.0.1"), "ser_hf/__init__.py 0.0.1"),
    ("1.0.0", lambda root: change(root, "pyproject.toml", "version =", "v ="), "pyproject.toml names no version"),
    ("1.0.0", lambda root: change(root, "CHANGELOG.md", "- A thing that works.\n", ""), "has no entry under"),
    ("1.0.0", lambda root: change(root, "CHANGELOG.md", "Unreleased", "0.0.1"), "has no entry under [Unreleased]"),
    ("1.0.0", lambda root: change(root, "CHANGELOG.md", "works.\n", "works.\n\n## [1.0.0]\n"), "section [1.0.0] al"),
    ("1.0.0", lambda root: remove(root, "CITATION.cff"), "CITATION.cff is missing: a release needs it"),
]


@pytest.mark.parametrize(("version", "spoil", "message"), REFUSALS)
def test_refusals(release, repository, version, spoil, message):
    if spoil:
        spoil(repository)
    before = git(repository, "rev-parse", "HEAD"), git(repository, "tag"), git(repository, "status", "--porcelain")
    with pytest.raises(UserError) as raised:
        release.release(repository, version)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    after = git(repository, "rev-parse", "HEAD"), git(repository, "tag"), git(repository, "status", "--porcelain")
    assert after == before


def test_a_refusal_is_one_line_and_exit_code_2():
    command = [sys.executable, ROOT / "scripts" / "maintain" / "release.py", "one"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "release: 'one' is no version: make release VERSION=1.2.3\n"


def test_a_release(release, repository, capsys):
    release.release(repository, "1.2.3", dry_run=True)
    assert "v1.2.3 would hold small-1.2.3.tar.gz, small-1.2.3-py3-none-any.whl" in capsys.readouterr().out
    assert git(repository, "status", "--porcelain") == git(repository, "tag") == ""
    assert texts(repository) == FILES
    assert not (repository / "dist").exists()

    release.release(repository, "1.2.3")
    assert git(repository, "log", "--format=%s").splitlines() == ["Release 1.2.3", "First"]
    assert git(repository, "cat-file", "-t", "v1.2.3") == "tag"
    notes = git(repository, "tag", "--list", "--format=%(contents)")
    assert notes == "ser_hf 1.2.3\n\n### Added\n\n- A thing that works."
    assert git(repository, "status", "--porcelain") == ""
    today = datetime.date.today()
    written = texts(repository)
    assert 'version = "1.2.3"\n' in written["pyproject.toml"]
    assert '__version__ = "1.2.3"\n' in written["ser_hf/__init__.py"]
    assert f"version: 1.2.3\ndate-released: {today}\nlicense" in written["CITATION.cff"]
    assert f"## [Unreleased]\n\n## [1.2.3] - {today}\n\n### Added\n\n- A thing" in written["CHANGELOG.md"]
    assert written["CITATION.cff"].startswith("cff-version: 1.2.0\n")
    assert {path.name for path in (repository / "dist").iterdir()} == {
        "small-1.2.3.tar.gz",
        "small-1.2.3-py3-none-any.whl",
    }


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: change(root, "Makefile", "test !", "test"), "'make test' ended with exit code 2"),
        (lambda root: change(root, "pyproject.toml", "README.md", "NOTHING.md"), "hatchling build. ended"),
        (lambda root: change(root, "pyproject.toml", 'readme = "README.md"\n', ""), "has no description in Markdown"),
        (lambda root: shutil.copy("/bin/false", root / ".git/hooks/pre-commit"), "git commit --quiet"),
    ],
    ids=["tests", "build", "metadata", "commit"],
)
def test_what_fails_leaves_everything_as_it_was(release, repository, spoil, message):
    spoil(repository)
    before, files = git(repository, "log", "--format=%H"), texts(repository)
    with pytest.raises(UserError, match=message):
        release.release(repository, "1.2.3")
    assert (git(repository, "log", "--format=%H"), git(repository, "tag")) == (before, "")
    assert git(repository, "status", "--porcelain") == ""
    assert texts(repository) == files
