"""Image files: opened within limits, decoded, downloaded and drawn on."""
