"""Torch modules of binary networks."""
