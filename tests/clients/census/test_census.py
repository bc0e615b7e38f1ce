"""What a site is told of its data before anything is trained."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from pydicom import Dataset
from typer.testing import CliRunner

from clients.census import take_overview
from clients.data.cache import ExampleCache
from clients.data.opt_outs import opt_out
from federation.cli import build
from federation.config import OptOuts, PolicyTable
from federation.pacs import Archive, open_gateway
from federation.pacs.folder import FolderGateway
from federation.samples.phantom import phantom_cases
from tests import classified
from tests.clients.data.conftest import WrittenCase, edit, table, write

LINE = "MR/brain/-/phantom-unet"
SITE = """
name = "hospital"
[archives]
images = "folder:pacs"
models = "folder:models"
[data.brain]
query = {{ Modality = "MR" }}
labels = {{ map = {{ "inner structure" = 1, "outer structure" = 2 }} }}
split = {{ key = "split.key" }}
[policy]
min_studies = {least}
max_unusable = {unusable}
[[policy.trust]]
lines = ["*"]
unsigned = true
"""


def census(home: Path, *words: str, least: int = 1, unusable: float = 1.0) -> Result:
    document = home / "site.toml"
    document.write_text(SITE.format(least=least, unusable=unusable))
    (home / "split.key").write_text("a key\n")
    return CliRunner().invoke(build(), ["site", "census", str(document), *words])


def store(home: Path, *cases: WrittenCase) -> None:
    for name in ("pacs", "models"):
        Archive(home / name).close()
    with open_gateway(f"folder:{home}/pacs") as gateway:
        for case in cases:
            gateway.store([*case.series, case.seg])


@pytest.fixture
def cases(tmp_path: Path) -> list[WrittenCase]:
    return [
        write(case, tmp_path / str(number)) for number, case in enumerate(phantom_cases("B", 3, 1))
    ]


def test_counts_sample_and_verdicts(tmp_path: Path, cases: list[WrittenCase]) -> None:
    store(tmp_path, *cases)

    result = census(tmp_path, "--json", "--sample", "2", least=2)

    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    studies = {Path(path).parent for case in cases for path in case.series}
    assert found["labelled_series"] == len(cases) == len(studies)
    assert found["patients"] == len({case.case.patient_id for case in cases})
    assert found["train"] + found["validation"] + found["test"] == found["patients"]
    assert found["left_out"] == []
    assert len(found["sample"]) == 2
    for one in found["sample"]:
        assert one["spacing_mm"] == pytest.approx([1, 1, 1])
        assert set(one["volumes_mm3"]) == {"1", "2"}
    assert {verdict["is_met"] for verdict in found["verdicts"]} == {True}
    picture = Path(found["picture"])
    assert picture == tmp_path / "work" / "census-brain.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_mode & 0o777 == 0o600
    assert list(picture.parent.glob("*.part")) == []
    for case in cases:
        assert case.case.patient_id not in result.stdout


def test_label_objects_are_fetched_once(
    tmp_path: Path, cases: list[WrittenCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, *cases)
    first = census(tmp_path, "--json", "--sample", "0")
    monkeypatch.setattr(FolderGateway, "fetch", None)
    assert census(tmp_path, "--json", "--sample", "0").stdout == first.stdout


def test_what_is_left_out_is_grouped_by_reason(tmp_path: Path, cases: list[WrittenCase]) -> None:
    first, second, *_ = cases
    edit(first.seg, lambda ds: setattr(ds.SegmentSequence[0], "SegmentLabel", "something"))

    def cut_short(dataset: Dataset) -> None:
        dataset.PixelData = b"\0\0"

    edit(second.series[2], cut_short)
    store(tmp_path, *cases)

    result = census(tmp_path, "--json", unusable=0.1)

    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    left_out = {one["reason"]: one["series"] for one in found["left_out"]}
    assert left_out == {"segment-missing": 1, "image-undecodable": 1}
    unmet = [verdict for verdict in found["verdicts"] if not verdict["is_met"]]
    assert "unusable studies" in [verdict["what"] for verdict in unmet]
    shown = census(tmp_path)
    assert "segment-missing" in shown.stdout
    assert "no segment named inner structure" in shown.stdout


def test_too_few_studies_are_not_enough(tmp_path: Path, cases: list[WrittenCase]) -> None:
    store(tmp_path, cases[0])
    result = census(tmp_path, least=3)
    assert result.exit_code == 1
    assert "at least 3 (min_studies)" in result.stdout


def test_the_network_s_input_is_compared(tmp_path: Path, cases: list[WrittenCase]) -> None:
    store(tmp_path, *cases)
    config = Path(__file__).parents[3] / "configs" / "phantom.toml"
    packed = CliRunner().invoke(
        build(),
        [
            "model",
            "pack",
            str(config),
            f"folder:{tmp_path}/models",
            "model.preprocessing.size=[8,8,8]",
        ],
    )
    assert packed.exit_code == 0, packed.output

    result = census(tmp_path, "--json", "--model", LINE)

    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    (unmet,) = [verdict for verdict in found["verdicts"] if not verdict["is_met"]]
    assert unmet["what"] == "labels within the network's input"
    assert found["version"].startswith("2.25.")


def test_without_data_there_is_nothing_to_draw(tmp_path: Path) -> None:
    store(tmp_path)
    result = census(tmp_path, "--json")
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    assert (found["studies"], found["sample"], found["picture"]) == (0, [], None)


def test_classes_are_counted(tmp_path: Path) -> None:
    files = []
    for number in range(3):
        images = classified.write_series(tmp_path / "files", f"c{number}", has_blob=False, seed=1)
        files += [*images, classified.write_report(images, classified.NONE)] if number else images
    with Archive(tmp_path / "archive"), open_gateway(f"folder:{tmp_path / 'archive'}") as gateway:
        gateway.store(files)
    (tmp_path / "split.key").write_text("a key for tests\n")
    (tmp_path / "site.toml").write_text(
        'name = "a"\n[archives]\nimages = "folder:archive"\n[data.lung]\n'
        'labels = { source = "SR", map = { mass = 1, normal = 0 } }\n'
        'split = { key = "split.key", validation = 0.0, test = 0.0 }\n'
    )

    result = CliRunner().invoke(build(), ["site", "census", str(tmp_path / "site.toml"), "--json"])

    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert (found["class_0"], found["labelled_series"]) == (2, 2)
    assert [one["reason"] for one in found["left_out"]] == ["no-labels"]
    assert "labels within the network's input" not in [one["what"] for one in found["verdicts"]]
    assert Path(found["picture"]).exists()
    assert "SECRET" not in result.stdout


def test_who_opted_out_by_an_id_that_objects_tell_is_in_no_sample(
    tmp_path: Path, cases: list[WrittenCase]
) -> None:
    edit(cases[1].seg, lambda ds: setattr(ds, "OtherPatientIDs", "P-OLD"))
    store(tmp_path, *cases)
    (tmp_path / "out.key").write_text("secret\n")
    listed = OptOuts(file=tmp_path / "out.txt", key=tmp_path / "out.key")
    opt_out(listed, ["P-OLD"])

    with open_gateway(f"folder:{tmp_path}/pacs") as gateway:
        overview = take_overview(
            gateway,
            table(tmp_path / "split.key", Modality="MR"),
            PolicyTable(opt_out=listed),
            ExampleCache(tmp_path / "work" / "cache"),
            sample=3,
        )

    assert (overview.opted_out, overview.studies, overview.left_out) == (1, 2, [])
    assert len(overview.labelled) == len(overview.sample) == 2
