"""The CPU kernels beyond what every back end promises: threads, machine code, the cache on disk."""

import dataclasses
import inspect
import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import binding, ir
from numba.core import config

from bnas.errors import BnasError
from bnas.kernels import cpu, get_backend, reference
from bnas.kernels.cpu import jit, popcount
from bnas.kernels.cpu.filter_tables import FILTER_TABLES
from bnas.kernels.cpu.forms import forms_here, quickest
from bnas.kernels.cpu.layer import BinaryLayer, Outputs, Threshold
from bnas.kernels.cpu.micro import FOUR, ONE, TWO, emit_filter_tables, emit_popcount, emit_tables
from bnas.kernels.cpu.operands import rows_of_task
from bnas.kernels.cpu.popcount import POPCOUNT
from bnas.kernels.cpu.tables import TABLES
from bnas.kernels.geometry import Geometry
from bnas.kernels.packing import pack_activations, pack_weights


def signs(*shape, seed=0):
    return np.where(np.random.default_rng(seed).random(shape) < 0.5, -1.0, 1.0)


@pytest.fixture
def two_threads():
    if config.NUMBA_NUM_THREADS < 2:
        pytest.skip("this machine has one core")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("form", forms_here(), ids=lambda form: form.name)
def test_threads_do_not_change_the_sums(two_threads, monkeypatch, form):
    monkeypatch.setattr("bnas.kernels.cpu.plan.MICROSECONDS_FOR_THREADS", 0)
    monkeypatch.setattr("bnas.kernels.cpu.operands.TASK_BYTES", 600)
    x, w = signs(3, 40, 11, 9), signs(20, 40, 3, 3, seed=1)
    options = {"channels": 40, "padding": (1, 1, 1, 1)}
    words, weights = pack_activations(x), pack_weights(w)
    expected = reference.conv2d(words, weights, **options)
    layer = BinaryLayer(form, weights, **options)
    sums = np.empty(expected.shape, np.int32)
    plan = layer.plan(words, Outputs(sums=sums))
    assert plan.tasks > 3
    assert plan.threads() == 2
    # Two threads in one place may get by once.
    for _ in range(30):
        sums.fill(0x5A5A5A5A)
        plan()
        assert np.array_equal(sums, expected)


