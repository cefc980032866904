"""A task on which plain DARTS collapses: pooling is right a little at once, convolutions are right always but later.

Images of 8x8 pixels in four quarters. Each quarter is a little brighter in class 1, which average pooling sees from the
first step on, and has bright and dark rows that change places with the class, which a convolution has to learn: it begins
with columns. Once the gates favour the pools, the convolutions' weights hardly get a gradient and never catch up.
"""

from typing import Any

import torch
from torch import Tensor, nn

from bnas.binary import make_scheme
from bnas.data import Batches, ImageSet, Normalization
from bnas.genotype import Decision, Genotype
from bnas.layers import BinaryConv2d, NormBinarize
from bnas.space import Gates, NetSpec, SearchSpace, Supernet
from bnas.strategy import SearchTask
from strategies.darts import Darts
from strategies.darts_options import DartsOptions

SIDE, QUARTERS = 4, 4
CHOICES = ("pool", "conv")
BRIGHTNESS, PATTERN, NOISE = 4.0, 24.0, 30.0


class Quarters(SearchSpace):
    """One decision a quarter: pool or convolution."""

    name = "quarters"

    def __init__(self) -> None:
        self.args: dict[str, Any] = {}
        self.decisions = tuple(Decision(f"quarter_{i}", CHOICES) for i in range(QUARTERS))

    def supernet(self, spec: NetSpec) -> Supernet:
        return QuartersSupernet(self, spec)

    def build(self, genotype: Genotype, spec: NetSpec) -> nn.Module:
        raise AssertionError("a search alone builds nothing")

    def facts(self, genotype: Genotype) -> dict[str, float]:
        pools = [choice for _, choice in genotype.choices].count("pool")
        return {"depth": 2.0, "parameter_free": pools / QUARTERS}


class QuartersSupernet(Supernet):
    """Logits -+ the sum of what is chosen for the quarters, all of it normalized, so that no weight replaces a gate."""

    def __init__(self, space: Quarters, spec: NetSpec) -> None:
        super().__init__()
        scheme = make_scheme(spec.scheme)
        self.space = space
        self.inputs = nn.ModuleList(NormBinarize(1, scheme, affine=False) for _ in range(QUARTERS))
        self.convs = nn.ModuleList(BinaryConv2d(1, 1, SIDE, scheme) for _ in range(QUARTERS))
        columns = 0.2 * (-1.0) ** torch.arange(SIDE)
        with torch.no_grad():
            for conv in self.convs:
                conv.weight.copy_(columns.expand_as(conv.weight))  # type: ignore[union-attr, operator, arg-type]
        self.norms = nn.ModuleDict(
            {choice: nn.ModuleList(nn.BatchNorm2d(1, affine=False) for _ in range(QUARTERS)) for choice in CHOICES}
        )

    def features(self, x: Tensor, gates: Gates) -> Tensor:
        quarters = [x[:, :, r : r + SIDE, c : c + SIDE] for r in (0, SIDE) for c in (0, SIDE)]
        total = x.new_zeros(len(x), 1)
        for index, quarter in enumerate(quarters):
            for choice, weight in gates.of(f"quarter_{index}"):
                is_pool = choice == "pool"
                out = quarter.mean((2, 3), keepdim=True) if is_pool else self.convs[index](self.inputs[index](quarter))
                out = self.norms[choice][index](out).flatten(1)  # type: ignore[index]
                total = total + (out if weight is None else weight * out)
        return total

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        features = self.features(x, gates)
        return torch.cat([-features, features], dim=1)

    def expected_cost(self, gates: Gates) -> tuple[Tensor, Tensor]:
        raise AssertionError("no cost is weighed")

    def state_for(self, genotype: Genotype) -> dict[str, Tensor]:
        raise AssertionError("nothing is retrained")


def images(count: int, seed: int) -> ImageSet:
    labels = torch.arange(count) % 2
    sign = (2.0 * labels - 1).view(-1, 1, 1)
    rows = (-1.0) ** torch.arange(2 * SIDE).view(-1, 1)
    noise = NOISE * torch.randn(count, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(seed))
    values = 128 + sign * (BRIGHTNESS + PATTERN * rows) + noise
    return ImageSet(values.round().clamp(0, 255).to(torch.uint8).unsqueeze(1), labels)


# Alphas that outrun the weights, from the first step on and without a temperature.
PLAIN: dict[str, Any] = {
    "epochs": 12, "learning_rate": 0.001, "learning_rate_end": 0.001, "alpha_learning_rate": 1.5, "alpha_warmup": 0.0,
    "temperature": "constant", "temperature_end": 1.0,
}  # fmt: skip


def search(seed: int, **options: Any) -> Darts:
    train, val = images(256, 1), images(256, 2)
    normalization = Normalization.of(train)
    made = [
        Batches(part, 32, seed=seed, normalization=normalization, purpose=purpose)
        for part, purpose in ((train, "train"), (val, "val"))
    ]
    spec = NetSpec((1, 2 * SIDE, 2 * SIDE), 2, "binary-activations")
    task = SearchTask(Quarters(), spec, *made, seed, torch.device("cpu"))
    return Darts(task, DartsOptions(**{**PLAIN, **options}))
