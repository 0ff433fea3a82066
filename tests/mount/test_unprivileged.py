# SPDX-License-Identifier: MIT
"""A user without rights mounts, reads and unmounts through fusermount3, and gets no further.

Where /dev/fuse is root's alone (as in some containers), root gives the user a device node of the same
kind in a mount namespace of its own; nothing of the machine is changed. Without root the tests run
as whoever runs them.
"""
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile

import pytest

import models
from conftest import PATIENCE
from editing import state
from test_directory import skip_if_sanitized

USAGE, MODEL, MOUNT = 1, 2, 32


def device_is_open_to_all():
    return os.stat("/dev/fuse").st_mode & 0o006 == 0o006


def make_device(folder):
    """A node of /dev/fuse that every user may open."""
    made = folder / "fuse"
    try:
        os.mknod(made, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
        made.chmod(0o666)
        os.close(os.open(made, os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/fuse is closed to users here, and {made} cannot stand in for it: {error.strerror}")
    return made


class User:
    """Runs scripts as a user without rights; $P is the daemon, $D a folder of that user."""

    def __init__(self, folder, daemon, device):
        self.folder, self.daemon, self.device = folder, daemon, device
        self.root = os.geteuid() == 0
        self.uid = pwd.getpwnam("nobody").pw_uid if self.root else os.geteuid()

    def words(self, script):
        told = ["sh", "-c", script]
        if self.root:
            user = pwd.getpwuid(self.uid)
            told = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *told]
        if self.device:
            setup = f'mount --bind "{self.device}" /dev/fuse && exec "$@"'
            told = ["unshare", "-m", "--propagation", "slave", "sh", "-c", setup, "sh", *told]
        return told

    def __call__(self, script, **env):
        with subprocess.Popen(
                self.words(script), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                cwd=self.folder, start_new_session=True, stdin=subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C.UTF-8",
                     "P": str(self.daemon), "D": str(self.folder), **env}) as started:
            try:
                out, complaints = started.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(script, started.returncode, out, complaints)


@pytest.fixture
def user(fuse_device, daemon_path):
    """A User with a folder that is empty but for small.safetensors."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="stfs-user-"))
    daemon = shutil.copy(daemon_path, folder / "safetensorsfs")
    models.write_model(folder / "small.safetensors", {
        "x": ("F32", [2, 3], None), "big": ("U8", [300_000], None)}, {"k": "v"})
    device = None
    if os.geteuid() == 0:
        if not device_is_open_to_all():
            device = make_device(folder)
    elif not device_is_open_to_all():
        pytest.skip("/dev/fuse is closed to users here and only root could change that")
    made = User(folder, daemon, device)
    if made.root:
        for path in folder, folder / "small.safetensors":
            os.chown(path, made.uid, pwd.getpwuid(made.uid).pw_gid)
    yield made
    shutil.rmtree(folder)


def reap(text):
    """The daemon whose status file a script has printed ends with 0; it is a child of ours by now."""
    pid = json.loads(text[text.index("{"):text.rindex("}") + 1])["pid"]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


SERVED = """
set -e
"$P" {words} "$D/small.safetensors" "$D/m"
{then}
cat "$D/m/.stfs"
fusermount3 -u "$D/m"
"""


def serve(user, then, words=""):
    """Mounts in the background, runs a script, unmounts; what the script printed."""
    done = user(SERVED.format(words=words, then=then))
    assert done.returncode == 0, (done.stdout, done.stderr)
    reap(done.stdout)
    assert done.stderr == ""
    return done.stdout[:done.stdout.index("{")]


def test_mount_read_unmount(user):
    data = models.pattern("F32", [2, 3], "x")
    out = serve(user, 'ls "$D/m"; od -An -v -tx1 "$D/m/x" | tr -d " \\n"; echo; wc -c < "$D/m/big"')
    assert out.split() == ["__metadata__.json", "big", "big.json", "x", "x.json", data.hex(), "300000"]


@pytest.mark.parametrize("mode, modes", [("ro", (555, 444)), ("rw", (755, 644)), ("cow", (755, 644))])
def test_owner_is_the_user(user, mode, modes):
    out = serve(user, 'stat -c "%u %a" "$D/m" "$D/m/x"; findmnt -no FSTYPE,OPTIONS "$D/m"', f"-o {mode}")
    assert out.splitlines()[:2] == [f"{user.uid} {modes[0]}", f"{user.uid} {modes[1]}"]
    assert "fuse.safetensorsfs" in out and f"user_id={user.uid}" in out
    assert {"ro" if mode == "ro" else "rw", "nosuid", "nodev"} <= set(out.splitlines()[2].split()[1].split(","))


@pytest.mark.parametrize("sent", ["TERM", "HUP"])  # sh lets its children ignore INT
def test_signals_unmount(user, sent):
    done = user(f'"$P" -f small.safetensors m & pid=$!\n'
                'while ! ls m/x >/dev/null 2>&1; do sleep 0.02; done\n'
                f'kill -{sent} $pid; wait $pid; echo "code $?"; ls m')
    assert done.stdout == "code 0\n", (done.stdout, done.stderr)


def test_odd_paths(user):
    odd = "a, b\\c'"
    (user.folder / odd).mkdir()
    shutil.move(user.folder / "small.safetensors", user.folder / odd / "m.safetensors")
    os.chown(user.folder / odd, user.uid, -1)
    done = user('set -e; "$P" "$O/m.safetensors" "$O/mnt"; ls "$O/mnt"; cat "$O/mnt/.stfs"; '
                'fusermount3 -u "$O/mnt"', O=odd)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("__metadata__.json\nbig\n")
    reap(done.stdout)


def test_max_read_and_other_options(user):
    out = serve(user, 'wc -c < "$D/m/big"; findmnt -no OPTIONS "$D/m"',
                "-o max_read=65536,noatime,noexec,default_permissions,x-foo,nofail")
    assert out.startswith("300000\n") and {"noatime", "noexec"} <= set(out.split()[1].split(","))


@pytest.mark.parametrize("option", ["uid=0,gid=0", "umask=0", "xattr", "view=both,sidecars=hidden"])
def test_own_options(user, option):
    assert "x" in serve(user, 'ls "$D/m"', f"-o {option}")


def test_mount_point_of_another_user(user):
    """fusermount3 refuses, and so does the daemon: with a word, without a mount."""
    if not user.root:
        pytest.skip("making another user's folder takes root")
    (user.folder / "theirs").mkdir(mode=0o755)
    done = user('"$P" small.safetensors theirs')
    assert done.returncode == MOUNT and "theirs" in done.stderr


def test_unreadable_model(user):
    if not user.root:
        pytest.skip("making another user's file takes root")
    os.chown(user.folder / "small.safetensors", 0, 0)
    (user.folder / "small.safetensors").chmod(0o600)
    done = user('"$P" small.safetensors m; echo $?; test -e m && echo left')
    assert done.stdout == f"{MODEL}\n"
    assert "small.safetensors" in done.stderr and "Permission denied" in done.stderr


def others_model(user):
    """Makes it root's, who lets all read it."""
    if not user.root:
        pytest.skip("making another user's file takes root")
    os.chown(user.folder / "small.safetensors", 0, 0)
    (user.folder / "small.safetensors").chmod(0o644)


def test_model_that_the_user_may_only_read(user):
    """Read-only, with a word; cow is a way out, force is none."""
    others_model(user)
    done = user('"$P" small.safetensors m; rm m/x; echo $?; stat -c %a m/x; cat m/.stfs; fusermount3 -u m')
    assert done.returncode == 0 and done.stdout.startswith("1\n444\n{"), done
    reap(done.stdout)
    said = json.loads(done.stdout[done.stdout.index("{"):])
    assert said["mode"] == "ro" and "Permission denied" in said["readonly_because"]
    line, refusal = done.stderr.splitlines()
    assert line.startswith("safetensorsfs: small.safetensors: mounted read-only (")
    assert "Permission denied" in line and "-o cow" in line and "-o force" not in line
    assert "Read-only file system" in refusal


def test_private_edits_of_a_model_that_the_user_may_only_read(user):
    """Its folder takes the spool, or another one does."""
    others_model(user)
    before = (user.folder / "small.safetensors").read_bytes()
    for options in "cow", "cow,spool=$D/spool":
        out = serve(user, 'mkdir -p "$D/spool"; printf 12345678 | dd of="$D/m/x" conv=notrunc status=none; '
                          'rm "$D/m/big"; head -c 8 "$D/m/x"; echo; ls "$D/m"', f'-o "{options}"')
        assert out.split() == ["12345678", "__metadata__.json", "big.json", "x", "x.json"]
    assert (user.folder / "small.safetensors").read_bytes() == before


@pytest.fixture
def locked_folder(user):
    """The user's model in a folder where the user can make no file."""
    if not user.root:
        pytest.skip("making another user's folder takes root")
    folder = user.folder / "locked"
    folder.mkdir(mode=0o755)
    os.chown(shutil.copy(user.folder / "small.safetensors", folder / "m.safetensors"), user.uid, -1)
    (folder / "m.safetensors").chmod(0o644)
    return folder / "m.safetensors"


def test_folder_that_cannot_be_written(user, locked_folder):
    """Tensors can be overwritten in place, which is all."""
    before = state(locked_folder)
    done = user('"$P" locked/m.safetensors m; printf 12345678 | dd of=m/x conv=notrunc status=none; echo $?; '
                'cat m/.stfs; fusermount3 -u m')
    assert done.stdout.startswith("0\n{") and '"mode": "rw"' in done.stdout, done
    reap(done.stdout)
    x = before[0]["x"]
    assert state(locked_folder) == (dict(before[0], x=(*x[:2], b"12345678" + x[2][8:])), before[1])
    assert "folder" in done.stderr, "nobody was told that it cannot be written"


def test_what_a_folder_that_cannot_be_written_cannot_take(user, locked_folder):
    """It is refused at once: there will be neither a commit nor a rescue file. What was to go is there as before."""
    before = locked_folder.read_bytes()
    for edit in ("rm m/x", "rm m/x.npy", "mv m/x m/y", "mv m/x.npy m/y.npy", "mv m/x.npy m/big.npy", "printf 1 > m/new", "truncate -s 4 m/x", "truncate -s +24 m/x",
                 "rm m/__metadata__.json", "printf '{\"dtype\":\"U8\",\"shape\":[24]}' > m/x.json"):
        done = user(f'"$P" locked/m.safetensors m; cat m/.stfs; files="m/x m/x.npy m/x.json m/big m/big.npy m/big.json"; '
                    f'cat $files > /dev/null; {edit} && echo taken; cat $files > /dev/null && echo there; fusermount3 -u m')
        reap(done.stdout)
        assert "taken" not in done.stdout and "there" in done.stdout, (edit, done)
        assert locked_folder.read_bytes() == before


def test_files_that_cannot_be_created_cost_nothing(user, locked_folder, daemon_path):
    """Whatever names people try: none is kept."""
    skip_if_sanitized(daemon_path)
    memory = 'grep RssAnon "/proc/$pid/status"'
    script = f"""
        "$P" locked/m.safetensors m; cat m/.stfs; pid=$(sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p' m/.stfs)
        fill() {{ i=$1; while [ $i -lt $2 ]; do i=$((i + 1)); true > m/{"n" * 200}$i.npy; done; }} 2> /dev/null
        fill 0 1000; {memory}; fill 1000 21000; {memory}; fusermount3 -u m"""
    done = user(script)
    reap(done.stdout)
    before, after = (int(kib) << 10 for kib in re.findall(r"RssAnon:\s+(\d+) kB", done.stdout))
    assert after - before < 2 << 20


def test_mount_point_cannot_be_made(user):
    done = user('"$P" small.safetensors /proc/absent')
    assert done.returncode == MOUNT and "/proc/absent" in done.stderr


def test_log_file_cannot_be_written(user):
    done = user('"$P" small.safetensors m --log-file /proc/absent; echo $?; test -e m && echo left')
    assert done.stdout == f"{USAGE}\n" and "/proc/absent" in done.stderr


def test_allow_other_needs_permission(user):
    """Unless user_allow_other stands in fuse.conf, fusermount3 says no: code 32, not an open mount."""
    config = pathlib.Path("/etc/fuse.conf")
    if config.exists() and any(line.split("#")[0].strip() == "user_allow_other"
                               for line in config.read_text().splitlines()):
        pytest.skip("user_allow_other is set on this machine")
    if os.geteuid() != 0 and user.uid == 0:
        pytest.skip("root may always")
    done = user('"$P" -o allow_other small.safetensors m; echo $?; test -e m && echo left')
    assert done.stdout == f"{MOUNT}\n" and "allow_other" in done.stderr


def test_without_the_device(user):
    """Where FUSE is not to be had, the message names what does the same."""
    if not user.root or device_is_open_to_all():
        pytest.skip("/dev/fuse can be used here by everybody")
    user.device = None
    done = user('"$P" small.safetensors m; echo $?; test -e m && echo left')
    assert done.stdout == f"{MOUNT}\n"
    assert "/dev/fuse" in done.stderr and "stfs cat" in done.stderr


def test_killed_daemon_is_cleared_by_the_user(user):
    done = user('"$P" -f small.safetensors m & pid=$!\n'
                'while ! ls m/x >/dev/null 2>&1; do sleep 0.02; done\n'
                'kill -KILL $pid; wait $pid; echo $?; "$P" small.safetensors m; echo $?\n'
                'fusermount3 -u m; ls m')
    assert done.stdout == f"{128 + signal.SIGKILL}\n{MOUNT}\n", done.stderr
    assert "stfs umount" in done.stderr


def test_user_namespace(user):
    """Root of a user namespace mounts without fusermount3, as a rootless container does."""
    if user.root and not user.device and not device_is_open_to_all():
        pytest.skip("no device for users")
    if user("unshare -Urm true").returncode:
        pytest.skip("user namespaces are not allowed here")
    done = user("unshare -Urm sh -c 'set -e; \"$P\" small.safetensors m; ls m; cat m/.stfs; umount m'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("__metadata__.json\nbig\n")
