"""A file that survives the death of its writer: changes are appended, each as
one record that is there whole or not at all.

The file begins with one line of JSON, the header. What follows are records:

    4 bytes  MAGIC
    4 bytes  length of the payload, big-endian
    4 bytes  CRC-32 of the payload
    payload  cells: name length (2 bytes), name (UTF-8), value length (4 bytes,
             GONE for a cell that is no more), value

A cell is a name and bytes; the last record that has it counts. All cells of one
record change at once.
"""

import json
import os
import struct
import zlib

FORMAT = 1
MAGIC = b"\xabKEP"
GONE = 0xFFFFFFFF
# A journal is written anew, with only what counts, when it is larger than this
# and than COMPACT_RATIO times what counts.
COMPACT_BYTES = 8 << 20
COMPACT_RATIO = 4

_RECORD = struct.Struct(">4sII")


class Damage(Exception):
    """Part of a file cannot be read; str() says which, and since when."""


def encode(cells):
    """One record of cells, {name: bytes or None}."""
    parts = []
    for name, value in cells.items():
        encoded = name.encode()
        parts.append(struct.pack(">H", len(encoded)))
        parts.append(encoded)
        parts.append(struct.pack(">I", GONE if value is None else len(value)))
        if value is not None:
            parts.append(value)
    payload = b"".join(parts)
    return _RECORD.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload


def _decode(payload):
    cells, at = {}, 0
    while at < len(payload):
        (size,) = struct.unpack_from(">H", payload, at)
        at += 2
        name = bytes(payload[at : at + size]).decode()
        at += size
        (size,) = struct.unpack_from(">I", payload, at)
        at += 4
        if size == GONE:
            cells[name] = None
            continue
        cells[name] = bytes(payload[at : at + size])
        at += size
    return cells


def _record_at(data, at):
    """The cells of the record at data[at:] and where it ends, or None."""
    if at + _RECORD.size > len(data):
        return None
    magic, length, crc = _RECORD.unpack_from(data, at)
    end = at + _RECORD.size + length
    if magic != MAGIC or end > len(data):
        return None
    payload = memoryview(data)[at + _RECORD.size : end]
    if zlib.crc32(payload) != crc:
        return None
    return _decode(payload), end


def parse(data):
    """Returns (header, cells, end, damage) of a file's bytes.

    end is where the last whole record ends: what is behind it is a record whose
    writer died. damage lists ranges (from, to) before it that cannot be read:
    a disk's fault, not a writer's. Raises Damage if there is no header.
    """
    newline = data.find(b"\n", 0, 4096)
    try:
        header = json.loads(data[:newline]) if newline > 0 else None
        version = header["keep"]
    except (ValueError, TypeError, KeyError):
        raise Damage("it has no header") from None
    if version != FORMAT:
        raise Damage(f"it has format {version}, and this program reads {FORMAT}")
    cells, damage = {}, []
    at = end = newline + 1
    while at < len(data):
        found = _record_at(data, at)
        if found is None:
            at = data.find(MAGIC, at + 1)
            if at < 0:
                break
            continue
        if at > end:
            damage.append((end, at))
        changed, end = found
        at = end
        for name, value in changed.items():
            if value is None:
                cells.pop(name, None)
            else:
                cells[name] = value
    return header, cells, end, damage


class Journal:
    """The journal of one service. Methods are not to be called side by side."""

    def __init__(self, path, header=None):
        self.path = path
        self.header = {"keep": FORMAT, **(header or {})}
        self.cells = {}  # what counts
        self.size = 0
        self._fd = None

    def load(self):
        """Reads the file, if there is one, and returns complaints: what was
        found wrong, and set aside. Afterwards cells has what counts."""
        complaints = []
        try:
            with open(self.path, "rb") as f:
                data = f.read()
        except FileNotFoundError:
            return complaints
        try:
            _, self.cells, end, damage = parse(data)
        except Damage as e:
            aside = set_aside(self.path)
            complaints.append(f"{self.path} cannot be read, {e}: it is now {aside}, and the service begins empty")
            return complaints
        if damage:
            lost = ", ".join(f"{a}-{b}" for a, b in damage)
            aside = link_aside(self.path)
            complaints.append(
                f"{self.path} is damaged (bytes {lost}), a copy is {aside}; changes that were there may be lost, the others are kept"
            )
        elif end < len(data):
            aside = save_aside(self.path, data[end:])
            complaints.append(
                f"{self.path} ends in {len(data) - end} bytes of a change that was not written whole: they are now {aside}"
            )
        if damage or end < len(data):
            self._rewrite()
        else:
            self.size = end
        return complaints

    def commit(self, changed):
        """Appends cells, {name: bytes or None}, and returns when they are on
        the disk. On an OSError they count as not written."""
        if not changed:
            return
        before = dict(self.cells)
        for name, value in changed.items():
            if value is None:
                self.cells.pop(name, None)
            else:
                self.cells[name] = value
        try:
            if self._fd is None and os.path.exists(self.path):
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            live = sum(map(len, self.cells.values()))
            if self._fd is None or self.size > max(COMPACT_BYTES, COMPACT_RATIO * live):
                self._rewrite()
                return
            record = encode(changed)
            _write_all(self._fd, record)
            os.fdatasync(self._fd)
            self.size += len(record)
        except OSError:
            # Whatever is in the file now, the next commit replaces it whole.
            self.cells = before
            self._forget()
            raise

    def _rewrite(self):
        """Replaces the file with one that has only what counts."""
        self._forget()
        temporary = self.path + ".new"
        head = json.dumps(self.header).encode() + b"\n"
        body = encode(self.cells) if self.cells else b""
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            _write_all(fd, head + body)
            os.fsync(fd)
            os.rename(temporary, self.path)
            sync_directory(os.path.dirname(self.path))
        except OSError:
            os.close(fd)
            raise
        self._fd, self.size = fd, len(head) + len(body)

    def _forget(self):
        """Drops the open file; size 0 would not do: it is to be replaced."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self.size = 1 << 62

    def close(self):
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# How many files of one journal are kept aside: whoever wants to look has them,
# and a machine that is killed every hour does not fill its disk.
ASIDE = 5


def _aside(path):
    folder = os.path.join(os.path.dirname(path), "aside")
    os.makedirs(folder, exist_ok=True)
    name = os.path.basename(path)
    old = sorted((f for f in os.listdir(folder) if f.startswith(name + ".")), key=lambda f: int(f.rsplit(".", 1)[1]))
    for f in old[: max(0, len(old) - ASIDE + 1)]:
        os.unlink(os.path.join(folder, f))
    number = int(old[-1].rsplit(".", 1)[1]) + 1 if old else 1
    return os.path.join(folder, f"{name}.{number}")


def set_aside(path):
    """Moves a file out of the way, and returns where it is then."""
    aside = _aside(path)
    os.rename(path, aside)
    return aside


def link_aside(path):
    """Keeps a file that is about to be replaced, and returns where it is."""
    aside = _aside(path)
    os.link(path, aside)
    return aside


def save_aside(path, data):
    """Writes data, a piece of path, out of the way, and returns where it is."""
    aside = _aside(path)
    with open(aside, "wb") as f:
        f.write(data)
    return aside
