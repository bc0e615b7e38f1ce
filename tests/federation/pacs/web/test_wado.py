"""Retrieval over HTTP, from archives that do it well and badly."""

import threading
import time
from pathlib import Path

import pytest

from federation.errors import PacsError, PacsUnreachable, StorageError
from federation.pacs import Limits, open_gateway
from tests.federation.pacs.conftest import Make
from tests.federation.pacs.web.web_archive import (
    HERE,
    MULTIPART,
    QUICK,
    SERIES,
    Reply,
    Request,
    WebArchive,
    in_turn,
    message,
    row,
    status,
    uid_in,
    web_archive,
)


def fetched(archive: WebArchive, folder: Path, limits: Limits = QUICK) -> list[Path]:
    with web_archive(archive), open_gateway(archive.address, limits=limits) as gateway:
        return gateway.fetch(folder, **HERE)


def test_a_series_comes_in_one_request(three: WebArchive, folder: Path) -> None:
    paths = fetched(three, folder)
    assert {path.stem: path.read_bytes() for path in paths} == three.instances
    assert sorted(folder.iterdir()) == sorted(paths)
    assert len(three.seen) == 2  # the other lists it
    for request in three.seen:
        assert request.headers["Accept-Encoding"] == "identity"
        assert request.headers["Host"] == f"127.0.0.1:{three.port}"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda request: request.reply(200), "it is empty"),
        (lambda request: request.reply(200, kind=MULTIPART), "it is empty"),
        (lambda request: request.reply(204), "it is empty"),
        (
            lambda request: request.reply(200, message([])[:9], MULTIPART),
            "before its last boundary",
        ),
        (
            lambda request: request.reply(200, message([b"x" * 900])[:-9], MULTIPART),
            "before its last boundary",
        ),
        (
            lambda request: request.reply(200, b"Doe^Jane", MULTIPART),
            "not as its boundary promises",
        ),
        (lambda request: request.reply(200, b"Doe^Jane", "text/html"), "its type is 'text/html'"),
        (lambda request: request.reply(200, b"Doe^Jane"), "its type is 'not given'"),
        (
            lambda request: request.reply(
                200, message([]), MULTIPART.replace("dicom", "dicom+xml")
            ),
            "its type is 'multipart/related', not multipart/related of application/dicom",
        ),
        (lambda request: request.reply(200, message([]), "multipart/related"), "its type is"),
        (
            lambda request: request.reply(200, message([b"Doe^Jane"], "image/png"), MULTIPART),
            "a part's type is 'image/png'",
        ),
        (lambda request: request.reply_parts([b"Doe^Jane"]), "a part is no DICOM file"),
        (lambda request: request.reply_parts([]), "with no part for instance"),
        (
            lambda request: request.reply_parts([b""], **{"Content-Encoding": "gzip"}),
            "compressed, though asked not to",
        ),
        (status(406), r"answered 406 \(Not Acceptable\)"),
        (status(500), r"answered 500 \(Internal Server Error\)"),
        (status(599), "answered 599 to the retrieval of instance"),
    ],
)
def test_an_answer_that_cannot_be_used_has_its_own_error_and_leaves_nothing(
    folder: Path, reply: Reply, said: str
) -> None:
    archive = WebArchive(retrieve_instance=reply)
    with (
        web_archive(archive),
        open_gateway(archive.address, limits=QUICK) as gateway,
        pytest.raises(PacsError, match=said) as caught,
    ):
        gateway.fetch(folder, **HERE, instance="1.2.3.4")
    assert not isinstance(caught.value, PacsUnreachable)
    assert "Doe" not in str(caught.value)
    assert len(archive.seen) == 1  # it would be the same again
    assert list(folder.iterdir()) == []


def test_another_instance_than_asked_for_is_an_error(folder: Path, make: Make) -> None:
    other = make().read_bytes()
    archive = WebArchive(retrieve_instance=lambda request: request.reply_parts([other]))
    with (
        web_archive(archive),
        open_gateway(archive.address) as gateway,
        pytest.raises(PacsError, match="another instance than the one asked for"),
    ):
        gateway.fetch(folder, **HERE, instance="1.2.3.4")
    assert list(folder.iterdir()) == []


def test_what_is_not_listed_is_let_go(three: WebArchive, folder: Path, make: Make) -> None:
    """An answer that goes on and on would fill the disk."""
    others = [make(PixelData=bytes(600_000)) for _ in range(3)]
    listed = threading.Event()
    meanwhile: set[str] = set()

    def search(request: Request) -> None:
        request.reply_json([row(uid) for uid in three.instances])
        listed.set()

    def more(request: Request) -> None:
        body = message([*three.instances.values(), *(path.read_bytes() for path in others)])
        listed.wait(5)
        time.sleep(0.2)  # until the list has been read
        request.reply(200, body[:-4], MULTIPART, length=len(body))
        time.sleep(0.2)  # until the others have come
        meanwhile.update(path.stem for path in folder.iterdir())
        request.wfile.write(body[-4:])

    three.search, three.retrieve_series = search, more
    paths = fetched(three, folder)
    assert {path.stem for path in paths} == three.instances.keys()
    assert three.instances.keys() <= meanwhile
    assert not meanwhile & {path.stem for path in others}
    assert sorted(folder.iterdir()) == sorted(paths)


