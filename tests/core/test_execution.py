"""What cannot be captured or compiled is said once and runs eagerly; a graph belongs to one set of active choices."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnas.errors import BnasError
from bnas.execution import Execution
from bnas.space import Gates

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


class Net(nn.Module):
    """sum of gate * layer of the active choices, behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.layers = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        x = self.norm(x)
        total: Any = 0.0
        for choice, weight in gates.of("d"):
            total = total + self.layers[choice](x) * (1.0 if weight is None else weight)
        result: Tensor = total
        return result


def net() -> Any:
    torch.manual_seed(0)
    return Net()


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
BOTH = Gates({"d": ("a", "b")}, {"d": torch.tensor([0.25, 0.75])})


def recorded(log: list[Any]) -> Any:
    """A capture that runs its module, as a graph would, and three times before, as a real one does."""

    def capture(module: nn.Module, given: tuple[Tensor, ...]) -> Any:
        for _ in range(3):
            module(*given)
        log.append("captured")

        def replay(*tensors: Tensor) -> Tensor:
            log.append("replayed")
            out: Tensor = module(*tensors)
            return out

        return replay

    return capture


def test_a_set_of_active_choices_is_captured_once_and_replayed_with_new_numbers() -> None:
    log: list[Any] = []
    run, plain = Execution(net(), "graph", CUDA, capture=recorded(log)), net()
    for numbers in ([0.25, 0.75], [0.5, -1.0]):
        gates = Gates(BOTH.active, {"d": torch.tensor(numbers)})
        torch.testing.assert_close(run(X, gates), plain(X, gates))
    assert log == ["captured", "replayed", "replayed"]
    # The runs before a capture are no steps.
    for mine, its in zip(run.net.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, its)


def test_other_sets_other_modes_and_scoring_run_eagerly_or_have_a_graph_of_their_own() -> None:
    log: list[Any] = []
    run = Execution(net(), "graph", CUDA, capture=recorded(log))
    run(X, BOTH)
    run(X, Gates(BOTH.active, {"d": torch.tensor([0.5, 0.5], requires_grad=True)}))
    assert log.count("captured") == 2
    run(X, Gates({"d": ("a",)}))
    run.net.eval()
    run(X, BOTH)
    with torch.no_grad():
        run(X, BOTH)
    assert log.count("captured") == log.count("replayed") == 2


def refusing(*given: Any) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing\nmany lines more")


def test_a_capture_that_fails_is_reported_once_with_its_reason() -> None:
    run, plain = Execution(net(), "graph", CUDA, capture=refusing), net()
    with pytest.warns(UserWarning, match="execution graph does not work here .*: operation not permitted") as said:
        torch.testing.assert_close(run(X, BOTH), plain(X, BOTH))
    assert len(said) == 1
    assert "many lines" not in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(X, BOTH)


def test_a_compilation_that_fails_is_taken_back() -> None:
    def compile(part: nn.Module) -> None:
        part._compiled_call_impl = refusing

    run, plain = Execution(net(), "compile", CPU, compile=compile), net()
    with pytest.warns(UserWarning, match="execution compile does not work here"):
        torch.testing.assert_close(run(X, BOTH), plain(X, BOTH))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(X, BOTH)


def test_an_error_of_the_network_itself_and_a_shortage_of_memory_pass() -> None:
    def full(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        Execution(net(), "graph", CUDA, capture=full)(X, BOTH)
    with pytest.raises(KeyError):
        Execution(net(), "eager", CPU)(X, Gates({}))


def test_bad_executions_are_refused() -> None:
    with pytest.raises(BnasError, match="execution graph captures a CUDA graph; on cpu take eager or compile"):
        Execution(net(), "graph", CPU)
    with pytest.raises(BnasError, match=r"no execution named 'graphs'.*Did you mean 'graph'"):
        Execution(net(), "graphs", CPU)
