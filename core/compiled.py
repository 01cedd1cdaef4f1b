"""Models compiled for a CPU by OpenVINO: the same numbers as torch's in fp32 to about 1e-5, sooner."""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence

from core.errors import InputError


def package(name: str):
    """``openvino`` or ``nncf``, without the telemetry that would report each use to its makers. Raises InputError where it is not installed."""
    sys.modules.setdefault(
        "openvino_telemetry", None
    )  # both do without where it cannot be imported
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"backend: openvino and int8 need the package {name}; install requirements.txt, or set backend=torch"
        ) from None


def converted(model, names: Sequence[str]):
    """An OpenVINO model of a torch one with the integer inputs ``names``, [rows, tokens] of any size."""
    import torch

    ids = torch.ones((2, 8), dtype=torch.long)
    with warnings.catch_warnings(action="ignore"):  # of tracing
        return package("openvino").convert_model(model, example_input={name: ids for name in names})


def compiled(model, number_format: str = "fp32") -> Callable[[dict], "torch.Tensor"]:  # noqa: F821
    """A function from padded inputs to the first output, computed in fp32 or bf16. Threads are not pinned: those of two processes would
    share a core while another idles."""
    import torch

    request = (
        package("openvino")
        .Core()
        .compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
                "ENABLE_CPU_PINNING": False,
                "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[number_format],
            },
        )
        .create_infer_request()
    )
    return lambda inputs: torch.from_numpy(
        request.infer({name: values.numpy() for name, values in inputs.items()})[0].copy()
    )
