from pathlib import Path

import pytest

from clients.data.split import Part, create_split_key, part_of, read_split_key
from federation.config import Split
from federation.errors import ConfigError

KEY = b"a site's own secret, 32 bytes!!!"
PATIENTS = [f"P{number:05d}" for number in range(4000)]


def split(validation: float = 0.15, test: float | tuple[str, ...] = 0.15) -> Split:
    return Split(validation=validation, test=test, key=Path("split.key"))


def parts(patients: list[str], rule: Split, key: bytes = KEY) -> dict[str, Part]:
    return {patient: part_of((patient,), rule, key) for patient in patients}


def test_fractions_are_met_over_many_patients() -> None:
    seen = list(parts(PATIENTS, split(0.2, 0.1)).values())

    assert seen.count(Part.VALIDATION) / len(seen) == pytest.approx(0.2, abs=0.03)
    assert seen.count(Part.TEST) / len(seen) == pytest.approx(0.1, abs=0.03)


def test_newcomers_move_nobody() -> None:
    before = parts(PATIENTS[:50], split())
    after = parts(PATIENTS, split())

    assert {patient: after[patient] for patient in before} == before


def test_another_fraction_moves_no_one_between_the_other_two_parts() -> None:
    before, after = parts(PATIENTS, split(0.1, 0.15)), parts(PATIENTS, split(0.3, 0.15))

    tests = {patient for patient, part in before.items() if part is Part.TEST}
    assert tests == {patient for patient, part in after.items() if part is Part.TEST}
    validates = {patient for patient, part in before.items() if part is Part.VALIDATION}
    assert all(after[patient] is Part.VALIDATION for patient in validates)


def test_another_key_is_another_split() -> None:
    assert parts(PATIENTS, split()) != parts(PATIENTS, split(), b"some other key")


def test_named_patients_are_tested_and_no_others() -> None:
    seen = parts(PATIENTS, split(0.15, ("P00003", "P00007")))

    assert {patient for patient, part in seen.items() if part is Part.TEST} == {"P00003", "P00007"}
    assert list(seen.values()).count(Part.VALIDATION) / len(seen) == pytest.approx(0.15, abs=0.03)


def test_a_patient_is_named_by_any_of_their_ids() -> None:
    rule = split(0.0, ("P00003",))
    assert part_of(("A7", "P00003"), rule, KEY) is Part.TEST
    assert part_of(("A7", "P00004"), rule, KEY) is Part.TRAIN


def test_of_several_ids_one_decides_and_favours_no_part() -> None:
    rule = split(0.2, 0.2)
    pairs = list(zip(PATIENTS[::2], PATIENTS[1::2], strict=True))
    seen = [part_of(pair, rule, KEY) for pair in pairs]

    assert seen == [part_of(pair[::-1], rule, KEY) for pair in pairs]
    for pair, part in zip(pairs, seen, strict=True):
        assert part in {part_of((one,), rule, KEY) for one in pair}
    for part in (Part.VALIDATION, Part.TEST):
        assert seen.count(part) / len(seen) == pytest.approx(0.2, abs=0.03)


def test_a_fraction_of_nothing_gives_no_patient() -> None:
    assert set(parts(PATIENTS, split(0.0, 0.0)).values()) == {Part.TRAIN}


def test_the_rule_is_the_one_already_in_use() -> None:
    """A change here would let test patients of earlier rounds into training."""
    known = [part_of((f"SITEA-{number:04d}",), split(0.3, 0.3), KEY) for number in range(8)]

    assert [part[:2] for part in known] == ["va", "va", "te", "tr", "te", "va", "tr", "te"]


def test_a_new_key_is_private_and_usable(tmp_path: Path) -> None:
    path = tmp_path / "keys/split.key"

    create_split_key(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert len(read_split_key(path)) == 64
    with pytest.raises(ConfigError, match="keeps its split's key"):
        create_split_key(path)


def test_a_missing_key_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="restore the site's key"):
        read_split_key(tmp_path / "split.key")
    assert not (tmp_path / "split.key").exists()


def test_an_empty_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.key"
    path.write_text("\n")

    with pytest.raises(ConfigError, match="is empty"):
        read_split_key(path)
