"""Losses that learn from a teacher against reference vectors (float64, 1e-5); the teacher; its place in a job."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnas.errors import BnasError
from bnas.training.distillation import soft_cross_entropy, softened_divergence
from bnas.training.extra_losses import make_losses
from bnas.training.losses import total_loss
from bnas.training.teacher import Teacher
from experiments import api
from experiments.job_files import make_job
from tests.core.binary_vectors import VECTORS

APPRENTICE = VECTORS["Apprentice"]
TEACHER, STUDENT = (torch.tensor(APPRENTICE[k], dtype=torch.float64) for k in ("teacher_logits", "student_logits"))
LABELS = torch.tensor(APPRENTICE["labels"])


class Answers(nn.Module):
    """Gives these logits, whatever it is asked, and counts how often it is."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.logits, self.asked = logits, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return self.logits


def taught(name: str, options: dict | None = None, teacher: Tensor = TEACHER) -> tuple[float, Tensor]:
    """A loss's value, and its gradient for the student's logits."""
    student = Answers(STUDENT.clone().requires_grad_())
    (loss,) = make_losses({name: options}, Teacher(Answers(teacher)))
    loss.attach(student)
    value = loss(student, student(torch.zeros(2, 1)), LABELS)
    value.backward()
    return value.item(), student.logits.grad


def test_apprentice_is_its_three_terms() -> None:
    value, gradient = taught("apprentice")
    assert value == pytest.approx(APPRENTICE["loss_1_0_5_0_5"], abs=1e-5)
    alone = [{"teacher": 1, "labels": 1e-12, "answers": 0}, {"teacher": 0, "labels": 1, "answers": 0}]
    alone.append({"teacher": 0, "labels": 0, "answers": 1})
    for options, key in zip(alone, ("H_y_pT", "H_y_pA", "H_pT_pA"), strict=True):
        assert taught("apprentice", options)[0] == pytest.approx(APPRENTICE[key], abs=1e-5)
    onehot = np.eye(3)[APPRENTICE["labels"]]
    p, t = (torch.softmax(logits, 1).numpy() for logits in (STUDENT, TEACHER))
    np.testing.assert_allclose(gradient.numpy(), 0.5 * ((p - onehot) + (p - t)) / 2, atol=1e-12)


def test_soft_labels_are_reactnets() -> None:
    value, gradient = taught("soft_labels")
    assert value == pytest.approx(VECTORS["ReActKD"]["soft_ce"], abs=1e-5)
    np.testing.assert_allclose(gradient.numpy(), VECTORS["ReActKD"]["grad_student"], atol=1e-5)
    assert taught("distill", {"temperature": 1})[0] == pytest.approx(VECTORS["ReActKD"]["kl"], abs=1e-5)


def test_distillation_is_hintons_and_its_other_form_the_squared_difference() -> None:
    known = VECTORS["DBNN"]
    assert taught("distill", {"temperature": known["T"]})[0] == pytest.approx(known["hinton_T2_0"], abs=1e-5)
    value, gradient = taught("distill", {"form": "mse", "weight": 3})
    assert value == pytest.approx(3 * float(((STUDENT - TEACHER) ** 2).mean()), abs=1e-12)
    np.testing.assert_allclose(gradient.numpy(), 3 * 2 * (STUDENT - TEACHER).numpy() / 6, atol=1e-12)


def test_half_precision_is_lifted_and_double_is_not_cut() -> None:
    assert soft_cross_entropy(STUDENT.bfloat16(), TEACHER.bfloat16()).dtype == torch.float32
    assert softened_divergence(STUDENT, TEACHER, 2.0).dtype == torch.float64
    assert softened_divergence(TEACHER, TEACHER, 2.0).item() == pytest.approx(0, abs=1e-12)


def network(width: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 3))


def test_hint_is_the_mean_squared_difference_of_named_layers() -> None:
    torch.manual_seed(0)
    student, model = network(), network()
    (loss,) = make_losses({"hint": {"layers": ["0", "3"], "weight": 0.5}}, Teacher(model))
    loss.attach(student)
    x = torch.randn(4, 3)
    logits = student.train()(x)
    with torch.no_grad():
        first = ((student[0](x) - model[0](x)) ** 2).mean()
        last = ((logits - model(x)) ** 2).mean()
    value = loss(student, logits, LABELS)
    assert value.item() == pytest.approx(0.5 * float(first + last), rel=1e-5)


def test_hint_between_layers_of_other_names_and_of_shapes_that_differ() -> None:
    torch.manual_seed(0)
    student = network().train()
    (loss,) = make_losses({"hint": {"layers": ["0"], "teacher_layers": ["1"]}}, Teacher(network(4)))
    loss.attach(student)
    with pytest.raises(BnasError, match=r"hint: layer 0 gives \[2\], and 1 of the teacher \[4\]"):
        loss(student, student(torch.randn(4, 3)), LABELS)
    for options, message in (
        ({"layers": ["4"]}, "no layer of the network named '4'"),
        ({"layers": ["0"], "teacher_layers": ["00"]}, "no layer of the teacher named '00'"),
    ):
        (loss,) = make_losses({"hint": options}, Teacher(network()))
        with pytest.raises(BnasError, match=message):
            loss.attach(network())


