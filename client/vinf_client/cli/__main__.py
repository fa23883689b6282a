"""`python -m vinf_client.cli`."""

import sys

from vinf_client.cli.dispatch import main

sys.exit(main())
