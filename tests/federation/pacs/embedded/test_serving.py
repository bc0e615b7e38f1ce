"""``iodeep pacs serve`` as typed: what it says, and what its options do."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StudyRootQueryRetrieveInformationModelMove,
)

from federation.errors import PacsRefused, PacsUnreachable, StorageError
from federation.pacs import Archive, ArchiveServer, open_gateway
from federation.pacs.address import DimseAddress
from tests.federation.pacs.conftest import Make, once
from tests.federation.pacs.embedded.test_committing import Requestor, ask, asking
from tests.peers.certificates import Certificates

IODEEP = Path(sys.executable).parent / "iodeep"
KEYS = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.1"}


@contextmanager
def serving(folder: Path, *options: str, log: Path) -> Iterator[str]:
    """The first line that it prints while it serves; what it says goes to ``log``."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            [IODEEP, "pacs", "serve", folder, "--port", "0", "--ae-title", "PEER", *options],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()


def fails(*words: str | Path) -> str:
    """The one sentence that it ends with."""
    done = subprocess.run(
        [IODEEP, "pacs", "serve", *words, "--port", "0"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_it_prints_its_address_and_says_what_it_serves(make: Make, tmp_path: Path) -> None:
    folder, log = tmp_path / "served", tmp_path / "log"
    path = make()
    with Archive(folder) as archive:
        archive.ingest(path)
    with serving(folder, "--json", "--quota", "2 GB", log=log) as line:
        address = json.loads(line)["address"]
        with open_gateway(address) as gateway:
            assert len(gateway.find("IMAGE", KEYS)) == 1
    size = path.stat().st_size
    assert log.read_text() == f"serving {folder} of 2 GB: 1 instance, {size} bytes\n"


def test_it_says_what_it_lost(make: Make, tmp_path: Path) -> None:
    folder, log = tmp_path / "served", tmp_path / "log"
    path = make()
    with Archive(folder) as archive:
        archive.ingest(path)
        archive.instances()[0].path.unlink()
    with serving(folder, log=log):
        pass
    said = log.read_text()
    assert said.count("\n") == 1
    assert path.stem in said
    assert "put the files back" in said


def test_a_quota_is_kept(make: Make, tmp_path: Path) -> None:
    paths = [make(), make()]
    quota = f"{paths[0].stat().st_size * 1.5 / 1000} KB"
    with (
        serving(tmp_path / "served", "--quota", quota, log=tmp_path / "log") as address,
        open_gateway(address) as gateway,
    ):
        gateway.store(paths[:1])
        with pytest.raises(StorageError, match="0xA700"):
            gateway.store(paths[1:])
    assert "quota" in (tmp_path / "log").read_text()


def test_who_is_not_allowed_is_rejected(tmp_path: Path) -> None:
    options = ("--allow", "CT1@127.0.0.0/8", "--allow", "*@10.1.0.0/16")
    with serving(tmp_path / "served", *options, log=tmp_path / "log") as address:
        with open_gateway(f"{address}?calling=CT1") as gateway:
            gateway.echo()
        with open_gateway(address) as gateway, pytest.raises(PacsRefused, match="AE title"):
            gateway.echo()


def test_destinations_are_sent_to_and_reported_to(make: Make, tmp_path: Path) -> None:
    path, requestor = make(), Requestor()
    with (
        Archive(tmp_path / "other") as other,
        ArchiveServer(other, ae_title="OTHER") as target,
        requestor.listening() as known,
    ):
        options = ("--destination", target.address, "--destination", str(known))
        with serving(tmp_path / "served", *options, log=tmp_path / "log") as address:
            with open_gateway(address) as gateway:
                gateway.store([path])
            port = DimseAddress.parse(address).port
            assert moved(port, "OTHER") == 0x0000
            assert moved(port, "NOBODY") == 0xA801
            with requestor.associated(port) as association:
                assert ask(association, asking((MRImageStorage, path.stem))) == 0x0000
            assert requestor.wait_for()
        assert [one.uid for one in other.instances()] == [path.stem]
    assert [same for _, _, same in requestor.reports] == [False]


def moved(port: int, to: str) -> int:
    """The status that a C-MOVE of the series ends with."""
    ae = AE(ae_title="CT1")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
    association = ae.associate("127.0.0.1", port, ae_title="PEER")
    keys = Dataset()
    keys.QueryRetrieveLevel = "SERIES"
    keys.StudyInstanceUID, keys.SeriesInstanceUID = "1.2.3.1", "1.2.3.1.1"
    *_, (status, _) = association.send_c_move(keys, to, StudyRootQueryRetrieveInformationModelMove)
    association.release()
    return int(status.Status)


def test_it_speaks_tls(certificates: Certificates, tmp_path: Path) -> None:
    own, ca = certificates.server, str(certificates.ca)
    options = ("--cert", str(own.cert), "--key", str(own.key), "--tls", ca)
    client = certificates.client
    with serving(tmp_path / "served", *options, log=tmp_path / "log") as address:
        with open_gateway(f"{address}?tls={ca}&cert={client.cert}&key={client.key}") as gateway:
            gateway.echo()
        with (
            open_gateway(address, limits=once(3)) as gateway,
            pytest.raises(PacsUnreachable, match="TLS"),
        ):
            gateway.echo()


def test_stores_are_said_when_asked_for(make: Make, tmp_path: Path) -> None:
    path = make()
    with (
        serving(tmp_path / "served", "--verbose", log=tmp_path / "log") as address,
        open_gateway(f"{address}?calling=CT1") as gateway,
    ):
        gateway.store([path])
    assert f"stored {path.stem} from CT1" in (tmp_path / "log").read_text()


def test_a_damaged_index_is_made_anew_when_asked_for(make: Make, tmp_path: Path) -> None:
    folder, log = tmp_path / "served", tmp_path / "log"
    path = make()
    with Archive(folder) as archive:
        archive.ingest(path)
    (folder / "index.sqlite").write_bytes(b"\xff" * 20_000)
    assert f"iodeep pacs serve {folder} --rebuild" in fails(folder)
    with (
        serving(folder, "--rebuild", log=log) as address,
        open_gateway(address) as gateway,
    ):
        (got,) = gateway.fetch(tmp_path, study="1.2.3.1", series="1.2.3.1.1")
    assert dcmread(got) == dcmread(path)
    assert "1 instance is in it" in log.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quota", "much"], "20 GB"),
        (["--allow", "CT1@nowhere"], "nowhere"),
        (["--destination", "CT1=10.1.0.7:104"], "dimse://"),
        (["--cert", "own.crt"], "--key"),
        (["--tls", "ca.crt"], "--cert"),
        (["--cert", "own.crt", "--key", "own.key"], "own.key"),
        (["--ae-title", "SEVENTEENLETTERSS"], "AE title"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(
    options: list[str], said: str, tmp_path: Path
) -> None:
    assert said in fails(tmp_path / "served", *options)
