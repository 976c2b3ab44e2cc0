"""Install a set of versions into a new environment, and run tests there.

The package index is the one that uv is set up for. An environment takes 6 GB while it exists.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ("audio", "utils", "data", "protocols", "models", "inference", "evaluation", "cli")
"""Folders of tests that need neither a browser nor npm."""


def main() -> None:
    """Resolve, install, test; ends with the exit code of the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=("constraints", "lowest", "highest"), help="of what pyproject.toml allows")
    parser.add_argument("--python", default=sys.executable, help="interpreter or version (default: this one)")
    parser.add_argument("--folder", help="of the environment, which is kept; without it a temporary one")
    parser.add_argument("tests", nargs="*", default=[f"tests/{name}" for name in TESTS], help="arguments of pytest")
    args = parser.parse_args()
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        sys.exit("uv is missing, which resolves the versions: pip install uv")
    with tempfile.TemporaryDirectory(prefix="ser_hf-versions-") as temporary:
        place = Path(args.folder or temporary).absolute()
        run([uv, "venv", "--quiet", "--python", args.python, place / "environment"])
        python = place / "environment" / "bin" / "python"
        run([uv, "pip", "install", "--python", python, *versions(uv, python, args.which, place), "-e", ".[dev]"])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}
        words = [python, "-m", "pytest", "-p", "no:cacheprovider", *args.tests]
        sys.exit(subprocess.run([str(word) for word in words], cwd=ROOT, env=environment).returncode)


def versions(uv: str, python: Path, which: str, place: Path) -> list[str | Path]:
    """What tells uv which versions to install; the lowest and the highest are resolved first."""
    if which == "constraints":
        return ["-c", "constraints.txt"]
    resolution = "lowest-direct" if which == "lowest" else "highest"
    resolved = place / f"{which}.txt"
    words = ["--python", python, "--resolution", resolution, "--extra", "dev", "--output-file", resolved, "--quiet"]
    run([uv, "pip", "compile", "pyproject.toml", *words])
    return ["-c", resolved]


def run(words: list[str | Path]) -> None:
    """Run a program in the checkout; end with its exit code where it fails."""
    code = subprocess.run([str(word) for word in words], cwd=ROOT).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
