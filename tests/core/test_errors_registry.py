"""A miss names what there is and the nearest name; tables cannot be overwritten."""

import pytest

from bnas.errors import BnasError, check_choice
from bnas.registry import Registry

TABLE = Registry("fruit", {"apple": 1, "pear": 2})


def test_a_miss_lists_the_names_and_suggests_one() -> None:
    with pytest.raises(BnasError, match=r"no fruit named 'aple'; there are: apple, pear\. Did you mean 'apple'\?"):
        TABLE["aple"]


def test_a_miss_that_is_like_nothing_suggests_nothing() -> None:
    with pytest.raises(BnasError) as caught:
        TABLE["xyzzy"]
    assert "Did you mean" not in str(caught.value)


def test_a_miss_is_not_contained_and_does_not_raise() -> None:
    assert "aple" not in TABLE
    assert "apple" in TABLE


def test_register_adds_once_and_refuses_another_thing_of_the_same_name() -> None:
    table = Registry("fruit", {"pear": 2})
    table.register({"fig": 3}, "plugin")
    table.register({"fig": 3}, "plugin")
    assert table["fig"] == 3
    with pytest.raises(BnasError, match="plugin: there already is a fruit named 'pear'; choose another name"):
        table.register({"plum": 4, "pear": 3}, "plugin")
    assert "plum" not in table


def test_an_error_within_a_place_keeps_its_kind() -> None:
    class SpecialError(BnasError):
        pass

    error = SpecialError("wrong").within("job.yaml")
    assert type(error) is SpecialError
    assert str(error) == "job.yaml: wrong"


def test_check_choice_passes_what_is_listed() -> None:
    check_choice("stem", "cifar", ("cifar", "imagenet"))
    with pytest.raises(BnasError, match="no stem named 'cifr'"):
        check_choice("stem", "cifr", ("cifar", "imagenet"))
