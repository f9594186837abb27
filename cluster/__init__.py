"""LoudBoxes to one Ray cluster: configs, preflight, hardware discovery."""

import sys

if sys.argv[0] == "-m":  # `python -m cluster.<command>`, see there
    import jobs  # noqa: F401
