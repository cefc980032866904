"""bnas: binary neural architecture search, from a search job to a file of bits that runs."""

__version__ = "0.1.0"
