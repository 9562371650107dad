# SPDX-License-Identifier: MIT
"""What moves by itself with policy=auto, in which order, what does not and why;
and that policy=manual moves nothing.

On small disks of their own, whose use nobody else changes."""

import errno
import os
import time

import pytest

from files import MIB, cached, digest, put
from rig import run, wait_for

# All that is a byte long goes, but only when room is needed.
NEEDED = ("policy=auto", "migrate_age=365d", "migrate_size=1")
SOON = ("policy=auto", "migrate_age=1s", "migrate_size=1")
DAY = 86400


@pytest.fixture(name="small")
def small_tier(rig):
    """A tier of 300 MiB; its target is a disk of its own, too."""
    front = rig.disk("policy-front", "ext4", 300 * MIB)
    target = rig.disk("policy-target", "ext4", 600 * MIB)
    tier = rig.tier("ext4", front=front, target=target)
    yield tier
    tier.close()


def old(tier, name, size, days, seed=0):
    """A file of before the first mount, last used that long ago. (What was seen
    to be used is not made older by utimes(2).) Returns its path there."""
    then = time.time() - days * DAY
    put(tier.front / name, size, seed)
    os.utime(tier.front / name, (then, then))
    return tier.mnt / name


def policy(tier):
    return tier.mount_status()["policy"]


def used(tier):
    front = tier.mount_status()["front"]
    return 100 * front["used"] / front["bytes"]


def states(tier):
    return {name: state["files"]
            for name, state in tier.mount_status()["states"].items()}


def why(tier, path):
    return tier.do("why", path)[0]


def kinds(tier, path):
    return {o["kind"] for o in why(tier, path)["obstacles"]}


def known(tier, *paths):
    """The catalog has a row of each, that is as the file is."""
    for path in paths:
        wait_for(lambda: "unknown" not in kinds(tier, path))
    tier.do("report", tier.mnt)


def ranked(tier, *paths):
    """They have been judged, too, which comes after that if the walk was quicker
    than the rules."""
    for path in paths:
        wait_for(lambda: why(tier, path)["rank"] is not None)


def is_state(tier, path, state):
    return wait_for(lambda: tier.state(path) == state)


def held(tier):
    return {h["reason"]: h["files"] for h in policy(tier)["cannot_move"]}


def planned(tier):
    answer = tier.ctl("--mount", tier.mnt, "policy", "run", "--dry-run")
    assert answer.status == 0, answer.err
    return answer.json


def fill(tier, n, mib=10, name="f"):
    """n files, the first the coldest."""
    paths = [tier.mnt / f"{name}{i}" for i in range(n)]
    for i, path in enumerate(paths):
        put(path, mib * MIB, i)
        time.sleep(0.01)  # times have the clock's ticks
    return paths


# -- by age -----------------------------------------------------------------

def test_age(one):
    """What is old and large enough is copied, and stays on the front; what is
    not stays as it is, and says so."""
    for name, size, days in (("old", 20000, 2), ("young", 20000, 0),
                             ("small", 5000, 2), ("pinned", 20000, 2)):
        old(one, name, size, days)
    one.mount("policy=manual", "migrate_age=1d", "migrate_size=10k")
    one.do("pin", one.mnt / "pinned")
    one.change("policy=auto")
    is_state(one, one.mnt / "old", "migrated")
    known(one, one.mnt / "pinned")
    for name, kind in (("young", "young"), ("small", "small"),
                       ("pinned", "pinned")):
        assert one.state(one.mnt / name) == "none"
        assert kind in kinds(one, one.mnt / name)
    # Who can read it may ask.
    os.chmod(one.mnt / "small", 0o600)
    assert one.ctl("why", one.mnt / "young", user=65534).status == 0
    assert one.ctl("why", one.mnt / "small", user=65534).status == 1
    assert one.ctl("--mount", one.mnt, "policy", "run", user=65534).status == 3
    moved = policy(one)["migrated"]
    assert moved == {"files": 1, "bytes": 20000}
    # The times of an access make it young again, or another rule's.
    answer = why(one, one.mnt / "old")
    assert answer["state"] == "migrated" and answer["rank"] == 0
    assert answer["rule"]["name"] == "default"
    assert "90%" in answer["next"]


