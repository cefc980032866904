"""Is a packed network the trained one? Contents and per-layer parity decide; the end-to-end figures are reported only.

End to end, one rounding in a real-valued part can flip one sign and grow, so that no tolerance would mean anything.
Given each layer's captured input, bits and integer sums must be equal.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnas.deploy.file import Packed
from bnas.deploy.ir import Op, Program
from bnas.deploy.pack import export
from bnas.deploy.parity import Comparison, LayerParity
from bnas.deploy.runtime import PackedNetwork
from bnas.deploy.trace import in_evaluation
from bnas.errors import BnasError

# Bounds the memory of the comparison, whatever the number of images.
IMAGES_AT_ONCE = 16


@dataclass(frozen=True)
class VerifyReport:
    """`ok` is decided by contents and layers. The rest is what the same images gave end to end.

    `contents_difference` names the first operation or tensor in which the file is not what an export of the trained
    network gives now. `layers` is empty where the operations themselves differ. `sign_flips` counts, of `signs`,
    activations whose sign differs end to end.
    """

    contents_difference: str | None
    layers: tuple[LayerParity, ...]
    backend: str
    images: int
    argmax_equal: float
    sign_flips: int
    signs: int
    max_logit_error: float

    @property
    def contents_ok(self) -> bool:
        return self.contents_difference is None

    @property
    def first_difference(self) -> str | None:
        """What differs first, by name; None where nothing does."""
        if self.contents_difference is not None:
            return self.contents_difference
        return next((str(layer) for layer in self.layers if not layer.equal), None)

    @property
    def ok(self) -> bool:
        return self.first_difference is None

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "first_difference": self.first_difference,
            "contents_ok": self.contents_ok,
            "backend": self.backend,
            "images": self.images,
            "argmax_equal": self.argmax_equal,
            "sign_flips": self.sign_flips,
            "signs": self.signs,
            "max_logit_error": self.max_logit_error,
            "layers": [
                {"name": p.name, "kind": p.kind, "compared": p.compared, "different": p.different, "equal": p.equal}
                for p in self.layers
            ],
        }


@torch.no_grad()
def verify(model: nn.Module, packed: PackedNetwork, images: Tensor) -> VerifyReport:
    """Compare `packed` with the trained `model` on normalized float32 images [N, C, H, W], on the model's device.

    `BnasError` where there are no images, or where the model cannot be packed for the file's image size and classes.
    """
    if len(images) == 0:
        raise BnasError("there are no images to verify the packed network with")
    packed.check_images(images)
    fresh = _exported_again(model, packed.program)
    structure = _structural_difference(fresh, packed.packed)
    # Where the operations differ, a trained layer and a packed one of equal name need not be comparable.
    comparison = Comparison(packed, () if structure else packed.program.ops)
    trained_logits, packed_logits = [], []
    with in_evaluation(model):
        for some in images.split(IMAGES_AT_ONCE):
            with comparison.watching(model):
                trained_logits.append(model(some).float().cpu())
            packed_logits.append(packed.run(some.cpu(), comparison.count_flips).cpu())
    trained, run = torch.cat(trained_logits), torch.cat(packed_logits)
    return VerifyReport(
        contents_difference=structure or _tensor_difference(fresh, packed.packed),
        layers=comparison.layers(),
        backend=packed.backend,
        images=len(images),
        argmax_equal=(trained.argmax(1) == run.argmax(1)).double().mean().item(),
        sign_flips=comparison.flips,
        signs=comparison.signs,
        max_logit_error=(trained - run).abs().max().item(),
    )


def _exported_again(model: nn.Module, program: Program) -> Packed:
    try:
        return export(
            model, input_shape=program.input_shape, classes=program.classes, mean=program.mean, std=program.std
        )
    except BnasError as error:
        raise error.within("the trained network, packed for the file's image size and classes") from None


def _structural_difference(fresh: Packed, packed: Packed) -> str | None:
    """The first operation in which two programs differ."""
    for trained, filed in zip(fresh.program.ops, packed.program.ops, strict=False):
        if trained != filed:
            return f"{trained} of the trained network is {_described(trained)}, in the file {_described(filed)}"
    counts = len(fresh.program.ops), len(packed.program.ops)
    if counts[0] != counts[1]:
        return f"the trained network has {counts[0]} operations, the file {counts[1]}"
    if fresh.program.output != packed.program.output:
        return f"the output is '{fresh.program.output}' in the trained network, '{packed.program.output}' in the file"
    return None


def _described(op: Op) -> str:
    return f"{op}, reads {', '.join(op.inputs)}, {dict(op.attributes)}"


def _tensor_difference(fresh: Packed, packed: Packed) -> str | None:
    """The first tensor, in the order of operations, that is not equal bit by bit."""
    for op in fresh.program.ops:
        for role, name in op.tensors.items():
            trained, filed = fresh.tensors[name], packed.tensors[name]
            if trained.shape != filed.shape:
                return f"{op}: {role} has the shape {list(trained.shape)}, in the file {list(filed.shape)}"
            # As integers: a comparison of numbers would take -0 for 0, and no NaN for itself.
            differing = trained.view(f"u{trained.itemsize}") ^ filed.view(f"u{filed.itemsize}")
            if differing.any():
                count = int(np.bitwise_count(differing).sum()) if role == "weight" and trained.dtype == np.uint32 else 0
                words = f"{count} bits" if count else f"{int((differing != 0).sum())} of {differing.size} numbers"
                return f"{op}: {words} of its {role} differ from the trained network's"
    return None
