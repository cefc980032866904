"""A tiny network with everything that a trainer drives, its images, and equality of states bit for bit."""

import torch
from torch import Tensor, nn

from bnas.binary import Scheme, make_scheme
from bnas.data import Batches, ImageSet, Normalization
from bnas.layers import BinaryConv2d, DropPath, NormBinarize
from bnas.training.recipe import Recipe
from bnas.training.trainer import Trainer


class Tiny(nn.Module):
    """Real stem, two binary blocks, dropout, drop-path, auxiliary head, classifier."""

    def __init__(self, scheme: str = "bats", seed: int = 0, channels: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        made = make_scheme(scheme)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._make(made, channels, dropout)

    def _make(self, made: Scheme, channels: int, dropout: float) -> None:
        self.stem = nn.Conv2d(1, channels, 3, 2, 1)
        self.first, self.second = NormBinarize(channels, made), NormBinarize(channels, made)
        self.conv1 = BinaryConv2d(channels, channels, 3, made, padding=1)
        self.conv2 = BinaryConv2d(channels, channels, 3, made, padding=1)
        self.activation = nn.PReLU(channels)
        self.path = DropPath()
        self.dropout = nn.Dropout(dropout)
        self.auxiliary = nn.Linear(channels, 4)
        self.norm = nn.BatchNorm1d(channels * 16)
        self.classifier = nn.Linear(channels * 16, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        x = x + self.path(self.activation(self.conv1(self.first(x))))
        side = self.auxiliary(x.mean(dim=(2, 3)))
        x = x + self.path(self.conv2(self.second(x)))
        logits = self.classifier(self.dropout(self.norm(x.flatten(1))))
        return (logits, side) if self.training else logits

    def set_drop_path(self, probability: float) -> None:
        self.path.probability = probability


def images(count=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.randint(0, 4, (count,), generator=generator))


def batches(batch_size=16, count=64, augmentation=None):
    return Batches(
        images(count), batch_size, seed=3, normalization=Normalization((0.5,), (0.3,)), augmentation=augmentation
    )


def trainer(recipe, model=None, seed=0, **options):
    return Trainer(model or Tiny(), batches(), recipe, seed=seed, **options)


def same(a, b):
    """Deep equality of nested states, bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


FULL = Recipe(
    learning_rate=1e-2,
    epochs=3,
    warmup_fraction=0.2,
    weight_decay=1e-4,
    grad_clip=1.0,
    label_smoothing=0.1,
    drop_path=0.4,
    ema_decay=0.9,
)
