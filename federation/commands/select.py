"""`iodeep model select`: which released network suits a study, or an image."""

from pathlib import Path
from typing import Annotated, Any

import typer

from federation.commands.arguments import Json, Pacs, Signers, trust_of
from federation.commands.output import print_json, print_table, short
from federation.commands.progress import open_archive
from federation.errors import ConfigError, RegistryError
from federation.pacs.attributes import is_uid
from federation.registry import Registry
from federation.selection import (
    ImageSeries,
    ReleasedModels,
    Selection,
    read_image,
    select,
    series_in,
)


def select_model(
    image: Annotated[
        str, typer.Argument(metavar="STUDY|FILE", help="A Study Instance UID, or a DICOM image.")
    ],
    pacs: Pacs,
    models: Annotated[
        str | None, typer.Option(help="The archive of models, where it is another.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Whose evaluations rank networks that are equal otherwise.")
    ] = None,
    signer: Signers = None,
    json: Json = False,
) -> None:
    """Rank the released networks that suit each series of a study, with the reasons.

    Ends with 1 where no series has a network that suits it better than all others.
    """
    path = Path(image)
    if not path.is_file() and not is_uid(image):
        raise ConfigError(
            f"{image!r:.80} is neither a file nor a Study Instance UID; `iodeep pacs find` lists "
            "studies"
        )
    with open_archive(models or pacs) as gateway:
        released = ReleasedModels(Registry(gateway, trust=trust_of(signer)), site)
        if path.is_file():
            series = [read_image(path)]
        elif models is None:
            series = list(series_in(gateway, image))
        else:
            with open_archive(pacs) as images:
                series = list(series_in(images, image))
        found = [
            (one, select(one.facts, released.lines_for(one.facts.modality), released.of))
            for one in series
        ]
    if json:
        print_json([_as_json(one, selection) for one, selection in found])
    else:
        for one, selection in found:
            _print(one, selection)
    if not any(selection.chosen for _, selection in found):
        problems = "; ".join(dict.fromkeys(selection.problem or "" for _, selection in found))
        raise RegistryError(f"no network can be chosen: {problems}")


def _print(one: ImageSeries, selection: Selection) -> None:
    facts = one.facts
    title = f"series {one.number or '-'} ({short(one.series)}): {facts.modality} of {facts.images}"
    rows = [
        {
            "": "chosen" if number == 0 and selection.chosen else "",
            "line": suited.line,
            "version": short(suited.model.version.uid),
            "because": "; ".join(suited.reasons),
        }
        for number, suited in enumerate(selection.suited)
    ]
    print_table(title, rows)
    if selection.problem:
        typer.echo(f"none is chosen: {selection.problem}")


def _as_json(one: ImageSeries, selection: Selection) -> dict[str, Any]:
    chosen = selection.chosen
    return {
        "study": one.study,
        "series": one.series,
        "modality": one.facts.modality,
        "images": one.facts.images,
        "regions": list(selection.evidence.regions),
        "told_by": list(selection.evidence.told_by),
        "contradicted_by": list(selection.evidence.contradicted),
        "chosen": chosen.version.uid if chosen else None,
        "problem": selection.problem,
        "suited": [
            {
                "line": str(suited.line),
                "branch": suited.model.version.branch,
                "round": suited.model.version.round,
                "version": suited.model.version.uid,
                "reasons": list(suited.reasons),
            }
            for suited in selection.suited
        ],
        "unsuited": [
            {"line": str(unsuited.line), "reason": unsuited.reason}
            for unsuited in selection.unsuited
        ],
    }
