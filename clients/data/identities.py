"""Patient IDs that are one person's, as far as archive and objects say so."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pydicom import Dataset
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

from clients.data.quarantine import Reason, Unusable

KEY = "OtherPatientIDs"
"""Asked for at STUDY level (PS3.4 Table C.6-5); many archives do not answer it."""

_SEQUENCE = "OtherPatientIDsSequence"  # what has taken its place (PS3.3 Section C.2.3)
_TAGS: list[BaseTag | int] = [
    Tag(keyword) for keyword in ("SpecificCharacterSet", "PatientID", KEY, _SEQUENCE)
]


class Identities:
    """Who is who among patients.

    IDs, or hashes of them, that something names together are one patient's, and so are those that
    are linked by others in between. They go by the one that comes first in the alphabet.
    """

    def __init__(self, studies: Iterable[Dataset] = ()) -> None:
        self._of: dict[str, str] = {}
        self._members: dict[str, set[str]] = {}
        for study in studies:
            self.link(ids_in(study))

    def link(self, ids: Iterable[str]) -> None:
        """These are one patient's."""
        roots = {self._root(one) for one in ids}
        first = min(roots, default="")
        for root in roots - {first}:
            self._of[root] = first
            self._members[first] |= self._members.pop(root)

    def of(self, study: Dataset) -> tuple[str, ...]:
        """Every ID of a study's patient, the one they go by first; none where it names none."""
        ids = _texts(study.get("PatientID"))
        return tuple(sorted(self.linked(ids[0]))) if ids else ()

    def linked(self, patient_id: str) -> Collection[str]:
        """Every ID of a patient, by any of them."""
        return frozenset(self._members[self._root(patient_id)])

    def _root(self, patient_id: str) -> str:
        while (above := self._of.setdefault(patient_id, patient_id)) != patient_id:
            patient_id = above
        self._members.setdefault(patient_id, {patient_id})
        return patient_id


def ids_in(dataset: Dataset) -> list[str]:
    """The Patient ID that a study or an object names, and the other IDs of the same patient."""
    items = dataset.get(_SEQUENCE) or ()
    return [
        *_texts(dataset.get("PatientID")),
        *_texts(dataset.get(KEY)),
        *(one for item in items for one in _texts(item.get("PatientID"))),
    ]


def read_patient_ids(
    images: Sequence[Path], labels: Sequence[Path], patient_ids: Iterable[str]
) -> frozenset[str]:
    """All IDs of an example's patient: those known already, and those that its files name.

    Raises :class:`Unusable` where a file names a patient who is not linked to them, or cannot be
    read. A file that names nobody is believed to belong where the archive has it.
    """
    known = set(patient_ids)
    identities = Identities()
    identities.link(known)
    named = set()
    for path, reason, what in (
        *((path, Reason.IMAGE_UNDECODABLE, "an image") for path in images),
        *((path, Reason.LABELS_UNDECODABLE, "a label object") for path in labels),
    ):
        try:
            header = _read_header(path)
            ids = ids_in(header)
            named.update(_texts(header.get("PatientID")))
        except Exception as error:  # a damaged file can raise anything in the parser
            raise Unusable(reason, f"{what} that is no readable DICOM") from error
        identities.link(ids)
    every = identities.linked(min(known)) if known else frozenset(named)
    if not named <= set(every):
        raise Unusable(Reason.PATIENTS_DIFFER, "objects of one study name different patients")
    return frozenset(every)


def _read_header(path: Path) -> Dataset:
    """What an object says about its patient; nothing behind is read."""
    with path.open("rb") as file:
        return read_partial(file, stop_when=lambda tag, *_: tag > _TAGS[-1], specific_tags=_TAGS)


def _texts(value: object) -> list[str]:
    values = list(value) if isinstance(value, MultiValue | list) else [value]
    return [text for one in values if one is not None and (text := str(one).strip())]
