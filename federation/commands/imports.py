"""`iodeep import`: labelled images and models from elsewhere into an archive, as DICOM."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import track

from federation.commands.arguments import Json, NewBranch, Pacs
from federation.commands.output import print_json, print_table
from federation.commands.progress import open_archive, steps_done
from federation.config import Labels
from federation.errors import ConfigError
from federation.iodeep.labels import Line
from federation.iodeep.signature import SigningKey
from federation.pacs import open_gateway
from federation.registry import Registry

if TYPE_CHECKING:
    from federation.samples import Case, Quarantined, Stored


_PROBLEMS_SHOWN = 20


def register(cli: typer.Typer) -> None:
    """Add the group ``import``."""
    group = typer.Typer(
        name="import", help="Store what comes from elsewhere in an archive.", no_args_is_help=True
    )
    group.command("msd")(import_msd)
    group.command("folder")(import_folder)
    group.command("original")(import_original)
    cli.add_typer(group)


def import_msd(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Folder with dataset.json, or manifest.csv, and NIfTI files."
        ),
    ],
    pacs: Annotated[
        str, typer.Argument(metavar="PACS", help="Archive: dimse://AE@host:port or folder:PATH.")
    ],
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this site's cases, where a manifest.csv names sites; may be given more "
            "than once."
        ),
    ] = None,
    channel: Annotated[
        str, typer.Option(help="Which image of 4D files, as FLAIR; without it, the first.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Store cases of the Medical Segmentation Decathlon as CT or MR series with their SEG.

    The folder is one of its tasks, unpacked. Each case is a patient, called as its file. Of 4D
    files, which hold several images (BrainTumour, Prostate), one becomes a series: the first, or
    the --channel. A case that cannot be stored without loss, or that has no label, is left out.
    Ends with 1 where nothing was stored.
    """
    # Imported here: every start of the command line registers this group.
    from federation.samples import Quarantined, Stored, import_cases, read_cases

    cases = _cases_of(read_cases(folder, channel), site or [])
    stored: list[Stored] = []
    quarantined: list[Quarantined] = []
    with open_gateway(pacs) as gateway:
        for outcome in track(
            import_cases(cases, gateway),
            description="Storing",
            total=len(cases),
            console=Console(stderr=True),
        ):
            if isinstance(outcome, Stored):
                stored.append(outcome)
            else:
                quarantined.append(outcome)
    if as_json:
        print_json(_as_json(stored, quarantined))
    else:
        typer.echo(_as_text(stored, quarantined))
    if not stored:
        raise typer.Exit(1)


def import_folder(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder of DICOM files, at any depth.")
    ],
    pacs: Pacs,
    as_json: Json = False,
) -> None:
    """Store every DICOM instance below a folder, as it is: images, SEGs, RT Structure Sets.

    Links are not followed, and what is no whole instance is passed over. Ends with 1 where nothing
    was stored.
    """
    from federation.samples.tree import files_below, import_tree

    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; expected one with DICOM files below it")
    paths = files_below(folder)
    with open_gateway(pacs) as gateway, steps_done("Storing") as progress:
        outcomes = []
        for outcome in import_tree(paths, gateway):
            outcomes.append(outcome)
            progress(len(outcomes), len(paths))
    stored = [one for one in outcomes if not one.problem]
    passed_over = [one for one in outcomes if one.problem]
    instances = {one.instance: one.modality for one in stored}  # a tree can have one twice
    modalities = Counter(instances.values())
    if as_json:
        print_json(
            {
                "instances": len(instances),
                "studies": len({one.study for one in stored}),
                "modalities": dict(modalities.most_common()),
                "passed_over": [
                    {"file": str(one.path.relative_to(folder)), "problem": one.problem}
                    for one in passed_over
                ],
            }
        )
    else:
        kinds = ", ".join(f"{count} {modality}" for modality, count in modalities.most_common())
        studies = len({one.study for one in stored})
        typer.echo(f"stored {len(instances)} instances of {studies} studies: {kinds or 'nothing'}")
        if passed_over:
            typer.echo(f"passed over {len(passed_over)} files")
        for one in passed_over[:_PROBLEMS_SHOWN]:
            typer.echo(f"  {one.path.relative_to(folder)}: {one.problem}")
    if not stored:
        raise typer.Exit(1)


