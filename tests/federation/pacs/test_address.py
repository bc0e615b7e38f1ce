"""One notation for every archive."""

from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.pacs.address import DimseAddress, FolderAddress, parse_address


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
        ("folder:runs/x", FolderAddress(path=Path("runs/x"))),
    ],
)
def test_an_address_is_read_and_spelled_back(
    text: str, address: DimseAddress | FolderAddress
) -> None:
    assert parse_address(text) == address
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "folder:", "runs/x", "dimse://host:104", "dimse://PACS@host", "dimse://PACS@:104",
     "dimse://PACS@host:99999", "dimse://PACS@host:port", "dimse://PACS@host:104?color=red",
     "dimse://THISTITLEISTOOLONG@host:104", "dimse://PACS@host:104?calling=",
     "http://PACS@host:104", "dimse://PACS@host:0", "dimse://PACS:secret@host:104",
     "dimse://PACS@host:104/path", "dimse://%20@host:104", "dimse://A%5CB@host:104"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)
