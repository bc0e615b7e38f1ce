"""The site's own log of what it could not do."""

import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from federation.config import Site
from federation.errors import IODeepError
from federation.messages import Code

LOG = "client.log"


def write_log(site: Site | None, work: str, code: Code, error: Exception) -> None:
    """Note an error in ``work/client.log``, or on stderr where there is no site yet.

    Texts of our own errors hold no patient identifier; those of other libraries may, so only
    their type and the places in the code are kept.
    """
    text = str(error) if isinstance(error, IODeepError) else "(text withheld)"
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    places = "" if isinstance(error, IODeepError) else _places(error)
    entry = f"{moment} {work} {code} {type(error).__name__}: {text}\n{places}"
    if site is None:
        print(entry, file=sys.stderr, end="")
        return
    site.work.mkdir(parents=True, exist_ok=True)
    with (site.work / LOG).open("a", encoding="utf-8") as file:
        file.write(entry)


def _places(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return "".join(f"  {Path(f.filename).name}:{f.lineno} in {f.name}\n" for f in frames)