@pytest.mark.parametrize(("images", "threads", "tasks"), [(1, 1, 3), (1, 2, 4), (1, 3, 3), (3, 2, 12), (0, 2, 0)])
def test_each_thread_has_as_many_tasks(monkeypatch, images, threads, tasks):
    """One image of 20 rows, 8 of which stay in the cache, is 3 tasks: two threads would wait for each other."""
    monkeypatch.setattr("bnas.kernels.cpu.operands.TASK_BYTES", 800)
    rows = rows_of_task(Geometry(images, 20, 8, 8, 8), 100, threads)
    assert rows <= 8
    assert images * -(-20 // rows) == tasks


@st.composite
def layers_on_real_maps(draw):
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    return {
        "channels": groups * draw(st.integers(1, 40)),
        "groups": groups,
        "stride": draw(pairs),
        "dilation": draw(pairs),
        "padding": draw(st.tuples(*[st.integers(-1, 3)] * 4)),
        "pad_value": draw(st.sampled_from([0, 1, -1])),
    }, draw(st.sampled_from([6, 11, 20, 35]))


@pytest.mark.parametrize("form", forms_here(), ids=lambda form: form.name)
@pytest.mark.parametrize("comparisons", [1, 3])
@settings(deadline=None, max_examples=40)
@given(layers_on_real_maps())
def test_sums_of_real_maps_are_those_of_their_bits(form, comparisons, layer):
    """Words that several groups share, lines of several strides, what is outside of them."""
    options, width = layer
    generator = np.random.default_rng(width)
    x = generator.standard_normal((2, 8, width, options["channels"])).astype(np.float32)
    value = generator.standard_normal((comparisons, options["channels"])).astype(np.float32)
    threshold = Threshold(value, generator.random(options["channels"]) < 0.5)
    weights = pack_weights(signs(2 * options["groups"], options["channels"] // options["groups"], 2, 2))
    maps = x.transpose(0, 3, 1, 2)
    packed = [reference.threshold_pack(maps, limits, threshold.flip, options["groups"]) for limits in value]
    expected = reference.conv2d(np.bitwise_xor.reduce(packed), weights, **options)
    sums = np.full(expected.shape, 0x5A5A5A5A, np.int32)
    BinaryLayer(form, weights, **options).plan(x, Outputs(sums=sums), threshold=threshold)()
    assert np.array_equal(sums, expected)


def test_threads_do_not_change_packed_bits(two_threads, monkeypatch):
    monkeypatch.setattr("bnas.kernels.cpu.pack.VALUES_FOR_THREADS", 0)
    x = np.random.default_rng(0).standard_normal((3, 34, 5, 7)).astype(np.float32)
    value, flip = x[0, :, 0, 0].copy(), np.arange(34) % 2 == 0
    expected = reference.threshold_pack(x, value, flip, 2)
    pack, empty = get_backend("cpu").threshold_pack, np.empty
    by_pixel = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for features in (x, by_pixel):
        # Compiled first: the compiler does not know the function below.
        assert np.array_equal(pack(features, value, flip, 2), expected)
        with monkeypatch.context() as patch:
            # What a thread leaves out is not what the first call wrote there.
            patch.setattr(np, "empty", lambda *given, **options: ~np.zeros_like(empty(*given, **options)))
            assert np.array_equal(pack(features, value, flip, 2), expected)


def test_the_backend_says_which_inner_loops_run():
    assert get_backend("cpu").detail.split(",")[0] == " or ".join(form.name for form in forms_here())


def chosen(monkeypatch, has, channels, filters, size, kernel=3, **more):
    """The form that a processor with these features runs."""
    monkeypatch.setattr("bnas.kernels.cpu.forms.features", lambda: frozenset(has))
    sides = {"height": size, "width": size, "kernel": (kernel, kernel), "padding": (kernel // 2,) * 4}
    return quickest(Geometry(images=1, channels=channels, filters=filters, **sides | more))


# Which form was the quickest with AVX2; a matrix of one row is an image of one pixel.
CHOICES = {
    TABLES: [
        {"channels": 36, "filters": 36, "size": 32},
        {"channels": 36, "filters": 36, "size": 32, "groups": 3},
        {"channels": 144, "filters": 144, "size": 8, "groups": 12},
        {"channels": 144, "filters": 36, "size": 32, "kernel": 1},
        {"channels": 72, "filters": 72, "size": 32, "kernel": 1, "stride": (2, 2)},
    ],
    FILTER_TABLES: [
        {"channels": 128, "filters": 128, "size": 28},
        {"channels": 512, "filters": 512, "size": 7},
        {"channels": 256, "filters": 512, "size": 14, "stride": (2, 2)},
        {"channels": 1024, "filters": 1024, "size": 1, "kernel": 1},
        {"channels": 4096, "filters": 4096, "size": 8, "kernel": 1},
    ],
    # Weights that no cache holds: bits are fewer bytes than places of tables.
    POPCOUNT: [{"channels": 4096, "filters": 4096, "size": 1, "kernel": 1}],
}


def test_each_shape_has_the_form_that_takes_the_least_time(monkeypatch):
    for form, shapes in CHOICES.items():
        assert [chosen(monkeypatch, ("avx2",), **shape) for shape in shapes] == [form] * len(shapes)
        assert {chosen(monkeypatch, ("sse2",), **shape) for shape in shapes} == {POPCOUNT}
    # Vector popcount: whole words and vectors; small groups fill neither.
    counts_bits = ("avx2", "avx512vpopcntdq")
    assert {chosen(monkeypatch, counts_bits, **shape) for shape in CHOICES[FILTER_TABLES]} == {POPCOUNT}
    assert chosen(monkeypatch, counts_bits, **CHOICES[TABLES][1]) is TABLES


@pytest.mark.parametrize("form", [TABLES, FILTER_TABLES], ids=lambda form: form.name)
def test_counts_of_16_bits_are_not_asked_to_hold_more(form):
    longest = Geometry(1, 8, 8, 65_535, 64)
    assert form.cost(longest, frozenset()) < np.inf
    assert form.cost(dataclasses.replace(longest, channels=65_536), frozenset()) == np.inf


@pytest.mark.parametrize("form", forms_here(), ids=lambda form: form.name)
def test_every_tile_counts_what_the_reference_counts(form):
    """128 and 70 pixels, 200 filters: tiles of 4, 2 and 1 vectors of either, and pixels without a neighbour."""
    x, w = signs(1, 37, 11, 18), signs(200, 37, 3, 3, seed=1)
    words, weights = pack_activations(x), pack_weights(w)
    options = {"channels": 37, "padding": (1, 1, 1, 1)}
    assert np.array_equal(cpu.conv2d(form, words, weights, **options), reference.conv2d(words, weights, **options))


@pytest.mark.skipif(TABLES not in forms_here(), reason="needs AVX2")
@pytest.mark.parametrize("form", [TABLES, FILTER_TABLES], ids=lambda form: form.name)
def test_sums_of_the_longest_products_that_tables_take(form):
    x, w = np.ones((1, 65_535, 1, 3)), -np.ones((2, 65_535, 1, 1))
    sums = cpu.conv2d(form, pack_activations(x), pack_weights(w), channels=65_535)
    assert (sums == -65_535).all()


def machine_code(emit, tile, cpu):
    """Assembly of one inner loop for a processor that need not be this one."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = "x86_64-unknown-linux-gnu"
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * (len(inspect.signature(emit).parameters) - 2))
    function = ir.Function(module, kind, "inner")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit(builder, tile, *function.args)
    builder.ret_void()
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    machine = binding.Target.from_triple(module.triple).create_target_machine(cpu=cpu, opt=3)
    options = binding.create_pipeline_tuning_options(speed_level=3)
    builder_of_passes = binding.create_pass_builder(machine, options)
    builder_of_passes.getModulePassManager().run(parsed, builder_of_passes)
    return machine.emit_assembly(parsed)


def innermost_loop(code, instruction):
    """The lines of the basic block that has most of that instruction."""
    blocks = re.split(r"^\.?L\w+:.*$", code, flags=re.MULTILINE)
    block = max(blocks, key=lambda block: block.count(instruction))
    lines = [line.strip() for line in block.splitlines() if line.strip() and not line.strip().startswith(("#", "."))]
    # What follows the jump back is no longer the loop.
    return list(itertools.takewhile(lambda line: not line.startswith("j"), lines))


@pytest.mark.parametrize("cpu", ["znver4", "icelake-server"])
@pytest.mark.parametrize("tile", [popcount.SEVEN_BY_ONE, popcount.ONE_BY_FOUR])
def test_words_are_counted_by_vector_popcount_in_registers(cpu, tile):
    loop = innermost_loop(machine_code(emit_popcount, tile, cpu), "vpopcntd")
    counted = [line for line in loop if line.startswith("vpopcntd")]
    # LLVM may run two steps at once.
    assert len(counted) % (tile.pixels * tile.filters) == 0
    assert counted
    assert all("%zmm" in line for line in counted)
    assert not [line for line in loop if "(%rsp" in line and "zmm" in line]


@pytest.mark.parametrize("tile", [FOUR, TWO, ONE], ids=str)
@pytest.mark.parametrize("emit", [emit_tables, emit_filter_tables])
def test_tables_are_looked_up_by_byte_shuffles_in_registers(emit, tile):
    loop = innermost_loop(machine_code(emit, tile, "znver3"), "vpshufb")
    shuffles = [line for line in loop if line.startswith("vpshufb")]
    sums = tile.tables * tile.vectors
    assert len(shuffles) == 3 * sums
    assert not [line for line in loop if "(%rsp" in line and "ymm" in line]
    # Two of three steps are added to the third, and then the bytes and their upper halves to what there is.
    assert len([line for line in loop if line.startswith("vpaddb")]) == 4 * sums
    assert len([line for line in loop if line.startswith(("vpand", "vpsrlw"))]) == 2 * sums


USE = """
import numpy as np, torch
from bnas.kernels.cpu import jit, pack
torch.set_num_threads(2)
pack.VALUES_FOR_THREADS = 0
x = np.ones((2, 3, 2, 1), np.float32).transpose(0, 1, 3, 2)
bits = pack.threshold_pack(x, np.zeros(3, np.float32), np.zeros(3, bool))
stats = pack._planes_parallel.stats
print(bits.ravel().tolist(), sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), torch.get_num_threads())
"""


def test_compiled_code_is_kept_for_the_next_process_and_torch_keeps_its_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    said = [
        subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["[7, 7, 7, 7] 0 1 2", "[7, 7, 7, 7] 1 0 2"]
    assert list((tmp_path / "bnas").rglob("*.nbi"))


def test_the_cache_goes_where_it_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert jit.cache_folder().is_relative_to(tmp_path / "home" / ".cache")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr(jit, "_private_temporary", lambda: str(tmp_path / "file" / "too"))
    with pytest.raises(BnasError, match="set NUMBA_CACHE_DIR"):
        jit.cache_folder()


def test_another_version_of_the_sources_has_another_cache(monkeypatch):
    before = jit.cache_folder()
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"changed")
    assert jit.cache_folder() != before
