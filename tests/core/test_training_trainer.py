import copy
import io
import re

import pytest
import torch
from torch import Tensor, nn

from bnas.binary import Scheme, make_scheme
from bnas.data import Augmentation, Batches, ImageSet, Normalization
from bnas.errors import BnasError
from bnas.layers import BinaryConv2d, DropPath, NormBinarize
from bnas.nonfinite import NonFiniteLoss
from bnas.training.losses import classification_loss
from bnas.training.metrics import accuracy, share_of_plus_one
from bnas.training.recipe import Recipe
from bnas.training.schedules import learning_rate
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


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


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


def test_steps_and_figures_of_a_slice():
    run = trainer(FULL)
    assert (run.total_steps, run.step, run.finished) == (12, 0, False)
    figures = run.run_steps(5)
    assert run.step == 5
    assert figures["samples"] == 5 * 16
    assert figures["learning_rate"] == learning_rate(FULL, 4, 12)
    assert 0 < figures["loss"] < 20
    assert figures["accuracy"] * 80 == pytest.approx(round(figures["accuracy"] * 80))
    assert run.run_steps(100)["samples"] == 7 * 16
    assert run.finished
    with pytest.raises(ValueError, match="no step to run: 12 of 12 are done"):
        run.run_steps(1)


def test_one_step_is_the_update_by_hand():
    recipe = Recipe(epochs=1, learning_rate=0.05, schedule="constant", label_smoothing=0.1, auxiliary_weight=0.3)
    model, source = Tiny("real"), batches()
    # In the trainer's order of memory, as Adam makes whole steps of what is left of a gradient of 0 by rounding.
    mine = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
    x, y = source.batch(0)
    outputs = mine(x)
    loss = classification_loss(outputs, y, label_smoothing=0.1, auxiliary_weight=0.3)
    optimizer = torch.optim.Adam(mine.parameters(), lr=0.05)
    loss.backward()
    optimizer.step()
    run = Trainer(model, source, recipe, seed=0)
    figures = run.run_steps(1)
    assert figures["loss"] == pytest.approx(loss.item())
    assert figures["accuracy"] == (outputs[0].argmax(dim=1) == y).float().mean().item()
    torch.testing.assert_close(dict(model.state_dict()), dict(mine.state_dict()))


@pytest.mark.parametrize(
    "recipe",
    [FULL, Recipe(optimizer="sgd", learning_rate=0.1, epochs=3, momentum=0.9), Recipe(epochs=3, precision="bfloat16")],
    ids=["adam", "sgd", "bfloat16"],
)
@pytest.mark.parametrize("stop", [0, 1, 6, 11])
def test_a_continued_training_equals_an_uninterrupted_one(recipe, stop):
    whole = trainer(recipe, Tiny(dropout=0.3))
    whole.run_steps(12)
    first = trainer(recipe, Tiny(dropout=0.3))
    if stop:
        first.run_steps(stop)
    state = through_a_file(first.state_dict())
    second = trainer(recipe, Tiny(seed=99, dropout=0.3))
    torch.rand(7)
    second.load_state_dict(state)
    while not second.finished:
        second.run_steps(2)
    assert same(second.state_dict(), whole.state_dict())
    assert same(dict(second.evaluation_model().state_dict()), dict(whole.evaluation_model().state_dict()))


def test_a_state_is_a_copy_both_ways():
    run = trainer(FULL)
    run.run_steps(3)
    state = run.state_dict()
    kept = copy.deepcopy(state)
    run.run_steps(2)
    assert same(state, kept)
    run.load_state_dict(state)
    run.run_steps(2)
    assert same(state, kept)


def contiguous(state):
    """The same nested state with every tensor in the plain memory layout."""
    if isinstance(state, Tensor):
        return state.contiguous()
    if isinstance(state, dict):
        return {key: contiguous(value) for key, value in state.items()}
    return [contiguous(value) for value in state] if isinstance(state, list) else state


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_state_continues_whatever_its_memory_layout(layout):
    def run():
        made = trainer(FULL)
        made.model.to(memory_format=layout)
        return made

    whole, second = run(), run()
    whole.run_steps(4)
    second.load_state_dict(contiguous(whole.state_dict()))
    whole.run_steps(4)
    second.run_steps(4)
    assert same(second.state_dict(), whole.state_dict())


