"""An append-only log of JSON lines, each of which names the digest of the one before.

Nobody can change, remove, reorder or insert entries unnoticed who does not rewrite all that
follow, and a head (number and digest of the last entry), kept by somebody else or signed beside
the log, shows that too.
"""

from federation.audit.entry import MAX_ENTRY_BYTES, Entry, Head
from federation.audit.log import AuditLog
from federation.audit.verify import Problem, Verified, verify

__all__ = [
    "MAX_ENTRY_BYTES",
    "AuditLog",
    "Entry",
    "Head",
    "Problem",
    "Verified",
    "verify",
]
