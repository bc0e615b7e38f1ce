"""Documents: what is read, and what a wrong key is told."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from federation.config import (
    Experiment,
    FinetuneTable,
    parse_experiment,
    read_experiment,
    read_site,
)
from federation.errors import ConfigError
from federation.iodeep.labels import Line

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["hippocampus", "phantom"])
def test_the_experiments_that_come_along_are_valid(name: str) -> None:
    experiment = read_experiment(CONFIGS / f"{name}.toml")
    assert experiment.name == name
    assert experiment.line.slug


def test_overrides_take_toml_values_and_bare_words() -> None:
    experiment = read_experiment(
        CONFIGS / "phantom.toml",
        ["rounds=2", "training.optimizer.lr=0.5", "training.loss=dice", 'federation.sites=["X"]',
         "federation.quorum=1"],
    )  # fmt: skip
    assert experiment.rounds == 2
    assert experiment.training.optimizer.lr == 0.5
    assert experiment.training.loss == "dice"
    assert experiment.federation.sites == ("X",)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("round=3", "did you mean 'rounds'"),
        ("training.epocs=3", "did you mean 'epochs'"),
        ("training.optimizer.weight_deacy=1", "did you mean 'weight_decay'"),
        ("model.preprocessing.spacing=[1,1,1]", "did you mean 'spacing_mm'"),
        ("rounds=0", "greater than 0"),
        ("rounds=many", "rounds"),
        ("federation.quorum=9", "more than the 4 sites"),
        ('federation.sites=["A","A"]', "each once"),
        ("federation.mode=magic", "simulation"),
        ("model.line=MR/hipocampus/-/unet", "nearest: Hippocampus"),
        ("model.labels={2='x'}", "without gaps"),
        ("rounds", "key=value"),
        ("rounds.deep=1", "not a table"),
    ],
)
def test_a_wrong_key_or_value_is_told_what_is_right(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_experiment(CONFIGS / "phantom.toml", [override])


def test_a_missing_or_broken_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_experiment(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match="no valid TOML"):
        read_experiment(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_experiment(tmp_path / "binary.toml")


def digest_with(*overrides: str) -> str:
    return read_experiment(CONFIGS / "phantom.toml", overrides).digest


@pytest.mark.parametrize(
    "override", ["seed=9", "rounds=9", "training.steps=9", "model.line=MR/brain/-/x"]
)
def test_the_digest_covers_what_decides_the_result(override: str) -> None:
    assert digest_with(override) != digest_with()


@pytest.mark.parametrize("override", ["data=elsewhere", "federation.deadline_s=9", "name=other"])
def test_the_digest_leaves_out_how_a_run_is_carried(override: str) -> None:
    assert digest_with(override) == digest_with()


def test_an_experiment_travels_as_json() -> None:
    experiment = read_experiment(CONFIGS / "hippocampus.toml")
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment
    assert parse_experiment(experiment.model_dump(mode="json")).digest == experiment.digest


SITE = """
name = "hospital-a"
[archives]
images = "dimse://A@127.0.0.1:4242"
[data.hippocampus]
labels = { map = { "anterior hippocampus" = 1 } }
split = { test = ["P1"], key = "split.key" }
"""


def test_a_sites_paths_are_beside_its_document(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    site = read_site(tmp_path / "site.toml")
    assert site.work == tmp_path / "work"
    table = site.data_for(Line.parse("MR/hippocampus/-/unet"))
    assert table.split.key == tmp_path / "split.key"
    assert table.split.test == ("P1",)
    assert site.archives.of_models == site.archives.images


def test_a_line_without_data_at_the_site_is_named(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    with pytest.raises(ConfigError, match=r"\[data.liver\]"):
        read_site(tmp_path / "site.toml").data_for(Line.parse("CT/liver/-/unet"))


def test_yardsticks_come_from_the_same_document() -> None:
    path, overrides = CONFIGS / "hippocampus.toml", ["training.steps=18"]
    federated = read_experiment(path, overrides)
    pooled = read_experiment(path, [*overrides, "strategy.name=centralised"])
    assert (pooled.roster, pooled.quorum) == (("pooled",), 1)
    assert pooled.site_training.steps == 4 * 18
    assert federated.site_training == federated.training
    alone = read_experiment(path, [*overrides, "strategy.name=local"]).alone()
    assert list(alone) == ["A", "B", "C", "D"]
    assert {one.roster for one in alone.values()} == {("A",), ("B",), ("C",), ("D",)}
    assert {one.site_training.steps for one in alone.values()} == {18}
    digests = {one.digest for one in (federated, pooled, *alone.values())}
    assert len(digests) == 6


def test_a_round_is_epochs_or_steps() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        read_experiment(CONFIGS / "phantom.toml", ["training.epochs=1"])


def test_what_finetuning_does_not_say_is_as_it_is_for_finetuning() -> None:
    table = FinetuneTable.model_validate({"training": {"batch_size": 4}})
    assert table.training.optimizer.lr == FinetuneTable().training.optimizer.lr
    assert (table.training.batch_size, table.training.schedule) == (4, "cosine")
    with pytest.raises(ValidationError, match="optimizer"):
        FinetuneTable.model_validate({"training": {"optimizer": "adam"}})
