"""Compressed pixels, decoded in a process of its own.

Decoders are C and C++, and their input comes from outside. Of a damaged image GDCM aborts the
process that it runs in, and OpenJPEG allocates what a header asks for. So they run in a process
with limits, which is started when it is first needed, and again after it ended.
"""

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels.utils import pixel_array
from pydicom.uid import RLELossless

_EXTRA_BYTES = 4 * 2**30  # what decoding a frame may take
_SECONDS = 60  # and how much of a processor's time
_DEFER_BYTES = 1024


def decode_frame(dataset: Dataset, index: int) -> NDArray[Any]:
    """A frame (H, W) of a file's data set, counted from 0, as it is stored.

    Raises what pydicom raises, and :class:`ChildProcessError` for compressed pixels that cannot be
    decoded.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == RLELossless:  # which pydicom itself decodes
        return pixel_array(dataset, index=index)
    return _DECODER.decode(Path(str(dataset.filename)), index)


class _Decoder:
    """The process, while there is one. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, path: Path, index: int) -> NDArray[Any]:
        with self._lock:
            try:
                frame = self._ask(path, index)
            except ChildProcessError:  # somebody may have ended it, so once more
                frame = self._ask(path, index)
        if frame is None:
            raise ChildProcessError("no decoder takes it")
        return frame

    def _ask(self, path: Path, index: int) -> NDArray[Any] | None:
        try:
            return self._exchange(path, index)
        except (OSError, ValueError) as error:
            self._end()
            raise ChildProcessError("the decoder ended") from error
        except BaseException:  # an interrupt leaves an answer behind
            self._end()
            raise

    def _exchange(self, path: Path, index: int) -> NDArray[Any] | None:
        process = self._process = self._process or _start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([str(path), index]).encode() + b"\n")
        process.stdin.flush()
        kind, shape = json.loads(process.stdout.readline())
        if not kind:
            return None
        size = np.dtype(kind).itemsize * int(np.prod(shape))
        return np.frombuffer(bytearray(process.stdout.read(size)), kind).reshape(shape)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def close(self) -> None:
        with self._lock:
            self._end()

    def forget(self) -> None:
        """In a child that was forked, where it is the parent's."""
        self._lock = threading.Lock()
        self._process = None


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Until there are no more requests, as when who asks has ended."""
    known: tuple[str, int] | None = None
    dataset = Dataset()
    for line in requests:
        path, index = json.loads(line)
        _limit()
        try:
            asked = path, Path(path).stat().st_mtime_ns
            if asked != known:
                dataset, known = dcmread(path, defer_size=_DEFER_BYTES), asked
            frame = np.ascontiguousarray(pixel_array(dataset, index=index))
            replies.write(json.dumps([frame.dtype.str, frame.shape]).encode() + b"\n")
            replies.write(frame.data)
        except Exception:  # decoders raise their own kinds
            replies.write(b'["", []]\n')
        replies.flush()


def _limit() -> None:
    """What the next frame may take, beyond what was taken already."""
    process = psutil.Process()
    memory = process.memory_info().vms + _EXTRA_BYTES
    seconds = int(sum(process.cpu_times()[:2])) + _SECONDS
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds)):
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


_DECODER = _Decoder()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks decides when it ends
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some decoders print
    _serve(sys.stdin.buffer, answers)
else:
    atexit.register(_DECODER.close)
    os.register_at_fork(after_in_child=_DECODER.forget)
