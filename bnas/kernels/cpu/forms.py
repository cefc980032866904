"""The forms of the convolution that this processor runs, and which one is quick for a layer."""

from functools import cache

from llvmlite import binding

from bnas.kernels.cpu.filter_tables import FILTER_TABLES
from bnas.kernels.cpu.operands import Form
from bnas.kernels.cpu.popcount import POPCOUNT
from bnas.kernels.cpu.tables import TABLES
from bnas.kernels.geometry import Geometry


@cache
def features() -> frozenset[str]:
    """What this processor has, in LLVM's words."""
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)


def forms_here() -> tuple[Form, ...]:
    """Those that this processor runs: look-ups need AVX2."""
    return (POPCOUNT, TABLES, FILTER_TABLES) if "avx2" in features() else (POPCOUNT,)


def quickest(g: Geometry) -> Form:
    """The form that takes the least time for that convolution."""
    return min(forms_here(), key=lambda form: form.cost(g, features()))


def detail() -> str:
    """The inner loops, and what the processor gives them."""
    known = ("avx512vpopcntdq", "avx512bw", "avx2", "neon")
    best = next((feature for feature in known if feature in features()), "no vector instructions that matter")
    return f"{' or '.join(form.name for form in forms_here())}, {best}"
