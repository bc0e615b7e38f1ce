"""What holds the packages apart, and the project together."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from federation import cli
from federation.errors import ConfigError

ROOT = Path(__file__).parents[1]
PACKAGES = ("federation", "clients", "server")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("federation", {"clients", "server"}), ("clients", {"server"}), ("server", {"clients"})],
)
def test_packages_import_in_one_direction(package: str, forbidden: set[str]) -> None:
    wrong = [
        (path.name, name)
        for path in modules(package)
        for name in imports(path)
        if name.split(".")[0] in forbidden
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("pynetdicom", ("federation/pacs/",)),
        ("monai", ("federation/networks/", "clients/data/", "clients/training/")),
        (
            "flwr",
            (
                "federation/flower/",
                "federation/messages.py",
                "federation/grid/",
                "clients/app.py",
                "clients/joining/locked.py",
                "clients/joining/supernode.py",
                "server/aggregator/control.py",
                "server/aggregator/edge.py",
                "server/aggregator/locked.py",
                "server/aggregator/membership.py",
                "server/aggregator/superlink.py",
                "server/app.py",
                "server/asking.py",
                "server/delivery.py",
                "server/offers.py",
                "server/questions.py",
                "server/rounds.py",
                "server/simulation.py",
                "server/strategies/",
            ),
        ),
    ],
)
def test_third_parties_stay_at_the_edges(library: str, home: tuple[str, ...]) -> None:
    strays = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in modules(package)
        if any(name.split(".")[0] == library for name in imports(path))
        and not str(path.relative_to(ROOT)).startswith(home)
    ]
    assert strays == []


@pytest.mark.parametrize(
    "module", ["federation.registry", "federation.commands.model", "server.cli", "clients"]
)
def test_looking_at_models_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_pickle_and_no_evaluating() -> None:
    banned = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for package in PACKAGES:
        for path in modules(package):
            assert not banned & {name.split(".")[0] for name in imports(path)}, path
            calls = {
                node.func.id
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert not {"eval", "exec", "__import__"} & calls, path


def test_another_distribution_that_owns_a_package_name_is_a_clear_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        cli,
        "packages_distributions",
        lambda: {"server": ["iodeep-federation", "some-server"], "clients": ["iodeep-federation"]},
    )
    with pytest.raises(ConfigError, match="'server' is also owned by some-server"):
        cli.check_packages()


def test_the_installed_packages_are_ours_alone() -> None:
    cli.check_packages()


def test_the_constraints_fit_the_ranges() -> None:
    """Every direct dependency has an exact, tested version, which is the one installed here."""
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    )
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        name = requirement.split(">")[0].lower()
        installed = metadata.version(name).partition("+")[0]
        assert pinned[name] == installed


def test_every_command_has_help_and_stands_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    import typer.main

    group = typer.main.get_command(cli.build())
    for words in _commands(group, ("iodeep",)):
        assert " ".join(words) in readme, f"{' '.join(words)} is not in the README"


def _commands(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    assert getattr(command, "help", None), f"{' '.join(words)} has no help"
    for parameter in getattr(command, "params", ()):
        if parameter.name != "help":
            assert getattr(parameter, "help", None), f"{parameter.name} of {words} has no help"
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words
        return
    for name, child in inner.items():
        yield from _commands(child, (*words, name))
