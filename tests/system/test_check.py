# SPDX-License-Identifier: MIT
"""tierctl check: each kind of damage, made by hand, is found and named, and
repaired or left; while the front is mounted, and while it isn't."""

import os
import struct
import subprocess
import threading
import time

import pytest

import rig as r
from files import MIB, data, look, put

BTIME = "trusted.tierfs.btime"


class Case:
    """A front with a file in each state, for damage between two mounts."""

    def __init__(self, tier):
        self.tier = tier
        tier.mount()
        for name in ("none", "migrated", "released", "restored"):
            put(tier.mnt / name, 50000, name)
            tier.bring(tier.mnt / name, name)
        (tier.mnt / "dir").mkdir()
        put(tier.mnt / "dir" / "deep", 3000, "deep")
        tier.release(tier.mnt / "dir" / "deep")

    def object_of(self, name):
        return self.tier.status(self.tier.mnt / name)["copies"][0]["object"]

    def check(self, *options):
        """The findings, offline or online as it is mounted."""
        tier = self.tier
        where = (["--mount", tier.mnt] if r.is_mounted(tier.mnt) else
                 ["--front", tier.front,
                  f"--target={tier.target.name}={tier.target}"])
        answer = tier.ctl("check", *options, *where)
        found = answer.json
        assert answer.status == (
            0 if all(f["repaired"] for f in found) else 1), answer
        for f in found:
            assert set(f) == {"kind", "path", "target", "object", "detail",
                              "repaired"}
        return found

    def one(self, *options):
        found = self.check(*options)
        assert len(found) == 1, found
        return found[0]

    def kinds(self, *options):
        return sorted(f["kind"] for f in self.check(*options))

    def top(self):
        return str(self.tier.mnt if r.is_mounted(self.tier.mnt)
                   else self.tier.front)

    def change_ea(self, name, change):
        """The front's EA, through change(bytearray), with a right CRC."""
        path = self.tier.front / name
        value = bytearray(os.getxattr(path, r.EA_SPILL))
        change(value)
        struct.pack_into("<I", value, 4, crc32c(value[:4] + value[8:]))
        os.setxattr(path, r.EA_SPILL, bytes(value))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.fixture(name="case", params=["offline", "online"])
def a_case(one, request):
    """Damage is made on the front and the target beside the daemon: offline,
    nobody has them; online, the daemon hasn't looked at the files yet."""
    case = Case(one)
    case.online = request.param == "online"

    def ready(damage):
        """Runs damage() between two mounts, the second if online."""
        one.umount()
        damage()
        if case.online:
            one.mount()

    case.ready = ready
    yield case


@pytest.fixture(name="cold_case")
def a_cold_case(one):
    yield Case(one)


def test_nothing_is_wrong(case):
    case.ready(lambda: None)
    assert case.check() == []
    assert case.check("--verify") == []
    text = case.tier.ctl("check", "--mount", case.tier.mnt, text=True) \
        if case.online else case.tier.ctl("check", "--front", case.tier.front,
                                          text=True)
    assert case.online == (text.status == 0), text
    if case.online:
        assert "nothing is wrong" in text.out
    else:  # nothing says where the target is
        assert "offline-target" in text.out


def test_missing_object_of_a_released_file(case):
    path = case.object_of("released")
    case.ready(lambda: os.unlink(path))
    case.tier.damaged = {"missing-object"}
    found = case.one()
    assert found["kind"] == "missing-object"
    assert found["path"] == f"{case.top()}/released"
    assert found["object"] == path
    assert found["target"] == case.tier.target.name
    assert "lost" in found["detail"] and not found["repaired"]
    assert case.one("--repair") == found


def test_missing_object_of_a_migrated_file(case):
    path = case.object_of("migrated")
    before = look(case.tier.mnt / "migrated")
    case.ready(lambda: os.unlink(path))
    found = case.one()
    assert (found["kind"], found["path"]) == ("missing-object",
                                              f"{case.top()}/migrated")
    assert case.one("--repair") == found | {
        "repaired": True,
        "detail": "forgotten: the file is on the front"}
    assert case.check() == []
    if not case.online:
        case.tier.mount()
    file = case.tier.mnt / "migrated"
    assert case.tier.state(file) == "none"
    assert look(file) == before
    assert file.read_bytes() == data(50000, "migrated")
    case.tier.release(file)


