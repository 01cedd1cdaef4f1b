"""What runs a cross-encoder while scoring.

BACKENDS is the table: each takes a folder and a number format and gives a function from padded
inputs to logits [pairs], its device, and what its scores are known by in the store.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import backbones
from core.compiled import compiled, converted, package
from core.distributed import device
from core.errors import InputError
from core.files import digest
from core.text import json_file
from training import engine

if TYPE_CHECKING:
    import torch

Forward = Callable[[dict[str, "torch.Tensor"]], "torch.Tensor"]
Backend = tuple[Forward, str, str]
INT8 = "int8.xml"
OVERFLOWING = ("deberta-v2",)  # model types whose values leave the range of fp16


def bears_half(where: str | Path) -> bool:
    """Whether the model of a folder or hub id can be run in fp16: mDeBERTa overflows there."""
    file = backbones.model_file(str(where), "config.json")
    if file is None:  # loading the model says what is missing
        return True
    config = json_file(file)
    return config.get("model_type") not in OVERFLOWING


def number_format_of(wanted: str, model: str, models: Path) -> str:
    """What a setting ``precision`` comes to on this machine for a model, a name as in ``backbone``.

    Raises InputError for fp16 where machine or model can't have it.
    """
    number_format = engine.precision(wanted)
    if number_format != "fp16":
        return number_format
    # Only here the model counts, so that only here its config.json is fetched
    half = bears_half(backbones.source(model, models))
    return engine.precision(wanted, half=half)


def load_model(folder: Path, number_format: str) -> Any:
    """A transformers model in eval mode; below fp32, its last layer multiplies in fp32.

    Raises InputError for a folder whose weights lack a part of it: it would be random.
    """
    from transformers import AutoModelForSequenceClassification

    def load() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=backbones.dtype(number_format),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )

    model, report = backbones.loading(folder, load)
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{folder}: its weights lack {len(missing)} tensors, first {', '.join(missing[:3])}, "
            "so it is no finished cross-encoder; name one, or train a ranker from it (backbone=…)"
        )
    backbones.refuse_more_layers(model, report["unexpected_keys"], folder)
    model.eval()
    if number_format != "fp32":
        from ranking.model import head_of, in_float32

        _, last = head_of(model, f"scoring in {number_format}")
        in_float32(model, last)
    return model


def torch_backend(folder: Path, number_format: str) -> Backend:
    """Plain torch, on a GPU where there is one."""
    model = load_model(folder, number_format).to(device())

    def forward(inputs: dict) -> "torch.Tensor":
        return model(**inputs).logits[:, 0]

    return forward, device(), known_as(number_format)


def openvino_backend(folder: Path, number_format: str) -> Backend:
    """OpenVINO on a CPU, in bf16 or fp32: in fp32 torch's scores to about 1e-4, sooner."""
    if number_format == "bf16":
        return in_bf16(folder), "cpu", f"openvino {known_as('bf16')}"
    return logits(of_folder(folder)), "cpu", "openvino fp32"


def int8_backend(folder: Path, _number_format: str) -> Backend:
    """What ``quantise`` wrote."""
    file = folder / INT8
    parts = [file.with_suffix(suffix).read_bytes().hex() for suffix in (".xml", ".bin")]
    model = package("openvino").Core().read_model(file)
    return logits(model), "cpu", f"int8 {digest(parts)}"


BACKENDS: dict[str, Callable[[Path, str], Backend]] = {
    "torch": torch_backend,
    "openvino": openvino_backend,
    "int8": int8_backend,
}


def known_as(number_format: str) -> str:
    """A number format in the score store: scores of before the fp32 head are others."""
    return number_format if number_format == "fp32" else f"{number_format}, head in fp32"


def of_folder(folder: Path) -> Any:
    """The OpenVINO model of the transformers model in ``folder``, in fp32."""
    return converted_model(folder, load_model(folder, "fp32"))


def converted_model(folder: Path, model: Any) -> Any:
    """``model`` in OpenVINO, with the inputs that the tokenizer in ``folder`` gives."""
    return converted(model, backbones.load_tokenizer(str(folder)).model_input_names)


def in_bf16(folder: Path) -> Forward:
    """OpenVINO in bf16 up to the features of the last layer, which torch multiplies in fp32."""
    import torch

    from ranking.model import Float32Linear, head_of

    model = load_model(folder, "fp32")
    _, last = head_of(model, "scoring in bf16")
    last_layer = Float32Linear(model.get_submodule(last))
    model.set_submodule(last, torch.nn.Identity())
    features_of = compiled(converted_model(folder, model), "bf16")
    return lambda inputs: last_layer(features_of(inputs))[:, 0]


def logits(model: Any) -> Forward:
    """A compiled OpenVINO model as a function that gives logits [pairs]."""
    forward = compiled(model)
    return lambda inputs: forward(inputs)[:, 0]


def quantise(folder: Path, sample: Sequence[dict], target: Path) -> None:
    """Writes the model in ``folder`` with weights and activations of 8 bits into ``target``.

    Post-training static quantisation (NNCF, its scheme for transformers), calibrated on the padded
    inputs of ``sample``.
    """
    ov, nncf = package("openvino"), package("nncf")
    nncf.set_log_level("ERROR")
    arrays = []
    for inputs in sample:
        arrays.append({name: values.numpy() for name, values in inputs.items()})
    with contextlib.redirect_stdout(io.StringIO()):  # bars
        quantised = nncf.quantize(
            of_folder(folder),
            nncf.Dataset(arrays),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(sample),
        )
    ov.save_model(quantised, target / INT8, compress_to_fp16=False)
