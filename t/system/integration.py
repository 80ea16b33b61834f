#!/usr/bin/env python3
"""Whole sessions over real sockets, as service.md section 18 has them: a producer and a consumer that are
written by hand, and a private service between them."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import peer
import tap


@tap.case("T50b: a session over the socket, read while it traces")
def _():
    with peer.World() as w:
        p, c = w.producer("perfetto.test", sources=["other", "src"]), w.consumer()
        conf = peer.config(sources=["src"], extra=pb.put(77777, "an unknown field"))
        c.enable(conf)
        p.until_started()
        (instance,) = p.instances
        tap.expect(instance > 0 and p.target() > 0, "instance and buffer ids are not 0")
        tap.expect_eq(p.setups[instance], p.instances[instance], "the configs of setup and start")
        for n in range(200):
            p.write([peer.packet(n, pad=n)])
        packets = c.read()
        tap.expect_eq([peer.number_of(k) for k in packets if peer.number_of(k) is not None], list(range(200)), "packets")
        clocks = [pb.first(k, 6) for k in packets if pb.first(k, 6) is not None]
        tap.expect(len(clocks) >= 2, f"{len(clocks)} clock snapshots")
        for snapshot in clocks:
            ids = [pb.first(one, 1) for one in pb.every(snapshot, 1)]
            tap.expect(len(ids) >= 6 and ids[:6] == [6, 2, 4, 1, 3, 5], f"clocks {ids}")
            tap.expect(all(pb.first(one, 2, 0) > 0 for one in pb.every(snapshot, 1)), "a clock without a reading")
        echo = [pb.first(k, 33) for k in packets if pb.first(k, 33) is not None]
        tap.expect_eq(echo, [conf], "trace_config")
        tap.expect(pb.first(packets[-1], 35) is not None, "the last packet has the statistics")
        p.write([peer.packet(200)])
        c.stop()
        tap.expect_eq([n for k in c.read() if (n := peer.number_of(k)) is not None], [200], "what came after the read")


@tap.case("T61b: a producer that wants scraping is scraped by a flush, though the service's default is off")
def _():
    with peer.World() as w:
        c = w.consumer()
        scraped = w.producer("scraped", sources=["src"], init=pb.put(4, 1))
        default = w.producer("default", sources=["src"])
        c.enable(peer.config(sources=["src"]))
        for p in (scraped, default):
            p.until_started()
            p.ask("RegisterTraceWriter", pb.put(1, 7) + pb.put(2, p.target()))
            p.smb.fill(0, 7, 0, [peer.packet(1), peer.packet(2)])
            p.smb.fill(1, 7, 1, [peer.packet(3), peer.packet(4)], state=peer.WRITING)
        tap.expect_eq([n for k in c.read() if (n := peer.number_of(k)) is not None], [], "before the flush")
        tap.expect(c.flush(), "the flush is acknowledged by both")
        tap.expect_eq([n for k in c.read() if (n := peer.number_of(k)) is not None], [1, 2, 3], "after it")
        for p in (scraped, default):
            tap.expect_eq(len(p.flushes), 1, p.name)


tap.run()
