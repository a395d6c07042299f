"""``python -m arpo_algo.cli``."""

import sys

from arpo_algo.cli import main

sys.exit(main())
