"""A pickle read as data: nothing in it is imported, called or run.

`pickle.load` executes what a file asks for, and its C version can be made to take gigabytes by four bytes. Here
`pickletools` cuts the file into its instructions, and a small stack machine carries out those that build plain
values: numbers, text, bytes, lists, tuples, dictionaries and numpy arrays of whole numbers. The rest is refused.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnas.errors import BnasError

# CIFAR-100's training file has some 400,000 instructions.
MOST_INSTRUCTIONS = 5_000_000

# The global names in pickles of numpy arrays, and of bytes under old protocols: compared with, never looked up.
MEANINGS = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy.core.numeric _frombuffer": "frombuffer",
    "numpy._core.numeric _frombuffer": "frombuffer",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}


@dataclass(frozen=True)
class _Name:
    meaning: str


@dataclass
class _Type:
    code: object
    order: object = "|"


@dataclass
class PickledArray:
    """A numpy array as it lies in a pickle; `numpy` checks it and makes the array."""

    shape: object = None
    dtype: object = None
    fortran: object = False
    data: object = None

    def numpy(self) -> np.ndarray:
        """The array, a view of the file's bytes. `BnasError` unless it holds whole numbers and the sizes fit."""
        shape, dtype = self.shape, self.dtype
        # 32 dimensions are numpy's own limit.
        if (
            not isinstance(shape, tuple)
            or len(shape) > 32
            or not all(type(size) is int and 0 <= size < 2**40 for size in shape)
        ):
            raise BnasError("it holds a numpy array without a shape")
        code, order = (_text(dtype.code), _text(dtype.order)) if isinstance(dtype, _Type) else ("", "")
        if not re.fullmatch("[iu][1248]", code) or order not in ("|", "<", ">", "="):
            raise BnasError(f"it holds a numpy array of type '{code}'; only whole numbers are expected")
        size = math.prod(shape) * int(code[1])
        if not isinstance(self.data, bytes) or len(self.data) != size:
            raise BnasError(f"it holds a numpy array of shape {shape} without the {size:,} bytes for it")
        values = np.frombuffer(self.data, np.dtype(order + code))
        return values.reshape(shape, order="F" if self.fortran else "C")


def read_pickle(source: bytes) -> object:
    """The value in a pickle of any protocol, with `PickledArray` for arrays; strings of Python 2 come as bytes.

    `BnasError` for a file that is not a pickle, is cut short, or holds anything but plain values.
    """
    machine = _Machine(len(source))
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(io.BytesIO(source))):
            if count >= MOST_INSTRUCTIONS:
                raise BnasError(f"it has more than {MOST_INSTRUCTIONS:,} pickle instructions")
            machine.step(instruction.name, argument)
        return machine.pop()
    except (ValueError, IndexError) as error:
        raise BnasError(f"it is not a whole pickle ({error})") from None


class _Machine:
    """The stack, the marks on it and the numbered memory of a pickle that is being read."""

    def __init__(self, size: int) -> None:
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memory: dict[int, object] = {}
        # Each byte of text may be encoded once; encoding one text again and again would multiply a file in memory.
        self._encodable = size

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction; `BnasError` for one that plain values do not need."""
        if name in _VALUES:
            self.stack.append(_VALUES[name](argument))
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise BnasError(f"it holds the pickle instruction {name}; only plain values and numpy arrays are read")

    def pop(self) -> object:
        if self.marks and len(self.stack) == self.marks[-1]:
            raise ValueError("a value is missing")
        return self.stack.pop()

    def above_mark(self) -> list[object]:
        """The values since the last mark, taken off the stack."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def drop(self) -> None:
        if self.marks and len(self.stack) == self.marks[-1]:
            self.marks.pop()
        else:
            self.pop()

    def recall(self, number: int) -> None:
        if number not in self.memory:
            raise ValueError(f"value {number} is used before it is there")
        self.stack.append(self.memory[number])

    def push_tuple(self, length: int) -> None:
        values = [self.pop() for _ in range(length)]
        self.stack.append(tuple(reversed(values)))

    def push_dict(self) -> None:
        items = self.above_mark()
        self.stack.append({})
        self.set_items(items)

    def extend(self, values: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("values are added to what is no list")
        target.extend(values)

    def set_items(self, items: list[object]) -> None:
        """Keys and values in turn into the dictionary on top; only text as a key, so that hashing it is harmless."""
        target = self.stack[-1]
        if (
            not isinstance(target, dict)
            or len(items) % 2
            or not all(isinstance(key, str | bytes) for key in items[::2])
        ):
            raise ValueError("values are set in what is no dictionary by text")
        target.update(zip(items[::2], items[1::2], strict=True))

    def name(self, module: object, name: object) -> None:
        full = f"{_text(module)} {_text(name)}"
        if full not in MEANINGS:
            raise BnasError(f"it asks for '{full.replace(' ', '.')}'; only plain values are read, and nothing is run")
        self.stack.append(_Name(MEANINGS[full]))

    def reduce(self) -> None:
        """What a call of one of the known names would give; no call is made."""
        arguments, function = self.pop(), self.pop()
        match function, arguments:
            case _Name("array"), (_Name("ndarray"), _, _):
                self.stack.append(PickledArray())
            case _Name("frombuffer"), (data, dtype, shape, order):
                self.stack.append(PickledArray(shape, dtype, _text(order) == "F", data))
            case _Name("dtype"), (code, *_):
                self.stack.append(_Type(code))
            case _Name("encode"), (str() as text, "latin1"):
                self._encodable -= len(text)
                if self._encodable < 0:
                    raise ValueError("one text is encoded again and again")
                self.stack.append(text.encode("latin-1"))
            case _:
                raise BnasError("it asks for a call; only plain values are read, and nothing is run")

    def build(self) -> None:
        """Complete an array or a type by its state."""
        state, target = self.pop(), self.stack[-1]
        match target, state:
            case PickledArray(), (_, shape, dtype, fortran, data):
                target.shape, target.dtype, target.fortran, target.data = shape, dtype, fortran, data
            case _Type(), (_, order, *_):
                target.order = order
            case _:
                raise BnasError("it holds an object; only plain values and numpy arrays are read")


def _text(value: object) -> str:
    """Text, also of Python 2; '' for anything else."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def _identity(argument: object) -> object:
    return argument


def _latin(argument: str) -> bytes:
    return argument.encode("latin-1")


# Instructions that push one value, made from their argument.
_VALUES: dict[str, Callable[[Any], object]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _identity),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _identity),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), bytes),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _latin),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_DICT": lambda _: {},
}

# Instructions that work on the stack.
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": lambda machine, _: machine.above_mark().clear(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    **dict.fromkeys(
        ("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, number: machine.memory.update({number: machine.stack[-1]})
    ),
    "MEMOIZE": lambda machine, _: machine.memory.update({len(machine.memory): machine.stack[-1]}),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    "LIST": lambda machine, _: machine.stack.append(machine.above_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.above_mark())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "DICT": lambda machine, _: machine.push_dict(),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.above_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    "GLOBAL": lambda machine, full: machine.name(*full.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*[machine.pop(), machine.pop()][::-1]),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
