"""Fetch the common tests of the installed Transformers, which only its source distribution holds.

    python scripts/fetch_library_tests.py --output .cache

writes `.cache/transformers-<version>/tests`, once; `make contract` runs them against LAVCap.
"""

import subprocess
import sys
import tarfile
import tempfile
from argparse import ArgumentParser
from importlib.metadata import version
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(".cache"), help="folder for all versions (%(default)s)")
    fetch(parser.parse_args(arguments).output)
    return 0


def fetch(cache: Path) -> Path:
    """Folder with the tests of the installed version, downloaded if it is not there."""
    name = f"transformers-{version('transformers')}"
    folder = cache / name / "tests"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    print(f"fetching the tests of {name}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        subprocess.run([*command, "--dest", scratch, name.replace("-", "==")], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as file:
            file.extractall(scratch, [m for m in file if m.name.startswith(f"{name}/tests/")], filter="data")
        (Path(scratch) / name / "tests" / "__init__.py").touch()  # one test imports its own folder as a package
        (Path(scratch) / name).rename(cache / name)  # whole or not at all
    return folder


if __name__ == "__main__":
    sys.exit(main())
