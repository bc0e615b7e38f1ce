"""`iodeep site init`: a hospital's folder, out of an invitation."""

from datetime import datetime
from pathlib import Path

from clients.data.split import create_split_key
from clients.joining.document import site_document
from clients.joining.keys import create_node_key
from federation.config import read_site
from federation.errors import ConfigError
from federation.invitation import Invitation
from federation.iodeep.signature import SigningKey
from federation.joining import JoinRequest, node_key_text
from federation.pacs.address import parse_address
from federation.software import software
from federation.whole import SECRET, whole_folder, write_new

DOCUMENT = "site.toml"


def initialise(
    invitation: Invitation, folder: Path, *, images: str | None = None, now: datetime
) -> JoinRequest:
    """Make a hospital's folder, whole or not at all, and the request that goes back.

    Whose the invitation is must have been compared before. The private keys are made here and
    never leave. Raises :class:`~federation.errors.ConfigError` for a folder that is not empty, and
    where ``images`` is no address of an archive.
    """
    if images is not None:
        parse_address(images)
    if (folder / DOCUMENT).exists():
        raise ConfigError(f"{folder} holds a site already; nothing was changed")
    with whole_folder(folder, last=DOCUMENT) as scratch:
        keys, certs = scratch / "keys", scratch / "certs"
        keys.mkdir(mode=0o700)
        certs.mkdir(mode=0o755)
        (certs / "ca.crt").write_text(invitation.ca, encoding="ascii")
        signers = _write_signers(invitation, scratch)
        create_split_key(keys / "split.key")
        signing = SigningKey.create(keys / "site.key")
        node = create_node_key(keys / "node.key")
        request = JoinRequest(
            name=invitation.name,
            invitation=invitation.id,
            node_key=node_key_text(node.public_key()),
            key=signing.public.pem().decode(),
            software=software(),
            created=now.replace(microsecond=0),
        ).vouched(node)
        (scratch / f"{request.name}.request").write_bytes(request.sign(signing))
        document = site_document(invitation, images, signers)
        write_new(scratch / DOCUMENT, document.encode(), SECRET)
        read_site(scratch / DOCUMENT)
    return request


def _write_signers(invitation: Invitation, home: Path) -> dict[str, Path]:
    """The keys that are believed: by each (PEM), its file beside the document."""
    files = {invitation.key: Path("keys/aggregator.pub")}
    for line in invitation.lines:
        for pem in line.signers:
            files.setdefault(pem, Path(f"keys/signer-{len(files)}.pub"))
    for pem, file in files.items():
        (home / file).write_text(pem, encoding="ascii")
    return files
