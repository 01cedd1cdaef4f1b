"""What the settings are made of: checked parts, kinds of values, and what all trainings have.

A part knows no other keys than its own.
"""

import re
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MOST = 2**31 - 1  # of a whole number: Java's and others' integers end there
LARGEST = 1e9  # of a factor or a weight

Count = Annotated[int, Field(ge=1, le=MOST)]
Whole = Annotated[int, Field(ge=0, le=MOST)]
Depth = Annotated[int, Field(ge=1, le=100_000)]  # passages of a query
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Rate = Annotated[float, Field(gt=0, le=10)]  # of learning

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
FOLDERS = ("shared", "digests", "collection", "answers", "models", "stand-ins", "hub")
"""What the work folder holds beside configurations: no name of a user's."""


def plain_name(name: str) -> str:
    """``name`` itself, which becomes a part of paths, of files' names and of TREC's columns.

    Raises ValueError for any other; pydantic puts the text behind "expected".
    """
    if not NAME.fullmatch(name) or name.endswith((".part", ".lock")) or name in FOLDERS:
        raise ValueError(
            "a name of letters (a-z), digits, '.', '_' and '-' that begins with a letter, a digit "
            f"or '_', of at most 100 characters, that is none of {', '.join(FOLDERS)}, and does "
            "not end with .part or .lock"
        )
    return name


def named_folder(path: str) -> str:
    """``path`` itself, a folder whose own name is that of another one. Raises ValueError if not.

    As a name it is not the checks of ``plain_name`` that count, as it is the user's own folder.
    """
    name = PurePath(path).name
    if not name or name in (".", "..", "models") or "\0" in path or not name.isprintable():
        raise ValueError(
            "a folder with a name of its own, not models, that names the outputs' folder, too"
        )
    return path


Name = Annotated[str, AfterValidator(plain_name)]
Folder = Annotated[str, AfterValidator(named_folder)]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]


def each_once(names: list[str]) -> list[str]:
    """``names`` themselves. Raises ValueError where one stands twice: the second would do nothing.

    Pydantic puts the text behind "expected".
    """
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise ValueError(f"each name once; more than once: {', '.join(repeated)}")
    return names


EachOnce = AfterValidator(each_once)
Names = Annotated[list[str], EachOnce]
Languages = Annotated[list[Language], EachOnce]


class Part(BaseModel):
    """Settings that belong together. Frozen; an unknown key or another type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Average(Part):
    """Weights averaged over steps, in one of two ways.

    The average is what is measured, kept as the best and finished with; the weights themselves go
    on training.
    """

    # exponential: what each step leaves of the average before it, at most: it begins lower
    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    # the mean over so many last steps of the training; before them there is no average
    last: Count | None = None

    @model_validator(mode="after")
    def one_way(self) -> "Average":
        """Raises ValueError for both or none; pydantic puts the text behind "expected"."""
        if (self.decay is None) == (self.last is None):
            raise ValueError("one of decay and last, and null or nothing for the other")
        return self


class Training(Part):
    """What every training has, whatever it trains. Rankers and encoders extend it."""

    steps: Count = 2000  # optimizer steps
    batch_size: Count = 32  # pairs of a micro-batch, of all processes together
    accumulation: Count = 1  # micro-batches of a step
    learning_rate: Rate = 2e-5
    warmup: Share = 0.1
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0
    # half: bf16 or fp16 where the device computes in it, otherwise fp32; auto: so on a GPU alone
    precision: Literal["auto", "half", "fp32", "bf16", "fp16"] = "auto"
    deepspeed: str = "configs/deepspeed/zero0.json"
    evaluate_every: Count = 500  # steps
    seed: Whole = 0
    average: Average | None = None  # of the weights over steps; none without it
    tensorboard: bool = False  # event files beside the training log
