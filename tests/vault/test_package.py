"""What the package shows, and what it needs."""

import re
import subprocess
import sys
from pathlib import Path

import insula_vault

ROOT = Path(insula_vault.__file__).parent


class TestPackage:
    def test_shows_what_it_lists_and_nothing_else(self):
        modules = {path.stem for path in ROOT.glob("*.py")}
        shown = {name for name in vars(insula_vault) if not name.startswith("_")} - modules

        assert shown == set(insula_vault.__all__)

    def test_is_typed(self):
        assert (ROOT / "py.typed").exists()

    def test_is_there_without_numpy(self):
        program = "import sys; sys.modules['numpy'] = None; import insula_vault"

        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

        assert ended.returncode == 0, ended.stderr


class TestReadme:
    def test_names_only_what_there_is(self):
        text = (ROOT.parent / "README.md").read_text()

        used = set(re.findall(r"vault\.(\w+)", text))

        assert used <= set(dir(insula_vault.Vault)) | {"account"}

    def test_has_an_example_that_can_be_read(self):
        text = (ROOT.parent / "README.md").read_text()

        (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)

        compile(example, "README.md", "exec")
        for name in re.findall(r"from insula_vault import (.*)", example)[0].split(", "):
            assert name in insula_vault.__all__
