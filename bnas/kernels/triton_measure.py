"""Time the forms of a kernel on the GPU, as they will run in a CUDA graph, after each gave the right integers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
import triton
from torch import Tensor

import bnas
from bnas.kernels.dispatch import Choice, Trial, file_for
from bnas.kernels.epilogue import Epilogue
from bnas.kernels.geometry import Geometry
from bnas.kernels.triton_forms import FORMS, choice_of, forms_for
from bnas.kernels.triton_launch import Tile

# Ours. Runs in one graph, so that the launch of the graph does not count; rounds in which all take their turn.
RUNS = 10
ROUNDS = 9


def choices_file(device: torch.device) -> Path:
    """Where the choices for this device, driver-side versions and bnas are kept."""
    properties = torch.cuda.get_device_properties(device)
    return file_for(
        {
            "device": properties.name,
            "capability": [properties.major, properties.minor],
            "multiprocessors": properties.multi_processor_count,
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": triton.__version__,
            "bnas": bnas.__version__,
        }
    )


def measure(geometry: Geometry, bits: Tensor, weight: Tensor, epilogue: Epilogue) -> list[Trial]:
    """A trial of every form and tile that this GPU has. The integers of the plain popcount form are the right ones."""
    expected = _runner(choice_of("popc", FORMS["popc"].tiles[0]), geometry, bits, weight, epilogue)()
    trials: list[Trial] = []
    runners: list[tuple[Choice, Callable[[], Tensor]]] = []
    for name in forms_for(bits.device):
        for tile in FORMS[name].fitting(epilogue):
            choice = choice_of(name, tile)
            try:
                runner = _runner(choice, geometry, bits, weight, epilogue)
                if torch.equal(runner(), expected):
                    runners.append((choice, runner))
                else:
                    trials.append(Trial(choice, None, "wrong integers"))
            except (RuntimeError, triton.errors.TritonError) as error:
                # A tile may want more registers or shared memory than this GPU has.
                trials.append(Trial(choice, None, f"{type(error).__name__}: {error}"))
    times = in_turn([runner for _, runner in runners])
    return trials + [Trial(choice, median(t)) for (choice, _), t in zip(runners, times, strict=True)]


def in_turn(functions: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Microseconds of one call of each function, `ROUNDS` of each, all in turn, each captured in a CUDA graph of its own."""
    graphs = [_captured(function) for function in functions]
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS):
        for graph, its in zip(graphs, times, strict=True):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            its.append(start.elapsed_time(end) * 1000 / RUNS)
    return times


def _captured(function: Callable[[], object]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(RUNS):
            function()
    graph.replay()
    return graph


def _runner(
    choice: Choice, geometry: Geometry, bits: Tensor, weight: Tensor, epilogue: Epilogue
) -> Callable[[], Tensor]:
    form = FORMS[choice.form]
    prepared = form.prepare(geometry, weight)
    return lambda: form.run(Tile(*choice.tile), geometry, bits, weight, prepared, epilogue)
