"""The version of the package, read by whoever writes a file that names it."""

__version__ = "0.1.0"
