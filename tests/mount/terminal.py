# SPDX-License-Identifier: MIT
"""A program run on a terminal of its own, for what it does only there."""
import fcntl
import os
import pty
import struct
import subprocess
import termios


def run(command, *, columns=80, env=None):
    """(exit code, what it wrote to stdout, a terminal of that many columns)"""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    given = {k: v for k, v in dict(os.environ, **(env or {})).items() if k not in ("COLUMNS", "NO_COLOR")}
    given.update(env or {}, TERM="xterm-256color")
    process = subprocess.Popen(list(map(os.fspath, command)), stdin=subprocess.DEVNULL, stdout=theirs,
                               stderr=subprocess.PIPE, env=given)
    os.close(theirs)
    out = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed
            break
        if not piece:
            break
        out += piece
    os.close(ours)
    stderr = process.stderr.read()
    process.stderr.close()
    return process.wait(), out.replace(b"\r\n", b"\n"), stderr
