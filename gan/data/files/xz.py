"""Decompression of .xz files in bounded memory."""

import io
from lzma import FORMAT_XZ, LZMADecompressor, LZMAError
from pathlib import Path

MEMORY = 2**29  # bytes; `xz -9` needs 2**26, but a file can ask for 2**32
CHUNK = 2**16  # bytes of the file that are read at a time


class _XzReader(io.RawIOBase):
    """The decompressed contents of an .xz file. What follows its streams is ignored, as by `lzma.open`.

    `read` raises LZMAError and EOFError if the file is damaged, and ValueError if it needs more memory than MEMORY.
    """

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._start()

    def _start(self) -> None:
        self._file.seek(0)
        self._decoder = LZMADecompressor(FORMAT_XZ, memlimit=MEMORY)
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: going back decompresses the file again from its start."""
        return True

    def tell(self) -> int:
        """Return the position in the decompressed contents."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, or to the end of the contents if they end before."""
        offset += {io.SEEK_SET: 0, io.SEEK_CUR: self._position}[whence]
        if offset < 0:
            raise ValueError("a negative position")
        if offset < self._position:
            self._start()
        while self._position < offset and self._decompress(min(io.DEFAULT_BUFFER_SIZE, offset - self._position)):
            pass
        return self._position

    def readinto(self, buffer) -> int:
        """Read at least one byte into a buffer, unless the contents end, and return the number of bytes."""
        data = self._decompress(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def _decompress(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        data = b""
        while not data and size:
            begins = self._decoder.eof
            raw = self._decoder.unused_data if begins else b""
            if begins or self._decoder.needs_input:
                raw = raw or self._file.read(CHUNK)
                if not raw and begins:
                    break
                if not raw:
                    raise EOFError("it ends before the end of its data")
            decoder = LZMADecompressor(FORMAT_XZ, memlimit=MEMORY) if begins else self._decoder
            try:
                data = decoder.decompress(raw, size)
            except LZMAError as error:
                if "limit" in str(error):
                    reason = f"decompressing it needs more than {MEMORY >> 20} MiB of memory; compress it with xz -9"
                    raise ValueError(reason) from None
                if not begins:
                    raise
                break
            self._decoder = decoder
        self._position += len(data)
        return data


def open_xz(path: Path, mode: str) -> io.BufferedReader:
    """Open an .xz file to read its decompressed contents; `mode` is "rb". Raises OSError if this is not possible."""
    return io.BufferedReader(_XzReader(path))
