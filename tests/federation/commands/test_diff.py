"""``iodeep model diff``."""

import json
from pathlib import Path

import numpy as np
import pytest

from federation.errors import ConfigError, RegistryError, SignatureError
from federation.iodeep.manifest import VersionManifest
from federation.iodeep.signature import SigningKey
from federation.iodeep.weights import Tensor
from federation.registry import Registry
from tests.federation.commands.conftest import Iodeep
from tests.federation.iodeep.records import LINE, tensors, version

Versions = dict[str, VersionManifest]


_SIDES = ("before", "after")


def sides(iodeep: Iodeep, address: str, *words: str) -> tuple[str, str]:
    found = json.loads(iodeep("diff", str(LINE), address, *words, "--json").stdout)
    before, after = (f"{found[side]['branch']}:{found[side]['round']}" for side in _SIDES)
    return before, after


def test_versions_are_named_by_branch_and_round_or_uid(
    iodeep: Iodeep, address: str, versions: Versions
) -> None:
    uid = versions["main:2"].uid
    for words, expected in [
        ((), ("main:1", "fork:1")),  # the newest branch's latest and its parent
        (("--branch", "main"), ("main:2", "main:3")),
        (("main:0",), ("main:0", "fork:1")),
        (("main:0", "main:2"), ("main:0", "main:2")),
        (("main", "fork"), ("main:3", "fork:1")),
        (("main:", "fork:1"), ("main:3", "fork:1")),
        (("0", "2", "--branch", "main"), ("main:0", "main:2")),
        ((":0", ":2", "--branch", "main"), ("main:0", "main:2")),
        ((uid, f"…{uid[-8:]}"), ("main:2", "main:2")),
    ]:
        assert sides(iodeep, address, *words) == expected, words


def test_what_names_nothing_is_said(iodeep: Iodeep, address: str, versions: Versions) -> None:
    expected: list[tuple[list[str], type[Exception], str]] = [
        (["main:x"], ConfigError, "names no version"),
        ([":"], ConfigError, "names no version"),
        (["main:-1"], ConfigError, "names no version"),
        (["main:" + 5000 * "9"], ConfigError, "names no version"),
        (["²"], RegistryError, "no complete version"),
        (["main:9"], RegistryError, "round 9 on branch 'main'"),
        (["nowhere"], RegistryError, "branch 'nowhere'"),
        (["2.25.1"], RegistryError, "no complete version with UID"),
        (["…"], RegistryError, "no complete version with UID"),
        (["--branch", "nowhere"], RegistryError, "branch 'nowhere'"),
    ]
    for words, error, said in expected:
        failure = iodeep("diff", str(LINE), address, *words).exception
        assert isinstance(failure, error), words
        assert said in str(failure)


def test_a_version_without_a_parent_needs_two_names(
    iodeep: Iodeep, address: str, registry: Registry
) -> None:
    registry.publish(*version())
    failure = iodeep("diff", str(LINE), address).exception
    assert isinstance(failure, RegistryError)
    assert "it has no parent" in str(failure)


def test_the_table_shows_what_changed_and_counts_what_did_not(
    iodeep: Iodeep, address: str, versions: Versions
) -> None:
    said = iodeep("diff", str(LINE), address, "main:1", "fork:1", "--top", "1").stdout
    assert "the same: labels, architecture, preprocessing, task" in said
    assert "2 more tensors changed; --top 3 shows all" in said
    assert "4 tensors: 1 the same, 3 with other values" in said
    assert " of the difference (" in said
    again = iodeep("diff", str(LINE), address, "main:1", "main:1").stdout
    assert "4 tensors: 4 the same" in again
    assert "‖" not in again


def test_json_says_every_fact_and_tensor(iodeep: Iodeep, address: str, versions: Versions) -> None:
    found = json.loads(iodeep("diff", str(LINE), address, "0", "1", "--branch", "main",
                              "--json").stdout)  # fmt: skip
    assert found["before"]["version"] == versions["main:0"].uid
    facts = {(fact["section"], fact["name"]): fact for fact in found["facts"]}
    assert facts["architecture", "arguments.channels"] == {
        "section": "architecture", "name": "arguments.channels", "same": True,
        "before": [4, 8], "after": [4, 8],
    }  # fmt: skip
    by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
    one, two = (np.frombuffer(tensors(n)["a.weight"].data, "<f4") for n in (0, 1))
    assert by_name["a.weight"]["norm_difference"] == pytest.approx(np.linalg.norm(two - one))
    assert by_name["b.flags"]["change"] == "same"
    assert found["totals"]["tensors"] == {"values": 3, "same": 1}


def test_what_is_not_finite_is_shown_and_is_no_nan_in_json(
    iodeep: Iodeep, address: str, registry: Registry
) -> None:
    first, parts = version()
    registry.publish(first, parts)
    broken = tensors(1)
    values = np.frombuffer(broken["a.weight"].data, "<f4").copy()
    values[:3] = np.nan, np.inf, -np.inf
    bits = memoryview(values.tobytes())
    broken["a.weight"] = Tensor(dtype="F32", shape=(40, 50), pieces=(bits,))
    broken["\x1b[2Jsneaky"] = broken["b.weight"]
    registry.publish(*version(broken, round=1, parent=first.reference))
    said = iodeep("diff", str(LINE), address).stdout
    assert "NOT FINITE: 0 values before, 3 after" in said
    assert "0 → 3" in said
    assert "\x1b" not in said
    assert "\\x1b[2Jsneaky" in said
    found = json.loads(iodeep("diff", str(LINE), address, "--json").stdout)
    assert found["totals"]["not_finite_after"] == 3
    assert found["tensors"][0]["after"]["not_finite"] == 3


def test_only_what_a_signer_signed_is_compared(
    iodeep: Iodeep, address: str, versions: Versions, tmp_path: Path
) -> None:
    signed = iodeep("diff", str(LINE), address, "--signer", f"{tmp_path}/release.key.pub")
    assert signed.exit_code == 0
    SigningKey.create(tmp_path / "other.key")
    failure = iodeep("diff", str(LINE), address, "--signer", f"{tmp_path}/other.key.pub").exception
    assert isinstance(failure, SignatureError)