def test_a_name_that_is_no_uid_names_no_file(folder: Path, make: Make) -> None:
    sent = make().read_bytes()
    bad = sent.replace(uid_in(sent).encode(), b"../../up".ljust(len(uid_in(sent)), b"p"))
    archive = WebArchive(
        instances={"1.2": sent}, retrieve_series=lambda request: request.reply_parts([bad])
    )
    with pytest.raises(PacsError, match="no instance with a valid UID"):
        fetched(archive, folder)
    archive = WebArchive(instances={"../../up": sent})
    with pytest.raises(PacsError, match="by what is no UID"):
        fetched(archive, folder)
    assert list(folder.iterdir()) == []
    assert not list(folder.parent.parent.glob("up*"))


def broken_off(request: Request) -> None:
    """Two instances and half of the third."""
    parts = list(request.archive.instances.values())
    whole = message(parts)
    request.reply(200, whole[: -len(parts[-1]) // 2], MULTIPART, length=len(whole))


def test_what_a_break_left_out_is_fetched_one_by_one(three: WebArchive, folder: Path) -> None:
    three.retrieve_series = broken_off
    paths = fetched(three, folder)
    assert {path.stem: path.read_bytes() for path in paths} == three.instances
    assert sorted(folder.iterdir()) == sorted(paths)
    singly = [request for request in three.seen if "/instances/" in request.path]
    assert len(singly) == 1


def test_an_end_that_may_be_a_break_is_tried_again(three: WebArchive, folder: Path) -> None:
    """Orthanc ends its answers of several parts by closing the connection."""

    def unframed(request: Request) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {MULTIPART}\r\nConnection: close\r\n\r\n"
        body = message(list(three.instances.values()))
        request.wfile.write(head.encode() + body[: len(body) // 2])
        request.close_connection = True

    three.retrieve_series = unframed
    paths = fetched(three, folder)
    assert {path.stem: path.read_bytes() for path in paths} == three.instances


def test_what_is_announced_but_too_large_to_be_sent_is_not_asked_for_again(folder: Path) -> None:
    archive = WebArchive(
        retrieve_instance=lambda request: request.reply(200, b"", MULTIPART, length=2_200_000_000)
    )
    with (
        web_archive(archive),
        open_gateway(archive.address, limits=QUICK) as gateway,
        pytest.raises(PacsError, match=r"announced 2200000000 bytes .*too large"),
    ):
        gateway.fetch(folder, **HERE, instance="1.2.3.4")
    assert len(archive.seen) == 1


def test_an_instance_that_breaks_off_is_tried_again(three: WebArchive, folder: Path) -> None:
    def cut(request: Request) -> None:
        part = message([next(iter(three.instances.values()))])
        request.reply(200, part[:-100], MULTIPART, length=len(part))

    three.retrieve_instance = in_turn(cut, cut, three._retrieve_instance)
    uid = next(iter(three.instances))
    with web_archive(three), open_gateway(three.address, limits=QUICK) as gateway:
        (path,) = gateway.fetch(folder, **HERE, instance=uid)
    assert path.read_bytes() == three.instances[uid]
    assert len(three.seen) == 3


@pytest.mark.parametrize("associations", [1, 4])
def test_a_series_of_which_one_instance_never_comes_is_not_fetched(
    three: WebArchive, folder: Path, associations: int
) -> None:
    lost, *there = three.instances

    def search(request: Request) -> None:
        request.reply_json([row(uid) for uid in (*there, lost)])

    three.search = search
    three.retrieve_series = lambda request: request.reply_parts(
        [three.instances[uid] for uid in there]
    )
    three.retrieve_instance = status(404)
    with pytest.raises(PacsError, match=f"instance {lost} is not in"):
        fetched(three, folder, Limits(associations=associations))
    assert list(folder.iterdir()) == []


def test_a_series_that_is_not_there_is_said(folder: Path) -> None:
    for archive in (WebArchive(), WebArchive(retrieve_series=status(404))):
        with pytest.raises(PacsError, match=f"series {SERIES} is not in"):
            fetched(archive, folder)


def test_a_folder_that_takes_nothing_is_a_storage_error(three: WebArchive, folder: Path) -> None:
    with pytest.raises(StorageError, match="Is the folder there"):
        fetched(three, folder / "nothing")
