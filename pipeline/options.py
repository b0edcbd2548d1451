"""What all parts of a recipe are made of: the base of its models, and the kinds of values in them."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(value: Any) -> Any:
    """`"10MB"` -> 10000000; numbers pass through."""
    if not isinstance(value, str):
        return value
    text = value.strip().upper().replace(" ", "")
    for unit in sorted(_UNITS, key=len, reverse=True):
        if text.endswith(unit):
            try:
                return int(float(text[: -len(unit)]) * _UNITS[unit])
            except ValueError:
                break
    raise ValueError(f"{value!r} is not a size; write for example 10MB")


Size = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Options(BaseModel):
    """Part of a recipe: unknown keys are errors, and values do not change."""

    # Defaults are validated so that 5 and 5.0 are one value, and one digest, whether written or left out.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