@pytest.mark.parametrize("size", [49999, 50001, 0])
def test_wrong_size(case, size):
    released, migrated = case.object_of("released"), case.object_of("migrated")

    def damage():
        os.truncate(released, size)
        os.truncate(migrated, size)

    case.ready(damage)
    assert case.kinds() == ["wrong-size"] * 2
    case.tier.damaged = {"wrong-size"}
    found = {f["path"]: f for f in case.check("--repair")}
    assert not found[f"{case.top()}/released"]["repaired"]
    assert found[f"{case.top()}/migrated"]["repaired"]
    assert found[""]["kind"] == "leaked-object"
    assert "50000" in found[f"{case.top()}/released"]["detail"]
    assert not os.path.exists(migrated)
    assert case.one()["path"] == f"{case.top()}/released"


def test_leaked_object(case):
    path = case.object_of("released")
    where = case.tier.target / case.tier.name
    oid = "00" + "0" * 10 + "beef"

    def damage():
        with open(path, "rb") as f:
            (where / oid[:2] / oid[2:]).write_bytes(f.read())

    case.ready(damage)
    found = case.one()
    assert (found["kind"], found["path"]) == ("leaked-object", "")
    assert found["object"] == str(where / oid[:2] / oid[2:])
    assert case.one("--repair")["repaired"]
    assert (where / "lost+found" / oid).read_bytes() == data(
        50000, "released")
    assert case.check() == []


def test_leaked_object_says_whose_it_was(cold_case):
    """A stub that is removed beside the mount."""
    tier = cold_case.tier
    put(tier.mnt / "large", 2 * MIB)
    tier.release(tier.mnt / "large")
    ino = os.stat(tier.mnt / "large").st_ino
    path = cold_case.object_of("large")
    tier.umount()
    os.unlink(tier.front / "large")
    found = cold_case.one("--repair")
    assert found["kind"] == "leaked-object"
    assert found["path"] == f"{tier.front}/large"
    assert f"inode {ino}" in found["detail"]
    assert not os.path.exists(path)


def test_two_files_name_one_object(case):
    def damage():
        value = os.getxattr(case.tier.front / "released", r.EA_SPILL)
        (case.tier.front / "dir" / "twin").touch()
        os.setxattr(case.tier.front / "dir" / "twin", r.EA_SPILL, value)

    case.tier.damaged = {"shared-object"}
    path = case.object_of("released")
    case.ready(damage)
    found = case.one()
    assert (found["kind"], found["object"]) == ("shared-object", path)
    names = found["path"] + found["detail"]
    assert "/released" in names and "/dir/twin" in names
    assert case.one("--repair") == found


def test_hard_links_are_one_file(cold_case):
    tier = cold_case.tier
    for i in range(3):
        os.link(tier.mnt / "released", tier.mnt / "dir" / f"link{i}")
    assert cold_case.check() == []
    tier.umount()
    assert cold_case.check() == []


@pytest.mark.parametrize("damage", ["damaged", "newer"])
def test_attribute(case, damage):
    """What nothing names is not touched: the unknown attribute may."""
    front = case.tier.front

    def make():
        if damage == "newer":
            case.change_ea("released", lambda v: v.__setitem__(0, 77))
        else:
            value = bytearray(os.getxattr(front / "released", r.EA_SPILL))
            value[20] ^= 1
            os.setxattr(front / "released", r.EA_SPILL, bytes(value))

    path = case.object_of("released")
    case.ready(make)
    case.tier.damaged = {f"{damage}-attribute", "leaked-object"}
    found = {f["kind"]: f for f in case.check("--repair")}
    assert set(found) == {f"{damage}-attribute", "leaked-object"}
    assert found[f"{damage}-attribute"]["path"] == f"{case.top()}/released"
    assert not any(f["repaired"] for f in found.values())
    assert "may name it" in found["leaked-object"]["detail"]
    assert os.path.exists(path)


def test_stub_with_data(case):
    def damage():
        (case.tier.front / "released").write_bytes(b"beside the mount")

    case.ready(damage)
    case.tier.damaged = {"stub-with-data"}
    found = case.one("--repair")
    assert (found["kind"], found["path"]) == ("stub-with-data",
                                              f"{case.top()}/released")
    assert (case.tier.front / "released").read_bytes() == b"beside the mount"


def test_changed_beside_the_mount(case):
    def damage():
        with open(case.tier.front / "migrated", "ab") as f:
            f.write(b"more")

    path = case.object_of("migrated")
    case.ready(damage)
    assert case.one()["kind"] == "stale-copy"
    found = {f["kind"]: f for f in case.check("--repair")}
    assert found["stale-copy"]["repaired"]
    assert found["leaked-object"]["object"] == path
    assert case.check() == []


