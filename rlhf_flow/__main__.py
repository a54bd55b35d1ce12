"""`python -m rlhf_flow` runs the command line, `rlhf_flow.cli.main`."""

import sys

from rlhf_flow.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
