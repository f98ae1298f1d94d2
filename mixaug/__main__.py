"""``python -m mixaug`` is the ``mixaug`` command."""

import sys

from mixaug.cli import main

sys.exit(main())
