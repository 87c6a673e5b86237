"""`python -m regrun` is `regrun`."""

import sys

from regrun.cli import main

sys.exit(main())
