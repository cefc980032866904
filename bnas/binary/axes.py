"""Over what a statistic is taken: a filter, a layer, a sample, a position."""

from torch import Tensor

from bnas.errors import check_choice

# For weights [O, I, ...]: one value for each filter o, or one. For activations [N, C, ...]: for each sample, for each
# position of each sample, or one.
AXES = ("filter", "layer", "sample", "position")


def reduced(x: Tensor, over: str) -> tuple[int, ...]:
    """The dimensions that a statistic `over` one of AXES goes over."""
    check_choice("axis of a scale", over, AXES)
    if over == "layer":
        return tuple(range(x.dim()))
    return (1,) if over == "position" else tuple(range(1, x.dim()))


def mean_abs(x: Tensor, over: str = "filter") -> Tensor:
    """Mean of |x| over each filter, layer, sample or position; reduced dimensions are kept with length 1."""
    return x.abs().mean(dim=reduced(x, over), keepdim=True)


def named(over: str) -> str:
    """Subscript of a formula."""
    return {"filter": "_o", "layer": "", "sample": "_n", "position": "_nhw"}[over]
