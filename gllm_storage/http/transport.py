"""The bytes of one connection: over TCP (`Plain`), or over TLS (`Encrypted`).

**TLS in memory.** An `ssl.SSLSocket` with a timeout calls poll() before each receive, and then read() for the head and for
the content of each record of 16 KiB. `Encrypted` receives 256 KiB of ciphertext by one call, and decrypts record by record
into the caller's buffer without system calls; it encrypts 64 KiB, and sends them by one call. More at a time costs more: the
memory of the ciphertext is fresh then, and leaves the processor's cache. 1 GiB sent in pieces of 64, 256 and 1024 KiB took
0.90, 1.06 and 1.20 s of CPU.

**Timeouts.** Where the kernel keeps the time, the socket blocks, for TLS as well.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from gllm_storage.store.limits import Throughput

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import fcntl
    import termios
except ImportError:  # Windows
    _SEND_QUEUE = None
else:
    _SEND_QUEUE = getattr(termios, "TIOCOUTQ", None)
    """ioctl(2) of the bytes in the send queue of a TCP socket that the peer has not acknowledged; see tcp(7)."""

Buffer = bytes | bytearray | memoryview

_SOME = 2**16
_CIPHERTEXT = 2**18
_RECORD_HEAD = 5
_NO_BYTES = bytes(4)
"""The number 0 as a C int."""
_KERNEL_TIMEOUTS = sys.platform == "linux"
_HAS_POLL = hasattr(select, "poll")
_WAIT_FOR_ALL = socket.MSG_WAITALL if _KERNEL_TIMEOUTS else 0
_MORE = socket.MSG_MORE if _KERNEL_TIMEOUTS else 0


class Transport(ABC):
    """Sends and receives the bytes of a connection. One thread at a time uses it; only `abort` may come from another one.

    Args:
        plain: The connected TCP socket.
        read_timeout: Seconds without a byte, in either direction; None for no limit.
        min_throughput: The fewest bytes per second of an answer, averaged over each read timeout; 0 for no limit.

    Attributes:
        throughput: How fast the answer arrives.
        is_cut: Whether the connection was closed without the message by which TLS announces that (close_notify): the last
            answer may be incomplete. Always False without TLS.
        leaves: Set when bytes leave; the caller resets it.
    """

    def __init__(self, plain: socket.socket, read_timeout: float | None, min_throughput: float) -> None:
        self._socket = plain
        self.throughput = Throughput(min_throughput, read_timeout)
        self.is_cut = False
        self.leaves = False
        self._poll = select.poll() if _HAS_POLL else None
        if self._poll is not None:
            self._poll.register(plain, select.POLLIN)
        self.set_timeout(read_timeout)

    def set_timeout(self, seconds: float | None) -> None:
        """Set how long a send or a receive waits for a byte; None for no limit."""
        if not _KERNEL_TIMEOUTS:
            self._socket.settimeout(seconds)
            return
        # With a timeout of Python's, the socket does not block: each receive costs a poll() before, and MSG_WAITALL returns
        # as soon as any bytes are there. So the socket blocks, and the kernel keeps the time; when it is over, the send or
        # receive raises BlockingIOError.
        self._socket.settimeout(None)
        whole, part = divmod(seconds or 0.0, 1.0)
        value = struct.pack("ll", int(whole), int(part * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def abort(self) -> None:
        """Shut the connection down from another thread: the send or receive in progress fails at once."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _may_receive(self) -> bool:
        """Whether something has arrived, or the connection was closed; True if the system does not tell.

        A receive that finds nothing raises BlockingIOError, which takes ten times as long.
        """
        return self._poll is None or bool(self._poll.poll(0))

    def wait(self, seconds: float) -> None:
        """Wait until bytes arrive, or the connection ends, but at most some seconds."""
        with contextlib.suppress(OSError, ValueError):
            if self._poll is None:
                select.select([self._socket], [], [], seconds)
            else:
                self._poll.poll(seconds * 1000)

    def has_unsent(self) -> bool:
        """Whether bytes wait in this machine's send buffer: the server has not received them.

        Always False where the system does not tell.
        """
        if _SEND_QUEUE is None:
            return False
        try:
            return fcntl.ioctl(self._socket.fileno(), _SEND_QUEUE, _NO_BYTES) != _NO_BYTES
        except OSError:
            return False

    @abstractmethod
    def is_quiet(self) -> bool:
        """Whether the server has neither sent a byte that was not received, nor closed the connection."""

    @abstractmethod
    def send(self, data: Buffer, *, more: bool = False, before: Callable[[], None] | None = None) -> None:
        """Send all bytes.

        Args:
            data: The bytes.
            more: Whether other bytes follow at once, which may share a packet with these.
            before: Called just before the bytes leave.

        Raises:
            OSError: If the connection breaks, or the server takes no bytes for the read timeout.
        """

    @abstractmethod
    def receive(self) -> bytes:
        """Wait for the first bytes of an answer. This wait does not count as slow.

        Returns:
            Some bytes; none if the connection is closed.

        Raises:
            OSError: If the connection breaks, or no byte arrives for the read timeout.
        """

    @abstractmethod
    def receive_more(self) -> bytes:
        """Receive further bytes of an answer; as `receive`.

        Raises:
            SlowAnswerError: If the bytes arrive more slowly than `min_throughput`.
            OSError: As for `receive`.
        """

    @abstractmethod
    def receive_into(self, view: memoryview) -> int:
        """Receive further bytes of an answer into a buffer.

        Returns:
            The number of bytes, at least one; 0 if the connection is closed. The buffer is filled if the system can wait
            for so many bytes.

        Raises:
            SlowAnswerError: If the bytes arrive more slowly than `min_throughput`.
            OSError: As for `receive`.
        """

    @abstractmethod
    def receive_now(self) -> bytes | None:
        """Receive bytes of an answer that have arrived already.

        Returns:
            The bytes, none if the connection is closed; None if nothing has arrived.

        Raises:
            OSError: If the connection is broken.
        """