def import_original(
    file: Annotated[Path, typer.Argument(help="An object as the original IODeep code writes it.")],
    pacs: Pacs,
    line: Annotated[
        str | None,
        typer.Option(help="The line; without it, by the object's modality, body part and name."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="What an output means: '1=tumor'; may be given more than once."),
    ] = None,
    branch: NewBranch = "original",
    key: Annotated[Path | None, typer.Option(help="The private key that signs.")] = None,
    as_json: Json = False,
) -> None:
    """Store a network of the original IODeep (Contino et al. 2024) as round 0 of a branch.

    Its weights are a pickle: they are read in a limited process, where nothing of it runs.
    """
    from federation.fresh import adopted_version  # torch is slow to import
    from federation.iodeep.original import read_original

    signer = SigningKey.read(key) if key else None
    labels = _labels(label or [])
    found = read_original(file)
    parsed = Line.parse(line) if line else found.line
    with tempfile.TemporaryDirectory(prefix="iodeep-") as scratch:
        adopted = adopted_version(found, parsed, branch, labels, Path(scratch))
        manifest = adopted.manifest
        with open_archive(pacs) as gateway:
            published = Registry(gateway, signer=signer).publish(manifest, adopted.parts)
    facts = {
        "line": str(manifest.line),
        "branch": branch,
        "version": manifest.uid,
        "weights_digest": manifest.weights.digest,
        "parameters": manifest.weights.parameters,
        "tensors_matched": "by their order" if adopted.renamed else "by name",
        "instances_stored": published.stored,
    }
    if as_json:
        print_json(facts)
    else:
        print_table("", [{"": name, "value": value} for name, value in facts.items()])


def _labels(texts: Sequence[str]) -> dict[int, str]:
    pairs = [text.partition("=")[::2] for text in texts]
    given = {number: name.strip() for number, name in pairs}
    try:
        labels: dict[int, str] = TypeAdapter(Labels).validate_python(given)
    except ValidationError:
        labels = {}
    if len(labels) != len(texts):
        raise ConfigError(
            f"--label {', '.join(texts)!r:.200}: expected NUMBER=NAME, such as 1=tumor, numbered "
            "1, 2, 3 … without gaps, each name of 1 to 64 ASCII characters"
        )
    return labels


def _cases_of(cases: "Sequence[Case]", sites: Sequence[str]) -> "list[Case]":
    known = sorted({case.site for case in cases} - {""})
    if sites and not known:
        raise ConfigError(
            f"--site {', '.join(sites)}: a dataset.json names no sites; leave --site out, or give "
            "a folder with a manifest.csv, which does"
        )
    if unknown := [site for site in sites if site not in known]:
        raise ConfigError(
            f"the manifest has no site {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return [case for case in cases if not sites or case.site in sites]


def _as_text(stored: "Sequence[Stored]", quarantined: "Sequence[Quarantined]") -> str:
    instances = sum(outcome.instances for outcome in stored)
    lines = [f"stored {len(stored)} cases, {instances} instances"]
    if quarantined:
        lines.append(f"quarantined {len(quarantined)} cases")
        lines += [f"  {q.case.name}: {q.problem}: {q.detail}" for q in quarantined]
    return "\n".join(lines)


def _as_json(stored: "Sequence[Stored]", quarantined: "Sequence[Quarantined]") -> dict[str, Any]:
    return {
        "stored": [
            {"case": s.case.name, "site": s.case.site, "instances": s.instances} for s in stored
        ],
        "quarantined": [
            {"case": q.case.name, "site": q.case.site, "reason": q.problem, "detail": q.detail}
            for q in quarantined
        ],
    }
