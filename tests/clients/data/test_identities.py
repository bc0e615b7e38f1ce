from pydicom import Dataset

from clients.data.identities import Identities, ids_in


def study(patient: str, *others: str) -> Dataset:
    dataset = Dataset()
    dataset.PatientID = patient
    if others:
        dataset.OtherPatientIDs = list(others)
    return dataset


def test_a_patient_goes_by_one_id() -> None:
    known, renamed, linked, other = (
        study("B"), study("C", "B"), study("D", "C", "A"), study("E")
    )  # fmt: skip
    patients = Identities([known, renamed, linked, other])

    assert [patients.of(one) for one in (known, renamed, linked)] == [("A", "B", "C", "D")] * 3
    assert patients.of(other) == ("E",)


def test_links_that_become_known_later_count() -> None:
    patients = Identities([study("B"), study("C")])
    assert patients.linked("C") == {"C"}

    patients.link(["C", "A"])
    patients.link(["A", "B"])
    patients.link([])

    assert patients.of(study("C")) == ("A", "B", "C")


def test_both_ways_to_name_other_ids_are_read() -> None:
    dataset, item = study("A", "B"), Dataset()
    item.PatientID = " C "
    dataset.OtherPatientIDsSequence = [item, Dataset()]

    assert ids_in(dataset) == ["A", "B", "C"]


def test_a_study_without_a_patient_is_nobodys() -> None:
    assert Identities([study("")]).of(study("")) == ()
    only = study("A", "")
    assert Identities([only]).of(only) == ("A",)
