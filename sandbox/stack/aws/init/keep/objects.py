"""The contents of S3 objects, in files.

Every write makes a file of its own, which is never changed again; the object's
metadata say which one is its. So the one place that decides whether a write
took place is the metadata's journal: an upload that died half-way has left the
previous object as it was, and a file that nobody refers to, which is removed at
the next start.
"""

import base64
import hashlib
import io
import os
import threading
import time
import uuid

from localstack.services.s3.constants import S3_CHUNK_SIZE
from localstack.services.s3.storage.core import (
    LimitedStream,
    S3ObjectStore,
    S3StoredMultipart,
    S3StoredObject,
    should_copy_in_place,
)
from localstack.services.s3.utils import get_s3_checksum

from . import journal

# The attribute of an S3Object or S3Part that names its file.
FILE = "sandbox_file"
# For so long, in seconds, a file stays whose object is gone: a reader may have
# looked up the object, and not yet opened the file.
GRACE = 5


class StoredObject(S3StoredObject):
    """One object, open for reading or writing."""

    def __init__(self, store, s3_object, mode, written=None):
        super().__init__(s3_object=s3_object, mode=mode)
        self._store = store
        self._written = written  # called with the file's name when it is whole
        self._etag = self._checksum = self._hash = None
        self._failed = False
        if mode == "w":
            self._name = uuid.uuid4().hex
            self._file = open(store.path(self._name), "x+b", buffering=0)
        else:
            self._name = getattr(s3_object, FILE, None)
            self._file = open(store.path(self._name), "rb", buffering=0) if self._name else io.BytesIO()

    def read(self, s=-1):
        return self._file.read(-1 if s is None else s) or b""

    def seek(self, offset, whence=0):
        return self._file.seek(offset, whence)

    def truncate(self, size=None):
        self._modified()
        return self._file.truncate(size)

    def write(self, stream):
        self._failed = True
        if self.s3_object.checksum_algorithm:
            self._hash = get_s3_checksum(self.s3_object.checksum_algorithm)
        etag = hashlib.md5(usedforsecurity=False)
        self._file.seek(0)
        self._file.truncate()
        while stream is not None and (data := stream.read(S3_CHUNK_SIZE)):
            _write_all(self._file, data)
            etag.update(data)
            if self._hash:
                self._hash.update(data)
        self.s3_object.size = self._file.tell()
        self._etag = self.s3_object.etag = etag.hexdigest()
        self._modified()
        self._file.seek(0)
        self._failed = False
        setattr(self.s3_object, FILE, self._name)
        return self.s3_object.size

    def append(self, part):
        start = self._file.seek(0, os.SEEK_END)
        while data := part.read(S3_CHUNK_SIZE):
            _write_all(self._file, data)
        self.s3_object.size = self._file.tell()
        self._modified()
        setattr(self.s3_object, FILE, self._name)
        return self.s3_object.size - start

    def _modified(self):
        self.s3_object.internal_last_modified = time.time_ns()

    def close(self):
        if self.closed:
            return
        self.closed = True
        try:
            if self._mode != "w":
                return
            if self._failed or getattr(self.s3_object, FILE, None) != self._name:
                os.unlink(self._store.path(self._name))
                return
            os.fsync(self._file.fileno())
            if self._written:
                self._written(self._name)
        finally:
            self._file.close()

    @property
    def last_modified(self):
        return self.s3_object.internal_last_modified

    def _digest(self, digest):
        at = self._file.tell()
        self._file.seek(0)
        while data := self._file.read(S3_CHUNK_SIZE):
            digest.update(data)
        self._file.seek(at)
        return digest

    @property
    def checksum(self):
        if not self.s3_object.checksum_algorithm:
            return None
        if self._checksum is None:
            if self._hash is None:
                self._hash = self._digest(get_s3_checksum(self.s3_object.checksum_algorithm))
            self._checksum = base64.b64encode(self._hash.digest()).decode()
        return self._checksum

    @property
    def etag(self):
        if self._etag is None:
            self._etag = self._digest(hashlib.md5(usedforsecurity=False)).hexdigest()
        return self._etag

    def __iter__(self):
        while data := self.read(S3_CHUNK_SIZE):
            yield data


def _write_all(file, data):
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


class StoredMultipart(S3StoredMultipart):
    """The parts of an upload that is under way: the parts' metadata, which the
    bucket has, name their files."""

    def __init__(self, store, bucket, s3_multipart):
        super().__init__(store, bucket, s3_multipart)

    def open(self, s3_part, mode="r"):
        return StoredObject(self._s3_store, s3_part, mode, self._s3_store.new_file)

    def remove_part(self, s3_part):
        self._s3_store.discard(s3_part)

    def complete_multipart(self, parts):
        with self._s3_store.open(self.bucket, self.s3_multipart.object, mode="w") as whole:
            for part in parts:
                with self.open(part) as stored:
                    whole.append(stored)

    def close(self):
        for part in self.s3_multipart.parts.values():
            self._s3_store.discard(part)

    def copy_from_object(self, s3_part, src_bucket, src_s3_object, range_data):
        with self._s3_store.open(src_bucket, src_s3_object) as source, self.open(s3_part, "w") as stored:
            stored.write(LimitedStream(source, range_data=range_data) if range_data else source)
            if s3_part.checksum_algorithm:
                s3_part.checksum_value = stored.checksum


