"""`iodeep` in this process: what it says, without waiting for another to import torch."""

from subprocess import CompletedProcess

from typer.testing import CliRunner

from federation.cli import build
from federation.errors import IODeepError


def iodeep_here(*words: object) -> CompletedProcess[str]:
    """What a command ends with; an error of ours is a sentence on stderr, as in a process.

    Any other error is raised.
    """
    command = [str(word) for word in words]
    done = CliRunner().invoke(build(), command)
    error, said = done.exception, done.stderr
    if isinstance(error, IODeepError):
        said += f"iodeep: {error}\n"
    elif error is not None and not isinstance(error, SystemExit):
        raise error
    return CompletedProcess(command, done.exit_code, done.stdout, said)
