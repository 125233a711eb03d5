"""Training: one validated config, one loop, exact resume."""
