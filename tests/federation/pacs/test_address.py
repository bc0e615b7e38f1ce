"""One notation for every archive."""

from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.pacs.address import (
    Address,
    DimseAddress,
    FolderAddress,
    WebAddress,
    parse_address,
)
from federation.pacs.tls import Tls


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("dimse://PACS@10.0.0.1:104", DimseAddress(called="PACS", host="10.0.0.1", port=104)),
        (
            "dimse://PACS@pacs.example:104?calling=ME",
            DimseAddress(called="PACS", host="pacs.example", port=104, calling="ME"),
        ),
        ("dimse://PACS@[::1]:104", DimseAddress(called="PACS", host="::1", port=104)),
        (
            "dimse://A%20%40B@10.0.0.1:104?calling=M%2BE",
            DimseAddress(called="A @B", host="10.0.0.1", port=104, calling="M+E"),
        ),
        (
            "dimse://PACS@10.0.0.1:2762?listen=11113&tls=ca.crt&cert=my%20own.crt&key=own.key",
            DimseAddress(
                called="PACS",
                host="10.0.0.1",
                port=2762,
                listen=11113,
                tls=Tls(ca=Path("ca.crt"), cert=Path("my own.crt"), key=Path("own.key")),
            ),
        ),
        (
            "dimse://PACS@10.0.0.1:2762?tls=system",
            DimseAddress(called="PACS", host="10.0.0.1", port=2762, tls=Tls()),
        ),
        (
            "dicomweb+https://pacs.example/dicom-web",
            WebAddress(url="https://pacs.example/dicom-web", tls=Tls()),
        ),
        (
            "dicomweb+https://pacs.example:8443?token=a/t&tls=/etc/ca.crt",
            WebAddress(
                url="https://pacs.example:8443", token=Path("a/t"), tls=Tls(ca=Path("/etc/ca.crt"))
            ),
        ),
        (
            "dicomweb+http://[::1]:8042/dicom-web?login=l",
            WebAddress(url="http://[::1]:8042/dicom-web", login=Path("l")),
        ),
        ("folder:runs/x", FolderAddress(path=Path("runs/x"))),
    ],
)
def test_an_address_is_read_and_spelled_back(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "folder:", "runs/x", "dimse://host:104", "dimse://PACS@host", "dimse://PACS@:104",
     "dimse://PACS@host:99999", "dimse://PACS@host:port", "dimse://PACS@host:104?color=red",
     "dimse://THISTITLEISTOOLONG@host:104", "dimse://PACS@host:104?calling=",
     "http://PACS@host:104", "dimse://PACS@host:0", "dimse://PACS:secret@host:104",
     "dimse://PACS@host:104?listen=0", "dimse://PACS@host:104?listen=x",
     "dimse://PACS@host:104?tls=system&listen=105", "dimse://PACS@host:104?tls=", "dimse://PACS@host:104?cert=a&key=b",
     "dimse://PACS@host:104?tls=a&cert=b", "dimse://PACS@host:104?tls=a&tls=b",
     "dicomweb+https:///dicom-web", "dicomweb+https://me:secret@host/", "dicomweb+ftp://host/",
     "dicomweb+http://host/?tls=ca.crt", "dicomweb+https://host?login=a&token=b",
     "dimse://PACS@host:104/path", "dimse://%20@host:104", "dimse://A%5CB@host:104"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


def test_files_are_named_beside_the_document(tmp_path: Path) -> None:
    text = "dimse://PACS@host:104?tls=ca.crt&cert=/own.crt&key=keys/own.key"
    assert str(parse_address(text).beside(Path("/site"))) == (
        "dimse://PACS@host:104?tls=/site/ca.crt&cert=/own.crt&key=/site/keys/own.key"
    )
    web = parse_address("dicomweb+https://host?login=secret/login").beside(Path("/site"))
    assert str(web) == "dicomweb+https://host?login=/site/secret/login"
    assert str(parse_address("folder:a").beside(Path("/site"))) == "folder:/site/a"


def test_a_secret_in_an_address_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address("dicomweb+https://me:s3cr3t@host/")
    assert "s3cr3t" not in str(refused.value)
