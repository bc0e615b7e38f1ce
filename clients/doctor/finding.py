"""What an examination finds."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at.

    about:  what of the site: machine, keys, images, models, data
    check:  what was looked at
    seen:   what that came to, and what it means
    advice: what to do, where it is not all well
    """

    about: str
    check: str
    outcome: Outcome
    seen: str
    advice: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What findings are about."""

    about: str

    def passed(self, check: str, seen: str) -> Finding:
        return Finding(about=self.about, check=check, outcome="pass", seen=seen)

    def warned(self, check: str, seen: str, advice: str) -> Finding:
        return Finding(about=self.about, check=check, outcome="warn", seen=seen, advice=advice)

    def failed(self, check: str, seen: object, advice: str) -> Finding:
        return Finding(about=self.about, check=check, outcome="fail", seen=str(seen), advice=advice)