def test_below_a_pinned_directory(one):
    """What is below has no rank, so no pass looks at it; why says which
    directory it is. So for what is there, what comes, and what is moved in,
    until it is moved out or the pin is taken away."""
    one.mount(*NEEDED)
    top = one.mnt / "top"
    (top / "sub").mkdir(parents=True)
    (one.mnt / "other").mkdir()
    put(top / "sub" / "before", 5000)
    put(one.mnt / "other" / "f", 5000)

    def pinned_by(path):
        known(one, path)
        answer = why(one, path)
        details = [o["detail"] for o in answer["obstacles"]
                   if o["kind"] == "pinned"]
        assert (answer["rank"] is None) == bool(details) or \
            wait_for(lambda: (why(one, path)["rank"] is None) == bool(details))
        return details

    assert not pinned_by(top / "sub" / "before")
    one.do("pin", top)
    put(top / "sub" / "after", 5000)
    os.rename(one.mnt / "other", top / "other")
    for path in (top / "sub" / "before", top / "sub" / "after",
                 top / "other" / "f"):
        assert pinned_by(path) == ["by the directory /top"]
    os.rename(top / "sub", one.mnt / "out")
    assert not pinned_by(one.mnt / "out" / "after")
    one.do("unpin", top)
    assert not pinned_by(top / "other" / "f")
    one.do("pin", one.mnt / "out" / "after")
    assert pinned_by(one.mnt / "out" / "after") == ["it is pinned"]


def test_a_rule_names_the_target(one):
    """What it names, and no other, is where the file goes."""
    other = one.rig.dir / f"{one.name}.tape"
    other.mkdir()
    one.targets["tape"] = other
    conf = one.rig.dir / f"{one.name}.conf"
    conf.write_text("[rule far]\nname = far*\nmigrate = after 1h\n"
                    "target = tape\n[rule near]\nmigrate = after 1h\n",
                    encoding="ascii")
    names = [f"{where}{i}" for i in range(3) for where in ("far", "near")]
    for name in names:
        old(one, name, 20000, 2)
    one.mount(f"spill=tape={other}", f"config={conf}", "policy=auto")
    for name in names:
        is_state(one, one.mnt / name, "migrated")
        copies = one.status(one.mnt / name)["copies"]
        assert [c["target"] for c in copies] == \
            ["tape" if name[0] == "f" else one.target.name]
        assert (one.mnt / name).read_bytes()
    assert {c["target"] for n in names
            for c in one.status(one.mnt / n)["copies"]} == \
        {"tape", one.target.name}


def test_manual_moves_nothing(small):
    """policy=manual: nothing, whatever is due or full; then auto, by remount."""
    small.mount("policy=manual", "migrate_age=1s", "migrate_size=1",
                "high=30", "low=20")
    paths = fill(small, 12)
    wait_for(lambda: len(planned(small)) >= 12)
    time.sleep(2)
    assert states(small)["none"] == 12
    assert "manual" in kinds(small, paths[0])
    assert policy(small)["doing"] == "manual"
    assert not small.objects()
    small.change("policy=auto")
    wait_for(lambda: states(small)["none"] == 0)
    wait_for(lambda: used(small) < 21)


# -- room -------------------------------------------------------------------

