"""Orthanc, with its DICOMweb plugin, on free ports of loopback.

    with orthanc(folder) as archive:
        open_gateway(archive.dimse)
        open_gateway(archive.dicomweb)

A folder and ports can be used again: ``with orthanc(folder, ports=archive.ports)`` is a restart.
"""

import json
import secrets
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers import lack, peer
from tests.peers.certificates import Certificates
from tests.peers.process import Running, echoes, free_port, running

AE_TITLE = "ORTHANC"
UNREACHED = {"IODEEP": ("127.0.0.1", 1)}
"""Known where a test names none: our own application entity, with a port nobody listens at."""

_PLUGINS = [
    Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),
    Path("/usr/lib/orthanc/libOrthancDicomWeb.so"),
]
_ROOT = "/dicom-web/"
_USER = "iodeep"
_ALLOWED = {
    "AllowEcho": True, "AllowFind": True, "AllowGet": True, "AllowMove": True,
    "AllowStore": True, "AllowStorageCommitment": True, "AllowTranscoding": False,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Orthanc(Running):
    """A running Orthanc.

    dimse:    its address for associations, of the first AE that it knows; ``&listen=PORT`` and
              the like can be added to it
    dicomweb: its address for DICOMweb
    folder:   its database, its files and its log
    ports:    of DICOM and of HTTP
    """

    dimse: str
    dicomweb: str
    ports: tuple[int, int]


@contextmanager
def orthanc(
    folder: Path,
    *,
    tls: Certificates | None = None,
    known: Mapping[str, tuple[str, int]] = UNREACHED,
    ports: tuple[int, int] | None = None,
    settings: Mapping[str, object] | None = None,
    enter: Sequence[str] = (),
) -> Iterator[Orthanc]:
    """An Orthanc that answers; stopped at the end.

    tls:      associations over TLS, with a certificate of both sides; HTTP stays without, as
              Debian's Orthanc dies of the first request over HTTPS
    known:    the AE titles that may call it, each from its IP address and no other, and where it
              reaches them: for C-MOVE and for reports of storage commitment
    ports:    of DICOM and of HTTP, those of one before it; free ones unless given
    settings: further ones of its configuration, or others
    enter:    what to put before its command, so that it runs on another machine
    """
    program = peer("Orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    dimse, http = ports or (free_port(), free_port())
    configuration = folder / "orthanc.json"
    document = {
        **_settings(folder, dimse, http, known, over_tls=tls is not None),
        **(_tls_settings(tls) if tls else {}),
        **(settings or {}),
    }
    configuration.write_text(json.dumps(document, indent=2))
    calling = next(iter(known))
    context = None if tls is None else tls.context()
    web = f"http://127.0.0.1:{http}{_ROOT}"

    def answers() -> bool:
        if enter:
            words = ("echoscu", "-aec", AE_TITLE, "-aet", calling, "127.0.0.1", str(dimse))
            return subprocess.run([*enter, *words], capture_output=True).returncode == 0
        return echoes(dimse, called=AE_TITLE, calling=calling, tls=context) and _asks_for_login(
            f"{web}studies"
        )

    with running(
        [*enter, program, str(configuration)], log=folder / "orthanc.log", answers=answers
    ) as process:
        ours = f"&tls={tls.ca}&cert={tls.client.cert}&key={tls.client.key}" if tls else ""
        yield Orthanc(
            dimse=f"dimse://{AE_TITLE}@127.0.0.1:{dimse}?calling={calling}{ours}",
            dicomweb=f"dicomweb+{web.rstrip('/')}?login={folder / 'login'}",
            folder=folder,
            ports=(dimse, http),
            process=process,
        )


def _settings(
    folder: Path, dimse: int, http: int, known: Mapping[str, tuple[str, int]], *, over_tls: bool
) -> dict[str, object]:
    return {
        "Name": "IODeep test",
        "StorageDirectory": str(folder / "files"),
        "IndexDirectory": str(folder / "index"),
        "OverwriteInstances": False,
        "SynchronousCMove": True,
        "DicomAet": AE_TITLE,
        "DicomPort": dimse,
        "DicomCheckCalledAet": True,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowFind": False,
        "DicomAlwaysAllowGet": False,
        "DicomAlwaysAllowMove": False,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": {
            title: {"AET": title, "Host": host, "Port": port, "UseDicomTls": over_tls, **_ALLOWED}
            for title, (host, port) in known.items()
        },
        "MaximumPduLength": 131072,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {_USER: _password(folder / "login")},
        "Plugins": [str(_plugin())],
        "DicomWeb": {"Enable": True, "Root": _ROOT},
    }


def _tls_settings(tls: Certificates) -> dict[str, object]:
    """It shows its certificate and asks for the other's, whoever connects to whom."""
    return {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(tls.server.cert),
        "DicomTlsPrivateKey": str(tls.server.key),
        "DicomTlsTrustedCertificates": str(tls.ca),
        "DicomTlsRemoteCertificateRequired": True,
    }


def _password(login: Path) -> str:
    """Kept over restarts, in a file as our addresses name it."""
    if not login.exists():
        login.touch(mode=0o600)
        login.write_text(f"{_USER}:{secrets.token_urlsafe(12)}\n")
    return login.read_text().strip().removeprefix(f"{_USER}:")


def _plugin() -> Path:
    for path in _PLUGINS:
        if path.exists():
            return path
    return lack("Orthanc has no DICOMweb plugin (apt-get install orthanc-dicomweb)")


def _asks_for_login(url: str) -> bool:
    """Whether it answers, and lets nobody in who does not say who they are."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return False