@pytest.mark.parametrize("what", ["migrating", "writing"])
def test_unfinished(case, what):
    """An attribute of a step that the journal doesn't know."""
    def change(value):
        if what == "migrating":
            value[1] = value[1] & 0xF0 | 1
        else:
            value[2] |= 2

    case.ready(lambda: case.change_ea("migrated", change))
    found = case.one()
    assert (found["kind"], found["path"]) == ("unfinished",
                                              f"{case.top()}/migrated")
    assert {f["kind"] for f in case.check("--repair") if f["repaired"]} == {
        "unfinished", "leaked-object"}
    assert case.check() == []


def test_inode_numbers(case):
    front = case.tier.front
    shown = os.stat(case.tier.mnt / "restored").st_ino
    inodes = front / ".tierfs" / "inodes"

    def damage():
        (inodes / str(shown)).rename(inodes / "4711")
        (inodes / "4712").write_bytes(b"somebody's")
        (inodes / "what").touch()

    case.ready(damage)
    case.tier.damaged = {"missing-inode", "unowned-inode", "stray-file"}
    kinds = ["missing-inode", "stray-file", "unowned-inode", "unowned-inode"]
    assert case.kinds() == kinds
    found = case.check("--repair")
    assert sorted(f["kind"] for f in found) == kinds
    assert {f["path"]: f["repaired"] for f in found} == {
        f"{case.top()}/restored": False,
        str(inodes / "4711"): True,
        str(inodes / "4712"): False,
        str(inodes / "what"): False}
    assert sorted(os.listdir(inodes)) == ["4712", "what"]


@pytest.mark.parametrize("what", ["damaged", "newer", "fine", "size"])
def test_log(case, what):
    """Of what was written to a released file."""
    path = case.tier.mnt / "dirty"
    put(path, 3 * MIB, "dirty")
    case.tier.release(path)
    with open(path, "r+b") as f:
        f.seek(MIB)
        f.write(b"changed" * 1000)
        f.truncate(2 * MIB)
    assert case.tier.state(path) == "dirty"
    copy = case.object_of("dirty")

    def damage():
        with open(case.tier.front / "dirty", "r+b") as f:
            header = f.read(64)
            if what == "damaged":
                f.seek(200)
                f.write(b"?")
            elif what == "newer":
                header = bytearray(header)
                header[8] = 2
                header[12:16] = bytes(4)
                header[12:16] = struct.pack("<I", crc32c(header))
                f.seek(0)
                f.write(header)
            elif what == "size":
                os.truncate(copy, 5)

    case.ready(damage)
    if what == "fine":
        assert case.check("--verify", "--repair") == []
        return
    kind = "wrong-size" if what == "size" else "damaged-log"
    case.tier.damaged = {kind}
    found = case.one("--repair")
    assert (found["kind"], found["path"]) == (kind, f"{case.top()}/dirty")
    assert not found["repaired"]
    assert what != "newer" or "newer" in found["detail"]


def test_torn_log(cold_case):
    """What a crash left is the next mount's."""
    tier = cold_case.tier
    path = tier.mnt / "dirty"
    put(path, 3 * MIB, "dirty")
    tier.release(path)
    with open(path, "r+b") as f:
        f.write(b"changed")
        f.flush()
        tier.kill()
    with open(tier.front / "dirty", "ab") as f:
        f.write(b"half an entry")
    assert cold_case.check("--verify", "--repair") == []
    tier.mount()
    assert cold_case.check("--verify", "--repair") == []
    assert path.read_bytes()[:12] == b"changed" + data(
        3 * MIB, "dirty")[7:12]


def test_orphans(cold_case):
    """Their objects are in use; what isn't ours is named."""
    tier = cold_case.tier
    with open(tier.mnt / "released", "rb"):
        os.unlink(tier.mnt / "released")
        assert cold_case.check() == []
        tier.kill()
    assert cold_case.check("--repair") == []
    (tier.front / ".tierfs" / "orphans" / "what").touch()
    tier.damaged = {"stray-file"}
    assert cold_case.one()["kind"] == "stray-file"
    tier.mount()
    r.wait_for(lambda: len(tier.objects()) == 3)


def test_verify(case):
    released, migrated = case.object_of("released"), case.object_of("migrated")

    def damage():
        for path in (released, migrated):
            with open(path, "r+b") as f:
                f.seek(40000)
                byte = f.read(1)
                f.seek(40000)
                f.write(bytes([byte[0] ^ 4]))

    case.ready(damage)
    assert case.check() == []
    assert case.kinds("--verify") == ["damaged-object"] * 2
    found = {f["path"]: f["repaired"]
             for f in case.check("--verify", "--repair")}
    assert found == {f"{case.top()}/released": False,
                     f"{case.top()}/migrated": True,
                     "": True}  # its object
    assert os.path.exists(released) and not os.path.exists(migrated)


