from pydicom import Dataset

from clients.data.identities import Identities


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


def test_a_study_without_a_patient_is_nobodys() -> None:
    assert Identities([study("")]).of(study("")) == ()
    only = study("A", "")
    assert Identities([only]).of(only) == ("A",)
