"""The published FCIS networks: everything that only their authors' weights need."""
