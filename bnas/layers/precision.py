"""Full precision for what must be exact, whatever precision surrounds it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """No autocast for operations on x's device; nothing to do where there is none (the meta device)."""
    if not torch.amp.is_autocast_available(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products of float32 on GPUs in float32, not TF32 (whose products have 10 bits), as they are on a CPU."""
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = conv.allow_tf32, matmul.allow_tf32
    try:
        conv.allow_tf32 = matmul.allow_tf32 = False
        yield
    finally:
        conv.allow_tf32, matmul.allow_tf32 = before
