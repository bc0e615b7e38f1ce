"""The folder of an aggregator: where everything that it keeps lies."""

from dataclasses import dataclass
from pathlib import Path

from federation.config import Aggregator, read_aggregator


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below the folder that `iodeep server init` makes.

    aggregator.toml      its document
    keys/aggregator.key  signs versions, releases and invitations (Ed25519)
    tls/ca.*             the authority that certifies the next two (ECDSA P-256)
    tls/server.*         what nginx shows to sites
    tls/loopback.*       what the SuperLink shows on 127.0.0.1
    sites/NAME.json      who was invited, approved, revoked
    runs/BRANCH          the folders of runs
    superlink, nginx     what these programs keep
    """

    path: Path

    @property
    def document(self) -> Aggregator:
        return read_aggregator(self.path)

    @property
    def key(self) -> Path:
        return self.path / "keys" / "aggregator.key"

    @property
    def sites(self) -> Path:
        return self.path / "sites"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def superlink(self) -> Path:
        return self.path / "superlink"

    @property
    def database(self) -> Path:
        """Of the SuperLink: nodes, runs, messages and tensors (SQLite)."""
        return self.superlink / "state.db"

    @property
    def nginx(self) -> Path:
        return self.path / "nginx"

    def certificate(self, name: str) -> Path:
        """Of ``ca``, ``server`` or ``loopback``, in PEM."""
        return self.path / "tls" / f"{name}.crt"

    def private_key(self, name: str) -> Path:
        """Of ``ca``, ``server`` or ``loopback``, in PEM, mode 0600."""
        return self.path / "tls" / f"{name}.key"
