#!/usr/bin/env python3
"""The way out: large packets to slow consumers and into files that stall, fill up or fail."""

import contextlib
import os
import resource
import sys
import time

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
    lines = [line for line in w.report() if line.startswith("loop: ")]
    print("# " + "; ".join(line[len("loop: ") :] for line in lines if "slice" in line))


def large_producer(w, name="large"):
    """A producer with pages of 32 KiB."""
    return w.producer(name, [name], init=pb.put(4, PAGE_KB << 10) + pb.put(5, PAGE_KB * 32 << 10))


def write_large(p, n, size, writer=1):
    """One packet(n) of `size` bytes of padding, in as many chunks as it takes."""
    data = peer.packet(n, size)
    room = p.page - 16 - 8
    at = 0
    while at < len(data):
        piece = data[at : at + room]
        flags = (peer.FIRST if at else 0) | (peer.LAST if at + len(piece) < len(data) else 0)
        page, p.next_page = p.next_page, (p.next_page + 1) % p.smb.pages
        p.world.until("a free page", lambda: p.smb.word(page) == 0 or p.closed)
        chunk_id = p.chunk_ids.get(writer, 0)
        p.chunk_ids[writer] = chunk_id + 1
        p.smb.fill(page, writer, chunk_id, [piece], flags)
        p.call("CommitData", pb.put(1, peer.move(page, 0, p.target())), drop=True)
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


if __name__ == "__main__":
    tap.run()
