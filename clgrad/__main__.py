"""`python -m clgrad` is the command `clgrad`."""

import sys

from .cli.main import main

sys.exit(main())
