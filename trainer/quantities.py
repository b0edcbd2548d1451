"""Large numbers as people write and read them: 405B, 15.6T, 3e21."""

import math

from pipeline.errors import UsageError

SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def quantity(text: str | float, name: str) -> float:
    """The number above 0 that a text says, with K, M, B or T for 10^3, 10^6, 10^9 or 10^12. Raises UsageError with `name`."""
    wrong = UsageError(f"{name}: {text!r} is not a number above 0, such as 405B, 15.6T, 1_000 or 3e21")
    if isinstance(text, str):
        bare = text.strip().upper().replace("_", "").replace(",", "")
        factor = SUFFIXES.get(bare[-1:], 1.0)
        try:
            value = float(bare[:-1] if factor > 1 else bare) * factor
        except ValueError:
            raise wrong from None
    else:
        value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise wrong
    return value


def short(value: float) -> str:
    """Three digits and a suffix: 405B, 15.6T, 1.34M, 12; powers of ten beyond 999T and below a hundredth."""
    if not 0.01 <= abs(value) < 0.9995e15:
        return f"{value:.3g}"
    for suffix, size in reversed(SUFFIXES.items()):
        # 999.6M reads as 1B, not as 1000M.
        if abs(value) >= size * 0.9995:
            return f"{_three(value / size)}{suffix}"
    return _three(value)


def _three(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(abs(value) * 1.0005)))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else f"{value:,.0f}"
