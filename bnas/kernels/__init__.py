"""Arithmetic on packed bits."""
