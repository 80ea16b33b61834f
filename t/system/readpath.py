#!/usr/bin/env python3
"""The way out: large packets to slow consumers and into files that stall, fill up or fail."""

import contextlib
import os
import re
import resource
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import peer
import tap

MB = 1 << 20
PAGE_KB = 32


def report_number(w, start):
    line = next(line for line in w.report() if line.startswith(start))
    return int(line.rsplit(" ", 1)[1])


def say_slices(w):
    """Figures, never asserted: the machine may be busy."""
    lines = w.report()
    print("# " + "; ".join(line[len("loop: ") :] for line in lines if re.match("loop: .*slice", line)))
    for line in [line for line in lines if line.startswith("slices: ")][:4]:
        print("# " + line)


def large_producer(w, name="large"):
    """A producer with pages of 32 KiB."""
    return w.producer(name, [name], init=pb.put(1, PAGE_KB << 10) + pb.put(2, PAGE_KB * 32 << 10))


def write_large(p, n, size, writer=1):
    """One packet(n) of `size` bytes of padding, in as many chunks as it takes."""
    data = peer.packet(n, size)
    room = p.page - 16 - 8
    target = p.target()
    at = 0
    while at < len(data):
        piece = data[at : at + room]
        flags = (peer.FIRST if at else 0) | (peer.LAST if at + len(piece) < len(data) else 0)
        page, p.next_page = p.next_page, (p.next_page + 1) % p.smb.pages
        p.world.until("a free page", lambda: p.smb.word(page) == 0 or p.closed)
        chunk_id = p.chunk_ids.get(writer, 0)
        p.chunk_ids[writer] = chunk_id + 1
        p.smb.fill(page, writer, chunk_id, [piece], flags)
        p.call("CommitData", pb.put(1, peer.move(page, 0, target)), drop=True)
        at += len(piece)
    p.ask("Sync")


def begin(w, kb, extra=b"", fds=()):
    p, c = large_producer(w), w.consumer()
    c.enable(peer.config(["large"], buffers=((kb, 0),), extra=extra), fds=fds)
    p.until_started()
    return p, c


def large_ones(packets):
    return {peer.number_of(raw): len(raw) for raw in packets if peer.number_of(raw) is not None}


@tap.case("a packet of 64 MB goes out over many frames")
def _():
    with peer.World() as w:
        p, c = begin(w, 80 << 10)
        write_large(p, 1, 64 * MB)
        write_large(p, 2, 100)
        got = large_ones(c.read())
        tap.expect_eq(sorted(got), [1, 2], "packets")
        tap.expect(got[1] > 64 * MB, f"the packet has {got[1]} bytes")
        say_slices(w)


@tap.case("a consumer that stops reading in the middle of a packet of 16 MB holds up nobody")
def _():
    with peer.World() as w:
        p, c = begin(w, 24 << 10)
        write_large(p, 1, 16 * MB)
        before = w.memory_kb()
        c.deaf = True
        read = c.call("ReadBuffers")
        other, watcher = w.producer("other", ["other"]), w.consumer()
        watcher.enable(peer.config(["other"]))
        other.until_started()
        for n in range(50):
            other.write([peer.packet(n)])
            p.ask("Sync")
        tap.expect_eq(list(peer.by_sequence(watcher.read()).values()), [list(range(50))], "the other session")
        write_large(p, 2, 1000)
        grown = w.grown_kb(before)
        tap.expect(grown < 20 << 10, f"memory grew by {grown} KB for a packet of 16384 KB")
        c.deaf = False
        w.until("the end of the read", lambda: read.done or c.closed)
        tap.expect(read.done, "the consumer was dropped")
        packets = [q for raw in read.parts for q in pb.packets(pb.put(1, raw))]
        tap.expect_eq(sorted(large_ones(packets)), [1, 2], "packets, the one written meanwhile too")
        say_slices(w)


def file_config(period_ms=100):
    return pb.put(8, 1) + pb.put(9, period_ms)


def read_file(path):
    """Packets of a trace file; all of it must parse."""
    with open(path, "rb") as f:
        return list(pb.packets(f.read()))


def spoil(p, count, size=20000):
    """Packets 0 .. count - 1, or as many as the session lives for."""
    for n in range(count):
        if not p.instances:
            break
        write_large(p, n, size)


@tap.case("64 MB are drained into a file in slices")
def _():
    with peer.World() as w:
        path = w.stack.path("out")
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        p, c = begin(w, 80 << 10, file_config(60000), [fd])
        for n in range(2100):
            p.write([peer.packet(n, 31000)], drop=True)
        p.ask("Sync")
        c.stop()
        tap.expect_eq(sorted(large_ones(read_file(path))), list(range(2100)), "packets in the file")
        tap.expect_eq(w.traced.poll(), None)
        say_slices(w)
        os.close(fd)


