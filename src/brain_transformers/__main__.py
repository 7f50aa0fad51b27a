"""`python -m brain_transformers` is the command `brain-transformers`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
