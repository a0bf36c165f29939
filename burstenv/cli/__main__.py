"""``python -m burstenv.cli``."""

import sys

from burstenv.cli.main import main

sys.exit(main())
