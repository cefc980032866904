"""The runnable jobs, the command line and the YAML files; the only package that may import all others."""
