"""``iodeep key``: keys that sign models, and their fingerprints."""

from pathlib import Path
from typing import Annotated

import typer

from federation.commands.output import print_json
from federation.iodeep.signature import PublicKey, SigningKey, public_path, show_fingerprint


def register(cli: typer.Typer) -> None:
    """Add the group ``key``."""
    group = typer.Typer(help="Keys that sign models.", no_args_is_help=True)
    for command in (create, show):
        group.command()(command)
    cli.add_typer(group, name="key")


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def create(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; FILE.pub beside it.")],
    json: Json = False,
) -> None:
    """Make an Ed25519 key pair. FILE is for its owner alone; give FILE.pub to others."""
    _print(public_path(file), SigningKey.create(file).public, json=json)


def show(
    file: Annotated[Path, typer.Argument(help="A public key, such as aggregator.key.pub.")],
    json: Json = False,
) -> None:
    """Show a public key's fingerprint, to be compared with its owner by telephone."""
    _print(file, PublicKey.read(file), json=json)


def _print(file: Path, key: PublicKey, *, json: bool) -> None:
    shown = show_fingerprint(key.fingerprint)
    if json:
        print_json({"public": str(file), "fingerprint": shown, "sha256": key.fingerprint})
    else:
        typer.echo(f"{file}: {shown}")
