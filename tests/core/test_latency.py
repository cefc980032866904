"""Keys of the steps that a packed network takes, and the times of one run, in the order of its keys."""

import itertools

import pytest
import torch
from torch import nn

from bnas.binary.schemes import make_scheme
from bnas.deploy.file import Packed
from bnas.deploy.runtime import PackedNetwork
from bnas.errors import BnasError
from bnas.latency import LatencyTable, Timing, operations
from bnas.layers import BinaryConv2d, NormBinarize
from bnas.profiling import time_network, time_steps
from tests.core.packed_networks import CLASSES, SHAPE, Cell, packed, trained

SCHEME = make_scheme("bireal")


def keys(made: Packed, fused: bool = True) -> list[str]:
    return [key for key, _ in operations(made, fused=fused)]


class Sums(nn.Module):
    """What a binary convolution adds: its own input, or another value of the same shape."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own
        self.stem, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.norm, self.conv = NormBinarize(8, SCHEME), BinaryConv2d(8, 8, 3, SCHEME, padding=1)
        self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, len(CLASSES)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, other = self.stem(x), self.other(x)
        result: torch.Tensor = self.end(self.conv(self.norm(first)) + (first if self.own else other))
        return result


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_run_is_timed_step_by_step_in_the_order_of_the_keys(backend: str) -> None:
    made = packed(trained(Cell("bats")))
    network, ticks = PackedNetwork(made, backend), itertools.count()
    taken = network.profile(torch.zeros(1, *SHAPE), lambda: float(next(ticks)))
    listed = operations(made, fused=network.fused is not None)
    assert [step and step.output for step, _ in taken] == [step and step.output for _, step in listed]
    # The clock is read once after each step, so that none is left out and none has a part of another.
    assert {seconds for step, seconds in taken if step} == {1.0}
    assert sum(seconds for _, seconds in taken) == next(ticks) - 1
    assert (len(listed) < len(made.program.ops)) == (network.fused is not None)


def test_keys_do_not_depend_on_weights_and_tell_what_times_depend_on() -> None:
    one, other = packed(trained(Cell("bats"), seed=0)), packed(trained(Cell("bats"), seed=1))
    assert keys(one) == keys(other)
    assert any("bits 12 x 9 x 9 in 3 groups" in key for key in keys(one))
    own, another = (keys(packed(trained(Sums(own)))) for own in (True, False))
    (fused_own,) = set(own) - set(another)
    (fused_another,) = set(another) - set(own)
    start = "threshold: #1 real 8 x 9 x 9 -> #2 bits 8 x 9 x 9"
    assert fused_own.startswith(start)
    assert "add: #3 real 8 x 9 x 9 + #1 real 8 x 9 x 9 -> #4 real 8 x 9 x 9" in fused_own
    assert "add: #3 real 8 x 9 x 9 + #4 real 8 x 9 x 9 -> #5 real 8 x 9 x 9" in fused_another


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_table_of_one_network_predicts_it_and_grows_by_what_is_new(backend: str) -> None:
    own, another = packed(trained(Sums(True))), packed(trained(Sums(False)))
    rows: dict[str, Timing] = {}
    assert time_steps(own, backend, rows, 3) == len(set(keys(own, backend == "cpu")))
    assert time_steps(own, backend, rows, 3) == 0
    table = LatencyTable(rows, {"fused": backend == "cpu"})
    assert table.of(own) == pytest.approx(sum(rows[key].median_us for key in keys(own, backend == "cpu")))
    assert time_network(own, backend, 3).runs == 3
    before = dict(rows)
    added = time_steps(another, backend, rows, 3)
    assert added == len(set(keys(another, backend == "cpu")) - set(before)) < len(before)
    assert {key: rows[key] for key in before} == before


def test_a_step_that_is_not_in_the_table_takes_what_the_one_most_like_it_takes() -> None:
    conv, other = "binary_conv2d: #1 bits 8 x 4 x 4 -> #2 real 8 x 4 x 4, groups 1", "binary_conv2d: #1 bits 4 x 4 x 4"
    first, second, relu = "add: #2 real 8 + #3 real 8", "add: #4 real 8 + #5 real 8", "relu: #2 real 8 -> #3 real 8"
    rows = {
        conv: 1.0,
        f"{conv}; {first}": 2.0,
        f"{conv}; {relu}; {first}": 4.0,
        f"{other}; {first}; {second}": 8.0,
    }
    table = LatencyTable({key: Timing(us, 0.0, 3) for key, us in rows.items()}, {"fused": True})
    assert table.row(f"{conv}; {first}") == f"{conv}; {first}"
    # Two sums are one sum more, and one sum and an activation less.
    assert table.predict({f"{conv}; {first}; {second}": 2, conv: 1}) == 2 * 2.0 + 1.0
    assert table.predict({f"{conv}; {relu}": 1}) == 1.0
    assert table.row("relu: #1 real 8 -> #2 real 8") is None
    with pytest.raises(BnasError, match="the table has no measurement of 'binary_conv2d: #1 bits 9 x 9'"):
        table.predict({"binary_conv2d: #1 bits 9 x 9": 1})
