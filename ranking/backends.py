"""What runs a trained cross-encoder while scoring. BACKENDS is the table: each takes a folder and a number format and gives a function
from padded inputs to logits [pairs], its device, and what its scores are known by in the store."""

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from core import backbones
from core.compiled import compiled, converted, package
from core.distributed import device
from core.files import digest

Backend = tuple[Callable[[dict], "torch.Tensor"], str, str]  # noqa: F821
INT8 = "int8.xml"


def load_model(folder: Path, number_format: str):
    from transformers import AutoModelForSequenceClassification

    return backbones.loading(
        folder,
        lambda: AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=backbones.dtype(number_format), use_safetensors=True
        ),
    ).eval()


def torch_backend(folder: Path, number_format: str) -> Backend:
    model = load_model(folder, number_format).to(device())
    return (lambda inputs: model(**inputs).logits[:, 0]), device(), number_format


def openvino_backend(folder: Path, number_format: str) -> Backend:
    """OpenVINO on a CPU, in bf16 or fp32: in fp32 the same scores as torch to about 1e-4, sooner."""
    number_format = "bf16" if number_format == "bf16" else "fp32"
    return logits(of_folder(folder), number_format), "cpu", f"openvino {number_format}"


def int8_backend(folder: Path, _number_format: str) -> Backend:
    """What ``quantise`` wrote."""
    read = package("openvino").Core().read_model(folder / INT8)
    return (
        logits(read),
        "cpu",
        "int8 "
        + digest([(folder / INT8).with_suffix(s).read_bytes().hex() for s in (".xml", ".bin")]),
    )


BACKENDS = {"torch": torch_backend, "openvino": openvino_backend, "int8": int8_backend}


def of_folder(folder: Path):
    return converted(
        load_model(folder, "fp32"), backbones.load_tokenizer(str(folder)).model_input_names
    )


def logits(model, number_format: str = "fp32") -> Callable[[dict], "torch.Tensor"]:  # noqa: F821
    forward = compiled(model, number_format)
    return lambda inputs: forward(inputs)[:, 0]


def quantise(folder: Path, sample: Sequence[dict], target: Path) -> None:
    """Post-training static quantisation of weights and activations to 8 bits (NNCF, its scheme for transformers), calibrated on the
    padded inputs of ``sample``."""
    ov, nncf = package("openvino"), package("nncf")
    nncf.set_log_level("ERROR")
    data = nncf.Dataset(
        [{name: values.numpy() for name, values in inputs.items()} for inputs in sample]
    )
    with contextlib.redirect_stdout(io.StringIO()):  # bars
        made = nncf.quantize(
            of_folder(folder),
            data,
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(sample),
        )
    ov.save_model(made, target / INT8, compress_to_fp16=False)
