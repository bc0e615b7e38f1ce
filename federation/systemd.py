"""Units of systemd for what runs for weeks."""

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from federation.errors import ConfigError

_UNIT = """\
[Unit]
Description={description}
Wants=network-online.target
After=network-online.target

[Service]
User={user}
WorkingDirectory={folder}
ExecStart={command}
Restart=always
RestartSec=65
KillSignal=SIGTERM
TimeoutStopSec=60
UMask=0077
MemoryMax={memory}
OOMPolicy=continue
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
"""


def unit(description: str, words: Sequence[str], *, folder: Path, memory: str = "infinity") -> str:
    """A unit that runs ``iodeep`` with these words, as whoever asks for it.

    memory: the most that it gets together with all that it starts, as systemd's ``MemoryMax``;
            what is ended for want of it, ``iodeep`` itself starts again

    Raises :class:`ConfigError` for a word that a unit cannot hold.
    """
    command = [str(Path(sys.executable).parent / "iodeep"), *words]
    if bad := [word for word in (*command, str(folder)) if set(word) & set("\"'\\%$\n")]:
        raise ConfigError(f"{bad[0]!r} has a character that a unit of systemd cannot hold")
    return _UNIT.format(
        description=description,
        user=getpass.getuser(),
        folder=folder.resolve(),
        memory=memory,
        command=" ".join(f'"{word}"' if " " in word else word for word in command),
    )
