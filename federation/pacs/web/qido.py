"""Searches over HTTP (QIDO-RS, PS3.18 Section 10.6)."""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from federation.errors import PacsError
from federation.pacs.attributes import UIDS, text_of
from federation.pacs.gateway import Level
from federation.pacs.matching import MAX_MATCHES, matches_all, upper_keys
from federation.pacs.web.dicomjson import NotDicomJson, read_dataset
from federation.pacs.web.faults import NotThere
from federation.pacs.web.http import WebConnection

PAGE = 1000

_PATHS: Mapping[Level, str] = {
    "STUDY": "/studies",
    "SERIES": "/studies/{StudyInstanceUID}/series",
    "IMAGE": "/studies/{StudyInstanceUID}/series/{SeriesInstanceUID}/instances",
}
# Archives give at most so many matches at once as they like, but none is known that likes fewer.
_LEAST_PAGE = 10

_WITH_WILDCARDS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
# These stand for themselves in a query (RFC 3986 Section 3.4), beside letters, digits and _.-~
_PLAIN = "*?,:/@!$'()"
_NOT_PLAIN = re.compile(rf"[^\w.~{re.escape(_PLAIN)}-]+", re.ASCII)


class Search:
    """Searches one archive; filters its answers again, and gives each match once."""

    def __init__(self) -> None:
        self._largest_page = dict.fromkeys(_PATHS, _LEAST_PAGE)

    def find(
        self, connection: WebConnection, level: Level, keys: Mapping[str, str]
    ) -> list[Dataset]:
        """Matches of ``keys``, which are those of :meth:`Gateway.find`."""
        upper = {keyword: keys[keyword] for keyword in upper_keys(level)}
        others = {keyword: wanted for keyword, wanted in keys.items() if keyword not in upper}
        for spelled in _spellings(others):
            request = f"{_PATHS[level].format(**upper)}?{spelled}"
            if found := self._matches(connection, level, keys, request):
                return found
        return []

    def _matches(
        self, connection: WebConnection, level: Level, keys: Mapping[str, str], request: str
    ) -> list[Dataset]:
        found: dict[str, Dataset] = {}
        for answer in self._answers(connection, level, request):
            for keyword in upper_keys(level):
                if not text_of(answer, keyword):  # not repeated, as the request's path says it
                    setattr(answer, keyword, keys[keyword])
            if matches_all(keys, answer) and (uid := text_of(answer, UIDS[level])):
                found.setdefault(uid, answer)
        return list(found.values())

    def _answers(self, connection: WebConnection, level: Level, request: str) -> Iterator[Dataset]:
        """What the archive has to say, page by page."""
        rows = 0
        last: list[str] = []
        while page := _page(connection, level, f"{request}limit={PAGE}&offset={rows}"):
            uids = sorted(text_of(answer, UIDS[level]) for answer in page)
            rows += len(page)
            if uids == last:  # it ignores ``offset``
                if len(page) == PAGE:
                    raise _too_many(
                        connection, level, f"more than {PAGE} matches, and gives no others"
                    )
                return
            yield from page
            if rows > MAX_MATCHES:
                raise _too_many(connection, level, f"more than {MAX_MATCHES} matches")
            # It gave more before; so this is not all that it gives at once, but all there is.
            if len(page) < self._largest_page[level]:
                return
            self._largest_page[level] = len(page)
            last = uids


def _page(connection: WebConnection, level: Level, request: str) -> list[Dataset]:
    what = f"a search at {level} level"
    try:
        with connection.ask(what, request, accept="application/dicom+json") as answer:
            rows = answer.json() or []
    except NotThere:
        if level == "STUDY":
            raise
        return []  # nothing is there of what lies above
    try:
        if not isinstance(rows, list):
            raise NotDicomJson("what should be a list of matches is none")
        return [read_dataset(row) for row in rows]
    except NotDicomJson as error:
        raise PacsError(
            f"{connection.address} answered {what} with JSON that is no DICOM ({error})"
        ) from None


def _too_many(connection: WebConnection, level: Level, what: str) -> PacsError:
    return PacsError(
        f"{connection.address} has {what}, for a search at {level} level; search with narrower keys"
    )


def _spellings(keys: Mapping[str, str]) -> Iterator[str]:
    """Keys as a query, up to its last ``&``; then once more for an archive that finds nothing.

    Orthanc's DICOMweb 1.7 does not decode %XX, so no value with a space or ^ ever matches there.
    Hence a second query, where wildcards stand for what had to be encoded.
    """
    wanted = {
        keyword: _separated(keyword, value)
        for keyword, value in keys.items()
        if value not in ("", "*")
    }
    fields = "".join(f"includefield={keyword}&" for keyword in keys)
    yield _query({keyword: quote(value, safe=_PLAIN) for keyword, value in wanted.items()}) + fields
    if any(_NOT_PLAIN.search(value) for value in wanted.values()):
        yield (
            _query({keyword: _loose(keyword, value) for keyword, value in wanted.items()}) + fields
        )


def _query(values: Mapping[str, str]) -> str:
    return "".join(f"{keyword}={value}&" for keyword, value in values.items() if value)


def _separated(keyword: str, value: str) -> str:
    """A list of UIDs has commas in a query (PS3.18 Section 8.3.4)."""
    return value.replace("\\", ",") if dictionary_VR(keyword) == "UI" else value


def _loose(keyword: str, value: str) -> str:
    if not _NOT_PLAIN.search(value):
        return value
    return _NOT_PLAIN.sub("*", value) if dictionary_VR(keyword) in _WITH_WILDCARDS else ""
