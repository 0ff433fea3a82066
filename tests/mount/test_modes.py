# SPDX-License-Identifier: MIT
"""Who may write: ro, rw, cow and force, shared models, permissions, and two mounts of one model."""
import errno
import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile

import pytest

import models
from conftest import MountFailed, mount_entry
from editing import state, write_sharded
from test_helper import MODEL, launch, nothing_stays_mounted  # noqa: F401 (fixtures)
from test_reading import answers_to_writes


# --- the modes ------------------------------------------------------------------------------------


def mode_of(mounted):
    """What .stfs and the mount table say together: "ro", "rw" or "cow"."""
    entry, mode = mounted.entry(), json.loads((mounted.path / ".stfs").read_text())["mode"]
    shown, hidden = ("ro", "rw") if mode == "ro" else ("rw", "ro")
    assert shown in entry["options"] and shown in entry["super"], entry
    assert hidden not in entry["options"] and hidden not in entry["super"], entry
    return mode


@pytest.mark.parametrize("options", [["ro"], ["defaults,ro"], ["rw", "ro"], ["rw,ro"], ["ro,noauto,user"]])
def test_read_only(mount, small_model, options):
    before = small_model.read_bytes()
    mounted = mount(small_model, *options)
    assert mode_of(mounted) == "ro" and mounted.stderr() == ""
    assert "readonly_because" not in json.loads((mounted.path / ".stfs").read_text())
    answers = answers_to_writes(mounted.path)
    assert set(answers.values()) == {errno.EROFS}, answers
    mounted.unmount()
    assert small_model.read_bytes() == before


@pytest.mark.parametrize("options", [[], ["rw"], ["defaults,rw"], ["ro", "rw"], ["ro,rw"], ["force"], ["cow"],
                                     ["rw,cow"]])
def test_writable(mount, small_model, options):
    before = state(small_model)
    mounted = mount(small_model, *options, "autosync=0,autosync_max=0", mode=None if options else "")
    mode = mode_of(mounted)
    assert mode == ("cow" if "cow" in ",".join(options) else "rw") and mounted.stderr() == ""
    (mounted.path / "n").write_bytes(b"abc")
    (mounted.path / "n.json").write_text('{"dtype":"U8","shape":[3]}')
    (mounted.path / "steps").unlink()
    assert state(small_model) == before
    mounted.unmount()
    tensors = dict(before[0], n=("U8", [3], b"abc"))
    del tensors["steps"]
    assert state(small_model) == (before if mode == "cow" else (tensors, before[1]))


def test_writable_by_default_in_the_background(launch, small_model, tmp_path):  # noqa: F811
    made = launch([small_model, tmp_path / "m"], tmp_path / "m")
    assert made.status["mode"] == "rw" and "readonly_because" not in made.status
    assert made.done.stderr == "" and "rw" in mount_entry(made.path)["options"]


def test_remounted_writable_is_still_read_only(mount, small_model):
    """remount,rw is between mount(8) and the kernel, which then hands the requests on: the daemon refuses them."""
    if os.geteuid() != 0:
        pytest.skip("remounting takes root")
    before = small_model.read_bytes()
    mounted = mount(small_model)
    subprocess.run(["mount", "-i", "-o", "remount,rw", mounted.path], check=True)
    assert "rw" in mounted.entry()["options"]
    # Of these the kernel says itself that they cannot be.
    theirs = {"setxattr": errno.ENOTSUP, "removexattr": errno.ENOTSUP}
    for tried, answer in answers_to_writes(mounted.path).items():
        allowed = {errno.EROFS, theirs.get(tried.split()[0]), errno.EACCES if "/.stfs" in tried else None,
                   errno.ENOTSUP if f" ['{mounted.path}'," in tried else None}
        assert answer in allowed, (tried, answer)
    for flags in os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC, os.O_CREAT | os.O_WRONLY:
        for name in "steps", "steps.json", "steps.npy", "__metadata__.json", "new", "new.json", "new.npy":
            created = os.O_CREAT if name.startswith("new") else 0
            with pytest.raises(OSError) as refused:
                os.open(mounted.path / name, flags | created)
            assert refused.value.errno == errno.EROFS
    mounted.unmount()
    assert small_model.read_bytes() == before


