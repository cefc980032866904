"""Training a network: recipe, trainer, updates, losses, metrics."""
