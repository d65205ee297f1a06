"""Fetch the browser files that are kept in `static/vendor`, as `static/vendor/vendor.json` names them.

`make vendor` runs it by hand when a version there was changed; running and testing never do. To take a new version:
change `version` and `sha256`, run it, and read what changed. A file whose digest differs is not written; the digest that
was found is told, so that it can be compared with another source first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "static" / "vendor"
FETCH_SECONDS_MAX = 120
FILE_BYTES_MAX = 5 * 1024 * 1024


class VendorError(Exception):
    """A file could not be fetched, or is not the one that was asked for. The text says what to do."""


def main() -> int:
    """Fetch every file first, then write them all: a failure leaves the folder as it was."""
    try:
        entries: list[dict[str, str]] = json.loads((VENDOR / "vendor.json").read_text(encoding="utf-8"))
        fetched = {entry["file"]: fetch(entry, npm=find_npm()) for entry in entries}
    except VendorError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name, content in fetched.items():
        target = VENDOR / name
        is_news = not target.exists() or target.read_bytes() != content
        target.write_bytes(content)
        sys.stdout.write(f"{name}: {len(content)} bytes, {'written' if is_news else 'unchanged'}\n")
    return 0


def find_npm() -> str:
    """The npm on the PATH. Raises VendorError when there is none."""
    npm = shutil.which("npm")
    if npm is None:
        raise VendorError("npm is missing: install Node.js. Only `make vendor` needs it; running and testing do not.")
    return npm


def fetch(entry: dict[str, str], *, npm: str) -> bytes:
    """The file of one entry, with the version and the digest it must have. Raises VendorError."""
    package = f"{entry['name']}@{entry['version']}"
    with tempfile.TemporaryDirectory(prefix="vendor-") as folder:
        archive = _pack(npm, package, Path(folder))
        manifest = json.loads(_member(archive, "package.json", package))
        content = _member(archive, entry["path_in_npm_package"], package)
    found = f"{manifest.get('name')}@{manifest.get('version')}"
    if found != package:
        raise VendorError(f"{package}: the registry sent {found} instead.")
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry["sha256"]:
        raise VendorError(
            f"{package}: {entry['path_in_npm_package']} has the digest {digest}, and vendor.json says "
            f"{entry['sha256']}. If you mean to change the version, put the digest there; else do not use the file."
        )
    return content


def _pack(npm: str, package: str, folder: Path) -> Path:
    """Have npm download the package's archive; nothing of it is installed or run."""
    command = [npm, "pack", package, "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(  # noqa: S603  # npm itself, with names from our own list
            command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise VendorError(f"{package}: npm did not answer within {FETCH_SECONDS_MAX} s.") from None
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        said = (done.stderr or done.stdout).strip()[:500] or "nothing"
        raise VendorError(f"{package}: `npm pack` gave no archive (exit status {done.returncode}); it said: {said}")
    return archives[0]


def _member(archive: Path, path: str, package: str) -> bytes:
    """One file out of the archive, read in memory: nothing is unpacked."""
    with tarfile.open(archive) as files:
        try:
            member = files.getmember(f"package/{path}")
        except KeyError:
            raise VendorError(f"{package} has no {path}.") from None
        stream = files.extractfile(member)
        if stream is None or member.size > FILE_BYTES_MAX:
            raise VendorError(f"{package}: {path} is no plain file of at most {FILE_BYTES_MAX} bytes.")
        return stream.read()


if __name__ == "__main__":
    sys.exit(main())
