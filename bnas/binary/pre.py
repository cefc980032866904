"""PRE: what happens to a real tensor before it is coded. Differentiated by autograd."""

from typing import Protocol

from torch import Tensor


class Pre(Protocol):
    """A function x -> u of one tensor, differentiable."""

    def __call__(self, x: Tensor) -> Tensor: ...


def unchanged(x: Tensor) -> Tensor:
    """u = x."""
    return x


def centre(x: Tensor) -> Tensor:
    """u = x - mean over the input channels, for weights [O, I, ...]."""
    return x - x.mean(dim=1, keepdim=True)


def centre_and_clip(x: Tensor) -> Tensor:
    """u = clip(centre(x), -1, 1).

    The released trainer of XNOR-Net does this to the stored weights before each step (Rastegari et al. 2016,
    arXiv 1603.05279, code); the paper does not mention it.
    """
    return centre(x).clamp(-1, 1)
