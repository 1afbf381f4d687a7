"""Make the networks of `lipcert.load`: train each, audit it on all test images, ship both with their checksums.

python experiments/zoo/make.py                        # all of them; ten minutes each on one idle core
python experiments/zoo/make.py fashion_mnist/robust   # one; what its run directory has already is not made again

A network is experiments/zoo/<data set>_<network>.yaml. Its training chooses on validation images; the test images are
looked at once, by the audit and the summary that are shipped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from lipcert import zoo
from lipcert.deployment import file_sha256
from lipcert.errors import InputError, one_line_errors
from lipcert.files import write_atomically
from lipcert.runs import RunPaths, load_run

CONFIGS = Path("experiments/zoo")
AUDITS = Path(__file__).resolve().parents[2] / "docs" / "audits"
"""Where the documentation shows the audits' pages."""
NETWORKS = ["/".join(path.stem.rsplit("_", 1)) for path in sorted(Path(__file__).parent.glob("*.yaml"))]


def make(name: str, runs: Path) -> Path:
    """Train and audit a network, as far as that has not been done; return its run directory."""
    stem = name.replace("/", "_")
    run = runs / f"zoo_{stem}"
    if not RunPaths(run).summary.is_file():
        execute("lipcert.train", "--config", str(CONFIGS / f"{stem}.yaml"), *output(runs))
    if not (run / "audit" / "report.json").is_file():
        execute("lipcert.audit", str(run), "--budget", "standard")
    return run


def output(runs: Path) -> tuple[str, ...]:
    """The option of a training that is not left in its usual place."""
    return () if runs == Path("runs") else ("--output", str(runs))


def execute(module: str, *arguments: str) -> None:
    """Run a command of lipcert; refuse to go on if it fails, which for an audit says that a certificate fell."""
    code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if code != 0:
        raise InputError(f"expected exit code 0 of python -m {module} {' '.join(arguments)}, got {code}")


def ship(run: Path, name: str, folder: Path, pages: Path) -> None:
    """Copy a network, its audit and its summary into the zoo, and the audit's page to the documentation."""
    load_run(run)  # refuses what is no finished run
    sources = (RunPaths(run).network, run / "audit" / "report.json", RunPaths(run).summary)
    for source, file in zip(sources, zoo.FILES, strict=True):
        write_atomically(folder / name / file, source.read_bytes())
    page = (run / "audit" / "report.html").read_bytes()
    write_atomically(pages / f"{name.replace('/', '_')}.html", page)


def write_checksums(folder: Path) -> None:
    """List the SHA-256 of every shipped file, as ``sha256sum`` does."""
    paths = sorted(path for file in zoo.FILES for path in folder.glob(f"*/*/{file}"))
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    write_atomically(folder / zoo.CHECKSUMS, "".join(lines).encode("ascii"))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NETWORKS, help="networks to make; by default all")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run directories")
    parser.add_argument("--zoo", type=Path, default=zoo.FOLDER, help="folder to ship to; by default the package's own")
    parser.add_argument("--pages", type=Path, default=AUDITS, help="folder of the audits' pages")
    options = parser.parse_args()
    with one_line_errors("zoo"):
        for name in options.names:
            ship(make(name, options.runs), name, options.zoo, options.pages)
            write_checksums(options.zoo)
            print(f"{options.zoo / name}: shipped")


if __name__ == "__main__":
    main()
