"""A release that the aggregator offers: whether it is what the site uses from now on."""

from clients.hospital import Hospital
from federation.config import Site
from federation.errors import CodecError, DigestError, PolicyError, SignatureError
from federation.iodeep.header import Stamp
from federation.iodeep.manifest import ReleaseManifest, parse_manifest
from federation.iodeep.signature import Signature
from federation.messages import ReleaseAnswer, ReleaseOffer
from federation.releases import read_releases


def accept_release(site: Site, offer: ReleaseOffer) -> ReleaseAnswer:
    """Store a release document as it came, where the policy allows it.

    The newest number counts in an archive, so a document whose number is not above all that the
    site has would change nothing there. That happens where the site has promoted or rolled back
    by itself, and is refused. The newest document offered once more is accepted as before.

    Raises :class:`PolicyError` for that and where the policy takes no releases,
    :class:`~federation.errors.SignatureError` where no key signed it that the site trusts to
    release, and :class:`~federation.errors.RegistryError` where the version is not in its archive.
    """
    if not site.policy.releases:
        raise PolicyError(
            f"site {site.name} takes no releases from outside (policy.releases = false)"
        )
    release = parse_manifest(offer.manifest.encode())
    if not isinstance(release, ReleaseManifest):
        raise CodecError(f"a {release.kind} came; only a RELEASE can be accepted")
    signature = Signature.decode(bytes.fromhex(offer.signature)) if offer.signature else None
    stamp = Stamp(
        study_date=offer.study_date,
        study_time=offer.study_time,
        content_date=offer.content_date,
        content_time=offer.content_time,
    )
    with Hospital(site) as hospital:
        _check(hospital, release, signature)
        registry = hospital.registry
        with registry.open(release.line, release.branch, release.round, release.of) as record:
            if record.version.series_uid != release.series:
                raise DigestError(f"RELEASE {release.uid} names another series than its version's")
        registry.publish(release, (), stamp, signature)
        _check_number(hospital, release)  # nobody was faster
    return ReleaseAnswer(site=site.name, released=release.of)


def _check(hospital: Hospital, release: ReleaseManifest, signature: Signature | None) -> None:
    """Whether the document would count, and before any other. Raises :class:`PolicyError`,
    :class:`SignatureError`."""
    if signature is None:  # even where others may be: the site would sign it in its own name
        raise SignatureError(f"RELEASE {release.uid} is offered without a signature")
    if hospital.registry.trust is not None:
        hospital.registry.trust.check(release, signature)
    _check_number(hospital, release)


def _check_number(hospital: Hospital, release: ReleaseManifest) -> None:
    documents = read_releases(hospital.registry, release.line).documents
    if not documents or documents[-1] == release or documents[-1].number < release.number:
        return
    newest = documents[-1]
    raise PolicyError(
        f"release {release.number} of line {release.line} is offered, and release {newest.number} "
        f"({newest.action} of {newest.of.uid}) is here already: it counts, and the offer would "
        "change nothing. Promote the offered version here, or have the aggregator release it "
        "under a higher number"
    )
