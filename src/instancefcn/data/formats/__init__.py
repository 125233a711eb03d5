"""The formats of datasets, one file each with its reader and writer, and how they are recognised."""