def test_remounted_read_only(mount_rw, small_model):
    """The kernel alone hears of it, and what was pending is committed all the same."""
    if os.geteuid() != 0:
        pytest.skip("remounting takes root")
    before = state(small_model)[0]
    mounted = mount_rw(small_model)
    (mounted.path / "steps").unlink()
    subprocess.run(["mount", "-i", "-o", "remount,ro", mounted.path], check=True)
    with pytest.raises(OSError) as refused:
        (mounted.path / "embed.weight").unlink()
    assert refused.value.errno == errno.EROFS
    mounted.unmount()
    assert set(state(small_model)[0]) == set(before) - {"steps"}


# --- models that are shared -----------------------------------------------------------------------


def make_read_only(model):
    model.chmod(0o444)
    return model


def make_hard_link(model):
    (model.parent / "second-name").hardlink_to(model)
    return model


def make_cached(model):
    """As huggingface_hub lays it out."""
    cache = model.parent / "hub/models--org--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots/c0ffee").mkdir(parents=True)
    model.rename(cache / "blobs/0123abc")
    link = cache / "snapshots/c0ffee/model.safetensors"
    link.symlink_to("../../blobs/0123abc")
    return link


def make_snapshot(model):
    return make_cached(model).parent


SHARED = {"read-only": (make_read_only, "read-only for its owner"), "hard link": (make_hard_link, "other names"),
          "cache": (make_cached, "in a cache"), "snapshot": (make_snapshot, "in a cache")}


@pytest.mark.parametrize("foreground", [True, False])
@pytest.mark.parametrize("mode", ["", "rw"])
@pytest.mark.parametrize("kind", SHARED)
def test_shared_model_is_read_only(mount, small_model, kind, mode, foreground):
    """With one line that says why and offers two ways out; rw is no wish, mount(8) always passes it."""
    make, reason = SHARED[kind]
    before = small_model.read_bytes()
    model = make(small_model)
    mounted = mount(model, mode=mode, foreground=foreground)
    line = mounted.stderr()
    assert re.fullmatch(r"safetensorsfs: .*: mounted read-only \(.*\).*\n", line), line
    assert reason in line and "-o cow" in line and "-o force" in line
    assert mode_of(mounted) == "ro"
    assert reason in json.loads((mounted.path / ".stfs").read_text())["readonly_because"]
    answers = answers_to_writes(mounted.path)
    assert set(answers.values()) == {errno.EROFS}, answers
    mounted.unmount()
    path = model / "model.safetensors" if model.is_dir() else model
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", SHARED)
def test_the_line_about_a_shared_model_speaks_of_mounts(mount, small_model, kind):
    """--force and --overwrite are options of stfs."""
    mounted = mount(SHARED[kind][0](small_model), mode="")
    assert " --" not in mounted.stderr()
    assert " --" not in json.loads((mounted.path / ".stfs").read_text())["readonly_because"]


@pytest.mark.parametrize("kind", SHARED)
def test_shared_model_as_it_was_asked_for(mount, mount_rw, small_model, kind):
    """Read-only on request is nothing to speak of; cow leaves it as it was; force writes there."""
    before, bytes_before = state(small_model), small_model.read_bytes()
    model = SHARED[kind][0](small_model)
    file = model / "model.safetensors" if model.is_dir() else model
    mounted = mount(model, mode="ro")
    assert mode_of(mounted) == "ro" and mounted.stderr() == ""
    assert "readonly_because" not in json.loads((mounted.path / ".stfs").read_text())
    mounted.unmount()
    for mode in "cow", "force":
        mounted = mount_rw(model, mode=mode)
        assert mode_of(mounted) == ("cow" if mode == "cow" else "rw") and mounted.stderr() == ""
        assert "readonly_because" not in json.loads((mounted.path / ".stfs").read_text())
        assert (mounted.path / "steps").stat().st_mode & 0o600 == 0o600
        (mounted.path / "steps").unlink()
        with (mounted.path / "layer.0.bias").open("r+b") as out:
            out.write(b"\1\2")
        mounted.unmount()
        if mode == "cow":
            assert file.read_bytes() == bytes_before
    bias = before[0]["layer.0.bias"]
    assert state(file) == ({"embed.weight": before[0]["embed.weight"],
                            "layer.0.bias": (*bias[:2], b"\1\2" + bias[2][2:])}, before[1])


