"""Classes out of a site's own list: a CSV file with a row for each series, study or patient.

The file stays at the site, and so does what is in it: no error repeats a value of a row.
"""

import csv
import hashlib
import io
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from clients.data.labels.classes import the_one
from clients.data.labels.segments import Wanted, fold
from clients.data.quarantine import Reason, Unusable
from federation.errors import ConfigError

_LABEL = "label"
_ABOUT = ("series", "study", "patient_id")
"""What a row may be about; the first of these that the header has decides."""

_MOST_BYTES = 64 * 2**20
_LONGEST = 64  # characters of a field: DICOM's own limit of UIDs and Patient IDs
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ListedClasses:
    """The rows of a list, by what they are about.

    name:   the file's
    about:  ``series``, ``study`` or ``patient_id``
    rows:   labels in lower case, with the lines that they stand on
    digest: SHA-256 of the file
    """

    name: str
    about: str
    rows: Mapping[str, Mapping[str, int]]
    digest: str

    def class_of(
        self, wanted: Wanted, *, series: str, study: str, patients: Collection[str]
    ) -> int:
        """The class of an image series, by its UID, its study's, or its patient's IDs.

        Raises :class:`Unusable` where no row is about it, several disagree, or the label is
        neither in ``labels.map`` nor an output's name.
        """
        asked = {"series": [series], "study": [study], "patient_id": patients}[self.about]
        said = {label: line for key in asked for label, line in self.rows.get(key, {}).items()}
        if not said:
            raise Unusable(Reason.NO_LABELS, f"no row of {self.name} is about its {self.about}")
        for label, line in said.items():
            if label not in wanted.names:
                raise Unusable(
                    Reason.NO_LABELS,
                    f"the label on line {line} of {self.name} is neither in labels.map nor an "
                    "output's name",
                )
        return the_one(wanted.names[label] for label in said)


def read_list(path: Path) -> ListedClasses:
    """A CSV file: UTF-8, a header, separated by commas, or by semicolons where the header is.

    Raises :class:`ConfigError` for a file that is none or too large, for a header without the
    columns, and for a row with fields missing, too many, empty, too long, or no UID; it names the
    line and never what is on it.
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= _MOST_BYTES else None
    except OSError as error:
        raise ConfigError(f"the list of labels {path} cannot be read: {error.strerror}") from error
    if content is None:
        raise ConfigError(f"the list of labels {path} is larger than {_MOST_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"the list of labels {path} is not UTF-8; save it as that") from None
    about, rows = _read(text, path)
    return ListedClasses(
        name=path.name, about=about, rows=rows, digest=hashlib.sha256(content).hexdigest()
    )


def _read(text: str, path: Path) -> tuple[str, Mapping[str, Mapping[str, int]]]:
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: dict[str, dict[str, int]] = {}
    try:
        columns = [name.strip().casefold() for name in next(reader, [])]
        about = next((column for column in _ABOUT if column in columns), None)
        if about is None or _LABEL not in columns or len(set(columns)) < len(columns):
            raise ConfigError(
                f"the header of {path} does not say what it holds; expected a column {_LABEL!r} "
                f"and one of {', '.join(_ABOUT)}, each once"
            )
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if problem := next(_problems(fields, columns, about), None):
                raise ConfigError(f"line {reader.line_num} of {path}: {problem}; correct it")
            row = dict(zip(columns, fields, strict=True))
            labels = rows.setdefault(row[about].strip(), {})
            labels.setdefault(fold(row[_LABEL]), reader.line_num)
    except csv.Error:
        raise ConfigError(
            f"line {reader.line_num} of {path} is no CSV; look at its quotes"
        ) from None
    return about, rows


def _problems(fields: list[str], columns: list[str], about: str) -> Iterator[str]:
    if len(fields) != len(columns):
        yield f"{len(fields)} fields, and the header has {len(columns)}"
        return
    for column, field in zip(columns, fields, strict=True):
        if column not in (about, _LABEL):
            continue
        value = field.strip()
        if not value:
            yield f"no {column}"
        elif len(value) > _LONGEST:
            yield f"a {column} of {len(value)} characters; at most {_LONGEST} are allowed"
        elif column in ("series", "study") and column == about and not _UID.fullmatch(value):
            yield f"its {column} is no UID, which has digits and dots only"
