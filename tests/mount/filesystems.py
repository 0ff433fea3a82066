# SPDX-License-Identifier: MIT
"""File systems for the tests: loop images, tmpfs and overlayfs, mounted for one test and taken away."""
import contextlib
import os
import shutil
import subprocess
import time

MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "ext4-1k": ["mkfs.ext4", "-q", "-F", "-b", "1024"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
    "xfs-noreflink": ["mkfs.xfs", "-q", "-f", "-m", "reflink=0"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
KINDS = [*MAKE, "tmpfs", "overlay"]


def run(*words):
    done = subprocess.run([os.fspath(w) for w in words], capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr or done.stdout}"
    return done.stdout


def unmount(path):
    """Unmounts, waiting for whoever still has a file of it open."""
    for _ in range(100):
        if subprocess.run(["umount", str(path)], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    run("umount", path)


class Image:
    """A file system in a file: it can be unmounted and mounted again."""

    def __init__(self, kind, folder, size):
        self.kind, self.file, self.path = kind, folder / f"{kind}.img", folder / kind
        self.path.mkdir()
        self.copies = 0
        with open(self.file, "wb") as image:
            image.truncate(size)
        run(*MAKE[kind], self.file)
        self.mount()

    def mount(self):
        # Of a copy the old one may live on in somebody else's namespace: XFS knows them by their number.
        run("mount", "-o", "loop,nouuid" if self.kind.startswith("xfs") else "loop", self.file, self.path)

    def unmount(self):
        unmount(self.path)

    def become(self, source):
        """Goes on as a copy of an image. A file of its own: a test beside this one may hold a copy of all
        mounts, and then the file system in the old one lives on (or stays dead) after the unmount."""
        subprocess.run(["sync", "-f", str(self.path)], capture_output=True)  # one that is dead cannot
        self.unmount()
        self.copies += 1
        old, self.file = self.file, self.file.with_name(f"{self.kind}-{self.copies}.img")
        run("cp", "--sparse=always", old if source is None else source, self.file)
        old.unlink()
        self.mount()


@contextlib.contextmanager
def mounted(kind, folder, size=512 << 20):
    """The folder of a new file system of that kind."""
    if kind in MAKE:
        image = Image(kind, folder, size)
        try:
            yield image.path
        finally:
            image.unmount()
            image.file.unlink()
            image.path.rmdir()
        return
    path = folder / kind
    path.mkdir()
    if kind == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path)
        try:
            yield path
        finally:
            unmount(path)
        return
    with mounted("ext4", folder, size) as below:
        for name in ("lower", "upper", "work"):
            (below / name).mkdir()
        run("mount", "-t", "overlay", "overlay", "-o",
            f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work", path)
        try:
            yield path
        finally:
            unmount(path)
            shutil.rmtree(below / "upper")
