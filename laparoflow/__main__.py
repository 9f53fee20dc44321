"""``python -m laparoflow``."""

import sys

from laparoflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
