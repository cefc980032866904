"""Is there something here that Triton kernels can run on? Says what is missing; imports no Triton itself."""

import importlib.util
import os

import torch

from bnas.errors import BnasError


def interpreting() -> bool:
    """Whether TRITON_INTERPRET=1 is set: Triton kernels then run in NumPy, on the CPU. Exact, slow, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def device() -> torch.device:
    """Where the Triton kernels run: the current GPU, or the CPU when interpreting. `BnasError` where neither is there."""
    if importlib.util.find_spec("triton") is None:
        raise BnasError("the triton back end needs the package triton (Linux only): pip install 'bnas[triton]'")
    if interpreting():
        return torch.device("cpu")
    if torch.version.cuda is None:
        raise BnasError(
            f"the triton back end needs a torch with CUDA; torch {torch.__version__} here has none: "
            "install a CUDA build (pytorch.org), or choose another back end"
        )
    if not torch.cuda.is_available():
        raise BnasError(
            "the triton back end needs an NVIDIA GPU and its driver; torch finds none: choose another back end"
        )
    return torch.device("cuda", torch.cuda.current_device())
