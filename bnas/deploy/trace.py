"""Trace a trained network with torch.fx and lower every leaf to operations of the packed network."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from bnas.deploy.draft import Draft, Node, lay_out_bits, without_dead
from bnas.deploy.lowering import FUNCTIONS, METHODS, MODULES
from bnas.errors import BnasError


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode for the block, then each in the mode it had."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def trace(model: nn.Module) -> tuple[Draft, str, str]:
    """The operations of `model` in evaluation with their tensors, and the names of its input and of its output.

    `BnasError` names the layer that cannot be packed, and why. The shapes are not yet checked.
    """
    graph = _graph(model)
    draft = Draft()
    values: dict[fx.Node, str] = {}
    start, result = "", ""
    for node in graph.nodes:
        if node.op == "placeholder":
            if start:
                raise BnasError(f"the network takes more than one input: '{start}' and '{node.name}'")
            start = values[node] = node.name
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise BnasError("the network returns more than its logits; only a single tensor is packed")
            result = draft.real(values[node.args[0]])
        else:
            values[node] = _lower(draft, node, values, model)
    draft.ops = without_dead(lay_out_bits(draft.ops), result)
    used = {tensor for op in draft.ops for tensor in op.tensors.values()}
    draft.tensors = {name: tensor for name, tensor in draft.tensors.items() if name in used}
    return draft, start, result


class _Tracer(fx.Tracer):
    """Stops at what the lowering table knows and at modules of torch.nn; looks into everything else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in MODULES or super().is_leaf_module(m, module_qualified_name)


def _graph(model: nn.Module) -> fx.Graph:
    try:
        with in_evaluation(model):
            return _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise BnasError(f"{type(model).__name__} cannot be traced: its forward depends on values ({error})") from error


def _lower(draft: Draft, node: fx.Node, values: dict[fx.Node, str], model: nn.Module) -> str:
    """Add the operations of one node; the name of the value that stands for its result."""
    name, what, rule = _rule(node, model)
    if rule is None:
        packable = [module.__name__ for module in MODULES] + [_function_name(f) for f in FUNCTIONS]
        raise BnasError(f"layer '{name}': {what} cannot be packed; what can: {', '.join(dict.fromkeys(packable))}")
    inputs, options, named = _arguments(node, values)
    if not inputs:
        raise BnasError(f"layer '{name}': {what} reads no value of the network")
    try:
        place = Node(name, tuple(inputs), node.name)
        if node.op == "call_module":
            return rule(draft, place, model.get_submodule(str(node.target)))
        try:
            inspect.signature(rule).bind(draft, place, *options, **named)
        except TypeError as error:
            raise BnasError(f"its arguments are not among those that are packed ({error})") from None
        return rule(draft, place, *options, **named)
    except BnasError as error:
        raise error.within(f"layer '{name}' ({what})") from None


def _rule(node: fx.Node, model: nn.Module) -> tuple[str, str, Callable[..., str] | None]:
    """The layer's name, what it is, and the function that lowers it (None: there is none)."""
    if node.op == "call_module":
        kind = type(model.get_submodule(str(node.target)))
        return str(node.target), kind.__name__, MODULES.get(kind)
    stack = node.meta.get("nn_module_stack") or {}
    owner = list(stack.values())[-1][0] if stack else type(model).__name__
    if node.op == "call_function":
        return owner, _function_name(node.target), FUNCTIONS.get(node.target)
    if node.op == "call_method":
        return owner, f"the method {node.target}", METHODS.get(str(node.target))
    return owner, f"the parameter {node.target} used outside of a layer", None


def _function_name(function: Any) -> str:
    return f"the function {getattr(function, '__name__', function)}"


def _arguments(node: fx.Node, values: dict[fx.Node, str]) -> tuple[list[str], list[Any], dict[str, Any]]:
    """The values that the node reads, its other arguments, its other named arguments."""
    inputs: list[str] = []

    def is_value(argument: Any) -> bool:
        parts = list(argument) if isinstance(argument, (list, tuple)) else [argument]
        if not any(isinstance(part, fx.Node) for part in parts):
            return False
        inputs.extend(values[part] for part in parts if isinstance(part, fx.Node))
        return True

    options = [argument for argument in node.args if not is_value(argument)]
    named = {name: argument for name, argument in node.kwargs.items() if not is_value(argument)}
    return inputs, options, named
