"""Annotated pictures: one reader per format, one `Dataset`, and what turns it into training samples."""
