"""A whole network in int8 by onnxruntime, a rival of packed networks: exported from torch, calibrated, quantized statically."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnas.errors import BnasError
from bnas.kernels.cpu.forms import features

Call = Callable[[], Any]

OPSET = 17
# What most of the time goes to. Quantizing additions, pools and concatenations too made no network quicker.
QUANTIZED = ["Conv", "Gemm", "MatMul"]


def quantized(real: nn.Module, x: Tensor) -> bytes:
    """An ONNX model of `real` with int8 weights and uint8 activations, calibrated on the images x.

    `BnasError` says why there is none: onnx or onnxruntime is not installed, or they do not take the network.
    """
    try:
        import onnx  # noqa: F401
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise BnasError(f"{error.name} is not installed: pip install 'bnas[onnx]'") from None

    class Once(CalibrationDataReader):  # type: ignore[misc]
        """The images, as one batch."""

        def __init__(self) -> None:
            self.batches = iter([{"x": x.numpy()}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder, _quietly():
        exported, plain, result = (Path(folder) / f"{name}.onnx" for name in ("exported", "plain", "int8"))
        try:
            _export(real, x, exported)
            _optimize(exported, plain)
            quantize_static(
                plain,
                result,
                Once(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Without VNNI, the sum of two products of 8 bits does not fit: weights of 7.
                reduce_range=not features() & {"avx512vnni", "avxvnni"},
            )
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise BnasError(f"onnxruntime does not quantize this network: {error}") from error
        return result.read_bytes()


def session(model: bytes, x: Tensor) -> Call:
    """The model on x, on as many threads as torch has."""
    import onnxruntime

    ready = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
    images = x.numpy()
    return lambda: ready.run(None, {"x": images})


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its waiting threads must not take the processor from the others' turns.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _export(real: nn.Module, x: Tensor, path: Path) -> None:
    """The network as ONNX, for any number of images."""
    torch.onnx.export(
        real, (x,), path, dynamo=False, opset_version=OPSET, input_names=["x"], dynamic_axes={"x": {0: "N"}}
    )


def _optimize(model: Path, path: Path) -> None:
    """What onnxruntime does to any graph (constants computed, norms folded into convolutions), written to `path`."""
    import onnxruntime

    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the advice of the exporter and the quantizer, which is not for the user of a benchmark."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
