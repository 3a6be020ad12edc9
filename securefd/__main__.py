"""``python -m securefd`` is ``securefd``."""

import sys

from securefd.cli import main

sys.exit(main())
