"""Run the Gluon kernel on NumPy arrays: Triton's interpreter takes no Gluon, and a kernel that never ran is a guess.

The kernel's own source is executed with `gl` replaced by what each call means for values; layouts only place values in threads
and are ignored, but for one promise that is simulated: an inline instruction sees the four registers of each lane of each tile,
with the fragments that the PTX manual (mma.m16n8k256, .b1) gives to lanes and registers. Whether a compiler keeps that
promise is for the machine code and the GPU to show.
"""

import types

import numpy as np


class Pointer:
    """A flat array and the places in it that a tensor of pointers points to."""

    def __init__(self, array, place=0):
        self.array, self.place = array, place

    def __add__(self, offset):
        return Pointer(self.array, self.place + offset)


class Value(np.ndarray):
    def to(self, dtype):
        return self.astype(dtype).view(Value)


def value(x):
    return np.asarray(x).view(Value)


def load(pointer, mask=True, other=0):
    mask, place = np.broadcast_arrays(mask, pointer.place)
    assert place[mask].size == 0 or (place[mask].min() >= 0 and place[mask].max() < pointer.array.size)
    return value(np.where(mask, pointer.array[np.where(mask, place, 0)], other).astype(pointer.array.dtype))


def store(pointer, values, mask):
    values, mask, place = np.broadcast_arrays(values, mask, pointer.place)
    assert place[mask].max() < pointer.array.size
    assert len(np.unique(place[mask])) == mask.sum()
    pointer.array[place[mask]] = values[mask]


def mma(a, b, c):
    """and.popc of m16n8k256: a, b, c are lists of registers [..., 32 lanes]; the four registers of the result."""
    lanes = np.arange(32)
    rows, words = lanes // 4, lanes % 4
    shape = a[0].shape[:-1]
    A = np.zeros((*shape, 16, 8), np.uint32)
    B = np.zeros((*shape, 8, 8), np.uint32)
    for register in range(4):
        A[..., rows + 8 * (register % 2), words + 4 * (register // 2)] = a[register].view(np.uint32)
    for register in range(2):
        B[..., rows, words + 4 * register] = b[register].view(np.uint32)
    D = np.bitwise_count(A[..., :, None, :] & B[..., None, :, :]).sum(-1, dtype=np.int32)
    return [D[..., rows + 8 * (r // 2), 2 * words + r % 2] + c[r] for r in range(4)]


def two_mmas(asm, constraints, args, dtype, is_pure, pack):
    """What the two instructions of the kernel's inline PTX say, read from their text."""
    upper, lower, w, sums = np.broadcast_arrays(*args)
    registers = {}
    for first, tensor in ((4, upper), (8, lower), (12, w), (16, sums)):
        registers |= {first + i: np.ascontiguousarray(tensor[..., i]) for i in range(4)}
    for line in filter(None, map(str.strip, asm.splitlines())):
        assert line.startswith("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc ")
        d, a, b, c = ([int(r.strip(" $")) for r in part.split("}")[0].split(",")] for part in line.split("{")[1:])
        result = mma(*([registers[i] for i in numbers] for numbers in (a, b, c)))
        registers |= dict(zip(d, result, strict=True))
    return value(np.stack([registers[i] for i in range(4)], axis=-1))


def layout(*_):
    return None


def gluon_language(ids):
    """A module that stands for `gluon.language` in program `ids`."""
    return types.SimpleNamespace(
        constexpr=None,
        BlockedLayout=layout,
        SliceLayout=layout,
        convert_layout=lambda x, layout: x,
        arange=lambda start, end, layout=None: value(np.arange(start, end, dtype=np.int32)),
        full=lambda shape, fill, dtype, layout: value(np.full(shape, fill, dtype)),
        zeros=lambda shape, dtype, layout: value(np.zeros(shape, dtype)),
        reshape=lambda x, shape: x.reshape(shape),
        sum=lambda x, axis: x.sum(axis=axis, dtype=np.int32),
        program_id=lambda axis: ids[axis],
        inline_asm_elementwise=two_mmas,
        load=load,
        store=store,
        int32=np.int32,
        float32=np.float32,
    )


def launch(module, kernel, grid, arguments, constants):
    """Every program of `grid`; arrays among the arguments are flat memory."""
    names = {name: thing for name, thing in vars(module).items() if hasattr(thing, "fn")}
    for z in range(grid[2]):
        for y in range(grid[1]):
            for x in range(grid[0]):
                scope = {
                    "gl": gluon_language((x, y, z)),
                    "STEP_WORDS": 16,
                    "TWO_MMAS": module.TWO_MMAS.value,
                    "REGISTERS": "",
                }
                for name, thing in names.items():
                    scope[name] = types.FunctionType(_plain(thing.fn).__code__, scope, name)
                given = [Pointer(a.reshape(-1)) if isinstance(a, np.ndarray) else a for a in arguments]
                scope[kernel](*given, **constants)


def _plain(function):
    return getattr(function, "__wrapped__", function)
