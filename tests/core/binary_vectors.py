"""The reference vectors, and how a binarizer is held against them (float64, 1e-5)."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnas.binary import Binarizer

_DATA = Path(__file__).parents[1] / "data"
# (method, key) of all that was read of both files; test_vectors_complete.py looks at it.
READ: set[tuple[str, str]] = set()


class Recorded(dict[str, Any]):
    """The vectors of one method, which note what is read of them."""

    def __init__(self, method: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.method = method

    def __getitem__(self, key: str) -> Any:
        READ.add((self.method, key))
        return super().__getitem__(key)


def _read(name: str, prefix: str = "") -> dict[str, Recorded]:
    content = json.loads((_DATA / name).read_text())
    return {method: Recorded(prefix + method, values) for method, values in content.items()}


VECTORS = _read("binarizer_vectors.json")
LAYERS = _read("binarizer_layer_vectors.json", "layer ")


def vector(method: str, key: str) -> Tensor:
    return torch.tensor(VECTORS[method][key], dtype=torch.float64)


X, W, G = (vector("_inputs", key) for key in ("X", "W", "G"))


def close(found: Any, method: str, key: str, atol: float = 1e-5) -> None:
    expected = vector(method, key)
    found = torch.as_tensor(found, dtype=torch.float64).reshape(expected.shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


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
