"""What the settings are made of: checked parts that know no other keys, and kinds of values."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


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


class Part(BaseModel):
    """Settings that belong together. Frozen; an unknown key or another type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
