import dataclasses
import re

import pytest

from bnas.errors import BnasError
from bnas.options import check_number, describe, option
from bnas.training.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Sample:
    kind: str = option("a", "which one", "paper", choices=("a", "b"))
    size: int | None = option(None, "how many", "ours")
    pair: tuple[float, float] = option((0.0, 1.0), "two numbers", "code")
    parts: tuple[str, ...] = option((), "any number of words", "code")
    undescribed: int = 3


def test_describe_lists_name_type_default_help_and_origin():
    assert describe(Sample) == [
        ("kind", "a | b", "a", "which one", "paper"),
        ("size", "int | none", None, "how many", "ours"),
        ("pair", "tuple[float, float]", (0.0, 1.0), "two numbers", "code"),
        ("parts", "tuple[str, ...]", (), "any number of words", "code"),
    ]


def test_an_option_is_an_ordinary_default():
    assert Sample().kind == "a"
    assert Sample(kind="b").kind == "b"


def test_an_origin_outside_the_list_is_refused():
    with pytest.raises(ValueError, match="origin is one of paper, code, ours; found 'guess'"):
        option(1, "help", "guess")


def test_every_field_of_a_recipe_is_described():
    described = describe(Recipe)
    assert [entry.name for entry in described] == [f.name for f in dataclasses.fields(Recipe)]
    assert all(entry.help for entry in described)
    defaults = Recipe()
    assert all(getattr(defaults, entry.name) == entry.default for entry in described)


def test_the_defaults_are_those_of_the_paper():
    recipe = Recipe()
    assert (recipe.optimizer, recipe.learning_rate, recipe.schedule) == ("adam", 1e-3, "cosine")
    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay, recipe.auxiliary_weight) == (600, 256, 0.0, 0.4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer", "adm", "no recipe.optimizer named 'adm'; there are: adam, sgd, bop. Did you mean 'adam'?"),
        ("schedule", "cosin", "no recipe.schedule named 'cosin'; there are: cosine, constant. Did you mean 'cosine'?"),
        ("precision", "fp16", "no recipe.precision named 'fp16'; there are: float32, bfloat16, float16."),
        ("learning_rate", 0.0, "recipe.learning_rate is 0.0; it must be a finite number above 0"),
        ("learning_rate", float("nan"), "recipe.learning_rate is nan; it must be a finite number above 0"),
        (
            "learning_rate_end",
            0.1,
            "recipe.learning_rate_end is 0.1; it must be a finite number at least 0 and at most 0.",
        ),
        ("epochs", 0, "recipe.epochs is 0; it must be an integer at least 1"),
        ("epochs", 2.5, "recipe.epochs is 2.5; it must be an integer at least 1"),
        ("batch_size", True, "recipe.batch_size is True; it must be an integer at least 1"),
        ("warmup_fraction", 1.0, "recipe.warmup_fraction is 1.0; it must be a finite number at least 0 and below 1"),
        ("momentum", -0.1, "recipe.momentum is -0.1; it must be a finite number at least 0 and below 1"),
        ("label_smoothing", 1, "recipe.label_smoothing is 1; it must be a finite number at least 0 and below 1"),
        ("drop_path", 1.5, "recipe.drop_path is 1.5; it must be a finite number at least 0 and below 1"),
        ("ema_decay", 1.0, "recipe.ema_decay is 1.0; it must be a finite number at least 0 and below 1"),
        ("weight_decay", -1, "recipe.weight_decay is -1; it must be a finite number at least 0"),
        ("latent_weight_decay", "0", "recipe.latent_weight_decay is '0'; it must be a finite number at least 0"),
        ("grad_clip", float("inf"), "recipe.grad_clip is inf; it must be a finite number at least 0"),
        ("auxiliary_weight", -0.4, "recipe.auxiliary_weight is -0.4; it must be a finite number at least 0"),
        ("betas", (0.9,), "recipe.betas is (0.9,); it must be two numbers, such as (0.9, 0.999)"),
        ("betas", (0.9, 1.0), "recipe.betas[1] is 1.0; it must be a finite number at least 0 and below 1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(field, value, message):
    with pytest.raises(BnasError, match=re.escape(message)):
        Recipe(**{field: value})


def test_a_number_without_bounds():
    check_number("x", -3.5)
    with pytest.raises(BnasError, match=r"x is None; it must be a finite number$"):
        check_number("x", None)
