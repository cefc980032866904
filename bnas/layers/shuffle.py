"""Channel shuffle: lets information cross the groups of a grouped convolution."""

from torch import Tensor, nn

from bnas.errors import BnasError


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """[N, C, H, W] -> same: channels seen as a [groups, C / groups] table are read by columns.

    Zhang et al. 2018 (ShuffleNet), arXiv 1707.01083.
    """
    n, c, h, w = x.shape
    # In the order of channels_last memory, which the networks run in, so that this copies once and keeps the layout.
    table = x.permute(0, 2, 3, 1).reshape(n, h, w, groups, c // groups)
    return table.transpose(3, 4).reshape(n, h, w, c).permute(0, 3, 1, 2)


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
