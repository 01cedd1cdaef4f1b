"""Models compiled for a CPU by OpenVINO: in fp32 torch's numbers to about 1e-5, sooner."""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from core.errors import InputError

if TYPE_CHECKING:
    import torch

PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16"}  # by number format


def package(name: str) -> Any:
    """``openvino`` or ``nncf``, without the telemetry that would report each use to its makers.

    Raises InputError where it is not installed.
    """
    # Both do without their telemetry where it cannot be imported
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"backend: openvino and int8 need the package {name}; "
            "install requirements.txt, or set backend=torch"
        ) from None


def converted(model: Any, names: Sequence[str]) -> Any:
    """An OpenVINO model of a torch one.

    Its integer inputs, called ``names``, are [rows, tokens] of any size.
    """
    import torch

    ids = torch.ones((2, 8), dtype=torch.long)
    example = {name: ids for name in names}
    with warnings.catch_warnings(action="ignore"):  # of tracing
        return package("openvino").convert_model(model, example_input=example)


def compiled(model: Any, number_format: str = "fp32") -> Callable[[dict], "torch.Tensor"]:
    """A function from padded inputs to a model's first output, computed in fp32 or bf16."""
    import torch

    properties = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned threads of two processes would share a core while another idles
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[number_format],
    }
    core = package("openvino").Core()
    request = core.compile_model(model, "CPU", properties).create_infer_request()

    def forward(inputs: dict) -> "torch.Tensor":
        arrays = {name: values.numpy() for name, values in inputs.items()}
        first_output = request.infer(arrays)[0]
        return torch.from_numpy(first_output.copy())  # the request overwrites its own

    return forward
