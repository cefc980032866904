"""bnas: binary neural architecture search, from a search job to a file of bits that runs."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnas.deploy.runtime import PackedNetwork

__version__ = "0.1.0"


def load(path: str | Path, backend: str = "cpu") -> "PackedNetwork":
    """The network of a `model.bnas` file, to be called with images; see `bnas.deploy.runtime.PackedNetwork`.

    `backend`: one of `bnas.kernels.BACKENDS`; the one that is named runs, or a `BnasError` says what is missing.
    """
    # Imported here, so that `import bnas` stays light.
    from bnas.deploy.runtime import load as load_packed

    return load_packed(path, backend)
