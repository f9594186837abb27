"""How Ray's workers start: forked from one process that has imported Ray, where that is possible."""
