"""A release: check, build, test, commit and tag one version. Publishing is by hand.

    make release VERSION=1.2.3 [DRY_RUN=1]

docs/releasing.md has the whole checklist. Whatever fails, the files are as they were before.
"""

import argparse
import datetime
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packaging.metadata import InvalidMetadata, Metadata
from packaging.version import InvalidVersion, Version

from ser_hf.errors import UserError, first_line

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG, CITATION = "CHANGELOG.md", "CITATION.cff"
CHECKER = "scripts/maintain/check_wheel.py"
VERSIONS = {
    "pyproject.toml": re.compile(r'(?m)^(version = ")([^"]+)(")$'),
    "ser_hf/__init__.py": re.compile(r'(?m)^(__version__ = ")([^"]+)(")$'),
    CITATION: re.compile(r"(?m)^(version: )(\S+)()$"),
}
"""Where the version stands, in the second group."""
UNRELEASED = re.compile(r"(?ms)^## \[Unreleased\]\n(.*?)(?=^## \[|\Z)")


def main() -> None:
    """Release the version that the command line names; a refusal is one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", metavar="X.Y.Z")
    parser.add_argument("--dry_run", action="store_true", help="check and build; test, commit and tag nothing")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the files would stay as they are edited
    try:
        release(ROOT, args.version, args.dry_run)
    except UserError as error:
        print(f"release: {error}", file=sys.stderr)
        sys.exit(2)


def release(root: Path, version: str, dry_run: bool = False) -> None:
    """Release a version of the repository at `root`.

    Raises:
        UserError: where something stands against it, or a step fails.
    """
    check_version(root, version)
    notes = check_files(root, version)
    files = released_files(root, version, datetime.date.today())
    with tempfile.TemporaryDirectory() as temporary, edited(root, files, keep=not dry_run):
        built = build(root, version, Path(temporary), "--contents" if dry_run else "--reuse")
        if dry_run:
            print(f"v{version} would hold {', '.join(path.name for path in built)}, with these notes:\n\n{notes}")
            return
        run(root, "make", "test")
        run(root, "git", "commit", "--quiet", "--message", f"Release {version}", "--", *files)
        try:
            run(root, "git", "tag", "--cleanup=whitespace", f"v{version}", "--message", f"ser_hf {version}\n\n{notes}")
        except UserError:
            git(root, "reset", "--quiet", "HEAD~1")  # the commit goes with its tag
            raise
        (root / "dist").mkdir(exist_ok=True)
        for path in built:
            shutil.copy(path, root / "dist")
    print(f"v{version} is tagged, and dist/ holds {', '.join(path.name for path in built)}")
    print("Nothing is published yet: docs/releasing.md goes on from here")


def check_version(root: Path, version: str) -> None:
    """Refuse a tree with changes, and a version that is malformed or not above the last tag.

    Raises:
        UserError: where there is one.
    """
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise UserError(f"'{version}' is no version: make release VERSION=1.2.3")
    if changed := git(root, "status", "--porcelain").splitlines():
        raise UserError(f"{len(changed)} file(s) are not committed, such as {changed[0][3:]}: commit or remove them")
    tags = [tag for tag in git(root, "tag", "--list", "v*").splitlines() if is_version(tag)]
    last = max(tags, key=Version, default=None)
    if last and Version(version) <= Version(last):
        raise UserError(f"{version} is not above {last}, the last tag: choose a higher version")


def check_files(root: Path, version: str) -> str:
    """Refuse files that name different versions, and a changelog without entries.

    Returns:
        What the changelog says of the version.

    Raises:
        UserError: where there is one.
    """
    named = {}
    for name, pattern in VERSIONS.items():
        if not (found := pattern.search(read(root, name))):
            raise UserError(f"{name} names no version: write one")
        named[name] = found[2]
    if len(set(named.values())) > 1:
        listed = ", ".join(f"{name} {value}" for name, value in named.items())
        raise UserError(f"the files name different versions ({listed}): write the same into each")
    if Version(version) < Version(named["pyproject.toml"]):
        raise UserError(f"{version} is below {named['pyproject.toml']} of pyproject.toml: choose a higher version")
    changelog = read(root, CHANGELOG)
    if f"## [{version}]" in changelog:
        raise UserError(f"{CHANGELOG} has a section [{version}] already: move its entries to [Unreleased]")
    section = UNRELEASED.search(changelog)
    if not section or not re.search(r"(?m)^- \S", section[1]):
        raise UserError(f"{CHANGELOG} has no entry under [Unreleased]: write what users get")
    return section[1].strip()


def released_files(root: Path, version: str, day: datetime.date) -> dict[str, str]:
    """The new text of each file that names the version, and of the changelog."""
    files = {name: pattern.sub(rf"\g<1>{version}\g<3>", read(root, name), 1) for name, pattern in VERSIONS.items()}
    cited = re.sub(r"(?m)^date-released: .*\n", "", files[CITATION])
    files[CITATION] = re.sub(r"(?m)^(version: .*)$", rf"\1\ndate-released: {day}", cited, count=1)
    files[CHANGELOG] = read(root, CHANGELOG).replace(
        "## [Unreleased]\n", f"## [Unreleased]\n\n## [{version}] - {day}\n", 1
    )
    return files


@contextmanager
def edited(root: Path, files: dict[str, str], keep: bool) -> Iterator[None]:
    """Write files, and write back what was there if the block fails, or if they are not kept."""
    before = {name: read(root, name) for name in files}

    def write(texts: dict[str, str]) -> None:
        for name, text in texts.items():
            (root / name).write_text(text, encoding="utf-8")

    try:
        write(files)
        yield
    except BaseException:
        keep = False
        raise
    finally:
        if not keep:
            write(before)


def build(root: Path, version: str, folder: Path, check: str = "--reuse") -> list[Path]:
    """Build the sdist and the wheel into a folder, and check them (`check`: a flag of `CHECKER`).

    Raises:
        UserError: where they cannot be built, or are not what they should be.
    """
    run(root, sys.executable, "-m", "hatchling", "build", "--directory", str(folder), quiet=True)
    built = sorted(folder.iterdir(), key=lambda path: path.suffix)
    if [path.suffix for path in built] != [".gz", ".whl"]:
        names = ", ".join(path.name for path in built) or "nothing"
        raise UserError(f"the build gave {names}: an sdist and a wheel are needed")
    for path in built:
        check_metadata(path.name, metadata_of(path), version)
    if (root / CHECKER).exists():
        run(root, sys.executable, CHECKER, check)
    return built


def metadata_of(path: Path) -> bytes:
    """The metadata in a wheel or an sdist."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")))
    with tarfile.open(path) as sdist:
        return sdist.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO").read()


