"""Models compiled for a CPU by OpenVINO: the same numbers as torch's in fp32 to about 1e-5, sooner."""
import sys
import warnings
from collections.abc import Callable, Sequence

from core.errors import InputError


def openvino():
    """The package, without its telemetry, which would report each use to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)      # it and nncf do without where this cannot be imported
    try:
        import nncf  # noqa: F401
        import openvino
    except ImportError:
        raise InputError("backend: openvino and int8 need the packages openvino and nncf; install requirements.txt, or set backend=torch") from None
    return openvino


def converted(model, names: Sequence[str]):
    """An OpenVINO model of a torch one with the integer inputs ``names``, [rows, tokens] of any size."""
    import torch

    ids = torch.ones((2, 8), dtype=torch.long)
    with warnings.catch_warnings(action="ignore"):      # of tracing
        return openvino().convert_model(model, example_input={name: ids for name in names})


def compiled(model) -> Callable[[dict], "torch.Tensor"]:  # noqa: F821
    """A function from padded inputs to the first output."""
    import torch

    request = openvino().Core().compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    return lambda inputs: torch.from_numpy(request.infer({name: values.numpy() for name, values in inputs.items()})[0].copy())
