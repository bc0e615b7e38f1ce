"""An invitation: what a hospital needs to know of an aggregator to join it. No secret is in it."""

from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, ClassVar, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AfterValidator, Field, model_validator

from federation.config import Name
from federation.config.aggregator import OfferedPolicy
from federation.config.fields import HostPort
from federation.errors import ConfigError, SoftwareError
from federation.iodeep.labels import Concept, Line, find_concept
from federation.signed import Instant, PublicPem, SignedDocument
from federation.software import software
from federation.values import Value

LEEWAY = timedelta(minutes=5)
"""By how much the clocks of two machines may differ."""

_WILD = frozenset("*?[")


def _certificate(text: str) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(text.encode())
    except ValueError:
        raise ValueError("expected a certificate in PEM") from None
    return certificate.public_bytes(Encoding.PEM).decode()


Pattern = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
"""Of lines, as ``MR/hippocampus/*``."""

InvitationId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class OfferedLines(Value):
    """Lines that match a pattern, and the keys (PEM) that sign their versions."""

    pattern: Pattern
    signers: Annotated[tuple[PublicPem, ...], Field(min_length=1, max_length=16)]


class Invitation(SignedDocument):
    """An aggregator invites a hospital.

    id:         which one this is; a request to join names it
    name:       what the aggregator calls the hospital
    aggregator: what the aggregator calls itself
    address:    where it is reached; ``ca`` is the authority (PEM) that certifies that
    lines:      that it trains
    policy:     what it proposes to stand in ``[policy]``, which the hospital decides
    """

    title: ClassVar[str] = "invitation"

    id: InvitationId
    name: Name
    aggregator: Name
    address: Annotated[HostPort, Field(pattern=r"^[!-~]{1,255}$")]
    ca: Annotated[str, AfterValidator(_certificate)]
    lines: Annotated[tuple[OfferedLines, ...], Field(min_length=1, max_length=64)]
    policy: OfferedPolicy
    issued: Instant
    expires: Instant

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.expires <= self.issued:
            raise ValueError("it expires before it is issued")
        return self


def read_invitation(path: Path, *, now: datetime) -> Invitation:
    """An invitation that was not altered, of this release, and that counts at this time.

    Whose it is, :func:`~federation.signed.check_read_out` says of ``signer.fingerprint``. Raises
    as :meth:`~federation.signed.SignedDocument.read`; :class:`SoftwareError` for another release,
    and :class:`ConfigError` before and after its time.
    """
    invitation = Invitation.read(path)
    if invitation.software != software():
        raise SoftwareError(
            f"{path} is of release {invitation.software} of iodeep, and this is {software()}; both "
            f"sides must run the same: install {invitation.software}, or have the aggregator's "
            "updated and ask for another invitation"
        )
    if now < invitation.issued - LEEWAY:
        raise ConfigError(
            f"{path} does not count yet: it was issued at {_shown(invitation.issued)}, and this "
            f"machine's clock says {_shown(now)}; set the clock, or ask whether theirs is right"
        )
    if now >= invitation.expires:
        raise ConfigError(
            f"{path} has expired: it counted until {_shown(invitation.expires)}, and this "
            f"machine's clock says {_shown(now)}; ask {invitation.aggregator} for another, or set "
            "the clock"
        )
    return invitation


def region_of(pattern: str) -> Concept | None:
    """The region that all lines of a pattern have; None where there can be several.

    Raises :class:`ConfigError` for a pattern that no line can match.
    """
    modality, *words = pattern.split("/")
    if not words or _WILD & set(words[0]):
        if "*" in pattern or len(words) == 3:
            return None
        raise ConfigError(_no_pattern(pattern, "it stands for no line"))
    region = find_concept(words[0], anatomy=True)
    if not _WILD & set(modality):
        example = str(Line(modality=modality, region=region, slug="a"))
        if not fnmatchcase(example, f"{modality}/{words[0]}/*"):
            raise ConfigError(_no_pattern(pattern, f"that region is written {example[:-4]}"))
    if len(words) < 3 and "*" not in words[-1]:
        raise ConfigError(_no_pattern(pattern, "it stands for no line"))
    return region


def _no_pattern(pattern: str, why: str) -> str:
    return f"{pattern!r:.100} is no pattern of lines, as MR/hippocampus/*: {why}"


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
