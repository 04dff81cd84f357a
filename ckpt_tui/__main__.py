"""`python -m ckpt_tui` is `ckpt-tui`."""

import sys

from ckpt_tui.cli import main

if __name__ == "__main__":
    sys.exit(main())
