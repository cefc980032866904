import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnas.training.losses import classification_loss, main_logits, total_loss

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.25, 3.0]])
AUXILIARY = torch.tensor([[0.1, 0.2, 0.3], [-1.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 1])


def smoothed(logits, labels, smoothing):
    """Cross-entropy against (1 - e) one_hot + e / classes, written out."""
    classes = logits.shape[1]
    targets = (1 - smoothing) * F.one_hot(labels, classes) + smoothing / classes
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_with_label_smoothing(smoothing):
    loss = classification_loss(LOGITS, LABELS, label_smoothing=smoothing)
    torch.testing.assert_close(loss, smoothed(LOGITS, LABELS, smoothing))
    torch.testing.assert_close(loss, F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing))


def test_the_auxiliary_head_counts_with_its_weight():
    loss = classification_loss((LOGITS, AUXILIARY), LABELS, label_smoothing=0.1, auxiliary_weight=0.4)
    expected = smoothed(LOGITS, LABELS, 0.1) + 0.4 * smoothed(AUXILIARY, LABELS, 0.1)
    torch.testing.assert_close(loss, expected)
    assert main_logits((LOGITS, AUXILIARY)) is LOGITS
    assert main_logits(LOGITS) is LOGITS


def test_low_precision_logits_give_a_float32_loss():
    loss = classification_loss(LOGITS.bfloat16(), LABELS)
    assert loss.dtype == torch.float32


def test_extra_losses_see_model_logits_and_labels_and_are_added():
    model = nn.Linear(1, 1)
    seen = []

    def first(model, logits, labels):
        seen.append((model, logits, labels))
        return torch.tensor(10.0)

    def second(model, logits, labels):
        return torch.tensor(100.0)

    loss = total_loss(
        model, (LOGITS, AUXILIARY), LABELS, label_smoothing=0.0, auxiliary_weight=0.0, extra_losses=(first, second)
    )
    torch.testing.assert_close(loss, smoothed(LOGITS, LABELS, 0.0) + 110)
    assert len(seen) == 1
    assert seen[0][0] is model
    assert seen[0][1] is LOGITS
    assert seen[0][2] is LABELS
