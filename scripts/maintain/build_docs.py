"""The documentation as a site that needs no network: site/VERSION/, and a menu of all versions.

    make docs [VERSION=0.1.0] [REPOSITORY=https://…]

The folders of other versions stay, so that copying site/ to any host publishes all of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[2]
DEVELOPMENT = "dev"
"""The version of a working tree that is no release."""


def main() -> None:
    """Build one version, list all of them, and say where to begin to read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default=DEVELOPMENT, help=f"of a release, or '{DEVELOPMENT}'")
    parser.add_argument("--repository", help="address of the repository, for links to edit a page")
    parser.add_argument("--output", type=Path, default=ROOT / "site", metavar="DIR")
    args = parser.parse_args()
    if not is_version(args.version):
        parser.error(f"'{args.version}' is no version: make docs VERSION=1.2.3")
    if code := build(args.version, args.output, args.repository):
        sys.exit(code)
    write_versions(args.output)
    print(f"open {args.output / 'index.html'}")


def is_version(name: str) -> bool:
    """Whether a folder of this name holds a version.

    >>> is_version("0.1.0"), is_version("dev"), is_version("assets")
    (True, True, False)
    """
    try:
        return name == DEVELOPMENT or bool(Version(name))
    except InvalidVersion:
        return False


def build(version: str, site: Path, repository: str | None = None) -> int:
    """Build a version into its folder of the site; returns mkdocs' exit code.

    A broken link or anchor, a page that is not in the navigation, or anything that a reader's
    browser would fetch is an error. What was there before stays then.
    """
    site.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=site) as temporary:
        written = Path(temporary) / version
        environment = os.environ | {"DOCS_VERSION": version, "NO_MKDOCS_2_WARNING": "1"}
        environment |= {"DOCS_REPOSITORY": repository} if repository else {}
        command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(ROOT / "mkdocs.yml")]
        run = subprocess.run([*command, "--site-dir", str(written)], env=environment)
        if run.returncode == 0:
            (written / "404.html").unlink(missing_ok=True)  # its links begin at the root of a host
            if (site / version).exists():
                (site / version).rename(Path(temporary) / "before")
            written.rename(site / version)
    return run.returncode


def write_versions(site: Path) -> list[str]:
    """List the versions of a site for the menu, and open the newest from its first page.

    Returns:
        The versions, releases first, the newest of them first.
    """
    names = [path.name for path in site.iterdir() if path.is_dir() and is_version(path.name)]
    releases = sorted((name for name in names if name != DEVELOPMENT), key=Version, reverse=True)
    versions = releases + [name for name in names if name == DEVELOPMENT]
    (site / "versions.js").write_text(f"window.VERSIONS = {json.dumps(versions)};\n")
    first = f"{versions[0]}/index.html"
    (site / "index.html").write_text(
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>ser_hf</title>\n'
        f'<meta http-equiv="refresh" content="0; url={first}">\n<a href="{first}">ser_hf {versions[0]}</a>\n</html>\n'
    )
    return versions


if __name__ == "__main__":
    main()