def test_the_coldest_are_released(small):
    """Above high the coldest migrated files are released until low, and no
    more; pinned and open ones stay, and are told."""
    small.mount(*NEEDED, "high=99", "low=90")
    paths = fill(small, 20)
    assert 60 < used(small) < 80
    small.migrate(small.mnt)
    small.do("pin", paths[1])
    known(small, *paths)
    with open(paths[19], "rb"):
        small.change("high=60", "low=40")
        wait_for(lambda: used(small) <= 40)
        wait_for(lambda: not policy(small)["in_flight"])
        after = [small.state(p) for p in paths]
        gone = after.count("released")
        expected = [i for i in range(20) if i != 1][:gone]
        assert [i for i, s in enumerate(after) if s == "released"] == expected
        # One file less would not have been enough.
        assert used(small) > 40 - 100 * 10.5 * MIB / (280 * MIB)
        assert "pinned" in kinds(small, paths[1])
        assert "open" in kinds(small, paths[19])
        # All that can go goes, the open one stays.
        small.change("high=20", "low=2")
        wait_for(lambda: "in use: open" in held(small))
        wait_for(lambda: states(small)["released"] == 18)
        assert small.state(paths[19]) == small.state(paths[1]) == "migrated"
        gone = 18
    assert policy(small)["released"]["files"] == gone
    assert digest(paths[0]) and small.state(paths[0]) == "released"


def test_what_goes_next_leaves_the_page_cache(small):
    """Near high, what a release down to low would take leaves the page cache,
    so that it is short; the rest stays there, and nothing is released."""
    small.mount(*NEEDED, "high=99", "low=90")
    paths = fill(small, 18)
    small.migrate(small.mnt)
    warm = fill(small, 1, mib=2, name="warm")[0]
    known(small, warm, *paths)
    below = [small.front / p.name for p in (warm, *paths)]
    for path in below:
        digest(path)
    if cached(below[0]) is None:
        pytest.skip("no cachestat(2)")
    small.change("high=75", "low=45")
    assert 67.5 < used(small) < 75
    # At least the 50 MiB that are above low.
    wait_for(lambda: not any(cached(p) for p in below[1:6]))
    # Unless somebody else empties it, which takes a moment.
    if not cached(below[-1]):
        time.sleep(1)
        assert not cached(below[0])
    assert states(small)["released"] == 0
    small.change("high=60")
    wait_for(lambda: used(small) <= 45)


def test_a_release_does_not_wait_for_writers(small):
    """What others have written, and the disk has not yet, is not waited for."""
    small.mount("policy=manual")
    paths = fill(small, 3, mib=2)
    small.migrate(small.mnt)
    small.disk.settle()
    if not small.disk.throttle(write_bps=4 * MIB):
        pytest.skip("no blkio cgroup")
    took = []
    try:
        for i, path in enumerate(paths):
            put(small.mnt / f"new{i}", 48 * MIB, i)
            start = time.monotonic()
            small.do("release", path)
            took.append(time.monotonic() - start)
            # Unless somebody's sync(2) came in between: 12 s.
            if took[-1] < 6:
                break
    finally:
        small.disk.throttle(write_bps=0)
    assert min(took) < 6, took


def test_room_without_copies(small):
    """What is not migrated is, and released, when nothing else makes room; the
    front does not fill up. Then enough is migrated ahead of need."""
    small.mount(*NEEDED, "high=99", "low=90")
    paths = fill(small, 16)
    known(small, *paths)
    small.change("high=50", "low=30")
    wait_for(lambda: used(small) <= 31)
    after = [small.state(p) for p in paths]
    assert after[0] == "released" and after[-1] != "released"
    # 20 per cent of the front, and a fifth of that more.
    wait_for(lambda: small.mount_status()["states"]["migrated"]["bytes"]
             >= 0.2 * small.mount_status()["front"]["bytes"])


def test_the_reserve_is_shown(small):
    """The watermarks are shown as they are acted upon, the reserve taken off."""
    small.mount(*NEEDED, "high=99", "low=90", "reserve=25%")
    front = small.mount_status()["front"]
    assert (front["high"], front["low"]) == (75, 66)
    assert (front["high_set"], front["low_set"]) == (99, 90)
    text = small.ctl("--mount", small.mnt, "status", text=True).out
    assert "releasing from 75% to 66% (reserve)" in text
    put(small.mnt / "f", MIB)
    small.migrate(small.mnt / "f")
    known(small, small.mnt / "f")
    assert "more than 75% in use" in why(small, small.mnt / "f")["next"]
    metrics = small.ctl("--mount", small.mnt, "metrics", text=True).out
    assert 'kind="high"} 0.75' in metrics, metrics


