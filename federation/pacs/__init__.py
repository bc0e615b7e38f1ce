"""Archives: the seam to any of them, and a small one of our own."""

from federation.pacs.address import FolderAddress, parse_address
from federation.pacs.archive import Archive
from federation.pacs.dimse import DimseGateway
from federation.pacs.folder import FolderGateway
from federation.pacs.gateway import Gateway, Level
from federation.pacs.server import ArchiveServer

__all__ = ["Archive", "ArchiveServer", "Gateway", "Level", "open_gateway"]


def open_gateway(address: str, *, timeout_s: float = 30.0) -> Gateway:
    """The way to the archive at ``address``; ``timeout_s`` bounds every wait for an answer.

    Nothing is connected until something is asked. Raises
    :class:`~federation.errors.ConfigError` for what is no address.
    """
    parsed = parse_address(address)
    if isinstance(parsed, FolderAddress):
        return FolderGateway(parsed)
    return DimseGateway(parsed, timeout_s=timeout_s)
