"""Which presentation contexts our gateway proposes (PS3.8 Section 7.1.1.13).

It begins with what IODeep's own objects need, which is little and negotiated in no time, and
proposes more where more is asked for.

An archive accepts one transfer syntax for each context, and sends an instance only in a
context of its SOP class and (unless it converts) its transfer syntax. An association has 128
contexts, fewer than there are pairs of the two; so it proposes the SOP classes that are fetched
with every transfer syntax apart, or, where they are many or unknown, every one of them once.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Self

from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RawDataStorage,
    RTStructureSetStorage,
)
from pynetdicom import StoragePresentationContexts, build_context, build_role
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    SegmentationStorage,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from federation.pacs.dimse.association import IDENTIFIER_SYNTAXES, MAX_CONTEXTS, TRANSFER_SYNTAXES

_QUESTIONS = (
    Verification,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
)
# What matters most here comes first, in case the rest does not fit.
_RECEIVED = tuple(
    dict.fromkeys(
        [
            str(RawDataStorage),
            str(SegmentationStorage),
            str(ParametricMapStorage),
            *(str(context.abstract_syntax) for context in StoragePresentationContexts),
        ]
    )
)

OWN = frozenset(
    (str(sop_class), str(ExplicitVRLittleEndian))
    for sop_class in (RawDataStorage, KeyObjectSelectionDocumentStorage)
)
"""SOP classes and transfer syntax of IODeep's own objects."""
SOP_CLASS_OF_MODALITY: Mapping[str, str] = {
    modality: str(sop_class)
    for modality, sop_class in {
        "OT": RawDataStorage,
        "KO": KeyObjectSelectionDocumentStorage,
        "CT": CTImageStorage,
        "MR": MRImageStorage,
        "PT": PositronEmissionTomographyImageStorage,
        "SEG": SegmentationStorage,
        "RTSTRUCT": RTStructureSetStorage,
    }.items()
}
"""The SOP class that most series of a modality are of; the first two, IODeep's own."""
_OWN_CLASSES = frozenset(sop_class for sop_class, _ in OWN)
MAX_SENT = MAX_CONTEXTS // 2
"""Kinds of instances that one proposal can send; the other contexts are for receiving."""
MAX_APART = (MAX_CONTEXTS - len(_QUESTIONS)) // len(TRANSFER_SYNTAXES)
"""SOP classes that one proposal can receive with every transfer syntax apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What an association shall be able to carry, besides questions.

    sent:  pairs of SOP class and transfer syntax to send
    every: receive every SOP class, in the one transfer syntax that the archive chooses
    apart: SOP classes to receive in any transfer syntax, instead
    """

    sent: frozenset[tuple[str, str]] = OWN
    every: bool = False
    apart: frozenset[str] = frozenset()

    def covers(self, other: Self) -> bool:
        """Whether nothing new need be negotiated for ``other``."""
        return (
            other.sent <= self.sent
            and other.apart <= self.apart
            and (self.every or not other.every)
        )

    def receiving(self, sop_class: str) -> Self:
        """One that can receive a SOP class, and still what this one can.

        An empty one is unknown: one that can receive every SOP class.
        """
        if not sop_class:
            return replace(self, every=True, apart=frozenset())
        if sop_class in _OWN_CLASSES:
            return self
        return self.receiving_apart({sop_class})

    def receiving_apart(self, sop_classes: Set[str]) -> Self:
        """One that can receive these in any transfer syntax, and others while there is room."""
        if not 0 < len(sop_classes) <= MAX_APART:
            return replace(self, every=True, apart=frozenset())
        apart = self.apart | sop_classes
        return replace(
            self, every=False, apart=apart if len(apart) <= MAX_APART else frozenset(sop_classes)
        )

    def contexts(self) -> list[PresentationContext]:
        contexts = [build_context(question, list(IDENTIFIER_SYNTAXES)) for question in _QUESTIONS]
        contexts += [build_context(*pair) for pair in sorted(self.sent | OWN)]
        contexts += [
            build_context(sop_class, syntax)
            for sop_class in sorted(self.apart)
            for syntax in TRANSFER_SYNTAXES
            if (sop_class, syntax) not in self.sent | OWN
        ]
        if self.every:
            contexts += [build_context(kind, list(TRANSFER_SYNTAXES)) for kind in _RECEIVED]
        return contexts[:MAX_CONTEXTS]

    def roles(self) -> Sequence[SCP_SCU_RoleSelectionNegotiation]:
        """Who receives in a C-GET acts as SCP (PS3.7 Annex D.3.3.4)."""
        sent = {sop_class for sop_class, _ in self.sent}
        received = {str(context.abstract_syntax) for context in self.contexts()}
        received -= {str(question) for question in _QUESTIONS}
        return [
            build_role(UID(sop_class), scu_role=sop_class in sent, scp_role=True)
            for sop_class in sorted(received)
        ]
