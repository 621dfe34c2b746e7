"""Changes that come together are written together, and none is answered that is
not on the disk."""

import errno
import os
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "init"))

from keep import cells, journal, keeper  # noqa: E402


class KeeperTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.keeper = keeper.Keeper("secretsmanager", folder.name, {})
        self.container = self.keeper.open()[0].container
        self.container.clear()

    def change(self, name):
        with self.keeper.exclusive():
            self.container["000000000000"]["us-east-1"].create_secret(name, "x", None, "", [], None, None, [], False)

    def on_disk(self):
        j = journal.Journal(self.keeper.journal.path)
        self.assertEqual(j.load(), [])
        secrets = [cells.load(data)[0]["secrets"] for data in j.cells.values()]
        return {s.name for each in secrets for s in each.values()}

    def test_together(self):
        sync, syncs = os.fdatasync, []

        def slow(fd):
            time.sleep(0.02)
            syncs.append(fd)
            sync(fd)

        missing = []

        def work(i):
            self.change(f"s{i}")
            self.keeper.commit()
            if f"s{i}" not in self.on_disk():
                missing.append(i)

        self.change("first")
        self.keeper.commit()  # makes the file
        with mock.patch.object(os, "fdatasync", slow):
            threads = [threading.Thread(target=work, args=(i,)) for i in range(40)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        self.assertEqual(missing, [])
        self.assertLess(len(syncs), 20)
        self.assertEqual(len(self.on_disk()), 41)

    def test_nothing_changed(self):
        self.change("a")
        self.keeper.commit()
        size = os.path.getsize(self.keeper.journal.path)
        self.keeper.commit()
        self.assertEqual(os.path.getsize(self.keeper.journal.path), size)

    def test_a_full_disk(self):
        self.change("a")
        self.keeper.commit()
        full = OSError(errno.ENOSPC, "no space left on device")
        self.change("b")
        with mock.patch.object(os, "write", side_effect=full), self.assertLogs(keeper.LOG, "ERROR"):
            with self.assertRaisesRegex(keeper.NotKept, "no space left"):
                self.keeper.commit()
        self.assertEqual(self.on_disk(), {"a"})
        self.keeper.commit()
        self.assertEqual(self.on_disk(), {"a", "b"})

    def test_a_hanging_change_does_not_stop_others(self):
        hanging = threading.Thread(target=self.keeper.begin)  # and never end
        hanging.start()
        hanging.join()
        with mock.patch.object(keeper, "PATIENCE", 0.05), self.assertLogs(keeper.LOG, "WARNING"):
            self.change("a")
            self.keeper.commit()
        self.assertEqual(self.on_disk(), {"a"})


if __name__ == "__main__":
    unittest.main()