def test_the_random_numbers_of_a_step_follow_seed_and_purpose():
    def after(**options):
        run = trainer(FULL, Tiny(dropout=0.5), **options)
        run.run_steps(2)
        return run.state_dict()["model"]

    base = after()
    assert same(base, after())
    assert not same(base, after(seed=1))
    assert not same(base, after(purpose="other"))


def test_training_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    run = trainer(FULL, Tiny(dropout=0.5), seed=5)
    run.run_steps(2)
    assert torch.equal(torch.get_rng_state(), before)


# One of each kind of parts; tests/contracts/test_schemes.py holds what is true of all.
LEARNING = ("real", "binary-activations", "bnn", "xnor", "bats", "adabin", "self-binarizing", "cbcn", "eedn", "dorefa")
LEARNING += ("lqnet", "least-squares")


@pytest.mark.parametrize("scheme", LEARNING)
def test_it_overfits_a_few_images_under_every_scheme(scheme):
    source = batches(batch_size=32, augmentation=Augmentation())
    model = Tiny(scheme, channels=16)
    run = Trainer(model, source, Recipe(learning_rate=5e-3, epochs=60), seed=0)
    run.run_steps(120)
    assert accuracy(run.evaluation_model(), source) > 0.95
    shares = share_of_plus_one(model, source.batch(0)[0])
    assert all(0.2 < share < 0.8 for share in shares.values())
    assert len(shares) == (2 if make_scheme(scheme).activation(1).compares else 0)


def test_latent_weights_stay_within_the_window():
    model = Tiny("bnn")
    run = trainer(Recipe(optimizer="sgd", learning_rate=20.0, epochs=3, schedule="constant"), model)
    run.run_steps(12)
    sizes = torch.cat([model.conv1.weight.flatten(), model.conv2.weight.flatten()]).abs()
    assert sizes.max().item() == 1.0
    # The same step size does leave the window where nothing is binarized, so the clip above had work to do.
    real = Tiny("binary-activations")
    trainer(Recipe(optimizer="sgd", learning_rate=20.0, epochs=3, schedule="constant"), real).run_steps(2)
    assert real.conv1.weight.abs().max().item() > 1.0


def test_drop_path_follows_the_schedule():
    model = Tiny()
    run = trainer(Recipe(epochs=3, drop_path=0.6), model)
    run.run_steps(1)
    assert model.path.probability == 0
    run.run_steps(6)
    assert model.path.probability == pytest.approx(0.3)
    trainer(Recipe(epochs=3), model).run_steps(1)
    assert model.path.probability == 0


def test_drop_path_on_a_network_without_paths_is_refused():
    with pytest.raises(BnasError, match=re.escape("recipe.drop_path is 0.2, but this network has no paths to drop")):
        trainer(Recipe(drop_path=0.2), nn.Linear(1, 4))


def test_float16_without_cuda_is_refused():
    with pytest.raises(BnasError, match="float16 needs a CUDA device; on cpu take bfloat16 or float32"):
        trainer(Recipe(precision="float16"))


