"""The published FCIS networks: everything that only the authors' weights need."""