def test_one_shared_shard_is_enough(mount, tmp_path):
    folder = write_sharded(tmp_path / "s", {
        "model-1.safetensors": {"a": ("U8", [4], None)}, "model-2.safetensors": {"b": ("U8", [3], None)}})
    (folder / "model-2.safetensors").chmod(0o444)
    mounted = mount(folder, mode="rw")
    assert mode_of(mounted) == "ro"
    because = json.loads((mounted.path / ".stfs").read_text())["readonly_because"]
    assert "model-2.safetensors" in because and "read-only for its owner" in because


# --- two mounts of one model ----------------------------------------------------------------------


@pytest.mark.parametrize("modes", [("ro", "ro"), ("ro", "cow"), ("cow", "ro"), ("cow", "cow")])
def test_two_mounts_of_one_model(mount, small_model, modes):
    """None of them changes it: they share its lock."""
    first, second = mount(small_model, mode=modes[0]), mount(small_model, "view=npy", mode=modes[1])
    assert (first.path / "steps").read_bytes() == (second.path / "steps").read_bytes()
    first.unmount()
    assert (second.path / "steps").stat().st_size == 8


@pytest.mark.parametrize("foreground", [True, False])
@pytest.mark.parametrize("first, then", [
    ("rw", "rw"), ("rw", ""), ("rw", "ro"), ("rw", "cow"), ("rw", "force"), ("", "ro"), ("force", "ro"),
    ("ro", "rw"), ("ro", ""), ("ro", "force"), ("cow", "rw"),
])
def test_a_writable_mount_has_the_model_for_itself(mount, small_model, tmp_path, first, then, foreground):
    """Whichever came first goes on; the other is refused, and does not become read-only by itself either."""
    before = small_model.read_bytes()
    mounted = mount(small_model, mode=first)
    with pytest.raises(MountFailed) as failed:
        mount(small_model, mode=then, foreground=foreground)
    assert failed.value.returncode == MODEL
    assert re.fullmatch(r"safetensorsfs: \S*small\.safetensors: is mounted, or another command is changing it.*\n",
                        failed.value.stderr), failed.value.stderr
    assert (mounted.path / "steps").read_bytes() == models.pattern("I64", [], "steps")
    mounted.unmount()
    assert small_model.read_bytes() == before
    again = mount(small_model, mode=then)
    assert (again.path / "steps").stat().st_size == 8


def test_the_model_is_locked_by_whatever_name(mount, small_model, tmp_path):
    """By a link, and as the only model of its folder."""
    (tmp_path / "links").mkdir()
    (tmp_path / "links/other.safetensors").symlink_to(small_model)
    mount(small_model, mode="rw")
    for name in tmp_path / "links/other.safetensors", tmp_path / "links":
        for mode in "rw", "ro":
            with pytest.raises(MountFailed) as failed:
                mount(name, mode=mode)
            assert "is mounted" in failed.value.stderr


def test_one_shard_that_is_mounted_alone(mount, tmp_path):
    """All shards of a model are locked, or none: a mount of one of them stands in the way of all."""
    folder = write_sharded(tmp_path / "s", {
        "model-1.safetensors": {"a": ("U8", [4], None)}, "model-2.safetensors": {"b": ("U8", [3], None)}})
    alone = mount(folder / "model-2.safetensors", mode="rw")
    for mode in "rw", "ro":
        with pytest.raises(MountFailed) as failed:
            mount(folder, mode=mode)
        assert "is mounted" in failed.value.stderr
    mount(folder / "model-1.safetensors", mode="rw").unmount()
    alone.unmount()
    mount(folder, mode="rw")
    with pytest.raises(MountFailed):
        mount(folder / "model-2.safetensors", mode="ro")


# --- permissions ----------------------------------------------------------------------------------

FILES = "steps", "steps.json", "steps.npy", "__metadata__.json"


