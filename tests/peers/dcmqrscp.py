"""DCMTK's archive, on a free port of loopback.

    with dcmqrscp(folder) as archive:
        open_gateway(archive.dimse)

A folder and a port can be used again: ``with dcmqrscp(folder, port=archive.port)`` is a restart.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers import peer
from tests.peers.orthanc import UNREACHED
from tests.peers.process import Running, echoes, free_port, running

AE_TITLE = "DCMQRSCP"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dcmqrscp(Running):
    """A running dcmqrscp.

    dimse:  its address, of the first AE that it knows; ``&listen=PORT`` can be added to it
    folder: its files and its log
    """

    dimse: str
    port: int


@contextmanager
def dcmqrscp(
    folder: Path,
    *,
    known: Mapping[str, tuple[str, int]] = UNREACHED,
    quota: tuple[str, str] = ("500", "1gb"),
    port: int | None = None,
) -> Iterator[Dcmqrscp]:
    """A dcmqrscp that answers; stopped at the end.

    known: AE titles, and where C-MOVE reaches each; any title may call
    quota: studies, and bytes of each, not over 500 and 1gb; beyond it, it deletes old series and
           says nothing
    port:  that of one before it; a free one unless given
    """
    program = peer("dcmqrscp")
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(_configuration(files, port, known, quota))
    calling = next(iter(known))
    with running(
        [program, "-v", "-c", str(configuration)],
        log=folder / "dcmqrscp.log",
        answers=lambda: echoes(port, called=AE_TITLE, calling=calling),
    ) as process:
        yield Dcmqrscp(
            dimse=f"dimse://{AE_TITLE}@127.0.0.1:{port}?calling={calling}",
            folder=folder,
            port=port,
            process=process,
        )


def _configuration(
    files: Path, port: int, known: Mapping[str, tuple[str, int]], quota: tuple[str, str]
) -> str:
    hosts = [
        f"known{number} = ({title}, {host}, {at})"
        for number, (title, (host, at)) in enumerate(known.items())
    ]
    return "\n".join(
        [
            f"NetworkTCPPort = {port}",
            "MaxPDUSize = 131072",
            "MaxAssociations = 32",
            "HostTable BEGIN",
            *hosts,
            "HostTable END",
            "VendorTable BEGIN",
            "VendorTable END",
            "AETable BEGIN",
            f"{AE_TITLE} {files} RW ({quota[0]}, {quota[1]}) ANY",
            "AETable END",
            "",
        ]
    )
