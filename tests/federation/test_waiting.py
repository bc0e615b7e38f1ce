"""How long the tensors of an answer are waited for, by Flower's own function."""

import subprocess
import sys

WAITS = """
import time
from flwr.superlink.grid import http_grid
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from federation.flower.waiting import lock, waiting_until

def never(_):
    raise ObjectUnavailableError("a")

lock()
begin = time.monotonic()
with waiting_until(begin + 1):
    try:
        http_grid.pull_objects(object_ids=["a"], pull_object_fn=never)
    except Exception as error:
        print(type(error).__name__, time.monotonic() - begin < 20)
    print(http_grid.pull_objects(object_ids=["a"], pull_object_fn=lambda name: b"b"))
"""


def test_what_never_comes_is_waited_for_until_the_deadline() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAITS], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.splitlines() == ["ObjectPullError True", "{'a': b'b'}"], done.stderr