@pytest.mark.parametrize("mode, options, file_mode, dir_mode", [
    (0o644, [], 0o444, 0o555), (0o600, [], 0o400, 0o500), (0o640, [], 0o440, 0o550),
    (0o777, [], 0o444, 0o555), (0o600, ["umask=022"], 0o444, 0o555), (0o644, ["umask=077"], 0o400, 0o500),
    (0o600, ["fmask=0"], 0o444, 0o500), (0o600, ["dmask=0"], 0o400, 0o555),
    (0o644, ["umask=0", "fmask=0337,dmask=027"], 0o440, 0o550), (0o644, ["umask=0777"], 0, 0),
])
def test_modes(mount, small_model, mode, options, file_mode, dir_mode):
    small_model.chmod(mode)
    path = mount(small_model, *options).path
    assert path.stat().st_mode & 0o7777 == dir_mode
    for name in FILES:
        assert (path / name).stat().st_mode & 0o7777 == file_mode
    assert (path / ".stfs").stat().st_mode & 0o7777 == 0o400


@pytest.mark.parametrize("how", ["rw", "cow", "force"])
@pytest.mark.parametrize("mode, options, file_mode, dir_mode", [
    (0o644, [], 0o644, 0o755), (0o600, [], 0o600, 0o700), (0o640, [], 0o640, 0o750), (0o664, [], 0o664, 0o775),
    (0o666, [], 0o666, 0o777), (0o777, [], 0o666, 0o777), (0o755, [], 0o644, 0o755), (0o7644, [], 0o644, 0o755),
    (0o600, ["umask=022"], 0o644, 0o755), (0o644, ["umask=077"], 0o600, 0o700),
    (0o600, ["fmask=0"], 0o666, 0o700), (0o600, ["dmask=0"], 0o600, 0o777),
    (0o644, ["umask=0", "fmask=0137,dmask=027"], 0o640, 0o750), (0o644, ["umask=0777"], 0, 0),
])
def test_modes_of_a_writable_mount(mount_rw, small_model, mode, options, file_mode, dir_mode, how):
    """Its owner may read and write; for all others it is as with the model."""
    small_model.chmod(mode)
    path = mount_rw(small_model, *options, mode=how).path
    assert path.stat().st_mode & 0o7777 == dir_mode
    for name in FILES:
        assert (path / name).stat().st_mode & 0o7777 == file_mode
    assert (path / ".stfs").stat().st_mode & 0o7777 == 0o400


@pytest.mark.parametrize("how", ["cow", "force"])
@pytest.mark.parametrize("mode, file_mode, dir_mode", [(0o444, 0o644, 0o755), (0o400, 0o600, 0o700),
                                                       (0o440, 0o640, 0o750)])
def test_modes_of_a_model_that_its_owner_may_not_write(mount_rw, small_model, mode, file_mode, dir_mode, how):
    small_model.chmod(mode)
    path = mount_rw(small_model, mode=how).path
    assert path.stat().st_mode & 0o7777 == dir_mode
    for name in FILES:
        assert (path / name).stat().st_mode & 0o7777 == file_mode


def test_modes_of_a_new_model(mount_rw, tmp_path):
    mounted = mount_rw(tmp_path / "new.safetensors", mode="create")
    assert mounted.path.stat().st_mode & 0o7777 == 0o755 and mounted.path.stat().st_uid == os.geteuid()
    (mounted.path / "x").write_bytes(b"1")
    assert (mounted.path / "x").stat().st_uid == os.geteuid()


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_owner(mount, small_model, mode):
    mounted = mount(small_model, "uid=12345,gid=54321", mode=mode)
    path = mounted.path
    for file in path, path / "steps", path / "steps.json", path / ".stfs":
        assert (file.stat().st_uid, file.stat().st_gid) == (12345, 54321)
    mounted.unmount()
    path = mount(small_model, mode=mode).path
    assert path.stat().st_uid == small_model.stat().st_uid


# --- other users ----------------------------------------------------------------------------------


@pytest.fixture
def public(tmp_path):
    """A folder that other users can enter, unlike pytest's own. To be asked for before `mount`."""
    if os.geteuid() != 0:
        pytest.skip("acting as another user takes root")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="stfs-public-"))
    folder.chmod(0o755)
    (folder / "mnt").mkdir()
    yield folder
    shutil.rmtree(folder)


