"""Pickles read as data: equal to what pickle itself gives for plain values, and nothing else gets through."""

import collections
import os
import pickle

import numpy as np
import pytest

from bnas.data.pickled import PickledArray, read_pickle
from bnas.errors import BnasError

# What Python 2's cPickle wrote for {'labels': [3, 200], 'data': numpy.array([[1, 2], [3, 4]], 'uint8')}.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x03K\xc8eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05"
    b"cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87"
    b"Rq\t(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x01\x02\x03\x04tbu."
)


class Runs:
    """Would create a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_what_pickle_gives(protocol):
    shared = [1, -2, 2**40, 10**30]
    value = {
        "numbers": shared,
        "again": shared,
        "text": ["", "a", "ä" * 300],
        b"bytes": b"\x00\xff" * 200,
        "other": (None, True, False, 1.5, (), {}, [], (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "long": list(range(3000)),
    }
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["uint8", "<i4", ">i4", "int64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_what_pickle_gives(protocol, dtype, order):
    array = np.asarray(np.arange(60).reshape(3, 4, 5) * 3, dtype=dtype, order=order)
    found = read_pickle(pickle.dumps(array, protocol))
    assert isinstance(found, PickledArray)
    assert np.array_equal(found.numpy(), array)


def test_a_pickle_of_python_2():
    assert pickle.loads(PYTHON_2, encoding="bytes")[b"labels"] == [3, 200], "the sample itself must be right"
    found = read_pickle(PYTHON_2)
    assert found[b"labels"] == [3, 200]
    assert found[b"data"].numpy().tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(tmp_path, protocol):
    target = tmp_path / "made"
    with pytest.raises(BnasError, match=r"it asks for '(posix|nt|os).mkdir'; only plain values are read"):
        read_pickle(pickle.dumps({"a": Runs(str(target))}, protocol))
    assert not target.exists()


@pytest.mark.parametrize("value", [collections.OrderedDict(a=1), {1, 2}, np.float64(1), ValueError("x"), print])
def test_other_kinds_are_refused(value):
    with pytest.raises(BnasError, match="only plain values"):
        read_pickle(pickle.dumps(value, 4))


@pytest.mark.parametrize("values", [[{}], [1.5], ["text"], [1j]])
def test_arrays_of_anything_but_whole_numbers_are_refused(values):
    array = np.array(values, dtype=object if values == [{}] else None)
    with pytest.raises(BnasError, match=r"a numpy array of type .*; only whole numbers are expected"):
        read_pickle(pickle.dumps(array, 4)).numpy()


@pytest.mark.parametrize("call", [b"cnumpy\nndarray\nK\x01\x85R", b"c_codecs\nencode\nK\x01\x85R", b"K\x01K\x01\x85R"])
def test_a_known_name_takes_no_other_arguments(call):
    with pytest.raises(BnasError, match="asks for a call"):
        read_pickle(b"\x80\x02" + call + b".")


def test_the_state_of_anything_else_is_refused():
    with pytest.raises(BnasError, match="it holds an object; only plain values and numpy arrays are read"):
        read_pickle(b"\x80\x02]}b.")


def test_an_array_whose_bytes_do_not_fill_its_shape_is_refused():
    for shape in ((3, 2), (2**39, 2**39)):
        array = PickledArray(shape, read_pickle(PYTHON_2)[b"data"].dtype, False, b"1234")
        with pytest.raises(BnasError, match=r"holds a numpy array of shape .* without the [\d,]+ bytes for it"):
            array.numpy()


@pytest.mark.parametrize("shape", [None, (-1, 4), (1,) * 33, ("4",), (True,)])
def test_an_array_without_a_shape_is_refused(shape):
    array = PickledArray(shape, read_pickle(PYTHON_2)[b"data"].dtype, False, b"1")
    with pytest.raises(BnasError, match="a numpy array without a shape"):
        array.numpy()


@pytest.mark.parametrize(
    "source",
    [b"", b"not a pickle", PYTHON_2[:40], PYTHON_2[:-1], b"\x80\x02.", b"N0N0.", b"(.", b"\x80\x02e.", b"K\x01(\x85."],
)
def test_what_is_not_a_whole_pickle_is_refused(source):
    with pytest.raises(BnasError, match="it is not a whole pickle"):
        read_pickle(source)


@pytest.mark.parametrize("key", [b"]", b")", b"K\x01", b"N"])
def test_keys_must_be_text(key):
    with pytest.raises(BnasError, match="values are set in what is no dictionary by text"):
        read_pickle(b"\x80\x02}" + key + b"K\x01s.")


def test_a_huge_memory_number_takes_no_memory():
    """pickle's C version makes a table of twice that many entries: 64 GiB for these bytes."""
    assert read_pickle(b"\x80\x02Nr\xff\xff\xff\xff.") is None


def test_a_text_cannot_be_multiplied():
    text = b"X\x00\x04\x00\x00" + b"a" * 1024 + b"q\x00"
    again = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(BnasError, match="one text is encoded again and again"):
        read_pickle(b"\x80\x02" + text + again * 50 + b".")


def test_the_number_of_instructions_is_bounded(monkeypatch):
    monkeypatch.setattr("bnas.data.pickled.MOST_INSTRUCTIONS", 100)
    with pytest.raises(BnasError, match="more than 100 pickle instructions"):
        read_pickle(b"]" * 200 + b".")
