"""What several commands about models take."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from federation.errors import RegistryError
from federation.iodeep.labels import Line
from federation.iodeep.signature import PublicKey
from federation.registry import Registry
from federation.trust import Rule, TrustList

Pacs = Annotated[str, typer.Argument(help="The archive: dimse://AE@host:port or folder:PATH.")]
LineArgument = Annotated[str, typer.Argument(help="The line, such as MR/hippocampus/-/unet.")]
BranchOption = Annotated[
    str | None, typer.Option(help="The branch; without it, the only one or the newest.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Signers = Annotated[
    list[Path] | None,
    typer.Option(
        "--signer", help="A public key; with it, only what one of these signed is believed."
    ),
]


def trust_of(signers: Sequence[Path] | None, *own: PublicKey) -> TrustList | None:
    """What ``--signer`` says, and one's own key; without it nothing is asked.

    Raises :class:`~federation.errors.ConfigError`.
    """
    if not signers:
        return None
    return TrustList([Rule.of_key(key) for key in (*own, *map(PublicKey.read, signers))])


def newest_branch(registry: Registry, line: Line) -> str:
    branches = registry.branches(line)
    if not branches:
        raise RegistryError(f"line {line} has no branch here; `iodeep model list` shows what is")
    return branches[-1].name