def as_nobody(*words):
    """Runs a command as the user nobody."""
    user = pwd.getpwnam("nobody")
    return subprocess.run(["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
                           *map(os.fspath, words)], capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"], "LC_ALL": "C"})


@pytest.fixture
def public_model(public):
    return models.write_model(public / "m.safetensors", {"x": ("U8", [3], b"abc")}, {"k": "v"})


def test_others_are_kept_out(public, public_model, mount):
    mounted = mount(public_model, mountpoint=public / "mnt")
    assert "allow_other" not in mounted.entry()["super"]
    done = as_nobody("cat", mounted.path / "x")
    assert done.returncode != 0 and "Permission denied" in done.stderr
    assert as_nobody("ls", mounted.path).returncode != 0


def test_others_are_let_in(public, public_model, mount):
    mounted = mount(public_model, "allow_other", mountpoint=public / "mnt")
    assert {"allow_other", "default_permissions"} <= set(mounted.entry()["super"])
    assert as_nobody("cat", mounted.path / "x").stdout == "abc"
    assert as_nobody("ls", mounted.path).stdout.split() == ["__metadata__.json", "x", "x.json"]
    status = as_nobody("cat", mounted.path / ".stfs")
    assert status.returncode != 0 and "Permission denied" in status.stderr


def test_others_may_read_no_more_than_the_model(public, public_model, mount):
    """allow_other alone would open a private file to everybody."""
    public_model.chmod(0o600)
    mounted = mount(public_model, "allow_other", mountpoint=public / "mnt")
    for words in ("cat", mounted.path / "x"), ("ls", mounted.path), ("cat", mounted.path / "x.json"):
        done = as_nobody(*words)
        assert done.returncode != 0 and "Permission denied" in done.stderr
    mounted.unmount()
    mounted = mount(public_model, "allow_other,umask=022", mountpoint=public / "mnt")
    assert as_nobody("cat", mounted.path / "x").stdout == "abc"


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_status_is_for_the_owner(public, public_model, mount, mode):
    nobody = pwd.getpwnam("nobody")
    mounted = mount(public_model, f"allow_other,uid={nobody.pw_uid}", mountpoint=public / "mnt", mode=mode)
    assert json.loads(as_nobody("cat", mounted.path / ".stfs").stdout)["mode"] == mode


@pytest.mark.parametrize("mode, may_write", [(0o644, False), (0o664, False), (0o666, True), (0o606, True)])
def test_others_may_write_no_more_than_the_model(public, public_model, mount_rw, mode, may_write):
    """allow_other without default_permissions would let everybody write."""
    public_model.chmod(mode)
    mounted = mount_rw(public_model, "allow_other", mountpoint=public / "mnt")
    attempts = [as_nobody("sh", "-c", 'printf xyz > "$0"', mounted.path / "x"),
                as_nobody("sh", "-c", "printf '{\"dtype\":\"I8\",\"shape\":[3]}' > \"$0\"", mounted.path / "x.json"),
                as_nobody("sh", "-c", 'printf 12 > "$0"', mounted.path / "new"),
                as_nobody("rm", "-f", mounted.path / "__metadata__.json"),
                as_nobody("mv", mounted.path / "x", mounted.path / "y")]
    for done in attempts:
        assert (done.returncode == 0) == may_write and ("Permission denied" in done.stderr) != may_write, done
    mounted.unmount()
    assert state(public_model) == (({"y": ("I8", [3], b"xyz"), "new": ("U8", [2], b"12")}, None) if may_write
                                   else ({"x": ("U8", [3], b"abc")}, {"k": "v"}))


def test_others_are_kept_out_of_a_writable_mount(public, public_model, mount_rw):
    public_model.chmod(0o666)
    mounted = mount_rw(public_model, mountpoint=public / "mnt")
    assert "allow_other" not in mounted.entry()["super"]
    done = as_nobody("sh", "-c", 'printf xyz > "$0"', mounted.path / "x")
    assert done.returncode != 0 and "Permission denied" in done.stderr
    mounted.unmount()
    assert state(public_model)[0] == {"x": ("U8", [3], b"abc")}
