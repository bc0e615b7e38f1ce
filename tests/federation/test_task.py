"""The metrics of each task, and what a document may ask of it."""

from pathlib import Path
from typing import get_args

import pytest

from federation.config import read_experiment, read_site
from federation.errors import ConfigError, ModelError
from federation.fresh import fresh_version
from federation.task import TASKS, TaskName

CONFIGS = Path(__file__).parents[2] / "configs"
CLASSES = [
    "model.task=classification",
    'model.architecture={network="monai.DenseNet",out_channels=3,block_config=[1,1]}',
]
NO_LOSS = 'training={steps=1,optimizer={name="adamw"}}'


def test_every_task_has_its_metrics() -> None:
    assert set(TASKS) == set(get_args(TaskName))
    labels = {2: "b", 1: "a"}
    columns = {name: TASKS[name].columns(labels) for name in TASKS}
    assert columns["segmentation"] == {"dice_mean": "mean Dice", "dice_1": "a", "dice_2": "b"}
    assert columns["classification"] == {
        "auc": "AUC", "accuracy": "accuracy", "auc_1": "a", "auc_2": "b"
    }  # fmt: skip
    assert [task.headline for task in TASKS.values()] == ["dice_mean", "auc"]


def test_the_loss_of_a_classification_is_cross_entropy_unless_named() -> None:
    plan = read_experiment(CONFIGS / "phantom.toml", [*CLASSES, NO_LOSS])
    assert plan.training.loss == "ce"
    assert read_experiment(CONFIGS / "phantom.toml", [NO_LOSS]).training.loss == "dice_ce"
    manifest, _ = fresh_version(plan, "main")
    assert manifest.task == "classification"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.loss=dice"], 'training.loss = "dice" counts voxels'),
        (["training.loss=ce", "model.preprocessing.fit=patches"], "do not go together"),
        (
            ["training.loss=ce", "model.preprocessing.size=[8,8]",
             "model.preprocessing.spacing_mm=[1,1]"],
            "MR series are stacks of slices",
        ),
        (["training.loss=ce", "model.task=regression"], "model.task"),
        (["training.loss=ce", "simulation.tables.X={}"], "simulation.tables names 'X'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_experiment(CONFIGS / "phantom.toml", [*CLASSES, *overrides])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.task=classification", "training.loss=ce"], "choose monai.DenseNet"),
        ([CLASSES[1]], 'choose monai.DynUNet, .*, or task = "classification"'),
        ([*CLASSES, "training.loss=ce", 'model.labels={1="a"}'], "1 labels need 2"),
    ],
)
def test_a_network_for_another_task_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        fresh_version(read_experiment(CONFIGS / "phantom.toml", overrides), "main")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ('{ source = ["SEG", "SR"] }', "sources of one kind"),
        ('{ source = "CSV" }', "go together"),
        ('{ source = "SR", file = "labels.csv" }', "go together"),
        ("{ map = { nothing = 0 } }", "0, which is background"),
        ('{ source = "SR", map = { nothing = -1 } }', "greater than or equal to 0"),
    ],
)
def test_labels_that_cannot_be_are_refused(tmp_path: Path, labels: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_site(document(tmp_path, labels))


def test_a_list_lies_beside_the_site_s_document(tmp_path: Path) -> None:
    labels = '{ source = "CSV", file = "labels.csv", map = { yes = 1, no = 0 } }'
    read = read_site(document(tmp_path, labels)).data["lung"].labels
    assert read.file == tmp_path / "labels.csv"
    assert (read.task, dict(read.map)) == ("classification", {"yes": 1, "no": 0})


def document(folder: Path, labels: str) -> Path:
    path = folder / "site.toml"
    path.write_text(
        f'name = "a"\n[archives]\nimages = "folder:images"\n[data.lung]\nlabels = {labels}\n'
        'split = { key = "split.key" }\n'
    )
    return path