class ObjectStore(S3ObjectStore):
    """Implements LocalStack's S3ObjectStore in a folder of files.

    A file outlives its object: it is removed by sweep, after the change that
    has let go of it is on the disk."""

    def __init__(self, root):
        self.root_directory = root
        os.makedirs(root, exist_ok=True)
        self._lock = threading.Lock()
        self._new = False  # there are files that the folder's entry may not be on the disk of
        self._current = {}  # (bucket, key, version) -> name of its file
        self._gone = []  # (when, name)
        self._swept = 0.0

    def path(self, name):
        return os.path.join(self.root_directory, name)

    def open(self, bucket, s3_object, mode="r"):
        if mode == "r":
            return StoredObject(self, s3_object, mode)
        return StoredObject(self, s3_object, mode, lambda name: self._replace(bucket, s3_object, name))

    def new_file(self, name):
        with self._lock:
            self._new = True

    def _replace(self, bucket, s3_object, name):
        place = (bucket, s3_object.key, s3_object.version_id or "null")
        with self._lock:
            self._new = True
            before = self._current.get(place)
            self._current[place] = name
            if before and before != name:
                self._gone.append((time.monotonic(), before))

    def discard(self, s3_object):
        name = getattr(s3_object, FILE, None)
        if name:
            with self._lock:
                self._gone.append((time.monotonic(), name))

    def remove(self, bucket, s3_object):
        for each in s3_object if isinstance(s3_object, list) else [s3_object]:
            with self._lock:
                self._current.pop((bucket, each.key, each.version_id or "null"), None)
            self.discard(each)

    def copy(self, src_bucket, src_object, dest_bucket, dest_object):
        if should_copy_in_place(src_bucket, src_object, dest_bucket, dest_object):
            setattr(dest_object, FILE, getattr(src_object, FILE, None))
            return self.open(dest_bucket, dest_object)
        with self.open(src_bucket, src_object) as source:
            copied = self.open(dest_bucket, dest_object, mode="w")
            try:
                copied.write(source)
            except BaseException:
                copied.close()
                raise
        return copied

    def get_multipart(self, bucket, s3_multipart):
        return StoredMultipart(self, bucket, s3_multipart)

    def remove_multipart(self, bucket, s3_multipart):
        StoredMultipart(self, bucket, s3_multipart).close()

    def sync(self):
        """Returns when all files that have been closed are on the disk."""
        with self._lock:
            new, self._new = self._new, False
        if new:
            try:
                journal.sync_directory(self.root_directory)
            except OSError:
                self._new = True
                raise

    def sweep(self, used):
        """Removes files that objects have let go of. used() returns the names
        of files that objects have."""
        due = time.monotonic() - GRACE
        with self._lock:
            if not self._gone or self._gone[0][0] > due or self._swept > due:
                return
            self._swept = time.monotonic()
            old = [name for when, name in self._gone if when <= due]
            self._gone = [entry for entry in self._gone if entry[0] > due]
        # A copy onto itself shares the file with the object that it replaces.
        for name in set(old) - used():
            try:
                os.unlink(self.path(name))
            except FileNotFoundError:
                pass

    def adopt(self, stores, keep):
        """Has the files of what was loaded, removes all others, or sets them
        aside if keep, and returns those that are missing, as BUCKET/KEY."""
        missing, files = [], set(os.listdir(self.root_directory))
        used = set()
        for bucket, thing, name in _files(stores):
            used.add(name)
            if hasattr(thing, "key"):
                self._current[bucket, thing.key, thing.version_id or "null"] = name
            if name not in files:
                missing.append(f"{bucket}/{getattr(thing, 'key', '(part of an upload)')}")
        aside = self.root_directory + "-aside"
        for name in files - used:
            if keep:
                os.makedirs(aside, exist_ok=True)
                os.rename(self.path(name), os.path.join(aside, name))
            else:
                os.unlink(self.path(name))
        return missing


def used(stores):
    return {name for _, _, name in _files(stores)}


def _files(stores):
    """Yields (bucket, S3Object or S3Part, file) of all that has a file."""
    for regions in list(stores.values()):
        for bucket in list(regions._global.get("buckets", {}).values()):
            for value in list(bucket.objects._store.values()):
                for thing in list(value.values()) if isinstance(value, dict) else [value]:
                    if name := getattr(thing, FILE, None):
                        yield bucket.name, thing, name
            for upload in list(bucket.multiparts.values()):
                for part in list(upload.parts.values()):
                    if name := getattr(part, FILE, None):
                        yield bucket.name, part, name
