"""The programs that Flower starts by name, and the environment that it finds them in.

A SuperLink and a SuperNode hand work to programs such as ``flwr-clientapp``, found along PATH.
Theirs unpack and run the bundle of code that came with a run. A folder in front of PATH gives
them ours instead: the one that is wanted, and for every other kind of work one that refuses.
"""

import os
import shlex
import sys
from pathlib import Path

from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

from federation.errors import ConfigError

COMMANDS = frozenset(TASK_TYPE_TO_COMMAND.values())
"""Whatever Flower starts for a task."""

_SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds until a message is worked on; 1, else
}
_SYSTEM = ("/usr/local/bin", "/usr/bin", "/bin")


def write_programs(folder: Path, command: str, module: str) -> None:
    """Put programs into ``folder``: ``command`` runs ``module`` of what is installed here, and
    all others of Flower's say that they do nothing.

    ``-I`` keeps Python from looking for modules in the working folder, in the user's own site
    and in PYTHONPATH.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    python = shlex.quote(sys.executable)
    for name in COMMANDS:
        text = (
            f'exec {python} -I -m {module} "$@"\n'
            if name == command
            else f"echo '{name}: only {command} runs here' >&2\nexit 1\n"
        )
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
        path.chmod(0o700)


def environment(programs: Path, home: Path, **further: str) -> dict[str, str]:
    """What a SuperLink or SuperNode is started with.

    programs: the folder that :func:`write_programs` filled
    home:     where Flower keeps what it keeps; it would unpack bundles there
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "FLWR_", "FLOWER_"))
    }
    path = os.pathsep.join((str(programs), str(program("flower-superexec").parent), *_SYSTEM))
    return {**kept, **_SETTINGS, "PATH": path, "FLWR_HOME": str(home), **further}


def program(name: str) -> Path:
    """A program of Flower's, beside this Python. Raises :class:`ConfigError`."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise ConfigError(f"{path} is not there; install the software again, into one environment")
    return path
