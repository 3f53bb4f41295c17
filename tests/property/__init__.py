"""Random histories of days, held against what must always be true."""
