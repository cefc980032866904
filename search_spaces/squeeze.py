"""The squeezing half of widening and squeezing: which widths a network of space `widths` needs, read off its slopes.

Widening and Squeezing (Liu et al. 2020, arXiv 2002.00555) trains a widened network and takes redundant channels out; how
it selects them is not known to us. Here, ours: a network of large ratios is trained with the loss `slimming`, a channel
counts whose slopes |gamma| exceed a threshold anywhere, and each width becomes the smallest ratio that holds as many
channels as count. The narrower network is trained from its start.
"""

from torch import Tensor, nn

from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.options import check_number
from bnas.space import NetSpec, SearchSpace
from search_spaces.widths import Widths, axes_of_widths

_STATISTIC = ".running_mean"


def kept_channels(gamma: Tensor, threshold: float) -> list[int]:
    """Indices of the channels with |gamma| > threshold; gamma [C]."""
    found: list[int] = (gamma.abs() > threshold).nonzero().flatten().tolist()
    return found


def squeezed(
    space: SearchSpace, genotype: Genotype, spec: NetSpec, network: nn.Module, threshold: float
) -> tuple[Genotype, dict[str, tuple[int, int]]]:
    """The narrower architecture, and of each decision (channels that count, channels that there are).

    A channel of a residual stream has a slope in each norm that reads or writes the stream; the largest one decides.
    """
    if not isinstance(space, Widths):
        raise BnasError(f"space {space.name} has no widths to squeeze; train a network of space widths")
    check_number("threshold", threshold, at_least=0)
    size = space.size(spec)
    largest: dict[str, Tensor] = {}
    for key, axes in axes_of_widths(space.chain, spec, size).items():
        if key.endswith(_STATISTIC) and axes[0] is not None:
            gamma = network.get_parameter(f"{key.removesuffix(_STATISTIC)}.weight").detach().abs()
            decision = axes[0][0]
            largest[decision] = gamma if decision not in largest else largest[decision].maximum(gamma)
    channels = space.channels(size)
    kept = {decision: (len(kept_channels(gamma, threshold)), len(gamma)) for decision, gamma in largest.items()}
    choices = {
        name: next(choice for choice, held in channels[name].items() if held >= count)
        for name, (count, _) in kept.items()
    }
    return space.genotype({name: choices[name] for name, _ in genotype.choices}), kept
