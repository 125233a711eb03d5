"""Training: one validated config, a Lightning module, exact resume."""
