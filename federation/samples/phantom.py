"""Synthetic labelled MR: an inner structure inside an outer one, seen by different scanners.

Nothing here is anyone's. A case is a function of (seed, site, number): the same on every run.
Position, turn and size vary between cases, and bright decoys without an inner structure lie
beside the labelled one, so a shape that never looks at the image scores low.
"""

import hashlib
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from federation.samples.case import Anatomy, Case, LabelledImage, Plane, Segment

SHAPE = (36, 40, 32)  # voxels of 1 mm: right, anterior, superior
PHANTOM = Anatomy(
    body_part="BRAIN",
    region=cast(Code, codes.SCT.Brain),
    paired=False,
    segments=tuple(
        Segment(
            number=number,
            name=name,
            category=cast(Code, codes.SCT.PhysicalObject),
            kind=cast(Code, codes.SCT.Phantom),
            modifier=modifier,
        )
        for number, name, modifier in (
            (1, "inner structure", cast(Code, codes.cid2.Internal)),
            (2, "outer structure", cast(Code, codes.cid2.External)),
        )
    ),
)
_INNER, _OUTER = 1, 2
_DECOYS = 3
_STORED_PER_UNIT = 800.0

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How a site's scanner shows the phantom, and how large its patients' structures are.

    slope:      Rescale Slope: the intensity scale
    tissue, outer, inner: signal of each, in units of a full range
    noise:      standard deviation of both channels of the signal (Rician magnitude)
    bias:       largest relative change of the signal over the field of view
    size:       factor on the structures' radii
    """

    slope: float
    tissue: float
    outer: float
    inner: float
    noise: float
    bias: float
    size: float
    plane: Plane


LOOKS = (
    Look(
        slope=1, tissue=0.40, outer=0.70, inner=0.20, noise=0.03, bias=0.10, size=1.0, plane="axial"
    ),
    Look(
        slope=6.25, tissue=0.45, outer=0.70, inner=0.28, noise=0.04, bias=0.20, size=0.85,
        plane="coronal",
    ),
    Look(
        slope=7.5, tissue=0.35, outer=0.80, inner=0.15, noise=0.05, bias=0.25, size=1.15,
        plane="sagittal",
    ),
    Look(
        slope=3072, tissue=0.50, outer=0.80, inner=0.30, noise=0.05, bias=0.15, size=1.0,
        plane="axial",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PhantomCase(Case):
    """A phantom that is drawn when it is read."""

    seed: int
    number: int
    look: Look

    def read(self) -> LabelledImage:
        """Draw the phantom; it always succeeds."""
        words = f"phantom|{self.seed}|{self.site}|{self.number}"
        entropy = hashlib.sha256(words.encode()).digest()
        random = np.random.default_rng(int.from_bytes(entropy, "big"))
        labels, decoys = _draw_structures(random, self.look.size)
        signal = _signal(labels, decoys, self.look)
        signal = _bias_field(random, self.look.bias) * signal
        channels = random.normal(0.0, self.look.noise, size=(2, *SHAPE))
        magnitude = np.hypot(signal + channels[0], channels[1])
        stored = np.clip(np.rint(magnitude * _STORED_PER_UNIT), 0, 4095).astype(np.uint16)
        voxels = stored.astype(np.float32) * np.float32(self.look.slope)
        affine = np.eye(4)
        affine[:3, 3] = [-(extent - 1) / 2 for extent in SHAPE]
        return LabelledImage(voxels=voxels, labels=labels, affine=affine)


def phantom_cases(site: str, count: int, test_count: int, seed: int = 0) -> list[Case]:
    """``count`` cases of one site, one a patient; the last ``test_count`` are for testing.

    The site's name decides its scanner's look, the same for every seed; names that follow
    each other (A, B, C, D) get different ones.
    """
    look = LOOKS[sum(site.encode()) % len(LOOKS)]
    return [
        PhantomCase(
            collection=f"IODeep phantom, seed {seed}",
            site=site,
            split="train" if number <= count - test_count else "test",
            name=f"phantom_{site}_{number:03d}",
            patient_id=f"PHANTOM-{seed}-{site}-{number:03d}",
            study=str(number),
            series_number=1,
            anatomy=PHANTOM,
            plane=look.plane,
            seed=seed,
            number=number,
            look=look,
        )
        for number in range(1, count + 1)
    ]


def _draw_structures(
    random: np.random.Generator, size: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The labels, and the voxels of decoys: as bright as the outer structure, unlabelled."""
    half = np.array(SHAPE) / 2
    centre = random.uniform(-0.3, 0.3, 3) * half
    radii = size * random.uniform(6.5, 9.0, 3)
    turn = _random_rotation(random)
    outer = _ellipsoid(centre, radii, turn)
    shift = turn @ (random.uniform(-0.12, 0.12, 3) * radii)
    inner = _ellipsoid(centre + shift, random.uniform(0.62, 0.72) * radii, turn)
    labels = np.where(inner, _INNER, np.where(outer, _OUTER, 0)).astype(np.uint8)
    decoys = np.zeros(SHAPE, bool)
    for _ in range(_DECOYS):
        place = random.uniform(-0.9, 0.9, 3) * half
        decoys |= _ellipsoid(place, random.uniform(2.5, 4.5, 3), _random_rotation(random))
    near = _ellipsoid(centre, radii + 2.0, turn)
    return labels, decoys & ~near


def _signal(labels: NDArray[np.uint8], decoys: NDArray[np.bool_], look: Look) -> Array:
    """The noiseless signal, its edges softened over neighbouring voxels (partial volume)."""
    signal = np.where(_ellipsoid(np.zeros(3), 0.62 * np.array(SHAPE), np.eye(3)), look.tissue, 0.0)
    signal[decoys] = look.outer
    signal[labels == _OUTER] = look.outer
    signal[labels == _INNER] = look.inner
    for axis in range(3):
        padded = np.pad(signal, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = np.delete(padded, (-1, -2), axis), np.delete(padded, (0, 1), axis)
        signal = 0.25 * before + 0.5 * signal + 0.25 * after
    return signal


def _bias_field(random: np.random.Generator, strength: float) -> Array:
    """A smooth relative change of the signal: a random plane and a random bowl."""
    x, y, z = _coordinates() / (np.array(SHAPE).reshape(3, 1, 1, 1) / 2)
    tilt = random.uniform(-1, 1, 3)
    bowl = random.uniform(-1, 1)
    field = tilt[0] * x + tilt[1] * y + tilt[2] * z + bowl * (x * x + y * y + z * z - 1)
    return np.asarray(1.0 + strength * field / np.abs(field).max(), np.float64)


def _ellipsoid(centre: Array, radii: Array, turn: Array) -> NDArray[np.bool_]:
    offsets = _coordinates() - centre.reshape(3, 1, 1, 1)
    along = np.einsum("ji,jxyz->ixyz", turn, offsets) / radii.reshape(3, 1, 1, 1)
    return np.asarray((along**2).sum(axis=0) <= 1.0)


def _coordinates() -> Array:
    """(3, X, Y, Z): voxel centres, from the middle of the grid."""
    axes = [np.arange(extent) - (extent - 1) / 2 for extent in SHAPE]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _random_rotation(random: np.random.Generator) -> Array:
    """Uniform over rotations: the orthogonal factor of a Gaussian matrix, sign fixed."""
    q, r = np.linalg.qr(random.normal(size=(3, 3)))
    return np.asarray(q * np.sign(np.diag(r)), np.float64)
