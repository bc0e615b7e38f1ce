"""`iodeep`: gathers its commands from the entry-point group ``iodeep.commands``.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import sys
from importlib.metadata import entry_points, packages_distributions

import typer

from federation.errors import ConfigError, IODeepError
from federation.interrupt import watch_interrupts
from federation.quiet import keep_libraries_quiet
from federation.software import DISTRIBUTION, software


def main() -> None:
    """Run the command line; every error made on purpose becomes one sentence."""
    keep_libraries_quiet()
    watch_interrupts()
    try:
        check_packages()
        build()(standalone_mode=True)
    except IODeepError as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop("interrupted; what was finished is kept", 130)
    except OSError as error:
        _stop(f"{error.strerror or error}: {error.filename or 'the disk'}", 1)


def build() -> typer.Typer:
    """The whole command line, from the entry points of the installed packages."""
    cli = typer.Typer(
        name="iodeep",
        help="Neural networks in the PACS: share them, train them together, use them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    cli.callback()(_root)
    for command in sorted(entry_points(group="iodeep.commands"), key=lambda point: point.name):
        command.load()(cli)
    return cli


def check_packages() -> None:
    """Stop where another distribution also owns one of our package names.

    ``server`` and ``clients`` are common words; whichever was installed last would win, and
    half of the commands would come from elsewhere. Raises :class:`ConfigError`.
    """
    owners = packages_distributions()
    for package in ("federation", "clients", "server"):
        others = sorted(set(owners.get(package, ())) - {DISTRIBUTION})
        if others:
            raise ConfigError(
                f"the package name {package!r} is also owned by {', '.join(others)}; "
                f"install {DISTRIBUTION} into a virtual environment of its own"
            )


def _root(
    show_version: bool = typer.Option(False, "--version", help="Print the version and end."),
) -> None:
    if show_version:
        typer.echo(software())
        raise typer.Exit


def _stop(sentence: str, status: int) -> None:
    print(f"iodeep: {sentence}", file=sys.stderr)
    sys.exit(status)
