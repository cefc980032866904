"""Super-networks of cells in their plain form: every candidate normalizes, takes the sign and convolves by itself.

What the form that runs (`bnas.layers.merged`) is compared with, in tests and by `bnas bench supernet`.
"""

import torch
from torch import Tensor

from bnas.layers import channel_shuffle
from bnas.layers.ops import Zero
from bnas.space import Gates, Supernet
from search_spaces.cell_network import INPUTS, Cell, CellSupernet, edge_name
from search_spaces.opened import OpenedSupernet


def plain_forward(net: Supernet, x: Tensor, gates: Gates) -> Tensor:
    """The logits of `net(x, gates)`."""
    if isinstance(net, OpenedSupernet):
        with net._choosing(gates):
            return plain_forward(net.net, x, gates)
    assert isinstance(net, CellSupernet)
    s0, s1 = net.stem(x)
    for cell in net.cells:
        assert isinstance(cell, Cell)
        s0, s1 = s1, _cell(cell, s0, s1, gates)
    logits: Tensor = net.classifier(net.pool(s1).flatten(1))
    return logits


def _cell(cell: Cell, s0: Tensor, s1: Tensor, gates: Gates) -> Tensor:
    states = [cell.preprocess[0](s0), cell.preprocess[1](s1)]
    for target in range(INPUTS, INPUTS + cell.nodes):
        total: Tensor | None = None
        for source in range(target):
            chosen = gates.of(f"{cell.kind}.{edge_name(source, target)}")
            term = _edge(cell, source, target, states[source], chosen)
            if term is not None:
                total = term if total is None else total + term
        states.append(cell.nothing(states[0]) if total is None else total)
    out = torch.cat(states[INPUTS:], dim=1)
    for name, skip in cell.skips.items():
        out = out + skip((s0, s1)[int(name)])
    return out


def _edge(cell: Cell, source: int, target: int, x: Tensor, chosen: list[tuple[str, Tensor | None]]) -> Tensor | None:
    if cell.partial == 1 or not chosen:
        return _mixed(cell, source, target, x, chosen)
    width = x.shape[1] // cell.partial
    total, past = _mixed(cell, source, target, x[:, :width], chosen), x[:, width:]
    if source < INPUTS and cell.input_stride == 2:
        past = cell.halve(past)
    weights = [weight for _, weight in chosen if weight is not None]
    past = past * torch.stack(weights).sum() if weights else past
    if total is None:
        total = past.new_zeros(past.shape[0], width, *past.shape[2:])
    return channel_shuffle(torch.cat([total, past], dim=1), cell.partial)


def _mixed(cell: Cell, source: int, target: int, x: Tensor, chosen: list[tuple[str, Tensor | None]]) -> Tensor | None:
    total: Tensor | None = None
    for choice, weight in chosen:
        op = cell.edges[edge_name(source, target)][choice]  # type: ignore[index]
        if isinstance(op, Zero):
            continue
        term: Tensor = op(x, cell.inputs[str(source)](x) if op.reads_binary else None)
        term = term if weight is None else weight * term
        total = term if total is None else total + term
    return total
