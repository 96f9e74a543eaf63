"""``python -m vitlora``."""

import sys

from vitlora.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
