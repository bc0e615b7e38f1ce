"""Patient IDs that are one person's, as far as the archive says so."""

from collections import defaultdict
from collections.abc import Iterable

from pydicom import Dataset
from pydicom.multival import MultiValue

KEY = "OtherPatientIDs"
"""Asked for at STUDY level (PS3.4 Table C.6-5); many archives do not answer it."""


class Identities:
    """Who is who among the patients of a set of studies.

    Patients that one study's Other Patient IDs name together are one, and so are those that are
    linked by others in between. They go by the ID that comes first in the alphabet.
    """

    def __init__(self, studies: Iterable[Dataset]) -> None:
        self._of: dict[str, str] = {}
        for study in studies:
            ids = [*_texts(study.get("PatientID")), *_texts(study.get(KEY))]
            roots = {self._root(one) for one in ids}
            for root in roots:
                self._of[root] = min(roots)
        self._members: defaultdict[str, set[str]] = defaultdict(set)
        for one in list(self._of):
            self._members[self._root(one)].add(one)

    def of(self, study: Dataset) -> tuple[str, ...]:
        """Every ID of a study's patient, the one they go by first; none where it names none."""
        ids = _texts(study.get("PatientID"))
        return tuple(sorted(self._members[self._root(ids[0])])) if ids else ()

    def _root(self, patient_id: str) -> str:
        while (above := self._of.setdefault(patient_id, patient_id)) != patient_id:
            patient_id = above
        return patient_id


def _texts(value: object) -> list[str]:
    values = list(value) if isinstance(value, MultiValue | list) else [value]
    return [text for one in values if one is not None and (text := str(one).strip())]
