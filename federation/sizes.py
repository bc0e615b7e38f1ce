"""Numbers of bytes as people write them: ``20 GB`` is 20 times 10^9."""

import re

from federation.errors import ConfigError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(text: str) -> int:
    """The number of bytes that ``text`` says. Raises :class:`ConfigError`."""
    found = _SIZE.fullmatch(text)
    if found is None or found[2].upper() not in _UNITS:
        raise ConfigError(f"{text!r:.40} is no number of bytes; expected one such as '20 GB'")
    return round(float(found[1]) * _UNITS[found[2].upper()])


def size_text(count: int) -> str:
    """``count`` bytes to three digits: ``124 MB``."""
    for unit in ("TB", "GB", "MB", "KB"):
        of_unit = count / _UNITS[unit]
        if of_unit >= 0.9995:  # what rounds to 1000 MB is 1 GB
            return f"{of_unit:.3g} {unit}" if of_unit < 999.5 else f"{of_unit:,.0f} {unit}"
    return f"{count} bytes"