def test_target_is_offline(case):
    target = case.tier.target / case.tier.name
    away = case.tier.target / "away"
    case.ready(lambda: target.rename(away))
    case.tier.damaged = {"offline-target"}
    found = case.one("--repair")
    assert found["kind"] == "offline-target"
    assert found["target"] == case.tier.target.name
    assert "4 files" in found["detail"]
    assert not found["repaired"]
    if case.online:
        case.tier.umount()
    away.rename(target)


def test_target_is_another(case):
    identity = case.tier.target / case.tier.name / "identity"
    text = identity.read_text()

    def damage():
        identity.write_text(text.replace("uuid=", "uuid=")[:-2] + (
            "0\n" if text[-2] != "0" else "1\n"))

    case.ready(damage)
    assert case.one()["kind"] == "wrong-target"
    identity.write_text(text)


def test_journal_is_lost(cold_case):
    tier = cold_case.tier
    tier.umount()
    for name in ("", "-wal", "-shm"):
        (tier.front / ".tierfs" / f"journal.db{name}").unlink(missing_ok=True)
    (tier.target / tier.name / "00" / "0000000000beef").write_bytes(b"x")
    found = {f["kind"]: f for f in cold_case.check("--repair")}
    assert set(found) == {"journal", "leaked-object"}
    assert not any(f["repaired"] for f in found.values())
    tier.damaged = set(found)


def test_is_not_a_front(one):
    answer = one.ctl("check", "--front", one.front)
    assert answer.status == 1 and "not the front" in answer.err
    assert os.listdir(one.front) == []


def test_one_at_a_time(cold_case):
    """Neither beside a daemon nor beside another check."""
    tier = cold_case.tier
    answer = tier.ctl("check", "--front", tier.front)
    assert answer.status == 1 and "has it mounted" in answer.err


def test_who_may(cold_case):
    answer = cold_case.tier.ctl("check", "--mount", cold_case.tier.mnt,
                                user=r.NOBODY)
    assert answer.status == 3 and "root" in answer.err


def test_usage(one):
    for args in (["check", "x"], ["status", "--repair"],
                 ["check", "--target=a=b"], ["check", "--front"]):
        assert one.ctl(*args).status == 2, args


def test_under_load(cold_case):
    """A file in flight is no finding, whatever it is doing."""
    tier, end = cold_case.tier, time.monotonic() + 3
    top = tier.mnt / "load"
    top.mkdir()
    errors = []

    def work(n):
        try:
            mine = top / str(n)
            mine.mkdir()
            i = 0
            while time.monotonic() < end:
                i += 1
                paths = [mine / f"{i}.{k}" for k in range(8)]
                for path in paths:
                    put(path, 5000)
                tier.release(*paths[:6])
                tier.do("restore", *paths[:3])
                with open(paths[0], "r+b") as f:
                    f.write(b"new")
                os.truncate(paths[4], 0)
                large = mine / f"large{i}"
                put(large, 1100000)
                tier.release(large)
                for k in range(5):  # to the log
                    with open(large, "r+b") as f:
                        f.seek(k << 16)
                        f.write(b"changed" * 1000)
                if i % 2:
                    tier.do("restore", large)
                os.rename(paths[5], paths[6])
                (mine / f"d{i}").mkdir()
                os.rename(mine / f"d{i}", mine / f"e{i}")
                os.rename(paths[1], mine / f"e{i}" / "moved")
                os.unlink(paths[2])
        except Exception as e:  # pylint: disable=broad-except
            errors.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    rounds = 0
    while any(t.is_alive() for t in threads):
        assert cold_case.check("--repair", "--verify") == []
        rounds += 1
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert rounds > 2
    assert cold_case.check("--repair") == []
    assert not (tier.target / tier.name / "lost+found").exists()


def test_interrupted(cold_case):
    """Reading all objects can be stopped."""
    tier = cold_case.tier
    put(tier.mnt / "large", 64 * MIB)
    tier.release(tier.mnt / "large")
    if not tier.target_disk.throttle(read_bps=4 * MIB):
        pytest.skip("no throttling here")
    r.drop_caches()
    child = subprocess.Popen([r.binary("tierctl"), "check", "--verify",
                              "--mount", tier.mnt], stderr=subprocess.PIPE)
    time.sleep(0.5)
    child.terminate()
    _, err = child.communicate(timeout=30)
    tier.target_disk.throttle(read_bps=0)
    assert child.returncode == 1 and b"interrupted" in err
