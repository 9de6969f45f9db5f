"""The test vectors of Project Wycheproof."""

import gzip
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "wycheproof"


def cases(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each test with its group."""
    said = json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
    return [(group, test) for group in said["testGroups"] for test in group["tests"]]