@tap.case("a pipe whose reader stalls holds up its session only, and gets all in the end")
def _():
    with peer.World() as w:
        r, wr = os.pipe()
        p, c = begin(w, 16 << 10, file_config(), [wr])
        os.close(wr)
        spoil(p, 100)
        w.until("the pipe to be full", lambda: any("waits for its reader" in line for line in w.report()))
        before = w.memory_kb()
        other, watcher = w.producer("other", ["other"]), w.consumer()
        watcher.enable(peer.config(["other"]))
        other.until_started()
        for n in range(30):
            other.write([peer.packet(n)])
        tap.expect_eq(list(peer.by_sequence(watcher.read()).values()), [list(range(30))], "the other session")
        tap.expect(w.grown_kb(before) < 8 << 10, "memory grew while the pipe was full")
        end = c.call("DisableTracing")
        data = b""
        os.set_blocking(r, False)
        while not c.enabled.done:
            w.pump(0.01)
            with contextlib.suppress(BlockingIOError):
                data += os.read(r, 1 << 16)
        while piece := os.read(r, 1 << 16):
            data += piece
        os.close(r)
        tap.expect(end.done and c.error() == "", "the session ended well")
        tap.expect_eq(sorted(large_ones(pb.packets(data))), list(range(100)), "packets in the pipe")


def expect_failed(w, c, word):
    error = c.error()
    tap.expect("output file" in error and word in error and "\n" not in error, f"the consumer is told '{error}'")
    tap.expect(any(word in line for line in w.report() if "error: " in line), "the report says why")
    tap.expect(word in w.stack.log_of(w.traced), "the log says why")
    other, watcher = w.producer("other", ["other"]), w.consumer()
    watcher.enable(peer.config(["other"]))
    other.until_started()
    other.write([peer.packet(7)])
    tap.expect_eq(list(peer.by_sequence(watcher.read()).values()), [[7]], "another session goes on")


@tap.case("a full device ends the session and says why")
def _():
    if not os.path.exists("/dev/full"):
        tap.skip("no /dev/full")
    with peer.World() as w:
        fd = os.open("/dev/full", os.O_WRONLY)
        p, c = begin(w, 1024, file_config(), [fd])
        os.close(fd)
        expect_failed(w, c, "No space left")
        tap.expect_eq(len(p.stopped), 1, "the producer is stopped")


@tap.case("a pipe whose reader is gone ends the session and says why")
def _():
    with peer.World() as w:
        r, wr = os.pipe()
        _p, c = begin(w, 1024, file_config(), [wr])
        os.close(wr)
        os.close(r)
        expect_failed(w, c, "Broken pipe")


@tap.case("a disk that fills up ends the session at a packet; what was written stays readable")
def _():
    with peer.World() as w:
        path = w.stack.path("out")
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        limit = 1234567
        resource.prlimit(w.file_host(), resource.RLIMIT_FSIZE, (limit, limit)) # inherited by who writes
        p, c = begin(w, 16 << 10, file_config(), [fd])
        spoil(p, 150)
        expect_failed(w, c, "File too large")
        got = sorted(large_ones(read_file(path)))
        tap.expect_eq(got, list(range(len(got))), "packets in the file")
        tap.expect(40 <= len(got) <= 61, f"{len(got)} packets of 20000 bytes in {limit} bytes")
        tap.expect(os.path.getsize(path) > limit - 20200, "room for another packet was left")
        os.close(fd)


@tap.case("a file system that fills up, mounted for this test alone")
def _():
    if os.getuid() != 0:
        tap.skip("needs root")
    with peer.World() as w:
        mount = w.stack.path("small")
        os.mkdir(mount)
        script = 'mount -t tmpfs -o size=1m none "$0" && : >"$0/out" && echo done && read -r line'
        child = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script, mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            if child.stdout.readline() != b"done\n":
                tap.skip("mounts in a namespace of one's own are not allowed here")
            path = f"/proc/{child.pid}/root{mount}/out"
            fd = os.open(path, os.O_RDWR)
            p, c = begin(w, 16 << 10, file_config(), [fd])
            spoil(p, 150)
            expect_failed(w, c, "No space left")
            got = sorted(large_ones(read_file(path)))
            tap.expect_eq(got, list(range(len(got))), "packets in the file")
            tap.expect(40 <= len(got) <= 53, f"{len(got)} packets of 20000 bytes in 1 MiB")
            os.close(fd)
        finally:
            child.communicate(b"\n")


@tap.case("a mixed load: what the longest slice was")
def _():
    with peer.World() as w:
        fd = os.open(w.stack.path("out"), os.O_RDWR | os.O_CREAT)
        p, c = begin(w, 16 << 10, file_config() + pb.put(24, 1), [fd])
        q, d = w.producer("other", ["other"]), w.consumer()
        d.enable(peer.config(["other"], buffers=((16 << 10, 0),)))
        q.until_started()
        for n in range(600):
            p.write([peer.packet(n, 31000)], drop=True)
            q.write([peer.packet(n, 3000)], drop=True)
            if n % 100 == 50:
                d.read()
            if n % 200 == 150:
                k = w.consumer()
                ok, reply = k.ask("CloneSession", pb.put(1, 2))
                tap.expect(ok and pb.first(reply, 1, 0) == 1, "a clone")
                k.read()
                k.close()
        d.stop()
        c.stop()
        os.close(fd)
        tap.expect_eq(report_number(w, "loop: slices ") > 0, True, "slices are counted")
        say_slices(w)


tap.run()
