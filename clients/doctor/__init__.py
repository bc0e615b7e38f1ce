"""`iodeep site doctor`: whether a site's machine, archives and data will do, in a minute."""

from clients.doctor.examination import examine
from clients.doctor.finding import Finding, Outcome

__all__ = ["Finding", "Outcome", "examine"]
