"""The journal alone: it needs no LocalStack."""

import errno
import os
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "init", "keep"))

import journal  # noqa: E402


class JournalTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "s3.journal")

    def open(self):
        j = journal.Journal(self.path, {"localstack": "4.14.0"})
        self.addCleanup(j.close)
        return j, j.load()

    def written(self, *commits):
        j, _ = self.open()
        for cells in commits:
            j.commit(cells)
        j.close()
        with open(self.path, "rb") as f:
            return f.read()

    def aside(self):
        folder = os.path.join(os.path.dirname(self.path), "aside")
        return sorted(os.listdir(folder)) if os.path.exists(folder) else []

    def test_last_value_counts(self):
        self.written({"a": b"1", "b": b"2"}, {"a": b"3"}, {"b": None, "ü/c": b""})
        j, complaints = self.open()
        self.assertEqual((j.cells, complaints), ({"a": b"3", "ü/c": b""}, []))

    def test_every_length_of_a_half_written_change(self):
        whole = self.written({"a": b"1"}, {"a": b"2", "b": b"x" * 100})
        end = whole.rindex(journal.MAGIC)
        for size in range(end, len(whole)):
            with open(self.path, "wb") as f:
                f.write(whole[:size])
            j, complaints = self.open()
            self.assertEqual(j.cells, {"a": b"1"}, size)
            self.assertEqual(len(complaints), 0 if size == end else 1, (size, complaints))
            j.commit({"c": b"after"})
            j.close()
            j, complaints = self.open()
            self.assertEqual((j.cells, complaints), ({"a": b"1", "c": b"after"}, []))
        self.assertLessEqual(len(self.aside()), journal.ASIDE)

    def test_a_flipped_bit_loses_one_change(self):
        whole = self.written({"a": b"1"}, {"b": b"22222222"}, {"c": b"3"})
        at = whole.index(b"22222222")
        with open(self.path, "wb") as f:
            f.write(whole[:at] + b"#" + whole[at + 1 :])
        j, complaints = self.open()
        self.assertEqual(j.cells, {"a": b"1", "c": b"3"})
        self.assertIn("damaged", complaints[0])
        self.assertEqual(self.aside(), ["s3.journal.1"])
        j.close()
        self.assertEqual(self.open()[1], [])

    def test_what_is_no_journal_is_set_aside(self):
        for text in b"", b"garbage", b'{"keep": 99}\n', b"\x00" * 5000, b"[]\n":
            with open(self.path, "wb") as f:
                f.write(text)
            j, complaints = self.open()
            self.assertEqual((j.cells, len(complaints)), ({}, 1), text)
            j.commit({"a": b"1"})
            j.close()
            self.assertEqual(self.open()[0].cells, {"a": b"1"})
        self.assertEqual(len(self.aside()), journal.ASIDE)

    def test_it_does_not_grow_for_ever(self):
        j, _ = self.open()
        with mock.patch.object(journal, "COMPACT_BYTES", 10_000):
            for i in range(200):
                j.commit({"a": bytes([i]) * 1000})
                self.assertLess(os.path.getsize(self.path), 12_000)
        j.close()
        self.assertEqual(self.open()[0].cells, {"a": bytes([199]) * 1000})

    def test_a_full_disk(self):
        j, _ = self.open()
        j.commit({"a": b"1"})
        write = os.write

        def full(fd, data):
            write(fd, bytes(data[:7]))
            raise OSError(errno.ENOSPC, "no space left on device")

        with mock.patch.object(os, "write", full), self.assertRaises(OSError):
            j.commit({"a": b"2"})
        self.assertEqual(j.cells, {"a": b"1"})
        j.commit({"b": b"3"})
        j.close()
        j, complaints = self.open()
        self.assertEqual((j.cells, complaints), ({"a": b"1", "b": b"3"}, []))


if __name__ == "__main__":
    unittest.main()
