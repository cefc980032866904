"""Teacher: a trained network that answers on the images that a student is just trained on."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bnas.errors import unknown
from bnas.training.losses import Outputs, main_logits


class Teacher:
    """A frozen network in evaluation mode. It is asked once a batch, however many losses compare with it.

    The images are those that the watched student was last called with in training, so its input must be the teacher's.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)
        self._images: Tensor | None = None
        self._logits: Tensor | None = None
        self._features: dict[str, Tensor] = {}
        self._watched: set[str] = set()
        self._students: list[nn.Module] = []

    def watch(self, student: nn.Module) -> None:
        """Look at what `student` is called with from now on, on its device."""
        if any(student is known for known in self._students):
            return
        self._students.append(student)
        move: Any = self.network.to
        move(device=next(student.parameters()).device, memory_format=torch.channels_last)
        student.register_forward_pre_hook(self._see)

    def _see(self, student: nn.Module, inputs: tuple[Any, ...]) -> None:
        if student.training:
            self._images, self._logits = inputs[0], None

    def watch_features(self, names: Sequence[str]) -> None:
        """Keep the outputs of these layers of the teacher, for `feature`."""
        for name in set(names) - self._watched:
            layer_named(self.network, name, "the teacher").register_forward_hook(self._keep(name))
            self._watched.add(name)

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._features[name] = output

        return hook

    def logits(self) -> Tensor:
        """[N, classes] for the images of this step."""
        if self._images is None:
            raise ValueError("the teacher saw no images: the loss was not attached to the model before its forward")
        if self._logits is None:
            with torch.no_grad():
                outputs: Outputs = self.network(self._images)
            self._logits = main_logits(outputs)
        return self._logits

    def feature(self, name: str) -> Tensor:
        """The output of a watched layer for the images of this step."""
        self.logits()
        return self._features[name]


def layer_named(network: nn.Module, name: str, whose: str) -> nn.Module:
    """The layer of that dotted name; `BnasError` with the nearest one where there is none."""
    layers: dict[str, nn.Module] = dict(network.named_modules())
    if not name or name not in layers:
        raise unknown(f"layer of {whose}", name, [key for key in layers if key])
    return layers[name]
