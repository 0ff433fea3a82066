# SPDX-License-Identifier: MIT
"""One of several programs that edit a mount at the same time, each its own tensors.

    client.py DIR NUMBER SECONDS

Whatever it reads of its own must be what it wrote. At the end it prints {name: [dtype, shape, sha256]} as JSON.
"""
import hashlib
import json
import os
import random
import sys
import time

import numpy as np

TYPES = {"F32": "<f4", "U8": "|u1", "I64": "<i8"}


class Client:
    def __init__(self, root, number):
        self.root, self.number, self.rng = root, number, random.Random(f"client {number}")
        self.own = {}  # {name: (dtype, bytes)}
        self.made = 0

    def path(self, name):
        return f"{self.root}/{name}"

    def data(self, dtype):
        size = self.rng.choice([0, 8, 4096, 65536, 300_000]) // 8 * 8
        return self.rng.randbytes(size)

    def fresh(self):
        self.made += 1
        return f"client{self.number}.{self.made}"

    def any(self):
        return self.rng.choice(sorted(self.own)) if self.own else None

    def type(self, name, dtype, data):
        with open(self.path(name) + ".json", "w") as file:
            json.dump({"dtype": dtype, "shape": [len(data) // np.dtype(TYPES[dtype]).itemsize]}, file)

    def create(self):
        if len(self.own) > 12:
            return self.remove()
        name, dtype = self.fresh(), self.rng.choice(sorted(TYPES))
        data = self.data(dtype)
        how = self.rng.randrange(4)
        if how == 0:
            np.save(self.path(name) + ".npy", np.frombuffer(data, TYPES[dtype]))
        if how == 1:
            self.type(name, dtype, data)
        if how in (1, 2):
            with open(self.path(name), "wb") as file:
                file.write(data)
                if self.rng.random() < 0.3:
                    file.flush()
                    os.fsync(file.fileno())
        if how == 2:
            self.type(name, dtype, data)
        if how == 3:
            with open(self.path(f".{name}.tmp"), "wb") as file:
                file.write(data)
            self.type(name, dtype, data)
            os.rename(self.path(f".{name}.tmp"), self.path(name))
        self.own[name] = dtype, data

    def overwrite(self):
        name = self.any()
        if not name:
            return
        dtype, old = self.own[name]
        data = self.rng.randbytes(len(old)) if self.rng.random() < 0.7 else self.data(dtype)
        if self.rng.random() < 0.5:
            with open(self.path(name), "wb") as file:
                file.write(data)
        elif len(data) == len(old):
            with open(self.path(name), "r+b", buffering=0) as file:
                file.write(data)
                if self.rng.random() < 0.5:
                    os.fsync(file.fileno())
        else:
            np.save(self.path(name) + ".npy", np.frombuffer(data, TYPES[dtype]))
        self.own[name] = dtype, data

    def append(self):
        name = self.any()
        if not name:
            return
        dtype, data = self.own[name]
        more = self.rng.randbytes(8 * self.rng.randrange(1, 600))
        with open(self.path(name), "ab") as file:
            file.write(more)
        self.own[name] = dtype, data + more

    def rename(self):
        name = self.any()
        if not name:
            return
        new = self.fresh() if self.rng.random() < 0.7 else self.any()
        os.rename(self.path(name), self.path(new))
        self.own[new] = self.own.pop(name)

    def remove(self):
        name = self.any()
        if not name:
            return
        if self.rng.random() < 0.3:
            os.unlink(self.path(name) + ".npy")
        else:
            os.unlink(self.path(name))
        os.unlink(self.path(name) + ".json")
        del self.own[name]

    def read(self):
        name = self.any()
        if not name:
            return
        dtype, data = self.own[name]
        with open(self.path(name), "rb") as file:
            assert file.read() == data, f"{name} is not what was written"
        array = np.load(self.path(name) + ".npy")
        assert array.tobytes() == data and array.dtype == np.dtype(TYPES[dtype]), f"{name}.npy: {array.dtype}"

    def sync(self):
        name = self.any()
        if not name:
            return
        fd = os.open(self.path(name), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def sync_all(self):
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)

    def list(self):
        mine = {n for n in os.listdir(self.root) if n.startswith(f"client{self.number}.") and not n.endswith(".json")}
        assert mine == set(self.own), f"listed: {mine}, not {set(self.own)}"

    def run(self, seconds):
        end = time.monotonic() + seconds
        edits = [(self.create, 6), (self.overwrite, 4), (self.append, 3), (self.rename, 4), (self.remove, 3),
                 (self.read, 5), (self.sync, 2), (self.sync_all, 0.3), (self.list, 1)]
        steps = 0
        while time.monotonic() < end:
            edit = self.rng.choices([e for e, _ in edits], [w for _, w in edits])[0]
            try:
                edit()
            except Exception as error:
                with open(self.path(".stfs")) as file:
                    items = json.load(file)["pending"]["items"]
                waits = [item for item in items if item["waits"]]
                raise SystemExit(f"client {self.number}, step {steps}, {edit.__name__}: {error!r}; {waits}") from error
            steps += 1
        print(json.dumps({"steps": steps, "own": {
            name: [dtype, [len(data) // np.dtype(TYPES[dtype]).itemsize], hashlib.sha256(data).hexdigest()]
            for name, (dtype, data) in self.own.items()}}))


if __name__ == "__main__":
    Client(sys.argv[1], int(sys.argv[2])).run(float(sys.argv[3]))
