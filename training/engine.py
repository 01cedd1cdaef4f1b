"""DeepSpeed: started once a process, an engine a training."""

import contextlib
import logging
import os
import pickle
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InputError
from core.text import json_file

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Torch's word in the environment for reading nothing but tensors."""

UNREADABLE = (
    AssertionError,  # of DeepSpeed, for files that are not there
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What reading a state that is not whole may end in."""

OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "bf16",
    "fp16",
    "optimizer",
    "scheduler",
    "managed_gradient_accumulation",
)
"""Keys of DeepSpeed's JSON that the training's own settings decide."""


def start() -> None:
    """Joins the process group of the launcher, or makes one of this process alone.

    Launchers that set RANK, WORLD_SIZE and LOCAL_RANK will do: accelerate, torchrun, deepspeed.
    The shared-memory op is switched off first: on a CPU DeepSpeed would compile it with g++, and a
    kill meanwhile leaves a lock.
    """
    import torch

    gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if gpu else "cpu")
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if torch.distributed.is_initialized():
        return
    alone = "RANK" not in os.environ
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(free_port()) if alone else "29500")
    deepspeed.init_distributed(dist_backend="nccl" if gpu else "gloo", auto_mpi_discovery=False)
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def stop() -> None:
    """Leaves the process group, when all processes are done.

    One that exits without may be aborted by its communication threads, after all its work.
    """
    import torch

    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def precision(wanted: str, half: bool = True) -> str:
    """The number format that a setting comes to on this machine: fp32, bf16 or fp16.

    ``auto`` and ``half``: on a GPU bf16 where it has it, otherwise fp16, or fp32 for a backbone
    that does not bear ``half`` precision. On a CPU ``auto`` is fp32, and ``half`` is bf16 if the
    processor has instructions for it, otherwise fp32: without them bf16 is several times slower.
    Raises InputError for fp16 on a CPU, which DeepSpeed refuses, and for such a backbone.
    """
    import torch

    gpu = torch.cuda.is_available()
    if wanted == "fp16" and not gpu:
        raise InputError(
            "precision: found fp16, expected fp32 or bf16: DeepSpeed has no fp16 on a CPU"
        )
    if wanted == "fp16" and not half:
        raise InputError(
            "precision: found fp16, expected bf16 or fp32: this backbone overflows in fp16"
        )
    if wanted not in ("auto", "half"):
        return wanted
    if not gpu:
        return "bf16" if wanted == "half" and multiplies_bf16() else "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16" if half else "fp32"


def multiplies_bf16() -> bool:
    """Whether this processor has instructions for products of bf16 (AVX-512 BF16 or AMX)."""
    import torch

    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def settings(
    path: str | Path, batch_size: int, accumulation: int, clip: float, number_format: str
) -> dict:
    """What DeepSpeed is configured by: the JSON file, and what the training's settings decide.

    ``batch_size``: of a micro-batch of one process. Raises InputError for a file that sets one of
    those keys itself.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path}: no such DeepSpeed configuration; "
            "configs/deepspeed/ holds zero0.json to zero3.json"
        )
    values = json_file(path, "an object of DeepSpeed's settings")
    clash = sorted(set(values) & set(OURS))
    if clash:
        raise InputError(
            f"{path}: sets {', '.join(clash)}, which the ranker's settings decide "
            "(batch_size, accumulation, clip, precision, learning_rate); take them out of the file"
        )
    return {
        **values,
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "managed_gradient_accumulation": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "bf16": {"enabled": number_format == "bf16"},
        "fp16": {"enabled": number_format == "fp16"},
    }


def make(model: "nn.Module", optimizer: "torch.optim.Optimizer", config: dict) -> Any:
    """A DeepSpeed engine around ``model`` with torch's own optimizer.

    The loop sets the optimizer's rates at each step. In half precision at ZeRO 0 DeepSpeed takes a
    step of no gradient to lay out the optimizer's state: with a rate it would decay the weights,
    and Adam would take the first real step for its second, a quarter smaller. So the rates are 0
    meanwhile and the state is cleared.
    """
    import deepspeed

    for group in optimizer.param_groups:
        group["lr"] = 0.0
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
    if type(engine.optimizer).__name__ == "FP16_UnfusedOptimizer":
        engine.optimizer.optimizer.state.clear()
    return engine


def gathered(model: "nn.Module") -> Any:
    """A context in which rank 0 sees whole parameters at ZeRO 3; nothing at the other stages."""
    import deepspeed

    divided = [p for p in model.parameters() if hasattr(p, "ds_id")]
    return deepspeed.zero.GatheredParameters(divided)


@contextlib.contextmanager
def tensors_alone() -> Iterator[None]:
    """While it holds, ``torch.load`` reads tensors, and the few classes that states have.

    Whoever calls it, also DeepSpeed, which asks for all that a pickle can be: work folders are
    copied and shared, and a pickle from elsewhere could run code.
    """
    import torch
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    own = [ZeroStageEnum, LossScaler, DynamicLossScaler, fragment_address]
    try:
        with torch.serialization.safe_globals(own):
            yield
    finally:
        if before is None:
            del os.environ[WEIGHTS_ONLY]
        else:
            os.environ[WEIGHTS_ONLY] = before


@contextlib.contextmanager
def reading_state(folder: Path, tag: str) -> Iterator[None]:
    """Reads a state in safety; its faults become InputErrors.

    ``folder``: of all states. They are missing or cut files, which were changed from outside, as a
    state is named only once it is written; and files that hold more than a state does.
    """
    try:
        with tensors_alone():
            yield
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|Unsupported class|Unsupported global:) (\S+)", str(error))
        what = f"found {named[1]}" if named else "it is damaged"
        raise InputError(
            f"{folder / tag}: holds more than the tensors of a state ({what}), or other bytes; "
            "such a file can run code where it is loaded, so it is not: "
            f"remove {folder.parent} to train anew"
        ) from None
    except UNREADABLE as error:
        on_one_line = " ".join(str(error).split())
        raise InputError(
            f"{folder / tag}: cannot be read: remove {folder.parent} to train anew "
            f"({on_one_line[:200]})"
        ) from None


def saved_weights(folder: Path, tag: str) -> dict[str, "torch.Tensor"]:
    """The whole model's fp32 weights out of a state of any number of processes and ZeRO stage.

    Raises InputError as ``reading_state`` does.
    """
    import torch
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with reading_state(folder, tag):
        if list((folder / tag).glob("*optim_states.pt")):
            return get_fp32_state_dict_from_zero_checkpoint(str(folder), tag)
        whole = folder / tag / "mp_rank_00_model_states.pt"  # stage 0 holds all in one file
        return torch.load(whole, map_location="cpu", weights_only=True)["module"]


def load_state(engine: Any, folder: Path, tag: str) -> None:
    """Puts a saved state into the engine. Raises InputError as ``reading_state`` does."""
    with reading_state(folder, tag):
        loaded, _ = engine.load_checkpoint(str(folder), tag=tag)
        if loaded is None:
            raise ValueError("there is no such state")