def test_small_files_go_last(small):
    """A front full of files below migrate_size: what is large goes first, then
    the coldest of the small ones, copied and released, until low; why says
    so, and none is copied ahead of that."""
    for i in range(12):
        old(small, f"s{i}", 10 * MIB, 30 - i, i)
    for i in range(3):
        old(small, f"large{i}", 20 * MIB, 1, i)
    small.mount("policy=auto", "migrate_age=365d", "migrate_size=15M",
                "high=99", "low=90")
    tiny = [small.mnt / f"s{i}" for i in range(12)]
    large = [small.mnt / f"large{i}" for i in range(3)]
    ranked(small, *tiny, *large)
    assert "small" in kinds(small, tiny[0])
    assert why(small, large[0])["rank"] < 3 <= why(small, tiny[0])["rank"]
    small.change("high=60", "low=50")
    wait_for(lambda: used(small) <= 51)
    assert "released" not in [small.state(p) for p in tiny]
    small.change("high=30", "low=20")
    wait_for(lambda: used(small) <= 21)
    assert [small.state(p) for p in large] == ["released"] * 3
    after = [small.state(p) for p in tiny]
    gone = after.count("released")
    assert 0 < gone < 12
    assert after == ["released"] * gone + ["none"] * (12 - gone)
    assert digest(tiny[0])


def test_a_full_front_is_enospc(small):
    """What cannot be moved fills the front: the writer gets ENOSPC, and nothing
    is tried again and again."""
    small.mount(*SOON, "high=60", "low=40")
    small.do("pin", small.mnt)
    with pytest.raises(OSError) as e:
        fill(small, 40)
    assert e.value.errno == errno.ENOSPC
    before = policy(small)
    time.sleep(3)
    after = policy(small)
    assert after["refused"] - before["refused"] <= 40
    assert states(small)["released"] == 0
    small.do("unpin", small.mnt)


# -- what holds it up ---------------------------------------------------------

def test_full_target(rig):
    """A target without room: not tried in a loop, told, and taken up again by
    itself when there is room."""
    target = rig.disk("policy-tiny", "ext4", 40 * MIB)
    tier = rig.tier("ext4", target=target)
    try:
        tier.mount(*SOON)
        put(tier.mnt / "first", 30 * MIB)
        is_state(tier, tier.mnt / "first", "migrated")
        for i in range(20):
            put(tier.mnt / f"f{i}", 2 * MIB, i)

        def stopped():
            # What was begun while there was room may still fail.
            failed = policy(tier)["failed"]
            time.sleep(1)
            now = policy(tier)
            return now["doing"] == "target" and now["failed"] == failed

        wait_for(stopped)
        known(tier, tier.mnt / "f19")
        before = policy(tier)
        assert "target_full" in kinds(tier, tier.mnt / "f19")
        time.sleep(3)
        after = policy(tier)
        assert after["failed"] == before["failed"] <= 20
        assert after["retry_at"] is None  # that is no failing
        (tier.mnt / "first").unlink()
        wait_for(lambda: states(tier)["migrated"] >= 8, 60)
    finally:
        tier.close()


def test_offline_target(one):
    """An offline target stops it, without attempts; it goes on by itself."""
    put_away = one.target.with_name("away")
    one.mount(*SOON)
    put(one.mnt / "a", 5000)
    is_state(one, one.mnt / "a", "migrated")
    os.rename(one.target, put_away)
    wait_for(lambda: not one.mount_status()["targets"][0]["online"])
    put(one.mnt / "b", 5000)
    wait_for(lambda: policy(one)["doing"] == "target")
    known(one, one.mnt / "b")
    assert kinds(one, one.mnt / "b") >= {"target_offline"}
    assert policy(one)["failed"] == 0
    os.rename(put_away, one.target)
    is_state(one, one.mnt / "b", "migrated")


