"""`python -m instancefcn`."""

from instancefcn.cli.main import app

app(prog_name="instancefcn")
