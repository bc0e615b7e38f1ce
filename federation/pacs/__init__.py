"""Archives: the seam to any of them, and a small one of our own."""

from federation.pacs.address import DimseAddress, FolderAddress, WebAddress, parse_address
from federation.pacs.dimse.gateway import DimseGateway
from federation.pacs.embedded.archive import Archive
from federation.pacs.embedded.server import ArchiveServer
from federation.pacs.folder import FolderGateway
from federation.pacs.gateway import Gateway, Level, Moved, untold
from federation.pacs.limits import STANDARD, Limits
from federation.pacs.web.gateway import DicomwebGateway

__all__ = [
    "Archive",
    "ArchiveServer",
    "DicomwebGateway",
    "DimseGateway",
    "Gateway",
    "Level",
    "Limits",
    "Moved",
    "open_gateway",
]


def open_gateway(address: str, *, limits: Limits = STANDARD, moved: Moved = untold) -> Gateway:
    """The way to the archive at ``address``, within ``limits``; ``moved`` is told of bytes.

    Nothing is connected until something is asked. Raises
    :class:`~federation.errors.ConfigError` for what is no address, or names files that cannot
    be used.
    """
    match parse_address(address):
        case FolderAddress() as folder:
            return FolderGateway(folder, moved=moved)
        case WebAddress() as web:
            return DicomwebGateway(web, limits=limits, moved=moved)
        case DimseAddress() as dimse:
            return DimseGateway(dimse, limits=limits, moved=moved)
