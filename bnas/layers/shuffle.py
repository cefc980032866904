"""Channel shuffle: lets information cross the groups of a grouped convolution."""

from torch import Tensor, nn

from bnas.errors import BnasError


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """[N, C, H, W] -> same: channels seen as a [groups, C / groups] table are read by columns.

    Zhang et al. 2018 (ShuffleNet), arXiv 1707.01083.
    """
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ChannelShuffle(nn.Module):
    """`channel_shuffle` with a fixed number of groups."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        if channels % groups:
            raise BnasError(f"{channels} channels cannot be shuffled in {groups} groups: the groups must divide them")
        self.groups = groups

    def extra_repr(self) -> str:
        return f"groups={self.groups}"

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(x, self.groups)
