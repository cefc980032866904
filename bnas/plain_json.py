"""JSON that every reader takes: NaN and the infinities, which JSON does not have, become the words "nan", "inf", "-inf"."""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(content: Any, *, indent: int | None = None) -> str:
    """`content` as JSON text; Python's `float` reads the words back."""
    return json.dumps(finite(content), ensure_ascii=False, allow_nan=False, indent=indent)


def finite(value: Any) -> Any:
    """`value` with words for the numbers that are not finite, lists for tuples, and text for keys."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, list | tuple) else value