def check_metadata(name: str, content: bytes, version: str) -> None:
    """Refuse metadata that an index would refuse, or that show no description.

    Raises:
        UserError: with the first fault.
    """
    try:
        metadata = Metadata.from_email(content)
    except ExceptionGroup as errors:  # one for each field
        faults = [first_line(error) for error in errors.exceptions if isinstance(error, InvalidMetadata)]
        raise UserError(f"{name} has invalid metadata: {'; '.join(faults) or first_line(errors)}") from errors
    if str(metadata.version) != version:
        raise UserError(f"{name} is of version {metadata.version}: {version} was to be built")
    if not metadata.description or metadata.description_content_type != "text/markdown":
        raise UserError(f"{name} has no description in Markdown: name README.md as readme in pyproject.toml")
    if not metadata.license_expression:
        raise UserError(f"{name} names no licence: write license in pyproject.toml")


def is_version(tag: str) -> bool:
    """Whether a tag names a version.

    >>> is_version("v0.1.0"), is_version("vault")
    (True, False)
    """
    try:
        return bool(Version(tag))
    except InvalidVersion:
        return False


def read(root: Path, name: str) -> str:
    """The text of a file of the repository.

    Raises:
        UserError: where it is missing.
    """
    try:
        return (root / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{name} is missing: a release needs it") from None


def git(root: Path, *words: str) -> str:
    """What a git command prints.

    Raises:
        UserError: where it fails.
    """
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"git {words[0]} failed: {reason}")
    return done.stdout


def run(root: Path, *command: str, quiet: bool = False) -> None:
    """Run a step, whose output is seen unless it is quiet and ends well.

    Raises:
        UserError: where it fails.
    """
    shown = ["python" if word == sys.executable else word.splitlines()[0] for word in command]
    print("$", *shown, flush=True)
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if quiet else {}
    done = subprocess.run(command, cwd=root, text=True, **output)
    if done.returncode:
        print(done.stdout or "", end="", file=sys.stderr)
        raise UserError(f"'{' '.join(shown[:4])}' ended with exit code {done.returncode}")


if __name__ == "__main__":
    main()
