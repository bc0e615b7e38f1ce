"""Whose models are believed: which keys may sign which lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from federation.config import TrustTable
from federation.errors import SignatureError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import Manifest
from federation.iodeep.signature import PublicKey, Signature, show_fingerprint


class Trust(Protocol):
    """Decides whether a record is believed."""

    def check(self, manifest: Manifest, signature: Signature | None) -> None:
        """Raises :class:`~federation.errors.SignatureError` where it is not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """For lines that match one of ``lines``: the keys whose records are believed.

    lines:    patterns such as ``MR/hippocampus/*``
    signers:  of records; ``releasers`` of release documents
    unsigned: whether records without a signature are believed
    """

    lines: tuple[str, ...]
    signers: tuple[PublicKey, ...] = ()
    releasers: tuple[PublicKey, ...] = ()
    unsigned: bool = False

    @classmethod
    def of(cls, table: TrustTable) -> "Rule":
        """The rule of a document. Raises :class:`~federation.errors.ConfigError`."""
        signers = tuple(PublicKey.read(path) for path in table.signers)
        return cls(
            lines=table.lines,
            signers=signers,
            releasers=(
                signers
                if table.releasers is None
                else tuple(PublicKey.read(path) for path in table.releasers)
            ),
            unsigned=table.unsigned,
        )

    @classmethod
    def of_key(cls, key: PublicKey) -> "Rule":
        """A rule that believes whatever this key signed."""
        return cls(lines=("*",), signers=(key,), releasers=(key,))

    def covers(self, line: Line) -> bool:
        return any(fnmatchcase(str(line), pattern) for pattern in self.lines)


class TrustList:
    """Believes what the rules that cover a line allow, and nothing where none does."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)

    def check(self, manifest: Manifest, signature: Signature | None) -> None:
        what = f"{manifest.kind} {manifest.uid} of line {manifest.line}"
        rules = [rule for rule in self._rules if rule.covers(manifest.line)]
        if not rules:
            raise SignatureError(f"{what} is refused: no trust rule covers this line")
        if signature is None:
            if not any(rule.unsigned for rule in rules):
                raise SignatureError(
                    f"{what} is refused: it is not signed, and unsigned ones are not accepted here"
                )
            return
        release = manifest.kind == "RELEASE"
        keys = [key for rule in rules for key in (rule.releasers if release else rule.signers)]
        for key in keys:
            if key.fingerprint == signature.fingerprint:
                key.verify(signature, manifest.canonical)
                return
        known = ", ".join(show_fingerprint(key.fingerprint) for key in keys) or "none"
        raise SignatureError(
            f"{what} is refused: it is signed by key {show_fingerprint(signature.fingerprint)}, "
            f"which is not trusted for that; trusted: {known}"
        )
