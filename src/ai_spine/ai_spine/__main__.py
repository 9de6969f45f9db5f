"""``python -m ai_spine`` is ``ai-spine``."""

import sys

from ai_spine._cli import main

sys.exit(main())
