#!/usr/bin/env python3
"""Disks that stand still, and the processes that write files: nobody but the file's own session waits for them.

A disk that does not move is made in two ways: a process that writes is stopped, which is the same to everybody else,
and, where we may mount, a file system is frozen. A service that wrote by itself would be stuck in write(2) then, and
answer nothing: each wait in here has a bound.
"""

import contextlib
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import peer
import stack
import tap

MEMORY_KB = 8 << 10  # growth for a session whose disk stands still, beyond its buffer: a batch, and slack


def file_config(period_ms=100):
    return pb.put(8, 1) + pb.put(9, period_ms)


def numbers(path):
    """The numbered packets of a trace file; all of it must parse."""
    with open(path, "rb") as f:
        found = [peer.number_of(raw) for raw in pb.packets(f.read())]
    return [n for n in found if n is not None]


class Recording:
    """A session with a producer, into a file."""

    def __init__(self, w, path, name="disk", extra=b"", kb=4096):
        self.w, self.path, self.n = w, path, 0
        self.p, self.c = w.producer(name, [name]), w.consumer()
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.c.enable(peer.config([name], buffers=((kb, 0),), extra=file_config() + extra), fds=[fd])
        os.close(fd)
        self.p.until_started()

    def write(self, count, size=100):
        for _ in range(count):
            self.p.write([peer.packet(self.n, size)], drop=True)
            self.n += 1
        self.p.ask("Sync")

    def until_written(self):
        self.w.until("the packets in the file", lambda: numbers(self.path)[-1:] == [self.n - 1])

    def end(self):
        self.c.stop()
        tap.expect_eq(numbers(self.path), list(range(self.n)), "packets in the file")


def others_live(w, rounds=20):
    """A session of others: commits, reads, queries, a start and an end."""
    p, c = w.producer("other", ["other"]), w.consumer()
    c.enable(peer.config(["other"]))
    p.until_started()
    got = []
    for n in range(rounds):
        p.write([peer.packet(n)])
        c.state()
        got += c.read()
    tap.expect(c.flush(), "a flush of the other session")
    c.stop()
    got += c.read()
    tap.expect_eq(list(peer.by_sequence(got).values()), [list(range(rounds))], "packets of the other session")
    p.close()
    c.close()


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def until_stuck(w, r):
    """Writes more than the pipe and a batch hold, and waits until the service says that the disk does not move."""
    for _ in range(6):
        r.write(200, 3000)
    w.until("the disk to be waited for", lambda: any("waits for its disk" in line for line in w.report()))


def check_stall(w, r, stall):
    """The whole story, for a way to stop the disk."""
    r.write(10)
    r.until_written()
    with stall:
        before = w.memory_kb()
        until_stuck(w, r)
        others_live(w)
        grown = w.grown_kb(before) - 4096
        tap.expect(grown < MEMORY_KB, f"memory grew by {grown} KB beyond the buffer")
        disabled = r.c.call("DisableTracing")
        w.until("the answer to DisableTracing", lambda: disabled.done)
        others_live(w, 3)
        tap.expect(not r.c.enabled.done, "the end is told when the file is whole")
    tap.expect_eq(r.c.error(), "", "how the session ended")
    got = numbers(r.path)
    tap.expect_eq(got, list(range(r.n)), "packets in the file")


@tap.case("a disk that stands still holds up its session only, and the file is whole in the end")
def _():
    with peer.World() as w:
        r = Recording(w, w.stack.path("out"))
        check_stall(w, r, stopped(w.file_writers()[0]))


class FrozenDisk:
    """A file system of our own in a mount namespace of our own; `frozen` lets nobody write to it."""

    SCRIPT = """
        truncate -s 64M "$0.img" && mkfs.ext4 -q "$0.img" && mount -o loop "$0.img" "$0" && chmod 777 "$0" && echo mounted
        while read -r line; do
            if [ "$line" = freeze ]; then fsfreeze -f "$0"; else fsfreeze -u "$0"; fi
            echo "$line $?"
        done
    """

    def __init__(self, w):
        if os.getuid() != 0:
            tap.skip("needs root")
        mount = w.stack.path("disk")
        os.mkdir(mount)
        self.child = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", self.SCRIPT, mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self.child.stdout.readline() != "mounted\n":
            tap.skip("no file system of one's own can be mounted here")
        self.folder = f"/proc/{self.child.pid}/root{mount}"

    def tell(self, word):
        self.child.stdin.write(word + "\n")
        self.child.stdin.flush()
        return self.child.stdout.readline() == word + " 0\n"

    @contextlib.contextmanager
    def frozen(self):
        if not self.tell("freeze"):
            tap.skip("file systems cannot be frozen here")
        try:
            yield
        finally:
            self.tell("thaw")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.wait(stack.PATIENCE)


@tap.case("a file system that is frozen holds up its session only, and the file is whole in the end")
def _():
    with peer.World() as w, FrozenDisk(w) as disk:
        r = Recording(w, disk.folder + "/out")
        check_stall(w, r, disk.frozen())


@tap.case("a file with sync after each drain on a frozen file system")
def _():
    with peer.World() as w, FrozenDisk(w) as disk:
        r = Recording(w, disk.folder + "/out", extra=pb.put(45, 2))
        check_stall(w, r, disk.frozen())


