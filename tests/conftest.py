"""Shared by all tests: one thread, so that two busy threads do not spin against each other."""

import os
import tempfile

# Before torch and numba start their pools, and inherited by processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What tests measure on a GPU is not kept for the user.
os.environ.setdefault("BNAS_CACHE", os.path.join(tempfile.gettempdir(), "bnas-tests"))

import torch

torch.set_num_threads(1)
