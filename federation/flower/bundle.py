"""The bundle that Flower wants with a run: it names our apps and holds no code."""

import hashlib

import tomli_w
from flwr.cli.build import build_fab_from_files

from federation.software import DISTRIBUTION, software

_LICENCE = b"Apache-2.0\n"


def bundle() -> bytes:
    """The same bytes everywhere that this release of the software runs."""
    project = {
        "project": {
            "name": DISTRIBUTION,
            "version": software(),
            "description": "Names apps that are installed where they run.",
            "license": "Apache-2.0",
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "iodeep",
                    "components": {
                        "serverapp": "server.app:app",
                        "clientapp": "clients.app:app",
                    },
                    "config": dict.fromkeys(CONFIG, ""),
                }
            }
        },
    }
    files = {"pyproject.toml": tomli_w.dumps(project).encode(), "LICENSE": _LICENCE}
    return build_fab_from_files(files)[0]


def digest_of(content: bytes) -> str:
    """By which Flower knows a bundle: SHA-256, hex."""
    return hashlib.sha256(content).hexdigest()


CONFIG = ("experiment", "branch", "work", "line", "sites")
"""The keys of a run's configuration."""
