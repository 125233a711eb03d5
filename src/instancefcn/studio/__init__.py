"""The web page and its HTTP API: pictures come in by upload, wait for their turn, and leave as JSON, as
outlines to play with, or as cut-outs. Needs the extra `app`.
"""
