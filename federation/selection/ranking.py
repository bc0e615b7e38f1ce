"""Which networks suit an image, the best first, with the reason for each one's rank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from federation.iodeep.labels import MODALITIES, Line
from federation.iodeep.manifest import VersionManifest
from federation.iodeep.regions import steps_between
from federation.selection.evidence import Evidence, name_of, weigh
from federation.selection.image import ImageFacts
from federation.selection.vocabulary import is_scout

_ONE_MODALITY = frozenset({"CR", "DX"})  # radiographs, before and since digital detectors
_GREY = frozenset({"", "MONOCHROME1", "MONOCHROME2"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A released network.

    score: its headline metric on the site's own cases, where there is an evaluation of them
    """

    version: VersionManifest
    score: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Suited:
    """A network that suits an image.

    region: the image's, which it is for, or which it lies in
    order:  smaller for what suits better
    """

    line: Line
    model: Model
    reasons: tuple[str, ...]
    region: str
    order: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsuited:
    """A line that does not, and why."""

    line: Line
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """All networks that were looked at.

    problem: why none can be chosen without a person; None where the first one is it
    """

    evidence: Evidence
    suited: tuple[Suited, ...]
    unsuited: tuple[Unsuited, ...]
    problem: str | None

    @property
    def chosen(self) -> Model | None:
        """The network to use, where there is one that suits better than all others."""
        return None if self.problem else self.suited[0].model


def select(
    facts: ImageFacts, lines: Sequence[Line], released: Callable[[Line], Model | None]
) -> Selection:
    """Rank the released networks of lines for an image.

    By region, the exact one before one that is nearer in what is part of what; then one for a
    disease that the image's texts speak of; then by the site's own evaluations. ``released`` gives
    a line's network, if it has one; it is asked for those lines alone that the image is for.
    """
    concepts = [one for line in lines for one in (line.region, line.disease) if one is not None]
    evidence = weigh(facts, concepts)
    suited: list[Suited] = []
    unsuited: list[Unsuited] = []
    for line in lines:
        fit = _fit(line, facts, evidence)
        if isinstance(fit, _Fit):
            model = released(line)
            problem = "no version is released" if model is None else _misfit(model.version, facts)
            if model is not None and problem is None:
                suited.append(_suited(line, model, fit))
                continue
        else:
            problem = fit
        unsuited.append(Unsuited(line=line, reason=problem or ""))
    suited.sort(key=lambda one: (one.order, one.line.patient_id))
    return Selection(
        evidence=evidence,
        suited=tuple(suited),
        unsuited=tuple(unsuited),
        problem=_problem(facts, evidence, suited, unsuited),
    )


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class _Fit:
    """How a line's region is to an image's: ``steps`` away in what is part of what, and whether it
    is the larger of the two."""

    steps: int
    lies_around: bool
    region: str
    reasons: tuple[str, ...]


def _fit(line: Line, facts: ImageFacts, evidence: Evidence) -> _Fit | str:
    """Whether an image is what a line is for; else why not."""
    if line.modality not in like(facts.modality):
        return f"it is for {line.modality}, the image is {facts.modality or 'of no modality'}"
    near = [
        (*between, code)
        for code in evidence.regions
        if (between := _between(line.region.value, code)) is not None
    ]
    if not near:
        seen = ", ".join(map(name_of, evidence.regions)) or "nothing that tells"
        return f"it is for {line.region.meaning}; seen: {seen}"
    if line.disease is not None and line.disease.value not in evidence.diseases:
        return f"it is for {line.disease.meaning}, which no text of the image speaks of"
    steps, lies_around, code = min(near)
    told_by = ", ".join(evidence.told_by)
    reasons = [
        line.modality
        if line.modality == facts.modality
        else f"{facts.modality}, as {line.modality}",
        f"{_words(line.region.meaning, name_of(code), steps, lies_around)} ({told_by})",
    ]
    if line.disease is not None:
        reasons.append(f"{line.disease.meaning} is spoken of")
    return _Fit(steps=steps, lies_around=lies_around, region=code, reasons=tuple(reasons))


def _between(region: str, code: str) -> tuple[int, bool] | None:
    """Steps from a network's region to an image's, and whether the network's is the larger."""
    if (steps := steps_between(region, code)) is not None:
        return steps, False
    if (steps := steps_between(code, region)) is not None:
        return steps, True
    return None


def _words(region: str, seen: str, steps: int, lies_around: bool) -> str:
    if not steps:
        return f"{seen}, exactly"
    return f"{seen} is part of {region}" if lies_around else f"{region} is part of {seen}"


def _suited(line: Line, model: Model, fit: _Fit) -> Suited:
    score = () if model.score is None else (f"{model.score:.3f} on this site's cases",)
    order = (fit.steps, fit.lies_around, line.disease is None, -(model.score or 0.0))
    return Suited(
        line=line,
        model=model,
        reasons=(*fit.reasons, *score),
        region=fit.region,
        order=tuple(map(float, order)),
    )


def like(modality: str) -> tuple[str, ...]:
    """The modalities whose networks take images of this one; none for what is none."""
    if modality in _ONE_MODALITY:
        return tuple(sorted(_ONE_MODALITY))
    return (modality,) if modality in MODALITIES else ()


def _misfit(version: VersionManifest, facts: ImageFacts) -> str | None:
    """Why a network cannot take such an image; None where it can."""
    preprocessing = version.preprocessing
    if preprocessing is None:
        return "it does not say how images become its input"
    if facts.samples != 1 or facts.photometric not in _GREY:
        return "the image is in colour, and networks take grey values"
    if not preprocessing.takes_slices and (facts.is_projection or facts.images < 2):
        return "it takes volumes, the image is a single one"
    return None


def _problem(
    facts: ImageFacts,
    evidence: Evidence,
    suited: Sequence[Suited],
    unsuited: Sequence[Unsuited],
) -> str | None:
    """Why no network can be chosen without a person."""
    if facts.is_scout or is_scout(facts.series):
        return "the series is a localiser, or no image to read"
    if not suited:
        there = sorted({one.line.modality for one in unsuited})
        if not there:
            return "there is no network here"
        if not set(like(facts.modality)) & set(there):
            modality = facts.modality or "an image without modality"
            return f"no network is for {modality}; there are some for {', '.join(there)}"
    if not evidence.regions:
        return (
            "nothing tells the region: no Anatomic Region Sequence, and no word that is known in "
            "Body Part Examined, Series Description and Study Description"
        )
    if not suited:
        seen = ", ".join(map(name_of, evidence.regions))
        near = [one for one in unsuited if "it is for" not in one.reason]
        more = f"; {near[0].line} does not: {near[0].reason}" if near else ""
        return f"no network suits: looked for {facts.modality} of {seen}{more}"
    if evidence.is_in_doubt:
        return (
            f"{evidence.told_by[0]} says {', '.join(map(name_of, evidence.regions))}, and "
            f"{' and '.join(evidence.contradicted)} say otherwise"
        )
    best, *others = suited
    rivals = [one for one in others if one.region != best.region and not one.order[1]]
    if rivals and len(evidence.regions) > 1:
        names = " and ".join(name_of(one.region) for one in (best, rivals[0]))
        return f"the image shows {names}: {best.line} and {rivals[0].line} are each for one of them"
    if equal := [one for one in others if one.order == best.order]:
        names = ", ".join(str(one.line) for one in (best, *equal))
        return f"{len(equal) + 1} networks suit equally well: {names}"
    return None
