"""A hospital that predicts: phantoms of three planes in its archive, and a released network."""

from collections.abc import Sequence
from pathlib import Path

from federation.config import Experiment, parse_experiment
from federation.fresh import fresh_version
from federation.iodeep.manifest import VersionManifest
from federation.iodeep.signature import SigningKey
from federation.pacs import Gateway
from federation.registry import Registry
from federation.releases import promote
from federation.samples.importer import write_case
from federation.samples.phantom import phantom_cases

LINE = "MR/brain/-/small"
LABELS = {1: "inner structure", 2: "outer structure"}
PLANES = {"D": "axial", "A": "coronal", "B": "sagittal"}


def experiment(**model: object) -> Experiment:
    """A small network of phantoms, untrained."""
    return parse_experiment(
        {
            "name": "small",
            "rounds": 1,
            "model": {
                "line": LINE,
                "labels": LABELS,
                "architecture": {
                    "network": "monai.UNet",
                    "spatial_dims": 3,
                    "in_channels": 1,
                    "out_channels": 3,
                    "channels": [4, 8],
                    "strides": [2],
                    "norm": "INSTANCE",
                },
                "preprocessing": {
                    "orientation": "RAS",
                    "spacing_mm": [1, 1, 1],
                    "intensity": "zscore",
                    "size": [40, 40, 32],
                },
                **model,
            },
            "federation": {"sites": ["A"]},
        }
    )


def release(gateway: Gateway, key: SigningKey | None = None, **model: object) -> VersionManifest:
    """Publish and release a network that has learnt nothing."""
    manifest, parts = fresh_version(experiment(**model), "main")
    registry = Registry(gateway, signer=key)
    registry.publish(manifest, parts)
    promote(registry, manifest)
    return manifest


def write_study(folder: Path, site: str = "A", number: int = 0) -> list[Path]:
    """The files of a phantom's images, without its SEG."""
    folder.mkdir(parents=True, exist_ok=True)
    case = phantom_cases(site, number + 1, 0)[number]
    *images, seg = write_case(case, folder)
    seg.unlink()
    return images


def site_document(folder: Path, archive: str, extra: Sequence[str] = ()) -> Path:
    """A site's document, its key and its split's beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "site.key"
    if not key.exists():
        SigningKey.create(key)
    (folder / "split.key").write_text("a key for tests\n")
    document = folder / "site.toml"
    document.write_text(
        "\n".join(
            [
                'name = "hospital"',
                'key = "site.key"',
                "[archives]",
                f'images = "{archive}"',
                "[data.brain]",
                'split = { validation = 0.3, test = 0.3, key = "split.key" }',
                'labels = { map = { "inner structure" = 1, "outer structure" = 2 } }',
                "[[policy.trust]]",
                'lines = ["*"]',
                "unsigned = true",
                *extra,
            ]
        )
    )
    return document
