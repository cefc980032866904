"""Sizes and arguments that make no space `group_mobilenet`: refused with those that would do."""

from typing import Any

import pytest
import torch

from bnas.errors import BnasError
from bnas.space import NetSpec
from search_spaces import make_space
from search_spaces.group_mobilenet import GroupMobileNet
from tests.spaces.group_mobilenets import every


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"module": "M4"}, "no module named 'M4'; there are: M1, M2, M3"),
        ({"stem": "cifar10"}, "no stem named 'cifar10'; there are: cifar, imagenet. Did you mean 'cifar'"),
        ({"activation": "gelu"}, "no activation named 'gelu'; there are: none, relu, prelu, rprelu, hardtanh"),
        ({"channels": -1}, "channels is -1; it must be an integer at least 0"),
        (
            {"channels": 16},
            r"channels 16: layer_00 has 16 channels, and group number 4 leaves 4 channels a group \(at least 8 are "
            r"allowed; the space was made for 32\): channels of 32 or 36 would do",
        ),
        (
            {"channels": 34},
            "layer_00 has 34 channels, and group number 4 does not divide them .*: channels of 32 or 36",
        ),
    ],
)
def test_sizes_that_do_not_fit_name_those_that_do(size: dict[str, object], message: str) -> None:
    space = GroupMobileNet()
    spec = NetSpec((3, 32, 32), 10, "bireal", {}, size)
    with pytest.raises(BnasError, match=message):
        space.supernet(spec)
    with pytest.raises(BnasError, match=message):
        space.build(every(space, -1), spec)


@pytest.mark.parametrize("channels", [36, 64])
def test_the_channels_that_a_message_names_do_fit(channels: int) -> None:
    space = GroupMobileNet()
    space.check_fits(space.size(NetSpec((3, 32, 32), 10, "bnn", {}, {"channels": channels})), space.numbers)


def test_a_found_network_fits_wherever_its_own_numbers_do() -> None:
    space = GroupMobileNet()
    spec = NetSpec((3, 32, 32), 10, "bireal", {}, {"channels": 8})
    with torch.device("meta"):
        assert space.build(every(space, 0), spec).classifier.in_features == 256
    with pytest.raises(BnasError, match="layer_00 has 8 channels"):
        space.build(every(space, -1), spec)


@pytest.mark.parametrize(("stem", "smallest"), [("cifar", 8), ("imagenet", 32)])
def test_an_image_too_small_for_the_reductions_is_refused(stem: str, smallest: int) -> None:
    space = GroupMobileNet(channels=8)
    size = {"stem": stem}
    built = space.build(every(space, 0), NetSpec((1, smallest, smallest), 2, "bnn", {}, size)).eval()
    assert built(torch.randn(1, 1, smallest, smallest)).shape == (1, 2)
    with pytest.raises(BnasError, match=f"too small.* at least {smallest} pixels"):
        space.build(every(space, 0), NetSpec((1, smallest - 1, 99), 2, "bnn", {}, size))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"groups": []},
            r"groups are one or more numbers, each a larger multiple of .*, such as \[1, 2, 4, .*; got \[\]",
        ),
        ({"groups": [1, 2, 3]}, r"groups are one or more .*; got \[1, 2, 3\]"),
        ({"groups": [1, 1]}, r"each a larger multiple of the one before.*; got \[1, 1\]"),
        ({"groups": [0, 1]}, "each of the groups is 0; it must be an integer at least 1"),
        ({"groups": [1.5]}, "each of the groups is 1.5"),
        ({"groups": 8}, "argument groups takes a list, got 8"),
        ({"layers": []}, r"layers are one or more numbers, each the same as .*, such as \[2, 4, 4, 8.*; got \[\]"),
        ({"layers": [2, 3]}, r"layers are one or more .*; got \[2, 3\]"),
        ({"layers": [4, 2]}, r"layers are one or more .*; got \[4, 2\]"),
        ({"layers": [True]}, "each of the layers is True"),
        ({"group_channels": 0}, "group_channels is 0; it must be an integer at least 1"),
        ({"channels": 0}, "channels is 0; it must be an integer at least 1"),
        (
            {"channels": 9, "groups": [2, 4]},
            r"layer_00 has 9 channels, and none of the groups \[2, 4\] leaves it 8 or more a group: channels of 16 or 18",
        ),
        ({"channels": 21, "groups": [2, 4]}, "none of the groups .*: channels of 20 or 22 would do"),
        ({"channels": 4}, r"layer_00 has 4 channels, .*: channels of 8 or 9 would do"),
    ],
)
def test_arguments_that_make_no_space_are_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(BnasError, match=message):
        make_space("group_mobilenet", args)
