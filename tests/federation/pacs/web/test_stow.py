"""Storing over HTTP, in archives that take it and do not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from federation.errors import StorageError
from federation.pacs import Limits, open_gateway
from tests.federation.pacs.conftest import Make
from tests.federation.pacs.web.web_archive import (
    JSON,
    QUICK,
    Reply,
    WebArchive,
    in_turn,
    not_stored,
    status,
    stored,
    web_archive,
)


def stores(archive: WebArchive, *paths: Path, limits: Limits = QUICK) -> None:
    with web_archive(archive), open_gateway(archive.address, limits=limits) as gateway:
        gateway.store(paths)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda uid: (200, not_stored(uid, 0xA700)), r"0xA700 \(out of resources"),
        (lambda uid: (202, not_stored(uid, 0xA900)), r"0xA900 \(the data set does not match"),
        (lambda uid: (409, not_stored(uid, 0xC001)), r"answered 409 .*0xC001 \(the archive cannot"),
        (lambda uid: (409, not_stored(uid, 0x0111)), r"0x0111 \(duplicate"),
        (lambda uid: (409, not_stored(uid, 0xC122)), r"0xC122 \(transfer syntax not supp"),
        (lambda uid: (200, not_stored(uid, 0x1234)), r"0x1234 \(failure\)"),
        (lambda uid: (200, stored(uid) | not_stored(uid, 0x0110)), r"0x0110 \(the archive failed"),
        (lambda uid: (200, {"00081198": {"vr": "SQ", "Value": [{}]}}), "it failed"),
        (lambda uid: (200, stored("1.2.9")), "does not list it"),
        (lambda uid: (200, {}), "does not list it"),
        (lambda uid: (409, {}), "does not list it"),
        (lambda uid: (200, {"00081199": {"vr": "LO", "Value": [uid]}}), "does not list it"),
        (lambda uid: (200, [1]), "JSON that is no DICOM"),
    ],
)
def test_an_instance_that_is_not_stored_is_an_error_with_its_uid_and_reason(
    make: Make, answer: Callable[[str], tuple[int, object]], said: str
) -> None:
    path = make()
    code, document = answer(path.stem)
    archive = WebArchive(store=lambda request: request.reply_json(document, code))
    with pytest.raises(StorageError, match=said) as caught:
        stores(archive, path)
    assert path.stem in str(caught.value)
    assert len(archive.seen) == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (status(413), r"answered 413 .*it has no room"),
        (status(507), r"answered 507 .*it has no room"),
        (status(415), r"answered 415 .*Take it as not stored"),
        (status(500), r"answered 500 .*Take it as not stored"),
        (status(200), "does not list it"),
        (lambda request: request.reply(200, b"fine", "text/plain"), "instead of JSON"),
        (lambda request: request.reply(200, b"fine", JSON), "no JSON document"),
    ],
)
def test_a_store_that_fails_is_a_storage_error(make: Make, reply: Reply, said: str) -> None:
    path = make()
    with pytest.raises(StorageError, match=said) as caught:
        stores(WebArchive(store=reply), path)
    assert path.stem in str(caught.value)


def test_a_warning_counts_as_stored(make: Make) -> None:
    path = make()
    item = {
        "00081155": {"vr": "UI", "Value": [path.stem]},
        "00081196": {"vr": "US", "Value": [0xB000]},
    }
    document = {"00081199": {"vr": "SQ", "Value": [item]}}
    stores(WebArchive(store=lambda request: request.reply_json(document, 202)), path)


def test_a_file_goes_out_as_it_is_and_again_where_the_archive_was_busy(make: Make) -> None:
    path = make()
    archive = WebArchive()
    archive.store = in_turn(status(503), archive._store)
    stores(archive, path)
    assert len(archive.seen) == 2
    for request in archive.seen:
        assert path.read_bytes() in request.body
        assert request.headers.get_content_type() == "multipart/related"


@pytest.mark.parametrize("associations", [1, 3])
def test_the_first_that_is_not_taken_ends_storing(make: Make, associations: int) -> None:
    paths = [make() for _ in range(40)]
    archive = WebArchive(store=status(500))
    with pytest.raises(StorageError):
        stores(archive, *paths, limits=Limits(associations=associations))
    assert len(archive.seen) <= associations


def test_what_is_no_dicom_is_not_sent(make: Make, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no DICOM")
    archive = WebArchive()
    for path in (tmp_path / "text", tmp_path / "nothing"):
        with pytest.raises(StorageError):
            stores(archive, make(), path)
    assert archive.seen == []


def test_what_is_not_there_though_it_was_stored_is_found_out(make: Make) -> None:
    paths = [make(), make(), make(SeriesInstanceUID=generate_uid())]
    with web_archive() as archive, open_gateway(archive.address, limits=QUICK) as gateway:
        gateway.store(paths)
        with pytest.raises(StorageError, match=f"does not have 1 of 1, {paths[2].stem} among"):
            gateway.confirm(paths[2:])
        archive.keep(paths[0])
        with pytest.raises(StorageError, match=f"does not have 1 of 2, {paths[1].stem} among"):
            gateway.confirm(paths[:2])
        archive.keep(paths[1])
        gateway.confirm(paths[:2])
