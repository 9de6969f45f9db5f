"""Pairs of files: what one side says, and what the other is to hear."""

from pathlib import Path

ROOT = Path(__file__).parents[3] / "fixtures" / "google"
CREATED_S = 1_700_000_000


def cases(folder: str, kind: str) -> list[str]:
    """Names of the cases in a folder whose questions are of a kind, as ``.google.json``."""
    return sorted(path.name.removesuffix(kind) for path in (ROOT / folder).glob(f"*{kind}"))


def read(folder: str, name: str) -> bytes:
    return (ROOT / folder / name).read_bytes()
