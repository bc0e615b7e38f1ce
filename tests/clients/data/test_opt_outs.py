"""Patients who do not take part: how they are kept, and that nothing of theirs is used."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.data import load_examples
from clients.data.opt_outs import opt_out, opted_out
from clients.data.quarantine import Reason
from federation.cli import build
from federation.config import OptOuts, Site
from federation.errors import ConfigError
from federation.iodeep.architecture import Preprocessing
from federation.iodeep.labels import Line
from federation.pacs import Gateway
from federation.samples.phantom import phantom_cases
from tests.clients.data.conftest import write


@pytest.fixture
def table(tmp_path: Path) -> OptOuts:
    key = tmp_path / "opt-out.key"
    key.write_text("secret\n")
    return OptOuts(file=tmp_path / "opt-outs.txt", key=key)


def test_who_opted_out_is_known_by_a_keyed_hash(table: OptOuts) -> None:
    assert opt_out(table, ["P1", " P2 ", "P1"]) == 2
    assert opt_out(table, ["P2", "P3"]) == 1

    is_out = opted_out(table)

    assert [is_out(one) for one in ("P1", "P2", "P3", "P4", "")] == [True] * 3 + [False] * 2
    assert "P1" not in table.file.read_text()
    table.key.write_text("another\n")
    assert not opted_out(table)("P1")


@pytest.mark.parametrize("content", ["P1\n", "ab\n", "0" * 63 + "\n"])
def test_a_list_that_cannot_be_read_stops_everything(table: OptOuts, content: str) -> None:
    with pytest.raises(ConfigError, match="without it nobody knows"):
        opted_out(table)
    table.file.write_text(content)
    with pytest.raises(ConfigError, match="holds what is no hash") as caught:
        opted_out(table)
    assert "P1" not in str(caught.value)


def test_nothing_of_theirs_is_trained_on_and_they_are_counted(
    gateway: Gateway, site: Site, table: OptOuts, tmp_path: Path
) -> None:
    cases = phantom_cases("A", 4, 0)
    for number, case in enumerate(cases):
        written = write(case, tmp_path / str(number))
        gateway.store([*written.series, written.seg])
    out = cases[0].patient_id
    theirs = sum(case.patient_id == out for case in cases)
    opt_out(table, [out])
    policy = site.policy.model_copy(update={"opt_out": table})

    data = load_examples(
        gateway,
        site.model_copy(update={"policy": policy}),
        Line.parse("MR/brain/-/phantom-unet"),
        Preprocessing(spacing_mm=(1, 1, 1), size=(40, 40, 40)),
    )

    assert len(data.train) + len(data.validation) + len(data.test) == len(cases) - theirs
    assert data.quarantined == {Reason.OPTED_OUT: data.quarantined[Reason.OPTED_OUT]}
    assert data.unusable == 0


def test_the_command_takes_ids_from_stdin(tmp_path: Path) -> None:
    document = tmp_path / "site.toml"
    (tmp_path / "o.key").write_text("secret\n")
    document.write_text(
        'name = "a"\n[archives]\nimages = "folder:x"\n[data]\n'
        '[policy.opt_out]\nfile = "out.txt"\nkey = "o.key"\n'
        '[[policy.trust]]\nlines = ["*"]\nunsigned = true\n'
    )

    def said(ids: str) -> str:
        return CliRunner().invoke(build(), ["site", "opt-out", str(document)], ids).stdout

    assert "2 of 2 patients are new" in said("P1\nP2\n")
    assert "0 of 1 patients are new" in said("P2\n")
    assert len((tmp_path / "out.txt").read_text().split()) == 2
