"""Keeps the generated parts of the documents equal to what they are generated from.

python scripts/documents.py            fails when a part has drifted
python scripts/documents.py --write    writes them anew
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.commands import settings_env, settings_markdown
from benchmarks.flows.page import readme_table as flows_table
from benchmarks.page import readme_table
from benchmarks.sandbox.page import readme_table as sandbox_table
from benchmarks.storage.page import readme_table as storage_table

ROOT = Path(__file__).parents[1]


def expected() -> Iterator[tuple[Path, str]]:
    """Yield each document with the text it should have."""
    yield ROOT / ".env.example", settings_env() + "\n"
    readme = (ROOT / "README.md").read_text()
    readme = with_part(readme, "settings", settings_markdown())
    readme = with_part(readme, "sandbox-benchmarks", sandbox_table())
    readme = with_part(readme, "storage-benchmarks", storage_table())
    readme = with_part(readme, "flows-benchmarks", flows_table())
    yield ROOT / "README.md", with_part(readme, "benchmarks", readme_table())


def with_part(text: str, name: str, part: str) -> str:
    """Replace what stands between the two markers of ``name``."""
    pattern = rf"(<!-- {name}: generated -->\n).*?(\n<!-- {name}: end -->)"
    changed, count = re.subn(pattern, lambda m: m[1] + part + m[2], text, flags=re.S)
    if count != 1:
        raise SystemExit(f"README.md has {count} parts named {name}")
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    is_writing = parser.parse_args().write
    drifted = []
    for path, text in expected():
        if not path.exists() or path.read_text() != text:
            drifted.append(path.name)
            if is_writing:
                path.write_text(text)
    if drifted and not is_writing:
        raise SystemExit(f"drifted: {', '.join(drifted)}; run `just fix`")
    print(f"documents: {', '.join(drifted) + ' written' if drifted else 'as generated'}")


if __name__ == "__main__":
    main()
