"""Networks that somebody at the site has approved, and those that wait for it.

A JSON file beside the audit log. What is approved is a network as it was seen, by the digest of
its line, task, architecture, preprocessing, outputs and signer: another one waits again.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import rfc8785
from pydantic import AwareDatetime, ValidationError

from federation.config import TrainingTable
from federation.errors import ConfigError, PolicyError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import Branch, Sha256, Text, VersionManifest
from federation.iodeep.signature import Signature
from federation.messages import Code
from federation.values import Value
from federation.whole import SECRET, make_private, write_over

APPROVALS = "approvals.json"
MAX_WAITING = 100
"""Of these the newest are kept: whoever may ask cannot fill the disk."""

_LOCK = ".approvals.lock"


class Waiting(Value):
    """A network as it was asked for first.

    digest:   of what is approved with it
    signer:   the fingerprint of the key that signed its version; None where none did
    settings: of training, as they came with it
    since:    when it was asked for
    """

    digest: Sha256
    line: Line
    branch: Branch
    signer: Sha256 | None
    strategy: Text | None
    settings: TrainingTable
    network: str
    parameters: int
    since: AwareDatetime

    @classmethod
    def of(
        cls,
        version: VersionManifest,
        signature: Signature | None,
        strategy: str | None,
        settings: TrainingTable,
        now: datetime,
    ) -> Self:
        signer = signature.fingerprint if signature else None
        return cls(
            digest=network_digest(version, signer),
            line=version.line,
            branch=version.branch,
            signer=signer,
            strategy=strategy,
            settings=settings,
            network=version.architecture.network,
            parameters=version.weights.parameters,
            since=now,
        )


class Approved(Value):
    """A network that may be trained here: what it was when it was approved, and when that was."""

    what: Waiting
    at: AwareDatetime


class _File(Value):
    waiting: tuple[Waiting, ...] = ()
    approved: tuple[Approved, ...] = ()


def network_digest(version: VersionManifest, signer: str | None) -> str:
    """SHA-256 over all that decides what a site would run, but for weights and round."""
    document: dict[str, Any] = version.model_dump(
        mode="json", include={"line", "task", "architecture", "preprocessing", "outputs"}
    )
    return sha256(rfc8785.dumps({**document, "signer": signer})).hexdigest()


class Approvals:
    """The file; several processes may ask and approve at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, audit: Path) -> Self:
        return cls(audit.with_name(APPROVALS))

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        """Those that nobody has approved, the oldest first."""
        return self._read().waiting

    def check(self, asked: Waiting) -> None:
        """Whether a network was approved; one that was not waits from now on.

        Raises :class:`PolicyError`.
        """
        with self._held():
            file = self._read()
            if any(one.what.digest == asked.digest for one in file.approved):
                return
            if all(one.digest != asked.digest for one in file.waiting):
                kept = (*file.waiting, asked)[-MAX_WAITING:]
                self._write(file.model_copy(update={"waiting": kept}))
        raise PolicyError(
            f"the network of line {asked.line} is new here (policy.rounds.approval): see "
            f"`iodeep site approve SITE.toml`, then `iodeep site approve SITE.toml {asked.line}`",
            Code.APPROVAL,
        )

    def approve(self, line: Line, network: str | None, now: datetime) -> Waiting:
        """Approve the one network of a line that waits, or the one whose digest begins so.

        Raises :class:`ConfigError` where none waits, or more than one.
        """
        with self._held():
            file = self._read()
            found = [
                one
                for one in file.waiting
                if one.line == line and one.digest.startswith(network or "")
            ]
            if len(found) != 1:
                raise ConfigError(_which(line, network, found))
            (chosen,) = found
            self._write(
                _File(
                    waiting=tuple(one for one in file.waiting if one != chosen),
                    approved=(*file.approved, Approved(what=chosen, at=now)),
                )
            )
        return chosen

    def _read(self) -> _File:
        try:
            return _File.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return _File()
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f"the approvals in {self.path} cannot be read ({type(error).__name__}); put the "
                "file away, and approve again what waits"
            ) from error

    def _write(self, file: _File) -> None:
        text = json.dumps(file.model_dump(mode="json"), indent=1)
        try:
            write_over(self.path, text.encode() + b"\n", SECRET)
        except OSError as error:
            raise ConfigError(
                f"the approvals {self.path} cannot be written: {error.strerror}"
            ) from error

    @contextmanager
    def _held(self) -> Iterator[None]:
        make_private(self.path.parent)
        lock = os.open(self.path.with_name(_LOCK), os.O_RDWR | os.O_CREAT, SECRET)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _which(line: Line, network: str | None, found: Sequence[Waiting]) -> str:
    if found:
        digests = ", ".join(one.digest[:12] for one in found)
        return f"{len(found)} networks of line {line} wait; name one with --network: {digests}"
    named = f" with digest {network!r:.70}" if network else ""
    return (
        f"no network of line {line}{named} waits; `iodeep site approve SITE.toml` lists what does"
    )