def test_window(one):
    """Outside of its hours nothing is copied, and a threshold opens them."""
    now = time.localtime()
    hour = (now.tm_hour + 12) % 24
    config = one.front.parent / f"{one.name}.conf"
    text = ("[tierfs]\npolicy = auto\nmigrate_age = 1s\nmigrate_size = 1\n"
            f"background = only {hour:02}:00-{hour:02}:30%s\n")
    config.write_text(text % "", encoding="ascii")
    one.mount(f"config={config}", "policy=auto")
    put(one.mnt / "f", 5000)
    wait_for(lambda: policy(one)["doing"] == "window")
    assert "window" in kinds(one, one.mnt / "f")
    assert not one.objects()
    config.write_text(text % ", or above 0%", encoding="ascii")
    one.daemon.send_signal(1)
    is_state(one, one.mnt / "f", "migrated")
    config.unlink()


def test_breaker(one):
    """When too much fails nothing more is tried, which is told, until somebody
    does it by hand."""
    for i in range(40):
        old(one, f"f{i:02}", 3000, 2, i)
    one.mount("policy=manual", "migrate_age=1d", "migrate_size=1",
              "breaker=20")
    # No object can be made there, but the target is.
    run("chattr", "+i", one.target / one.name)
    one.change("policy=auto")
    wait_for(lambda: policy(one)["doing"] == "breaker")
    before = policy(one)
    assert before["retry_at"] and before["failed"] >= 16
    assert "breaker" in kinds(one, one.mnt / "f39")
    time.sleep(2)
    after = policy(one)
    assert after["failed"] == before["failed"]
    # Nothing is due: all that failed is held.
    assert after["doing"] == "breaker"
    run("chattr", "-i", one.target / one.name)
    answer = one.ctl("--mount", one.mnt, "policy", "run")
    assert answer.status == 0, answer.err
    assert states(one)["migrated"] == 40
    assert policy(one)["doing"] == "idle"


# -- heat ---------------------------------------------------------------------

def test_hot_comes_back(one):
    """strategy=heat: what is read often is restored, though reads alone would
    not; what is not stays where it is."""
    one.mount("policy=auto", "strategy=heat", "promote=2.5", "cold=0.001",
              "migrate_size=1", "restore_after=never")
    for name in ("hot", "cold"):
        put(one.mnt / name, 20000)
    one.release(one.mnt)
    for _ in range(4):
        assert len((one.mnt / "hot").read_bytes()) == 20000
    is_state(one, one.mnt / "hot", "migrated")
    assert one.state(one.mnt / "cold") == "released"
    wait_for(lambda: policy(one)["restored"]["files"])  # counted at its end
    assert policy(one)["restored"]["files"] == 1


# -- by hand ------------------------------------------------------------------

def test_the_pass_does_what_the_dry_run_says(small):
    """The same files, in the same order, with the same sizes: for due files, a
    rule that releases, a full front, and what has to be copied ahead."""
    config = small.front.parent / f"{small.name}.conf"
    config.write_text(
        "[tierfs]\nmigrate_age = 3d\nmigrate_size = 1k\n"
        "[rule keep]\nname = k*\nkeep = yes\n"
        "[rule r]\nname = r*\nmigrate = after 2d\nrelease = after 5d\n",
        encoding="ascii")
    names = [f"{'kfr'[i % 3]}{i}" for i in range(27)]
    for i, name in enumerate(names):
        old(small, name, 6 * MIB + i, i % 7, i)
    small.mount(f"config={config}", "high=50", "low=40")
    for i, name in enumerate(names):
        if i % 4 == 0 and name[0] != "k":
            small.migrate(small.mnt / name)
    known(small, *(small.mnt / name for name in names))
    assert small.do("report", small.mnt)[0]["files"] == 27
    plan = planned(small)
    assert plan == planned(small)
    assert {p["op"] for p in plan} >= {"migrate", "release"}
    assert {p["cause"] for p in plan} >= {
        "the front needs room", "due: migrate_after"}
    assert not any("/k" in p["path"] for p in plan)
    answer = small.ctl("--mount", small.mnt, "policy", "run")
    assert answer.status == 0, answer.err

    def plain(steps):
        return [(s["op"], s["path"], s["size"], s["cause"], s["rule"])
                for s in steps]

    assert plain(answer.json) == plain(plan)
    assert {s["result"] for s in answer.json} == {"done"}
    text = small.ctl("--mount", small.mnt, "policy", "run", "--dry-run",
                     text=True)
    assert text.status == 0
    config.unlink()


