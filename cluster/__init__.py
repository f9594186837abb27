"""LoudBoxes to one Ray cluster: configs, preflight, hardware discovery."""
