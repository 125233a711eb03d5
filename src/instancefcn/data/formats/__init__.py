"""The formats of data sets, one file each with its reader and writer, and recognising them."""