def test_why_of_every_state(one):
    """Every state has an answer, in the fields that scripts read."""
    one.mount(*NEEDED)
    wanted = ("none", "migrated", "released", "dirty", "restored")
    for state in wanted:
        put(one.mnt / state, 2 * MIB)
        one.bring(one.mnt / state, state)
    (one.mnt / "empty").touch()
    for name in (*wanted, "empty"):
        answer = why(one, one.mnt / name)
        assert set(answer) == {"path", "state", "rule", "rank", "obstacles",
                               "next"}
        assert set(answer["rule"]) == {"name", "file", "line"}
        assert answer["next"]
        assert one.state(one.mnt / name) == answer["state"]
        text = one.ctl("why", one.mnt / name, text=True)
        assert text.status == 0 and str(one.mnt / name) in text.out
    assert "empty" in kinds(one, one.mnt / "empty")
    assert "dirty" in kinds(one, one.mnt / "dirty")
    assert one.ctl("why", one.mnt).status == 1
    assert one.ctl("why", one.mnt / "none" / "x").status == 1


def test_top(one):
    """Without a terminal: one screen, and the end."""
    one.mount(*NEEDED)
    put(one.mnt / "f", 5000)
    answer = one.ctl("--mount", one.mnt, "top", text=True)
    assert answer.status == 0, answer.err
    assert str(one.mnt) in answer.out and "policy auto" in answer.out
    assert all(len(line) < 200 for line in answer.out.splitlines())
    assert "\033" not in answer.out


# -- quiet --------------------------------------------------------------------

def test_quiet(one):
    """With nothing to do the target is not touched, and the thread sleeps."""
    one.mount(*SOON)
    put(one.mnt / "f", 5000)
    is_state(one, one.mnt / "f", "migrated")
    wait_for(lambda: policy(one)["doing"] == "idle")
    # The end of what was copied, and of its being written back.
    time.sleep(3)
    thread = next(t for t in os.listdir(f"/proc/{one.daemon.pid}/task")
                  if "policy" in open(f"/proc/{one.daemon.pid}/task/{t}/comm",
                                      encoding="ascii").read())

    def wakes():
        with open(f"/proc/{one.daemon.pid}/task/{thread}/status",
                  encoding="ascii") as f:
            return int(f.read().split("\nvoluntary_ctxt_switches:")[1]
                       .split()[0])

    before = wakes()
    start = time.monotonic()
    with one.target_disk.frozen():
        one.target_disk.untouched_by(lambda: time.sleep(3))
    # Not more often than the use is looked at.
    assert wakes() - before <= 2.5 * (time.monotonic() - start) + 2


def test_unmount_does_not_wait(small):
    """An unmount in the middle of copying, to a target that takes minutes."""
    small.mount(*SOON)
    if not small.target_disk.throttle(write_bps=2 * MIB):
        pytest.skip("no blkio cgroup")
    try:
        for i in range(10):
            put(small.mnt / f"f{i}", 10 * MIB, i)
        wait_for(lambda: policy(small)["in_flight"])
        start = time.monotonic()
        small.umount()
        assert time.monotonic() - start < 30
    finally:
        small.target_disk.throttle(write_bps=0)


