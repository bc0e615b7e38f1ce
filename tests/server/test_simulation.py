"""Sites of a simulation whose archives are elsewhere."""

from pathlib import Path

import pytest

from federation.config import Experiment, read_experiment
from federation.errors import ConfigError
from federation.pacs import Archive
from server.cli import configs
from server.simulation import Simulation


def plan(*overrides: str) -> Experiment:
    return read_experiment(configs() / "phantom.toml", overrides)


def test_a_run_goes_on_in_the_archives_that_it_began_with(tmp_path: Path) -> None:
    for name in ("one", "other"):
        Archive(tmp_path / name).close()
    one = plan(f"simulation.archives.A=folder:{tmp_path / 'one'}")
    other = plan(f"simulation.archives.A=folder:{tmp_path / 'other'}")
    with Simulation(one, tmp_path / "run") as simulation:
        assert simulation.archive("A") == f"folder:{tmp_path / 'one'}"
        assert simulation.archive("B") == f"folder:{tmp_path / 'run' / 'archives' / 'B'}"
        assert simulation.branch("first") == "first"
    assert not (tmp_path / "run" / "archives" / "A").exists()
    with Simulation(one, tmp_path / "run", resume=True) as simulation:
        assert simulation.branch("second") == "first"
    for changed in (other, plan()):
        with pytest.raises(ConfigError, match="began with other archives"):
            Simulation(changed, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("simulation.archives.X=folder:a", "names 'X'"),
        ("simulation.archives.A=runs/a", "no archive address"),
        ('simulation.archives={A="folder:a",B="folder:a"}', "stands twice"),
    ],
)
def test_archives_that_cannot_be_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(override)
