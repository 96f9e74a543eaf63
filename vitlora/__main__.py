"""``python -m vitlora``."""

import sys
from pathlib import Path

if sys.path[:1] == [str(Path.cwd())]:  # as the script `vitlora`: no config names code beside it
    del sys.path[0]

from vitlora.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