class Plain(Transport):
    """A connection without TLS."""

    def is_quiet(self) -> bool:
        """As `Transport.is_quiet`."""
        try:
            return not (self._may_receive() and _received_now(self._socket, 1) is not None)
        except (OSError, ValueError):
            return False

    def send(self, data: Buffer, *, more: bool = False, before: Callable[[], None] | None = None) -> None:
        """As `Transport.send`."""
        if before is not None:
            before()
        self.leaves = True
        self._socket.sendall(data, _MORE if more else 0)

    def receive(self) -> bytes:
        """As `Transport.receive`."""
        return self._socket.recv(_SOME)

    def receive_more(self) -> bytes:
        """As `Transport.receive_more`."""
        began = time.monotonic()
        data = self._socket.recv(_SOME)
        self.throughput.add(time.monotonic() - began, len(data))
        return data

    def receive_into(self, view: memoryview) -> int:
        """As `Transport.receive_into`."""
        began = time.monotonic()
        count = self._socket.recv_into(view, len(view), _WAIT_FOR_ALL)
        self.throughput.add(time.monotonic() - began, count)
        return count

    def receive_now(self) -> bytes | None:
        """As `Transport.receive_now`."""
        return _received_now(self._socket, _SOME)


class Encrypted(Transport):
    """A connection with TLS, after the handshake.

    Args:
        plain: The connected TCP socket.
        tls: The state of TLS.
        incoming: Ciphertext from the server that was not decrypted yet.
        outgoing: Ciphertext for the server that was not sent yet.
        read_timeout: As in `Transport`.
        min_throughput: As in `Transport`.
    """

    def __init__(
        self,
        plain: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        read_timeout: float | None,
        min_throughput: float,
    ) -> None:
        super().__init__(plain, read_timeout, min_throughput)
        self.tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._has_surplus = False
        self._ciphertext = memoryview(bytearray(_CIPHERTEXT))  # the system gives it memory when it is used

    def is_quiet(self) -> bool:
        """As `Transport.is_quiet`. Messages of TLS itself do not count: a session ticket may come at any time.

        A record that has not arrived completely does count: bytes behind the last answer may be in it.
        """
        poll = self._poll
        try:
            if poll is not None and not (poll.poll(0) or self._has_surplus or self._incoming.pending or self.tls.pending()):
                return True  # mostly
            self._has_surplus = self._has_surplus or self._receives_surplus()
        except (OSError, ValueError):
            self._has_surplus = True
        return not self._has_surplus

    def _receives_surplus(self) -> bool:
        more = _received_now(self._socket, _CIPHERTEXT) if self._may_receive() else None
        if more:
            self._incoming.write(more)
        if more == b"" or self.tls.pending():
            return True
        if not self._incoming.pending:
            return False
        # TLS reads no more than the record whose content it returns, so these bytes begin with a record.
        records = self._incoming.read()
        self._incoming.write(records)
        return not _are_complete(records) or self._decrypted() is not None

    def send(self, data: Buffer, *, more: bool = False, before: Callable[[], None] | None = None) -> None:
        """As `Transport.send`."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.tls.write(view[:_SOME]) :]
            except ssl.SSLWantReadError:  # the server has begun another handshake, which TLS 1.2 allows
                if not self._feed():
                    raise BrokenPipeError("the server closed the connection during a handshake") from None
            except ssl.SSLError as error:
                raise _broken(error) from None
            if view:
                self._flush()
        if before is not None:
            before()
        if not more:
            self._flush()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self.leaves = True
            self._socket.sendall(data)

    def _feed(self) -> int:
        """Receive ciphertext; returns its length, 0 if the connection is closed."""
        if self._outgoing.pending:
            self._flush()  # a message of TLS itself, such as the reply to an update of the keys
        count = self._socket.recv_into(self._ciphertext)
        self._incoming.write(self._ciphertext[:count])
        self.is_cut = not count
        return count

    def _decrypted(self) -> bytes | None:
        """The content of the next record; empty if the connection is closed, None if no complete record has arrived."""
        try:
            return self.tls.read(_SOME)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLError as error:
            raise _broken(error) from None

    def receive(self) -> bytes:
        """As `Transport.receive`."""
        # To read nothing raises SSLWantReadError, which takes 3 microseconds.
        if not (self._incoming.pending or self.tls.pending() or self._feed()):
            return b""
        while (data := self._decrypted()) is None:
            if not self._feed():
                return b""
        return data

    def receive_more(self) -> bytes:
        """As `Transport.receive_more`."""
        waited = 0.0
        while (data := self._decrypted()) is None:
            self.throughput.add(waited, 0)
            began = time.monotonic()
            if not self._feed():
                return b""
            waited = time.monotonic() - began
        self.throughput.add(waited, len(data))
        return data

    def receive_into(self, view: memoryview) -> int:
        """As `Transport.receive_into`."""
        read, size, done, counted, waited = self.tls.read, len(view), 0, 0, 0.0
        while done < size:
            try:
                count = read(size - done, view[done:])
            except ssl.SSLWantReadError:
                self.throughput.add(waited, done - counted)
                counted, began = done, time.monotonic()
                if not self._feed():
                    return done
                waited = time.monotonic() - began
                continue
            except ssl.SSLError as error:
                raise _broken(error) from None
            if not count:
                break
            done += count  # type: ignore[operator]  # typeshed: read into a buffer returns a number
        self.throughput.add(waited, done - counted)
        return done

    def receive_now(self) -> bytes | None:
        """As `Transport.receive_now`."""
        more = _received_now(self._socket, _CIPHERTEXT)
        if more:
            self._incoming.write(more)
        data = self._decrypted() if self._incoming.pending else None
        if data is None and more == b"":
            self.is_cut = True
            return b""
        return data


def _broken(error: ssl.SSLError) -> OSError:
    """The exception for a record that is not one, or is damaged.

    An `ssl.SSLError` of that kind stands for a failed handshake, as with a server that does not speak TLS. The alerts of the
    server are left as they are.
    """
    return error if "ALERT" in str(error.reason) else ConnectionError(f"TLS failed within the connection: {error}")


def _received_now(plain: socket.socket, most: int) -> bytes | None:
    """Bytes that have arrived; empty if the connection is closed, None if there are none."""
    if _KERNEL_TIMEOUTS:
        with contextlib.suppress(BlockingIOError):
            return plain.recv(most, socket.MSG_DONTWAIT)
        return None
    timeout = plain.gettimeout()
    plain.settimeout(0)
    try:
        return plain.recv(most)
    except BlockingIOError:
        return None
    finally:
        plain.settimeout(timeout)


def _are_complete(records: bytes) -> bool:
    """Whether ciphertext ends at the end of a record: https://www.rfc-editor.org/rfc/rfc8446#section-5.1."""
    position = 0
    while position + _RECORD_HEAD <= len(records):
        position += _RECORD_HEAD + int.from_bytes(records[position + _RECORD_HEAD - 2 : position + _RECORD_HEAD], "big")
    return position == len(records)
