"""Files that hold what nobody but their owner may read."""

from pathlib import Path

from federation.errors import ConfigError

MAX_BYTES = 65536


def read_secret(path: Path, *, what: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a small file of mode 0600 or less; ``what`` names it in an error.

    Raises :class:`ConfigError`, which holds nothing of them.
    """
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode & 0o777
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:o}, so others can read it; chmod 600 it")
    if len(data) > max_bytes:
        raise ConfigError(f"{path} is larger than {max_bytes} bytes, so it holds no {what}")
    return data
