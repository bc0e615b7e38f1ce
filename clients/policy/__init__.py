"""What a site's policy allows of what it is asked: decided at the site, before anything is done."""

from clients.policy.approvals import Approvals, Waiting
from clients.policy.room import check_room
from clients.policy.rounds import (
    Deadline,
    check_epochs,
    check_hours,
    check_line,
    check_rate,
    check_strategy,
    check_threads,
)

__all__ = [
    "Approvals",
    "Deadline",
    "Waiting",
    "check_epochs",
    "check_hours",
    "check_line",
    "check_rate",
    "check_room",
    "check_strategy",
    "check_threads",
]
