import copy

import pytest
import torch
from torch import nn

from bnas.binary import make_scheme
from bnas.data import Batches, ImageSet, Normalization
from bnas.layers import BinaryConv2d, BinaryLinear, NormBinarize
from bnas.training.metrics import (
    accuracy,
    batch_statistics,
    evaluating,
    latent_signs,
    recalibrate,
    share_of_plus_one,
    sign_flips,
)

PLAIN = Normalization((0.0,), (1.0,))


def batches_of(values, labels, batch_size):
    """1x1 images of one channel with the given pixel values."""
    images = ImageSet(torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor(labels))
    return Batches(images, batch_size, seed=0, normalization=PLAIN)


def by_brightness(images):
    """Class 1 for a pixel above a half, else class 0."""
    bright = (images[:, 0, 0, 0] > 0.5).float()
    return torch.stack([1 - bright, bright], dim=1)


def test_accuracy_counts_every_image_once():
    batches = batches_of([255, 0, 255, 0, 255], [1, 0, 0, 0, 0], 2)
    assert accuracy(by_brightness, batches) == 3 / 5


def test_accuracy_of_the_first_images_only():
    batches = batches_of([255, 0, 255, 0, 255], [1, 0, 0, 0, 0], 2)
    assert accuracy(by_brightness, batches, limit=3) == 2 / 3
    assert accuracy(by_brightness, batches, limit=2) == 1
    assert accuracy(by_brightness, batches, limit=99) == 3 / 5
    with pytest.raises(ValueError, match="limit is a number of images, at least 1; found 0"):
        accuracy(by_brightness, batches, limit=0)


def test_accuracy_runs_only_the_batches_that_it_needs():
    batches = batches_of([0] * 6, [0] * 6, 2)
    calls = []

    def forward(images):
        calls.append(len(images))
        return by_brightness(images)

    accuracy(forward, batches, limit=3)
    assert calls == [2, 1]


def test_accuracy_takes_the_main_head_and_builds_no_graph():
    layer = nn.Linear(1, 2)

    def forward(images):
        outputs = layer(images.flatten(1))
        assert not outputs.requires_grad
        return by_brightness(images), outputs

    assert accuracy(forward, batches_of([255, 0], [1, 0], 2)) == 1


def test_evaluating_puts_every_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()), nn.BatchNorm2d(1))
    model.train()
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert [module.training for module in model.modules()] == [True, True, False, False, True]


def norm_net():
    net = nn.Sequential(NormBinarize(1, make_scheme("bnn")), nn.Dropout(0.5), nn.BatchNorm2d(1))
    net[0].norm.running_mean.fill_(100.0)
    return net.eval()


def test_batch_statistics_normalize_with_the_batch_and_keep_the_running_ones():
    net = norm_net()
    before = copy.deepcopy(net.state_dict())
    images = torch.arange(8.0).view(8, 1, 1, 1)
    assert net[0](images).unique().tolist() == [-1.0]
    with batch_statistics(net):
        assert torch.equal(net[0](images).flatten(), torch.tensor([-1.0] * 4 + [1.0] * 4))
        assert net(images).mean().item() == pytest.approx(0, abs=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module.training for module in net.modules())
    assert net[0](images).unique().tolist() == [-1.0]


def test_batch_statistics_put_modes_back_after_an_error():
    net = norm_net()
    with pytest.raises(KeyError), batch_statistics(net):
        raise KeyError
    assert not any(module.training for module in net.modules())
    net.train()(torch.arange(8.0).view(8, 1, 1, 1))
    assert net[2].num_batches_tracked == 1


def test_recalibration_is_the_plain_average_over_the_batches():
    batches = batches_of([0, 51, 102, 153, 204, 255], [0] * 6, 2)
    norm = nn.BatchNorm2d(1, momentum=0.3)
    model = nn.Sequential(norm, nn.Dropout(0.9))
    norm.running_mean.fill_(100.0)
    model.train()
    recalibrate(model, model, batches, 2)
    seen = [batches.batch(step)[0] for step in (0, 1)]
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean() for x in seen]).mean().view(1))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var() for x in seen]).mean().view(1))
    assert norm.momentum == 0.3
    assert all(module.training for module in model.modules())


def test_recalibration_twice_is_the_same():
    batches = batches_of([0, 51, 102, 153, 204, 255], [0] * 6, 2)
    norm = nn.BatchNorm2d(1)
    recalibrate(norm, norm, batches, 3)
    first = copy.deepcopy(norm.state_dict())
    norm(torch.rand(4, 1, 1, 1))
    recalibrate(norm, norm, batches, 3)
    assert all(torch.equal(first[name], tensor) for name, tensor in norm.state_dict().items())
    with pytest.raises(ValueError, match="at least 1 batch; found 0"):
        recalibrate(norm, norm, batches, 0)


def test_recalibration_leaves_norms_without_running_statistics():
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    recalibrate(norm, norm, batches_of([0, 51, 102, 153], [0] * 4, 2), 1)
    assert norm.running_mean is None


def test_sign_flips_are_the_share_of_changed_bits():
    model = nn.Sequential(BinaryConv2d(2, 2, 1, make_scheme("bats")), BinaryLinear(2, 2, make_scheme("bnn")))
    with torch.no_grad():
        model[0].weight.fill_(0.5)
        model[1].weight.fill_(-0.5)
    before = latent_signs(model)
    assert sign_flips(before, latent_signs(model)) == 0
    with torch.no_grad():
        model[0].weight[0, 0] = -0.1
        model[1].weight[:] = 0.0
    # One bit of the convolution, and all four of the linear layer: sign(0) = +1.
    assert sign_flips(before, latent_signs(model)) == 5 / 8


def test_a_model_of_real_weights_has_no_signs_to_flip():
    model = BinaryLinear(2, 2, make_scheme("binary-activations"))
    assert latent_signs(model) == {}
    assert sign_flips({}, {}) == 0
    with pytest.raises(ValueError, match="different models"):
        sign_flips({}, latent_signs(BinaryLinear(2, 2, make_scheme("bnn"))))


def test_share_of_plus_one_of_each_layer():
    scheme = make_scheme("bnn")
    model = nn.ModuleDict({"first": NormBinarize(1, scheme), "second": NormBinarize(1, scheme), "real": nn.Identity()})
    model["unused"] = NormBinarize(1, scheme)
    model["twin"] = NormBinarize(1, make_scheme("real"))
    model["second"].norm.running_mean.fill_(5.5)
    model.train()
    images = torch.arange(-2.0, 8.0).view(10, 1, 1, 1)

    def forward(x):
        assert not model["first"].training
        model["twin"](x)
        return model["first"](x), model["second"](x)

    assert share_of_plus_one(model, images, forward) == pytest.approx({"first": 0.8, "second": 0.2})
    assert model["first"].training
    assert model["first"].norm.num_batches_tracked == 0
    assert not model["first"]._forward_hooks
    single = nn.Sequential(NormBinarize(1, scheme))
    assert share_of_plus_one(single, images) == pytest.approx({"0": 0.8})
