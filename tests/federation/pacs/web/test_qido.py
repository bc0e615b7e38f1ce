"""Searches over HTTP, in archives that answer well and badly."""

import logging

import pytest

from federation.errors import PacsError
from federation.pacs import open_gateway
from federation.pacs.web import answer, qido
from tests.federation.pacs.web.web_archive import (
    JSON,
    KEYS,
    MULTIPART,
    QUICK,
    Reply,
    Request,
    WebArchive,
    row,
    status,
    web_archive,
)


def found(archive: WebArchive, **keys: str) -> list[str]:
    with web_archive(archive), open_gateway(archive.address, limits=QUICK) as gateway:
        return [str(one.SOPInstanceUID) for one in gateway.find("IMAGE", {**KEYS, **keys})]


def test_matches_are_filtered_again_and_each_comes_once() -> None:
    one = row("1.1", t00200013=("IS", 1))
    other = row("1.2", t00200013=("IS", 2))
    elsewhere = row("1.3", t0020000D=("UI", "1.2.9"))
    lacking = {tag: value for tag, value in row("1.4").items() if tag == "00080018"}
    lacking["0020000D"] = {"vr": "UI"}
    nameless = {"00200013": {"vr": "IS", "Value": [1]}}
    rows = [one, one, other, elsewhere, lacking, nameless]
    archive = WebArchive(search=lambda request: request.reply_json(rows))
    assert found(archive, InstanceNumber="1") == ["1.1", "1.4"]
    assert archive.seen[0].query["InstanceNumber"] == ["1"]
    assert archive.seen[0].query["includefield"] == ["InstanceNumber"]


def test_what_has_to_be_encoded_is_asked_for_once_more_with_wildcards() -> None:
    archive = WebArchive(search=lambda request: request.reply_json([]))
    assert found(archive, ContentLabel="A B&C=D+é*?", Modality="*", InstanceNumber="") == []
    (plain, wild) = archive.seen
    assert plain.query["ContentLabel"] == ["A B&C=D+é*?"]
    assert "ContentLabel=A%20B%26C%3DD%2B%C3%A9*?&" in plain.path
    assert "ContentLabel=A*B*C*D**?&" in wild.path
    assert not plain.query.keys() & {"Modality", "InstanceNumber"}
    assert set(plain.query["includefield"]) == {"ContentLabel", "Modality", "InstanceNumber"}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda request: request.reply(200, b"Doe^Jane", JSON), "no JSON document"),
        (lambda request: request.reply(200, b"\xff\xfe\xfd", JSON), "no JSON document"),
        (lambda request: request.reply(200, b"[" * 200_000, JSON), "no JSON document"),
        (lambda request: request.reply(200, b"1" * 20_000, JSON), "no JSON document"),
        (lambda request: request.reply_json({"a": "Doe"}), "list of matches is none"),
        (lambda request: request.reply_json(["Doe"]), "data set is none"),
        (lambda request: request.reply_json([{"Doe": 1}]), "attribute is none"),
        (
            lambda request: request.reply(200, b"<html>Doe</html>", "text/html"),
            "'text/html' instead of JSON.*log-in",
        ),
        (lambda request: request.reply(200, b"<xml/>", MULTIPART), "instead of JSON"),
        (status(400), r"answered 400 \(Bad Request\) to a search at IMAGE level"),
    ],
)
def test_a_search_s_answer_that_is_none_is_said_and_not_repeated(reply: Reply, said: str) -> None:
    with pytest.raises(PacsError, match=said) as caught:
        found(WebArchive(search=reply), ContentLabel="Doe")
    assert "Doe" not in str(caught.value)


def test_an_answer_without_end_is_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "MAX_DOCUMENT_BYTES", 2**20)
    archive = WebArchive(search=lambda request: request.reply(200, b" " * 2**24, JSON))
    with pytest.raises(PacsError, match="more than 1048576 bytes"):
        found(archive)


def test_no_content_is_no_match_and_nothing_is_below_what_is_not_there() -> None:
    assert found(WebArchive(search=status(204))) == []
    archive = WebArchive(search=status(404))
    assert found(archive) == []
    with (
        web_archive(archive),
        open_gateway(archive.address) as gateway,
        pytest.raises(PacsError, match="the address has another path"),
    ):
        gateway.find("STUDY", {"StudyDate": "20200101"})
    assert found(WebArchive(search=lambda request: request.reply(200, kind=JSON))) == []


def pages(count: int, *, most: int | None = None, offset: bool = True, limit: bool = True) -> Reply:
    """Answers ``count`` matches as an archive that gives at most so many, or ignores a key."""

    def reply(request: Request) -> None:
        start = int(request.query["offset"][0]) if offset else 0
        size = min(most or count, int(request.query["limit"][0]) if limit else count)
        request.reply_json([row(f"1.{number}") for number in range(count)][start : start + size])

    return reply


@pytest.mark.parametrize(
    ("reply", "count", "requests"),
    [
        (pages(9), 9, 1),
        (pages(10), 10, 2),
        (pages(2500), 2500, 3),
        (pages(2000), 2000, 3),
        (pages(25, most=12), 25, 3),
        (pages(24, most=12), 24, 3),
        (pages(300, most=100), 300, 4),
        (pages(50, offset=False), 50, 2),
        (pages(1500, limit=False), 1500, 2),
        (pages(1500, limit=False, offset=False), 1500, 2),
    ],
)
def test_all_matches_come_however_an_archive_pages(reply: Reply, count: int, requests: int) -> None:
    archive = WebArchive(search=reply)
    assert found(archive) == [f"1.{number}" for number in range(count)]
    assert len(archive.seen) == requests


def test_an_archive_s_page_size_is_learnt() -> None:
    archive = WebArchive(search=pages(40))
    with web_archive(archive), open_gateway(archive.address) as gateway:
        gateway.find("IMAGE", KEYS)
        archive.search = pages(39)
        gateway.find("IMAGE", KEYS)
    assert len(archive.seen) == 3


def test_matches_that_cannot_all_be_had_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PacsError, match="more than 1000 matches, and gives no others"):
        found(WebArchive(search=pages(1500, offset=False)))
    monkeypatch.setattr(qido, "MAX_MATCHES", 3000)
    with pytest.raises(PacsError, match="more than 3000 matches"):
        found(WebArchive(search=pages(5000)))


def test_bulk_data_is_not_fetched() -> None:
    linked = {"7FE00010": {"vr": "OW", "BulkDataURI": "http://127.0.0.1:1/secret"}}
    archive = WebArchive(search=lambda request: request.reply_json([row("1.1") | linked]))
    assert found(archive) == ["1.1"]
    assert len(archive.seen) == 1


def test_nothing_of_a_patient_reaches_an_error_or_a_log(
    three: WebArchive, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = {"PatientName": "Doe^Jane", "PatientID": "PID 7", "StudyDate": ""}
    for reply in (status(500), status(404), status(503), lambda request: request.reply(200, b"x")):
        three.search = reply
        with (
            web_archive(three),
            open_gateway(three.address, limits=QUICK) as gateway,
            pytest.raises(PacsError) as caught,
        ):
            gateway.find("STUDY", keys)
        error: BaseException | None = caught.value
        while error is not None:
            assert "Doe" not in str(error)
            assert "PID" not in str(error)
            error = error.__cause__
    assert "Doe" not in caplog.text
    assert "PID" not in caplog.text
