"""What several commands about models take."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from federation.iodeep.manifest import Branch
from federation.iodeep.signature import PublicKey
from federation.trust import Rule, TrustList

Pacs = Annotated[str, typer.Argument(help="The archive: dimse://AE@host:port or folder:PATH.")]
LineArgument = Annotated[str, typer.Argument(help="The line, such as MR/hippocampus/-/unet.")]
BranchOption = Annotated[
    str | None, typer.Option(help="The branch; without it, the only one or the newest.")
]
NewBranch = Annotated[
    str, typer.Option(help="The branch to open.", callback=lambda name: _branch(name))
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Signers = Annotated[
    list[Path] | None,
    typer.Option(
        "--signer", help="A public key; with it, only what one of these signed is believed."
    ),
]


def _branch(name: str) -> str:
    try:
        return TypeAdapter(Branch).validate_python(name)
    except ValidationError:
        raise typer.BadParameter(
            f"{name!r:.40} is no branch: 1 to 16 letters, digits, inner hyphens and underscores"
        ) from None


def trust_of(signers: Sequence[Path] | None, *own: PublicKey) -> TrustList | None:
    """What ``--signer`` says, and one's own key; without it nothing is asked.

    Raises :class:`~federation.errors.ConfigError`.
    """
    if not signers:
        return None
    return TrustList([Rule.of_key(key) for key in (*own, *map(PublicKey.read, signers))])
