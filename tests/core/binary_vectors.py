"""The reference vectors, and how a binarizer is held against them (float64, 1e-5)."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnas.binary import Binarizer

_DATA = Path(__file__).parents[1] / "data"
VECTORS: dict[str, Any] = json.loads((_DATA / "binarizer_vectors.json").read_text())
LAYERS: dict[str, Any] = json.loads((_DATA / "binarizer_layer_vectors.json").read_text())
X = torch.tensor([-2, -1, -0.6, -0.25, 0, 0.25, 0.6, 1, 2], dtype=torch.float64)
W = torch.tensor([[[[0.5, -1.2]], [[0.3, -0.1]]], [[[-0.7, 0.2]], [[1.5, 0.4]]]], dtype=torch.float64)
G = torch.tensor([[[[1, -2]], [[0.5, 3]]], [[[-1, 0.25]], [[2, -0.5]]]], dtype=torch.float64)


def vector(method: str, key: str) -> Tensor:
    return torch.tensor(VECTORS[method][key], dtype=torch.float64)


def close(found: Any, method: str, key: str) -> None:
    expected = vector(method, key)
    torch.testing.assert_close(
        torch.as_tensor(found, dtype=torch.float64).reshape(expected.shape), expected, rtol=0, atol=1e-5
    )


def through(binarizer: Binarizer, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of x; the gradients of what the binarizer learned lie in its parameters."""
    leaf = x.clone().requires_grad_()
    value = binarizer.double()(leaf)
    value.backward(upstream)
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def along(x: Tensor) -> Tensor:
    """A vector as activations [1, 1, n, 1]."""
    return x.view(1, 1, -1, 1)


@torch.no_grad()
def fill(module: nn.Module, **values: Any) -> None:
    """Set parameters or buffers by the last part of their name; each must be there."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, value in values.items():
        (found,) = [tensor for full, tensor in tensors if full.split(".")[-1] == name]
        found.copy_(torch.as_tensor(value, dtype=found.dtype).reshape(found.shape))