def test_the_teacher_is_frozen_in_evaluation_and_asked_once_a_batch() -> None:
    model = network().train()
    teacher = Teacher(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    student = network().train()
    losses = make_losses({"distill": None, "apprentice": None, "hint": {"layers": ["0"]}}, teacher)
    asked = []
    model.register_forward_hook(lambda *_: asked.append(1))
    for loss in losses:
        loss.attach(student)
        assert not list(loss.state_dict())
    for _ in range(2):
        x = torch.randn(2, 3)
        logits = student(x)
        sum(loss(student, logits, LABELS) for loss in losses).backward()
        assert torch.equal(teacher.logits(), model(x))
    assert len(asked) == 2 + 2
    assert not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_what_a_student_is_asked_in_evaluation_is_not_what_the_teacher_answers_on() -> None:
    model, student = network(), network().train()
    teacher = Teacher(model)
    teacher.watch(student)
    x = torch.randn(2, 3)
    student(x)
    student.eval()(torch.randn(2, 3))
    assert torch.equal(teacher.logits(), model(x))


def test_what_stands_in_the_place_of_the_cross_entropy() -> None:
    student = Answers(STUDENT)
    losses = make_losses({"soft_labels": None}, Teacher(Answers(TEACHER)))
    losses[0].attach(student)
    student(torch.zeros(2, 1))
    weights = {"label_smoothing": 0.0, "auxiliary_weight": 0.4, "extra_losses": losses}
    found = total_loss(student, STUDENT, LABELS, **weights)
    assert found.item() == pytest.approx(VECTORS["ReActKD"]["soft_ce"], abs=1e-5)
    both = total_loss(student, (STUDENT, TEACHER), LABELS, **weights)
    auxiliary = 0.4 * APPRENTICE["H_y_pT"]
    assert both.item() == pytest.approx(VECTORS["ReActKD"]["soft_ce"] + auxiliary, abs=1e-5)


@pytest.mark.parametrize(
    ("retrain", "message"),
    [
        (
            {"losses": {"distill": {}}},
            "retrain: loss distill learns from a trained network: name .* by retrain.teacher",
        ),
        (
            {"teacher": "runs/x"},
            "retrain: retrain.teacher is given, but no loss learns from it; those that do: distill",
        ),
        ({"teacher": "x", "losses": {"hint": {}}}, "retrain.losses.hint: layers is empty"),
        (
            {"teacher": "x", "losses": {"hint": {"layers": ["a"], "teacher_layers": ["b", "c"]}}},
            "retrain.losses.hint: 1 layers, but 2 teacher_layers",
        ),
        ({"teacher": "x", "losses": {"distill": {"form": "kld"}}}, "no form named 'kld'"),
        ({"teacher": "x", "losses": {"distill": {"temperature": 0}}}, "temperature is 0"),
        ({"teacher": "x", "losses": {"soft_labels": {"temperature": 0}}}, "temperature is 0"),
        ({"teacher": "x", "losses": {"apprentice": {"labels": 0, "answers": 0}}}, "labels and answers are both 0"),
    ],
)
def test_bad_teaching_in_a_job(retrain: dict, message: str) -> None:
    with pytest.raises(BnasError, match=message):
        make_job({"retrain": retrain})


TINY = {
    "scheme": "bnn",
    "size": {"channels": 2, "blocks": 1},
    "stages": "one",
    "recipe": {"epochs": 1, "batch_size": 128},
    "round_steps": 4,
}


def test_a_student_of_a_trained_network_stops_and_goes_on(tmp_path: Path) -> None:
    space = {"name": "fixed", "args": {"networks": ["resnet20"]}}
    teacher = make_job({"space": space, "retrain": {**TINY, "scheme": "real"}})
    genotype = api.random_genotype(teacher)
    path = api.retrain(teacher, genotype, tmp_path / "teacher").files.folder
    changes = {**TINY, "teacher": str(path), "losses": {"distill": None, "hint": {"layers": ["stem", "body.1"]}}}
    job = make_job({"space": space, "retrain": changes})
    whole = api.retrain(job, genotype, tmp_path / "whole").history()
    stopped = api.retrain(job, genotype, tmp_path / "stopped", max_minutes=1e-9)
    assert not stopped.finished
    after = api.retrain(job, genotype, tmp_path / "stopped").history()
    assert [{k: v for k, v in r.items() if k != "time"} for r in after] == [
        {k: v for k, v in r.items() if k != "time"} for r in whole
    ]
    other = make_job({"space": space, "retrain": {**TINY, "scheme": "real"}, "seed": 1})
    elsewhere = api.retrain(other, genotype, tmp_path / "other").files.folder
    with pytest.raises(BnasError, match=r"retrain.teacher.weights"):
        api.retrain(
            make_job({"space": space, "retrain": {**changes, "teacher": str(elsewhere)}}), genotype, tmp_path / "whole"
        )
    smaller = {"space": space, "retrain": changes, "data": {"mean": [0.5], "std": [0.5]}}
    with pytest.raises(BnasError, match=r"retrain.teacher|teacher: .* was trained on other mean and std"):
        api.retrain(make_job(smaller), genotype, tmp_path / "third")
