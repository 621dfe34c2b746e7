"""Keeps the state of one service: loads it, and writes what has changed before a
change is answered."""

import logging
import os
import statistics
import threading
import time
from collections import deque
from contextlib import contextmanager

from localstack.services.plugins import SERVICE_PLUGINS
from localstack.state.core import StateVisitor

from . import cells, journal, objects

LOG = logging.getLogger("localstack.sandbox.keep")

# For so long, in seconds, a change waits for another of the same service. It
# then goes on: what waits for itself in a circle must not do so for ever.
PATIENCE = 2.0


class NotKept(Exception):
    """A change was made, and could not be put on the disk."""


class Collector(StateVisitor):
    def __init__(self):
        self.found = []

    def visit(self, state_container):
        kept = cells.of(state_container)
        if kept is not None:
            self.found.append(kept)


class Keeper:
    """One service, with its journal.

    Changes come from many threads, and are written together: who comes while
    others are being written waits, and then one writes for all that wait.
    """

    def __init__(self, service, folder, header, serialise=True):
        self.service = service
        self.journal = journal.Journal(os.path.join(folder, service + ".journal"), header)
        self.problems = []
        self.refuses = None  # why nothing may be changed
        self.statistics = {"changes": 0, "commits": 0, "seconds": 0.0, "slowest": 0.0}
        self._waits = deque(maxlen=50)  # seconds, of the last changes
        self.serialise = serialise
        self._containers = None
        self._open_lock = threading.Lock()
        self._changing = threading.RLock()
        self._turn = threading.Condition()
        self._writing = False
        self._wanted = self._written = 0
        self._hints = set()  # of those that wait; None among them: all

    # ---- for services with more than containers

    def before(self):
        """Puts on the disk what the containers refer to."""

    def after(self):
        """Cleans up when a commit is on the disk."""

    def loaded(self):
        """Completes what was loaded."""

    # ---- loading

    @property
    def provider(self):
        return SERVICE_PLUGINS.get_service(self.service)._provider

    @property
    def opened(self):
        return self._containers is not None

    def open(self):
        """Finds the service's containers, once."""
        if self._containers is None:
            with self._open_lock:
                if self._containers is None:
                    service = SERVICE_PLUGINS.get_service(self.service)
                    if service is None:
                        raise LookupError(f"there is no service {self.service}")
                    collector = Collector()
                    service.accept_state_visitor(collector)
                    self._containers = collector.found
        return self._containers

    def load(self):
        """Brings back what was kept, before the first request."""
        self.problems += self.journal.load()
        by_name = {c.name: c for c in self.open()}
        broken = []
        for name, data in self.journal.cells.items():
            try:
                by_name[name.split("/")[0]].load(name, cells.load(data))
            except Exception as e:
                LOG.exception("load %s", name)
                broken.append(f"{name}: {type(e).__name__}: {e}")
        if broken:
            aside = journal.link_aside(self.journal.path)
            self.problems.append(f"parts of {self.journal.path} cannot be used, a copy is {aside}: " + "; ".join(broken))
        self.loaded()
        for problem in self.problems:
            LOG.error("%s", problem)

    # ---- changing

    @contextmanager
    def exclusive(self):
        """While no change of the service is half-made."""
        held = self.begin()
        try:
            yield
        finally:
            if held:
                self.end()

    def begin(self):
        """Waits for other changes of the service; True if end must be called."""
        if not self.serialise:
            return False
        if self._changing.acquire(timeout=PATIENCE):
            return True
        LOG.warning("%s: a change takes longer than %g s, going on beside it", self.service, PATIENCE)
        return False

    def end(self):
        self._changing.release()

    def commit(self, hint=None):
        """Returns when all changes that were made before are on the disk; hint
        is the part of the state that has changed, as the container's cells()
        takes it, None for anything. Raises NotKept."""
        start = time.perf_counter()
        with self._turn:
            self._wanted += 1
            mine = self._wanted
            self._hints.add(hint)
            while self._writing and self._written < mine:
                self._turn.wait()
            if self._written >= mine:
                self._count(start)
                return
            self._writing = True
            upto, hints = self._wanted, self._hints
            self._hints = set()
        try:
            self._write(None if None in hints else hints)
        except Exception as e:
            with self._turn:
                self._hints |= hints  # still to be written
                self._writing = False
                self._turn.notify_all()
            LOG.exception("keep %s", self.service)
            raise NotKept(f"the change was made, but is not on the disk: {e}") from e
        with self._turn:
            self._written = max(self._written, upto)
            self._writing = False
            self._turn.notify_all()
        self._count(start)
        self.after()

    def _count(self, start):
        took = time.perf_counter() - start
        self._waits.append(took)
        s = self.statistics
        s["changes"] += 1
        s["seconds"] += took
        s["slowest"] = max(s["slowest"], took)

    def _write(self, hints):
        self.before()
        changed = self._changed(hints)
        if changed:
            self.journal.commit(changed)
            self.statistics["commits"] += 1

    def _changed(self, hints):
        """The cells that differ from what is in the journal."""
        with self.exclusive():
            for attempt in range(10):
                try:
                    now = {}
                    gone = []
                    for container in self.open():
                        for name, value in container.cells(hints):
                            now[name] = cells.dump(value)
                        gone += container.gone(self.journal.cells, hints)
                    break
                except RuntimeError as e:
                    # "dictionary changed size during iteration": something
                    # that no request has asked for, such as an expiry.
                    if attempt == 9 or "changed size" not in str(e) and "mutated" not in str(e):
                        raise
                    time.sleep(0.001)
        changed = {name: data for name, data in now.items() if self.journal.cells.get(name) != data}
        changed.update(dict.fromkeys(gone))
        return changed

    def status(self):
        return {
            "service": self.service,
            "cells": len(self.journal.cells),
            "bytes": sum(map(len, self.journal.cells.values())),
            **self.statistics,
            "median": statistics.median(self._waits or [0.0]),
            "problems": self.problems,
        }


class S3Keeper(Keeper):
    """S3, whose objects are in files. Changes are not serialised: uploads are
    slow, and what they do to the state at their end is done in one step."""

    def __init__(self, folder, header, store):
        super().__init__("s3", folder, header, serialise=False)
        self.store = store

    def open(self):
        if self._containers is None:
            self.provider._storage_backend = self.store
        return super().open()

    @property
    def _stores(self):
        return next(c.container for c in self._containers if c.name == "stores:s3")

    def loaded(self):
        # What nobody refers to is of uploads that died, unless a reference was
        # lost with the damaged part of a journal.
        missing = self.store.adopt(self._stores, keep=bool(self.problems))
        if missing:
            self.problems.append(
                f"{len(missing)} S3 objects have lost their content: {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}"
            )

    def before(self):
        self.store.sync()

    def after(self):
        self.store.sweep(lambda: objects.used(self._stores))


class DynamoDBKeeper(Keeper):
    """DynamoDB, whose tables DynamoDB Local keeps in files of its own. It has
    written them when it answers, but does not wait for the disk."""

    def __init__(self, folder, header, database):
        super().__init__("dynamodb", folder, header, serialise=False)
        self.database = database

    def before(self):
        try:
            files = os.listdir(self.database)
        except FileNotFoundError:
            return
        for name in files:
            try:
                fd = os.open(os.path.join(self.database, name), os.O_RDONLY)
            except FileNotFoundError:
                continue  # a rollback journal
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        journal.sync_directory(self.database)
