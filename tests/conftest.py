"""Shared by all tests: one thread, so that two busy threads do not spin against each other."""

import os

# Before torch and numba start their pools, and inherited by processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