@tap.case("a file named by output_path on a frozen file system: only its own consumer waits until it is made")
def _():
    with peer.World() as w, FrozenDisk(w) as disk:
        path = disk.folder + "/by-name"
        p, c = w.producer("disk", ["disk"]), w.consumer()
        with disk.frozen():
            c.enable(peer.config(["disk"], extra=file_config() + pb.put(29, path)))
            state = c.call("QueryServiceState")
            others_live(w)
            tap.expect(not state.done, "requests behind it wait, in order")
            gone = w.consumer()
            gone.enable(peer.config(["disk"], extra=file_config() + pb.put(29, path + "2")))
            gone.call("DisableTracing")
            gone.close()
            others_live(w)
        w.until("the answer that waited", lambda: state.done)
        p.until_started()
        p.write([peer.packet(0)])
        c.stop()
        tap.expect_eq(numbers(path), [0], "packets in the file")
        c = w.consumer()
        c.enable(peer.config(["disk"], extra=file_config() + pb.put(29, path)))
        tap.expect(path in c.error() and "exists" in c.error(), f"the consumer is told '{c.error()}'")


@tap.case("files count for their user until they are written, also when nobody waits for them any more")
def _():
    with peer.World("--limit-files", "2") as w:
        both = [Recording(w, w.stack.path(f"out{n}"), f"disk{n}") for n in range(2)]
        one, two = w.file_writers(2)
        with stopped(one), stopped(two):
            for r in both:
                r.write(5)
                r.c.close()
            third = w.consumer()
            third.enable(peer.config(["third"], extra=file_config() + pb.put(29, w.stack.path("third"))))
            tap.expect("--limit-files" in third.error(), f"the consumer is told '{third.error()}'")
            others_live(w)
        w.file_writers(0)
        for r in both:
            tap.expect_eq(numbers(r.path), list(range(5)), "packets in the file")
        Recording(w, w.stack.path("fourth"), "fourth").end()
        w.close_all()
        w.until_uncharged()


@tap.case("a clone into a file waits for the source's disk, and holds what both had")
def _():
    with peer.World() as w:
        r = Recording(w, w.stack.path("out"))
        r.write(10)
        r.until_written()
        copy = w.stack.path("copy")
        k = w.consumer()
        with stopped(w.file_writers()[0]):
            r.write(20)
            fd = os.open(copy, os.O_RDWR | os.O_CREAT)
            clone = k.call("CloneSession", pb.put(1, 1), fds=[fd])
            os.close(fd)
            others_live(w)
            tap.expect(not clone.done, "the clone waits")
        w.until("the clone", lambda: clone.done)
        tap.expect_eq(pb.first(b"".join(clone.parts), 1, 0), 1, "the clone succeeded")
        tap.expect_eq(numbers(copy), list(range(30)), "packets of the clone")
        r.write(5)
        r.end()


@tap.case("a process that writes is killed: its session ends and says why, the file ends at a packet")
def _():
    with peer.World() as w:
        r = Recording(w, w.stack.path("out"))
        r.write(50)
        r.until_written()
        os.kill(w.file_writers()[0], signal.SIGKILL)
        error = r.c.error()
        tap.expect("output file" in error and "was ended" in error, f"the consumer is told '{error}'")
        tap.expect("was ended" in w.stack.log_of(w.traced), "the log says it")
        tap.expect_eq(numbers(r.path), list(range(50)), "packets in the file")
        others_live(w)
        r = Recording(w, w.stack.path("next"), "next")
        r.write(5)
        r.end()


@tap.case("the host is killed: files go on, and the next file has a new host")
def _():
    with peer.World() as w:
        r = Recording(w, w.stack.path("out"))
        r.write(5)
        r.until_written()
        host = w.file_host()
        os.kill(host, signal.SIGKILL)
        w.until("its end", lambda: host not in stack.children_of(w.traced.pid))
        r.write(5)
        r.until_written()
        second = Recording(w, w.stack.path("second"), "second")
        tap.expect(w.file_host() != host, "another host")
        second.write(7)
        second.end()
        r.end()


@tap.case("the host is stopped: nobody waits for it, the file is written when it goes on")
def _():
    with peer.World() as w:
        with stopped(w.file_host()):
            r = Recording(w, w.stack.path("out"))
            until_stuck(w, r)
            others_live(w)
        r.end()


@tap.case("the service is killed: what it had handed on is in the file, which ends at a packet")
def _():
    with peer.World() as w:
        r = Recording(w, w.stack.path("out"))
        r.write(20)
        r.until_written()
        writer = w.file_writers()[0]
        with stopped(writer):
            until_stuck(w, r)
            w.traced.kill()
            w.traced.wait()
        stack.until("the end of who writes", lambda: not os.path.exists(f"/proc/{writer}"))
        got = numbers(r.path)
        tap.expect_eq(got, list(range(len(got))), "packets in the file")
        tap.expect(len(got) > 200, f"{len(got)} packets: what was in the pipe is there")
        w.close_all()
        w.stack.children.remove(w.traced)
        w.traced = w.stack.start_traced()
        others_live(w)


@tap.case("SIGTERM ends files, also when it is for all processes, as Ctrl-C is")
def _():
    for sig in (signal.SIGTERM, signal.SIGINT):
        with peer.World() as w:
            r = Recording(w, w.stack.path("out"))
            r.write(30)
            host = w.file_host()
            for pid in (*w.file_writers(), host, w.traced.pid):
                os.kill(pid, sig)
            tap.expect_eq(w.traced.wait(stack.PATIENCE), 0, "exit status")
            tap.expect_eq(numbers(r.path), list(range(30)), "packets in the file")
            stack.until("the end of the host", lambda: not os.path.exists(f"/proc/{host}"))
            w.close_all()
            w.stack.children.remove(w.traced)


@tap.case("many sessions write files at once")
def _():
    with peer.World("--limit-sessions=30") as w:
        all_of_them = [Recording(w, w.stack.path(f"out{n}"), f"disk{n}", kb=256) for n in range(14)]
        tap.expect_eq(len(w.file_writers(14)), 14, "processes that write")
        for _ in range(5):
            for r in all_of_them:
                r.write(20)
        for r in all_of_them:
            r.end()
        w.file_writers(0)


tap.run()
