# SPDX-License-Identifier: MIT
"""stfs mount, umount and status; the helper that umount(8) runs."""
import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile

import pytest

from conftest import SLOW
from editing import state
from test_cli_daemons import STATFS, TIME, USER, FakeDaemon, impostor, needs_root  # noqa: F401 (a fixture)
from test_cli_sync import commit, edit, pending, put, said, writer  # noqa: F401 (a fixture)


@pytest.fixture
def mount_by_verb(fuse_device, stfs, daemon_path, tmp_path):
    """mount(model, name="m", *args): by `stfs mount`, in the background; returns the directory."""
    points = []
    path = {"PATH": f"{daemon_path.parent}:{os.environ['PATH']}"}

    def make(model, name="m", *args):
        point = tmp_path / name
        point.mkdir(exist_ok=True)
        stfs("mount", model, point, *args, env=path)
        points.append(point)
        return point
    yield make
    for point in points:
        subprocess.run(["fusermount3", "-uz", point], stderr=subprocess.DEVNULL)


def pid_of(stfs, point):
    return json.loads(stfs("status", "--json", point).stdout)["status"]["pid"]


def ended(pid):
    """Gone, or a child that only waits to be collected."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def mounted_at(point):
    return os.path.ismount(point)


def test_mount_status_umount(stfs, mount_by_verb, small_model):
    point = mount_by_verb(small_model)
    assert (point / "steps").stat().st_size == 8
    assert str(point) in stfs("status").stdout and str(small_model) in stfs("status").stdout
    pid = pid_of(stfs, point)
    done = stfs("umount", point)
    assert done.stdout == done.stderr == "" and not mounted_at(point)
    assert ended(pid), "umount waits for the daemon"


def test_names_that_the_mount_table_escapes(stfs, mount_by_verb, small_model):
    for name in "a b", "tab\tnew\nline", "back\\slash", "ü#":
        point = mount_by_verb(small_model, name)
        assert json.loads(stfs("status", "--json", point).stdout)["mountpoint"] == str(point)
        stfs("umount", f"{point}/")
        assert not mounted_at(point)


def test_status_of_one(stfs, mount_by_verb, small_model, tmp_path):
    point = mount_by_verb(small_model)
    found = json.loads(stfs("status", "--json", point).stdout)
    assert found["state"] == "fresh" and found["status"]["tensors"] == 3
    assert found["status"]["model"] == str(small_model)
    text = stfs("status", point).stdout
    assert "state" in text and "tensors" in text and f"pid         {found['status']['pid']}" in text
    by_model = json.loads(stfs("status", "--json", small_model).stdout)
    assert [m["mountpoint"] for m in by_model] == [str(point)]
    link = tmp_path / "link.safetensors"
    link.symlink_to(small_model)
    assert str(point) in stfs("status", link).stdout
    with small_model.open("r+b") as f:
        f.write(b"\xff" * 30)
    assert json.loads(stfs("status", "--json", point).stdout)["state"] == "stale"
    stfs("umount", point)
    done = stfs("status", small_model, check=False)
    assert done.returncode == 1 and "not mounted" in done.stderr
    assert stfs("status", tmp_path / "none", check=False).returncode == 1


def test_status_without_mounts(stfs):
    inside = subprocess.run(["unshare", "-m", "sh", "-c", 'umount -a -t fuse.safetensorsfs; exec "$@"', "sh",
                             stfs.path, "status"], capture_output=True, text=True, env=stfs.env)
    assert inside.stdout == "nothing is mounted\n"


def test_busy_and_lazy(stfs, mount_by_verb, small_model):
    point = mount_by_verb(small_model)
    with (point / "steps").open("rb"):
        done = stfs("umount", point, check=False)
        assert done.returncode == 1 and "in use" in done.stderr and mounted_at(point)
        stfs("umount", "--lazy", point)
        assert not mounted_at(point)


def test_dead_mount(stfs, mount_by_verb, small_model):
    point = mount_by_verb(small_model)
    os.kill(pid_of(stfs, point), signal.SIGKILL)
    while True:
        try:
            os.statvfs(point)
        except OSError as error:
            assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
            break
    assert "dead" in stfs("status").stdout and "`stfs umount` clears" in stfs("status", point).stdout
    assert "cleared" in stfs("umount", "-v", point).stderr
    assert not mounted_at(point)


def test_dead_and_busy(stfs, mount_by_verb, small_model):
    point = mount_by_verb(small_model)
    pid = pid_of(stfs, point)
    held = (point / "steps").open("rb")
    os.kill(pid, signal.SIGKILL)
    stfs("umount", point)
    assert not mounted_at(point)
    with contextlib.suppress(OSError):  # nobody is there to be told that it is closed
        held.close()


def test_stays_alive_where_it_is_bound_elsewhere(stfs, mount_by_verb, small_model, tmp_path):
    point = mount_by_verb(small_model)
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", point, other], check=True)
    assert "elsewhere" in stfs("umount", "-v", point, timeout=10).stderr
    assert (other / "steps").stat().st_size == 8
    stfs("umount", other)


def test_touches_no_other_mounts(stfs, tmp_path):
    done = stfs("umount", "/proc", check=False)
    assert done.returncode == 1 and "type proc" in done.stderr
    done = stfs("umount", tmp_path, check=False)
    assert done.returncode == 1 and "nothing is mounted here" in done.stderr
    assert stfs("umount", "-q", tmp_path, tmp_path / "none", check=False).stderr == ""


def test_helper_of_umount(stfs, mount_by_verb, small_model, tmp_path):
    for name in "umount.fuse.safetensorsfs", "umount.safetensorsfs":
        helper = tmp_path / name
        helper.symlink_to(stfs.path)
        point = mount_by_verb(small_model)
        pid = pid_of(stfs, point)
        subprocess.run([helper, point, "-n", "-v", "-r", "-t", "fuse.safetensorsfs"], check=True, env=stfs.env,
                       stderr=subprocess.DEVNULL)
        assert not mounted_at(point) and ended(pid)
    assert subprocess.run([helper, tmp_path], env=stfs.env, stderr=subprocess.DEVNULL).returncode == 1
    assert subprocess.run([helper], env=stfs.env, stderr=subprocess.DEVNULL).returncode == 64


def test_helper_in_another_namespace(stfs, mount_by_verb, small_model, tmp_path):
    helper = tmp_path / "umount.safetensorsfs"
    helper.symlink_to(stfs.path)
    point = mount_by_verb(small_model)
    subprocess.run(["unshare", "-m", "sh", "-c", 'umount "$1"; "$0" "$1" -N /proc/' + str(os.getpid()) + "/ns/mnt",
                    helper, point], check=True, env=stfs.env)
    assert not mounted_at(point)


def test_no_fuse_device(stfs, small_model, tmp_path):
    """A container without /dev/fuse: what to do instead."""
    done = subprocess.run(["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh", stfs.path,
                           "mount", small_model, tmp_path], capture_output=True, text=True, env=stfs.env)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("stfs: /dev/fuse: No such file or directory")
    for verb in "stfs ls", "stfs cat", "stfs info":
        assert verb in done.stderr


def test_no_daemon(stfs, small_model, tmp_path):
    done = stfs("mount", small_model, tmp_path, check=False, env={"PATH": "/nonexistent"})
    assert done.returncode == 1 and "neither beside stfs nor in PATH" in done.stderr


def test_errors_of_the_daemon_come_through(stfs, daemon_path, tmp_path, fuse_device):
    done = stfs("mount", tmp_path / "none.safetensors", tmp_path, check=False,
                env={"PATH": f"{daemon_path.parent}:{os.environ['PATH']}"})
    assert done.returncode != 0 and "none.safetensors" in done.stderr


AS_USER = r"""
# A device that the user may open, in a namespace of our own: machines differ in its mode.
mknod "$1/fuse" c 10 229 && chmod 666 "$1/fuse" && mount --bind "$1/fuse" /dev/fuse || exit 90
as_user() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
as_user "$1/stfs" mount "$1/u.safetensors" "$1/m" || exit 91
as_user "$1/stfs" status || exit 92
"$1/stfs" status
as_user "$1/stfs" umount "$1/m" || exit 93
as_user "$1/stfs" mount "$1/u.safetensors" "$1/m" || exit 95
pid=$(as_user "$1/stfs" status --json "$1/m" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
kill -STOP "$pid"
as_user timeout 20 "$1/stfs" umount "$1/m" && exit 96
as_user timeout 20 "$1/stfs" umount -l "$1/m"; code=$?
kill -CONT "$pid"
[ $code = 0 ] || exit 97
mount -t tmpfs -o mode=755 none "$1/m"
as_user "$1/stfs" umount "$1/m" && exit 94
exit 0
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_as_a_user(stfs, daemon_path, fuse_device, make_model):
    """Through fusermount3, which takes down nobody else's mounts."""
    folder = tempfile.mkdtemp(prefix="stfs-user-", dir="/var/tmp")
    try:
        os.chmod(folder, 0o755)
        for file in stfs.path, daemon_path, make_model("u.safetensors", {"a": ("U8", [4], None)}):
            shutil.copy(file, folder)
        os.mkdir(f"{folder}/m")
        os.chown(f"{folder}/m", 65534, 65534)
        env = {k: v for k, v in stfs.env.items() if not k.endswith("SAN_OPTIONS")}
        done = subprocess.run(["unshare", "-m", "sh", "-c", AS_USER, "sh", folder], capture_output=True, text=True,
                              env=env, cwd="/")
        assert done.returncode == 0, done.stderr
        mine, roots = [line for line in done.stdout.splitlines() if line.startswith(folder)]
        assert "fresh" in mine and ("of another user" in roots or "fresh" in roots)
        assert "type tmpfs" in done.stderr and "does not answer" in done.stderr
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- status of a mount that takes edits ---------------------------------------------------------

WAITING = pending(edit("w.lora", "new", 12288), edit("lm_head", "replaced", 3 << 29, "open for writing"),
                  edit("b", "renamed", **{"from": "a"}), edit("old\n", "removed"))


@needs_root
def test_pending_edits_come_first(stfs, writer):  # noqa: F811
    made = writer(said(state="pending", pending=WAITING, refused=[{"file": "x.json", "why": "byte 3: no JSON"}]))
    lines = stfs("status", made.point).stdout.splitlines()
    assert lines[:8] == [
        f"4 edits are not yet in the model (`stfs sync {made.point}` commits them):",
        '  new       "w.lora"    12.0 KiB',
        '  replaced  "lm_head"    1.5 GiB  waits: open for writing',
        '  renamed   "a" -> "b"',
        '  removed   "old\\x0a"',
        "refused: x.json: byte 3: no JSON",
        "",
        f"mount       {made.point}"]
    assert lines[8] == "state       pending"
    assert "pending     4 edits, 1.5 GiB" in lines and "edits       pending" in lines
    one = writer(said(state="pending", pending=pending(edit("x", "new", 1))))
    assert stfs("status", one.point).stdout.startswith(f"1 edit is not yet in the model (`stfs sync {one.point}` "
                                                       "commits it):\n")


@needs_root
def test_many_pending_edits(stfs, writer):  # noqa: F811
    items = pending(*(edit(f"t.{i}", "new", 1) for i in range(30)))
    made = writer(said(state="pending", pending=items | {"count": 5000}))
    text = stfs("status", made.point).stdout
    assert text.startswith("5,000 edits are") and '"t.19"' in text and '"t.20"' not in text
    assert "  ... and 4980 more\n" in text


@needs_root
def test_fields_in_words(stfs, writer):  # noqa: F811
    done = commit(7, added=2, removed=1, bytes=3 << 20, trigger="quiet")
    made = writer(said(last_commit=done, last_error="no room", last_error_time=1700000000, mode="rw",
                       spool={"used": 0, "limit": 10 << 30, "folder": "/srv"}, news=[1, {"a": True}]))
    text = stfs("status", made.point, env={"TZ": "UTC"}).stdout
    for line in ("state       fresh", "pending     0 edits", "mode        rw", "spool       0 B of 10.0 GiB in /srv",
                 "committed   number 7, 2023-11-14 22:13:20 (quiet): 3 tensors (2 added, 1 removed), 3.0 MiB",
                 "last_error  2023-11-14 22:13:20: no room", "edits       clean", "news        1", "            a yes"):
        assert f"\n{line}\n" in f"\n{text}", line
    guarded = writer(said(mode="ro", readonly_because="it has other hard links"))
    assert "\nmode        ro: it has other hard links\n" in stfs("status", guarded.point).stdout


@needs_root
def test_private_and_stuck_edits(stfs, writer):  # noqa: F811
    private = writer(said(mode="cow", state="pending", pending=pending(edit("x", "new", 1), edit("y", "new", 1))))
    assert stfs("status", private.point).stdout.startswith(
        f"2 edits are this mount's own (`stfs save {private.point} OUT` keeps them):\n")
    stuck = writer(said(state="stuck"))
    assert "state       stuck\n" in stfs("status", stuck.point).stdout


@needs_root
def test_states_of_edits_and_files(stfs, writer):  # noqa: F811
    """What became of the files says more; JSON has both, each in its place."""
    fine, bad = [{"file": "m", "size": 1, "state": state} for state in ("fresh", "truncated")]
    for edits, files, shown in (("clean", fine, "fresh"), ("pending", fine, "pending"), ("committing", fine, "committing"),
                                ("stuck", fine, "stuck"), ("pending", bad, "truncated")):
        made = writer(said(state=edits, files=[fine, files], pending=WAITING))
        assert f"\nstate       {shown}\n" in stfs("status", made.point).stdout
        row, = [line for line in stfs("status").stdout.splitlines() if line.startswith(f"{made.point} ")]
        assert row.split()[1:4] == [shown, "rw", "4"]
        found = json.loads(stfs("status", "--json", made.point).stdout)
        assert found["state"] == files["state"] and found["status"]["state"] == edits
        made.stop()


def test_table_of_a_read_only_mount(stfs, mount, small_model):
    made = mount(small_model, "ro")
    lines = stfs("status").stdout.splitlines()
    assert lines[0].split() == ["mount", "state", "mode", "pending", "model"]
    row, = [line for line in lines if line.startswith(f"{made.path} ")]
    assert row.split()[1:] == ["fresh", "ro", str(small_model)]


@needs_root
def test_rescue_file_in_status(stfs, writer, small_model, tmp_path):  # noqa: F811
    link = tmp_path / "sub/link.safetensors"
    link.parent.mkdir()
    link.symlink_to(small_model)
    made = writer(said(model=str(link)))
    assert "stfs-rescue" not in stfs("status", made.point).stdout
    (tmp_path / ".small.safetensors.stfs-rescue").touch()
    (tmp_path / ".other.safetensors.stfs-rescue").touch()
    assert (f"Edits that could not be committed wait in {tmp_path}/.small.safetensors.stfs-rescue: unmount, then "
            f"`stfs recover {small_model}` takes them up.\n") in stfs("status", made.point).stdout


@needs_root
def test_status_of_nonsense(stfs, writer):  # noqa: F811
    made = writer(said(pending=[1], refused={"a": 1}, last_commit="x", last_error=5, spool=None, state=[], mode=7))
    assert "mount " in stfs("status", made.point).stdout and str(made.point) in stfs("status").stdout
    made.say(said(pending={"count": -4, "items": [None, {}, {"name": 3}]}, refused=[1, {}], last_commit={}))
    assert "mount " in stfs("status", made.point).stdout
    made.say(said(pending={"count": 3, "items": [None, {}, {"name": 3}]}))
    assert stfs("status", made.point).stdout.startswith("3 edits")


# --- umount of a mount that takes edits ---------------------------------------------------------


@needs_root
@pytest.mark.parametrize("mode, syncs", [("rw", 1), ("create", 1), ("ro", 0), ("cow", 0), (None, 0)])
def test_commits_before_it_unmounts(stfs, writer, mode, syncs):  # noqa: F811
    made = writer(said(mode=mode, pending=pending(edit("x", "new", 1))))
    done = stfs("umount", made.point)
    assert made.syncs == syncs and not mounted_at(made.point) and done.stderr == ""


@needs_root
def test_what_goes_in_as_bytes_is_named(stfs, writer):  # noqa: F811
    after = said(last_commit=commit(1, added=1, as_bytes=["raw"]),
                 pending=pending(edit("w\n", "replaced", 3, "3 bytes are no rows of F32 [2]"),
                                 edit("open", "new", 3, "open for writing")))
    for args in [], ["-q"]:
        made = writer(said(), after, errno.EINVAL)
        done = stfs("umount", *args, made.point)
        assert not mounted_at(made.point)
        assert done.stderr == ("" if args else (
            f'stfs: {made.point}: "raw" had no type and went into the model as bytes (U8)\n'
            f'stfs: {made.point}: "w\\x0a" goes into the model as bytes (U8): 3 bytes are no rows of F32 [2]\n'))


@needs_root
def test_stays_mounted_when_it_cannot_commit(stfs, writer):  # noqa: F811
    made = writer(said(), said(last_error="needs 5 bytes, 3 are free"), errno.ENOSPC)
    done = stfs("umount", made.point, check=False)
    assert done.returncode == 1 and mounted_at(made.point)
    for words in "No space left on device (needs 5 bytes, 3 are free)", f"`stfs umount -l {made.point}`", "rescue file":
        assert words in done.stderr
    assert stfs("umount", "-q", made.point, check=False).stderr == ""
    stfs("umount", "-l", made.point)
    assert not mounted_at(made.point) and made.syncs == 2


@needs_root
def test_daemon_that_ends_while_it_commits(stfs, writer):  # noqa: F811
    made = writer(said(), holds=True)
    unmounting = subprocess.Popen([stfs.path, "umount", made.point], env=stfs.env, stderr=subprocess.PIPE, text=True)
    assert made.holding.wait(TIME)
    made.stop()
    assert unmounting.wait(TIME) == 1 and "its daemon ended while it was to commit" in unmounting.stderr.read()
    unmounting.stderr.close()
    stfs("umount", made.point)
    assert not mounted_at(made.point)


@needs_root
def test_long_commit_before_unmounting(stfs, writer):  # noqa: F811
    made = writer(said(), holds=True)
    unmounting = subprocess.Popen([stfs.path, "umount", made.point], env=stfs.env, stderr=subprocess.PIPE, text=True)
    assert made.holding.wait(TIME)
    assert unmounting.stderr.readline() == \
        f"stfs: {made.point}: committing; this may take long (Ctrl-C ends the waiting only)\n"
    made.release()
    assert unmounting.wait(TIME) == 0 and not mounted_at(made.point)
    unmounting.stderr.close()


@needs_root
def test_busy_one_is_committed(stfs, writer):  # noqa: F811
    made = writer(said())
    with (made.point / ".stfs").open("rb"):
        done = stfs("umount", made.point, check=False)
        assert done.returncode == 1 and made.syncs == 1 and mounted_at(made.point)
        assert "in use" in done.stderr and "what could be committed is in the model" in done.stderr
    stfs("umount", made.point)


def leaving(impostor, *paths):  # noqa: F811
    """(number of a process that passes for the daemon, what it does in the end: leaves these files and ends)"""
    pid = impostor(USER)

    def end():
        for path in paths:
            path.touch()
        os.kill(pid, signal.SIGKILL)
    return pid, end


@needs_root
@pytest.mark.parametrize("suffix, words", [("rescue", "its last edits could not be committed: they are kept in "),
                                           ("journal", "its last commit stopped half-way: ")])
def test_what_a_daemon_leaves_beside_the_model(stfs, writer, impostor, small_model, tmp_path, suffix, words):  # noqa: F811
    link = tmp_path / "sub/link.safetensors"
    link.parent.mkdir()
    link.symlink_to(small_model)
    left = tmp_path / f".small.safetensors.stfs-{suffix}"
    pid, end = leaving(impostor, left)
    made = writer(said(pid=pid, model=str(link)), end=end)
    done = stfs("umount", made.point, check=False, timeout=TIME)
    assert done.returncode == 1 and not mounted_at(made.point)
    assert f"{made.point}: unmounted, but {words}" in done.stderr and f"`stfs recover {small_model}`" in done.stderr
    if suffix == "rescue":
        assert str(left) in done.stderr


@needs_root
def test_model_that_never_came_to_be(stfs, writer, impostor, tmp_path):  # noqa: F811
    """-o create, and its only commit fails. A long name is cut in that of the rescue file."""
    name = "n" * 240 + ".safetensors"
    pid, end = leaving(impostor, tmp_path / f".{'n' * 225}~0123456789abcdef.stfs-rescue")
    made = writer(said(mode="create", pid=pid, model=str(tmp_path / name)), end=end)
    done = stfs("umount", made.point, check=False, timeout=TIME)
    assert done.returncode == 1 and "0123456789abcdef.stfs-rescue" in done.stderr and f"recover {tmp_path}/nnn" in done.stderr


@needs_root
def test_what_was_left_before_is_nothing_new(stfs, writer, impostor, small_model, tmp_path):  # noqa: F811
    (tmp_path / ".small.safetensors.stfs-rescue").touch()
    pid, end = leaving(impostor, tmp_path / ".other.safetensors.stfs-rescue")
    made = writer(said(pid=pid, model=str(small_model)), end=end)
    assert stfs("umount", made.point, timeout=TIME).stderr == ""


@needs_root
@pytest.mark.parametrize("left", ["nothing", "rescue", "journal"])
def test_daemon_that_ends_by_itself_while_it_is_asked(stfs, fuse_device, small_model, tmp_path, left):
    """As after a SIGTERM: it has committed and unmounted itself. That is no failure, but for what it leaves."""
    point = tmp_path / "m"
    point.mkdir()
    daemon = FakeDaemon(point, silent=[STATFS], source=small_model)
    unmounting = subprocess.Popen([stfs.path, "umount", point], env=stfs.env, stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.asked.wait(TIME)
        if left != "nothing":
            (tmp_path / f".small.safetensors.stfs-{left}").touch()
    finally:
        subprocess.run(["umount", "-l", point], check=True)
        daemon.stop()
    said = unmounting.communicate(timeout=TIME)[1]
    words = {"nothing": "", "rescue": "its last edits could not be committed", "journal": "stopped half-way"}[left]
    assert unmounting.returncode == (0 if left == "nothing" else 1) and words in said and bool(words) == bool(said)


def test_several_unmount_at_once(stfs, mount_rw, small_model):
    """Each of them is told that it is unmounted; one that comes too late, that it is not mounted."""
    for n in range(5):
        made = mount_rw(small_model)
        put(made, f"n{n}", bytes(4), "F32", [1])
        unmounting = [subprocess.Popen([stfs.path, "umount", made.path], env=stfs.env, stderr=subprocess.PIPE,
                                       text=True) for _ in range(3)]
        said = [process.communicate(timeout=60 * SLOW)[1] for process in unmounting]
        for process, words in zip(unmounting, said):
            assert (process.returncode, words) in [(0, ""), (1, f"stfs: {made.path}: nothing is mounted here\n")], said
        assert 0 in [process.returncode for process in unmounting] and state(small_model)[0][f"n{n}"][0] == "F32"
        made.judge()


@needs_root
def test_helper_of_umount_commits_too(stfs, writer, tmp_path):  # noqa: F811
    helper = tmp_path / "umount.fuse.safetensorsfs"
    helper.symlink_to(stfs.path)
    made = writer(said(), error=errno.EIO)
    done = subprocess.run([helper, made.point], env=stfs.env, capture_output=True, text=True)
    assert done.returncode == 1 and "not unmounted" in done.stderr and mounted_at(made.point)
    made.error = 0
    assert subprocess.run([helper, made.point], env=stfs.env).returncode == 0
    assert not mounted_at(made.point)


# --- a daemon that writes -----------------------------------------------------------------------


def test_status_of_a_writable_mount(stfs, mount_rw, small_model):
    made = mount_rw(small_model)
    put(made, "n", bytes(24), "F32", [2, 3])
    put(made, "raw", b"12345")
    (made.path / "steps").unlink()
    text = stfs("status", made.path).stdout
    assert text.startswith(f"3 edits are not yet in the model (`stfs sync {made.path}` commits them):\n")
    for line in r'new +"n" +24 B', r'new +"raw" +5 B +waits: no type yet', r'removed +"steps"':
        assert re.search(line, text), line
    assert json.loads(stfs("status", "--json", made.path).stdout)["status"]["state"] == "pending"
    with pytest.raises(OSError, match="Invalid argument"):
        (made.path / "n.json").write_text("{")
    assert "refused: n.json: " in stfs("status", made.path).stdout
    stfs("sync", made.path)
    text = stfs("status", made.path).stdout
    assert "\nstate       fresh\n" in f"\n{text}" and re.search(r"committed   number 1, .*2 added, 1 removed", text)


def test_umount_commits(stfs, mount_rw, small_model):
    made = mount_rw(small_model)
    before = state(small_model)[0]
    put(made, "n", bytes(24), "F32", [2, 3])
    put(made, "raw", b"12345")
    put(made, "embed.weight", b"123")
    done = stfs("umount", made.path)
    assert '"raw" had no type and went into the model as bytes' in done.stderr
    assert '"embed.weight" goes into the model as bytes' in done.stderr
    assert state(small_model)[0] == before | {"n": ("F32", [2, 3], bytes(24)), "raw": ("U8", [5], b"12345"),
                                              "embed.weight": ("U8", [3], b"123")}
    made.judge()


def test_busy_writable_mount_is_committed(stfs, mount_rw, small_model):
    made = mount_rw(small_model)
    put(made, "n", bytes(4), "F32", [1])
    with (made.path / "steps").open("rb"):
        done = stfs("umount", made.path, check=False)
        assert done.returncode == 1 and mounted_at(made.path)
        assert state(small_model)[0]["n"] == ("F32", [1], bytes(4))
    stfs("umount", made.path)


def test_edits_outlast_a_model_that_was_replaced(stfs, mount_rw, make_model, small_model, tmp_path):
    """umount refuses, umount -l detaches, and the daemon keeps the edits."""
    made = mount_rw(small_model)
    made.exit_codes = None
    put(made, "n", bytes(24), "F32", [2, 3])
    os.rename(make_model("other.safetensors", {"o": ("U8", [3], None)}), small_model)
    done = stfs("umount", made.path, check=False)
    assert done.returncode == 1 and mounted_at(made.path) and "rescue file" in done.stderr
    stfs("umount", "-l", made.path)
    assert made.ended(60 * SLOW) is not None
    assert (tmp_path / ".small.safetensors.stfs-rescue").exists()
    assert "rescue" in stfs("recover", small_model).stdout
    assert state(small_model)[0] == {"o": state(small_model)[0]["o"], "n": ("F32", [2, 3], bytes(24))}
