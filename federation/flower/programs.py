"""How Flower's programs are started here: as modules of ours, and in what environment."""

import os
import sys
from pathlib import Path

_SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds until a message is worked on; 1, else
}
_LEFT_OUT = ("PYTHON", "FLWR_", "FLOWER_", "SSL")  # SSLKEYLOGFILE would write keys of connections
_PATH = ("/usr/local/bin", "/usr/bin", "/bin")


def environment(home: Path, **further: str) -> dict[str, str]:
    """What a SuperLink or SuperNode is started with.

    home: where Flower keeps what it keeps; it would unpack bundles there

    Connections are made directly: a proxy that a variable names is not asked.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_LEFT_OUT) and not name.lower().endswith("_proxy")
    }
    path = os.pathsep.join((str(Path(sys.executable).parent), *_PATH))
    return {**kept, **_SETTINGS, "PATH": path, "FLWR_HOME": str(home), **further}


def module_command(name: str, *words: object) -> list[str]:
    """A module of ours as a program; ``-I`` keeps Python from modules in the working folder, in
    the user's own site and in PYTHONPATH."""
    return [sys.executable, "-I", "-m", name, *map(str, words)]
