"""Files of others that we serve ourselves are the ones that were published."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "static" / "vendor"


def test_every_vendored_file_is_listed_and_unchanged() -> None:
    listed = {entry["file"]: entry["sha256"] for entry in json.loads((VENDOR / "vendor.json").read_text())}

    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.name != "vendor.json"
    }

    assert found == listed


def test_every_vendored_file_names_its_licence_and_origin() -> None:
    for entry in json.loads((VENDOR / "vendor.json").read_text()):
        assert entry["licence"] == "0BSD"
        assert all(entry[key] for key in ("name", "version", "path_in_npm_package"))
