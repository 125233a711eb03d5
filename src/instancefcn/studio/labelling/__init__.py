"""Labelling: the data set on disk, what the model suggests, its training, and the routes of the page."""