def test_bfloat16_computes_in_bfloat16():
    seen = []
    model = Tiny()
    model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer(Recipe(epochs=1, precision="bfloat16"), model).run_steps(1)
    trainer(Recipe(epochs=1), model).run_steps(1)
    assert seen == [torch.bfloat16, torch.float32]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_gradient_is_clipped_to_its_norm():
    def moved(clip):
        model = Tiny("real")
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        recipe = Recipe(optimizer="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", epochs=1, grad_clip=clip)
        trainer(recipe, model).run_steps(1)
        return (torch.cat([p.detach().flatten() for p in model.parameters()]) - before).norm().item()

    assert moved(0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved(0.0) > 0.1


def test_the_share_of_clipped_steps_is_told():
    def share(clip):
        return trainer(Recipe(epochs=1, grad_clip=clip), Tiny("real")).run_steps(2).get("clipped_steps")

    assert [share(0.0), share(1e-6), share(1e6)] == [None, 1.0, 0.0]


def test_the_moving_average_is_the_formula():
    recipe = Recipe(epochs=3, learning_rate=1e-2, ema_decay=0.3)
    model = Tiny()
    run = trainer(recipe, model)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for step in range(4):
        run.run_steps(1)
        decay = min(0.3, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            old = expected[name]
            expected[name] = decay * old + (1 - decay) * tensor if tensor.is_floating_point() else tensor.clone()
    average = run.evaluation_model()
    assert average is not model
    assert not average.training
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    assert not torch.equal(average.stem.weight, model.stem.weight)


def test_without_an_average_the_network_itself_is_evaluated():
    model = Tiny()
    run = trainer(Recipe(epochs=1), model)
    run.run_steps(1)
    assert model.training
    assert run.evaluation_model() is model
    assert not model.training


def test_a_look_at_the_network_between_two_slices_changes_nothing():
    looked, whole = trainer(FULL, Tiny(dropout=0.3)), trainer(FULL, Tiny(dropout=0.3))
    whole.run_steps(12)
    for _ in range(3):
        looked.run_steps(4)
        accuracy(looked.evaluation_model(), looked.batches)
        looked.model.eval()
    assert same(looked.state_dict(), whole.state_dict())


def test_extra_losses_and_an_own_forward():
    model = Tiny()
    calls = []

    def forward(x):
        calls.append(len(x))
        return model(x)

    def extra(given, logits, labels):
        assert given is model
        assert logits.shape == (16, 4)
        return 1000.0 + 0 * logits.sum()

    figures = trainer(Recipe(epochs=1), model, forward=forward, extra_losses=(extra,)).run_steps(2)
    assert calls == [16, 16]
    assert 1000 < figures["loss"] < 1010


def test_before_step_sees_the_step_as_the_weights_will():
    model = Tiny()
    seen = []

    def before_step(step):
        assert model.training
        seen.append((step, model.path.probability, torch.rand(()).item()))

    recipe = Recipe(epochs=3, drop_path=0.6)
    run = trainer(recipe, model, before_step=before_step)
    run.run_steps(2)
    run.run_steps(2)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert [probability for _, probability, _ in seen] == pytest.approx([0, 0.05, 0.1, 0.15])
    assert len({number for _, _, number in seen}) == 4
    again, seen = seen, []
    trainer(recipe, model, before_step=before_step).run_steps(4)
    assert seen == again


class Broken:
    """Batches with an image, the sixth, that is not of numbers from step `first` on."""

    def __init__(self, first):
        self.inner, self.first = batches(), first
        self.steps_per_epoch = self.inner.steps_per_epoch

    def batch(self, step):
        x, y = self.inner.batch(step)
        if step >= self.first:
            x[5, 0, 1, 1] = float("nan")
        return x, y

    def in_order(self, batch_size=None):
        return self.inner.in_order(batch_size)

    def fixed(self, count):
        return self.inner.fixed(count)

    def __len__(self):
        return len(self.inner)


def test_a_loss_that_is_not_a_number_stops_before_it_changes_a_weight():
    model = Tiny()

    def lost(model, logits, labels):
        return logits.sum() * (float("nan") if run.step >= 3 else 0.0)

    run = Trainer(model, batches(), Recipe(epochs=3), seed=0, extra_losses=[lost])
    run.run_steps(3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(NonFiniteLoss) as error:
        run.run_steps(3)
    assert (error.value.step, error.value.what) == (3, "the loss is nan")
    assert same(before, {name: p.detach() for name, p in model.named_parameters()})


def test_a_weight_that_took_the_loss_with_it_is_named():
    model = Tiny()
    run = trainer(Recipe(epochs=3), model)
    run.run_steps(1)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("inf")
    name = next(name for name, _ in model.named_parameters())
    with pytest.raises(NonFiniteLoss, match=rf"step 1: the loss is nan, and {name} is not a finite number"):
        run.run_steps(1)


def test_an_image_that_is_not_of_numbers_is_named_before_a_sign_hides_it():
    run = Trainer(Tiny(), Broken(3), Recipe(epochs=3), seed=0)
    with pytest.raises(
        BnasError, match=r"step 3: image 5 of the batch, .* holds NaN or an infinity \(1 of 16 images do"
    ):
        run.run_steps(5)


def test_a_device_that_is_not_waited_for_names_the_same_step():
    run = Trainer(Tiny(), Broken(3), Recipe(epochs=3), seed=0)
    run.waits_each_step = False
    run.run_steps(2)
    with pytest.raises(NonFiniteLoss) as error:
        run.run_steps(5)
    assert error.value.step == 3
