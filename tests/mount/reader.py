# SPDX-License-Identifier: MIT
"""A program that reads tensors through a mount, in all ways, until it is told to end; told apart from the tests because
a mapping that the daemon cannot fill kills who touches it.

    reader.py DIR STATE SEED

Each word of eight bytes says what belongs there: number of the tensor, edition, number of the word. STATE is a file of
words of four bytes: the first is 1 when it is time to end; then three for each tensor, the oldest and the newest edition
that may be met, and how often another file began and ended to take its name: who had the old one open reads on in that.
Prints how often it has read what, or what was wrong.
"""
import errno
import io
import mmap
import os
import random
import sys

import numpy as np

WORD, EDITION, NUMBER = 8, 1 << 32, 1 << 48


def content(number, edition, words):
    """The bytes of a tensor."""
    return np.arange(words, dtype=np.uint64) + np.uint64(number * NUMBER + edition * EDITION)


class State:
    """What writer and readers share."""

    def __init__(self, path, tensors=None):
        if tensors is not None:
            with open(path, "wb") as file:
                file.truncate(4 * (1 + 3 * tensors))
        with open(path, "r+b") as file:
            self.words = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint32)

    def writing(self, number, edition):
        self.words[2 + 3 * number] = edition

    def written(self, number, edition):
        self.words[1 + 3 * number] = edition

    def replacing(self, number):
        """Called before another file takes the name, and after."""
        self.words[3 + 3 * number] += 1

    def oldest(self, number):
        return int(self.words[1 + 3 * number])

    def newest(self, number):
        return int(self.words[2 + 3 * number])

    def file(self, number):
        """Odd while another takes its place."""
        return int(self.words[3 + 3 * number])


class Wrong(Exception):
    pass


class Reader:
    def __init__(self, root, state, seed):
        self.root, self.state, self.rng = root, State(state), random.Random(seed)
        self.kept = []  # (descriptor, number, file, oldest edition that it may hold)
        self.counts = {}

    def judge(self, data, offset, number, oldest, how):
        """`data` was read at `offset`, when `oldest` was the oldest edition."""
        front = -offset % WORD
        words = np.frombuffer(data[front:len(data) - (len(data) - front) % WORD], np.uint64)
        newest = self.state.newest(number)
        first = (offset + front) // WORD
        good = (words % EDITION == np.arange(first, first + len(words), dtype=np.uint64)) & (words // NUMBER == number)
        editions = words // EDITION % (NUMBER // EDITION)
        good &= (editions >= oldest) & (editions <= newest)
        if not good.all():
            at = int(np.argmin(good))
            raise Wrong(f"{how}: tensor {number} from byte {offset + front + 8 * at} on: {int(words[at]):016x} instead of "
                        f"number {number:04x}, edition {oldest} to {newest}, word {first + at:08x}; {int((~good).sum())} "
                        f"of {len(words)} words are wrong")
        self.counts[how] = self.counts.get(how, 0) + 1

    def files(self):
        return [name for name in os.listdir(self.root) if name[0] == "t" and "." not in name]

    def small(self, path, number):
        fd = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            for _ in range(20):
                oldest, at = self.state.oldest(number), self.rng.randrange(max(1, size - 5000))
                self.judge(os.pread(fd, self.rng.choice([16, 100, 4096, 5000]), at), at, number, oldest, "small reads")
        finally:
            os.close(fd)

    def large(self, path, number):
        fd = os.open(path, os.O_RDONLY)
        try:
            size, at = os.fstat(fd).st_size, 0
            while at < size:
                oldest = self.state.oldest(number)
                data = os.pread(fd, self.rng.choice([1 << 20, 3 << 20]), at)
                self.judge(data, at, number, oldest, "large reads")
                if not data:
                    break  # it has become shorter
                at += len(data)
        finally:
            os.close(fd)

    def mapped(self, path, number):
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                return
            oldest = self.state.oldest(number)
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
                self.judge(mapping[:], 0, number, oldest, "mapped")

    def array(self, path, number):
        oldest = self.state.oldest(number)
        fd = os.open(path + ".npy", os.O_RDONLY)
        try:
            self.judge(self.load(fd).tobytes(), 0, number, oldest, "arrays")
        finally:
            os.close(fd)

    def load(self, fd):
        try:
            file = open(fd, "rb", closefd=False)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            # Its tensor has another name by now: fstat does not find it by this one, read does (docs/writing.md).
            pieces = iter(lambda: os.read(fd, 1 << 20), b"")
            self.counts["arrays without fstat"] = self.counts.get("arrays without fstat", 0) + 1
            return np.load(io.BytesIO(b"".join(pieces)))
        with file:
            if self.rng.random() < 0.5:
                return np.load(file)
            assert np.lib.format.read_magic(file) == (1, 0)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")

    def keep(self, path, number):
        """Stays open, and is read again and again, whatever becomes of its name."""
        oldest, which = self.state.oldest(number), self.state.file(number)
        fd = os.open(path, os.O_RDONLY)
        if which % 2 or which != self.state.file(number):
            which = None  # the old file, or the new one
        self.kept.append((fd, number, which, oldest))
        if len(self.kept) > 6:
            os.close(self.kept.pop(0)[0])

    def again(self):
        for fd, number, which, oldest in self.kept:
            size = os.fstat(fd).st_size
            at, newer = self.rng.randrange(size + 1), self.state.oldest(number)
            if which == self.state.file(number):
                oldest = newer
            self.judge(os.pread(fd, self.rng.choice([4096, 1 << 20]), at), at, number, oldest, "kept open")

    def step(self):
        names = self.files()
        if not names:
            return
        name = self.rng.choice(names)
        try:
            self.rng.choice([self.small, self.large, self.mapped, self.array, self.keep])(
                f"{self.root}/{name}", int(name[1:4]))
        except FileNotFoundError:
            pass  # it was removed or renamed meanwhile
        self.again()

    def run(self):
        while not self.state.words[0]:
            self.step()
        print("read", self.counts, flush=True)


if __name__ == "__main__":
    try:
        Reader(sys.argv[1], sys.argv[2], sys.argv[3]).run()
    except Wrong as error:
        print("WRONG", error, flush=True)
        sys.exit(1)
