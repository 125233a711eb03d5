"""Annotated images: the formats, the one `Dataset` they are read into, training samples, and the doctor."""
