"""Peers of another age against our service: the oldest that there are, and some that are still to come."""

import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import peer
import tap

WRITES = 30


def numbers(packets):
    found = peer.by_sequence(packets)
    tap.expect_eq(len(found), 1, "sequences")
    return next(iter(found.values()))


def complete(packets, n):
    """The whole trace: our packets in order, and what every trace begins with."""
    tap.expect_eq(numbers(packets), list(range(n)), "packets")
    for field, what in ((6, "clock snapshot"), (33, "trace config"), (36, "synchronization marker"), (35, "statistics")):
        tap.expect(any(pb.first(p, field) is not None for p in packets), f"no {what} in the trace")
    ours = [p for p in packets if peer.number_of(p) is not None]
    tap.expect(all(pb.first(p, 3) == os.getuid() for p in ours), "uid of the packets")
    tap.expect(all(pb.first(p, 42, 0) == 0 for p in ours), "no packet says that others were lost")


# ---- the past: Android P (ipc.md R128: nothing of Q and later)

OLD_PRODUCER = peer.PRODUCER_METHODS[:5]
OLD_CONSUMER = peer.CONSUMER_METHODS[:5]


class OldProducer(peer.Producer):
    """Knows five methods, starts and stops, and flushes; no setup, no patching in place, no Sync."""

    notify = False

    def bind(self, name):
        super().bind(name)
        self.methods = {m: self.methods[m] for m in OLD_PRODUCER}

    def on_setup(self, body):
        pass  # a command that it has never heard of (R92, R129)

    def register(self, name, extra=b""):
        super().register(name, extra)

    def initialize(self, init=b"", fds=()):
        # Android P writes its name and a size hint.
        return super().initialize(pb.put(2, 128 * 1024))


class OldConsumer(peer.Consumer):
    def bind(self, name):
        super().bind(name)
        self.methods = {m: self.methods[m] for m in OLD_CONSUMER}


@tap.case("R126-R130: a producer and a consumer of Android P record a complete trace")
def _():
    with peer.World() as w:
        p = OldProducer(w, "old", ["src"])
        c = OldConsumer(w)
        c.enable(peer.config(["src"]))
        p.until_started()
        tap.expect_eq(len(p.smb.map), 128 * 1024, "shared memory, as hinted")
        for n in range(WRITES):
            p.write([peer.packet(n)], drop=True)
        tap.expect(c.flush(), "an old producer acknowledges flushes")
        c.stop()
        complete(c.read(), WRITES)
        c.ask("FreeBuffers")


@tap.case("R129: what an old producer needs is in start_data_source, equal to the setup")
def _():
    with peer.World() as w:
        p = w.producer("p", ["src"])
        c = w.consumer()
        c.enable(peer.config(["src"]))
        p.until_started()
        tap.expect_eq(p.setups, p.instances, "configs of setup and start")
        c.stop()


@tap.case("an old producer that acknowledges no stop is waited for no longer than it said")
def _():
    with peer.World() as w:
        p = OldProducer(w, "old", ["src"])
        c = w.consumer()
        c.enable(peer.config(["src"]))
        p.until_started()
        c.stop()  # will_notify_on_stop was never set


@tap.case("R88, R97: old methods missing on our side are nobody's business: a late Sync and all others are there")
def _():
    with peer.World() as w:
        p, c = w.producer(), w.consumer()
        tap.expect_eq(sorted(p.methods), sorted(peer.PRODUCER_METHODS), "producer methods")
        tap.expect_eq(sorted(c.methods), sorted(peer.CONSUMER_METHODS), "consumer methods")
        for methods, names in ((p.methods, peer.PRODUCER_METHODS), (c.methods, peer.CONSUMER_METHODS)):
            tap.expect_eq([methods[n] for n in names], list(range(1, len(names) + 1)), "ids in order")
        tap.expect(p.ask("Sync")[0], "Sync succeeds")


# ---- the future


def fields_of_tomorrow(seed):
    """Unknown fields of every wire type, in numbers that no message of ours has."""
    base = 30000 + seed % 7
    return (
        pb.put(base, seed)
        + pb.put(base + 10, b"not yet invented" * 3)
        + pb.put_varint((base + 20) << 3 | 1) + struct.pack("<Q", seed)
        + pb.put_varint((base + 30) << 3 | 5) + struct.pack("<I", seed)
    )


class Future:
    """Mixed into a peer: before every real message comes what the service cannot know."""

    strange = 0  # counts over all peers
    refused = 0

    def send(self, data, fds=()):
        while len(data) > 4:
            (size,) = struct.unpack_from("<I", data)
            body, data = data[4 : 4 + size], data[4 + size :]
            self.stranger()
            dressed = self.dress(body)
            super().send(struct.pack("<I", len(dressed)) + dressed, fds)
            fds = ()

    def stranger(self):
        """Frames of an unknown kind, calls of unknown methods, an unknown service, an empty frame."""
        Future.strange += 1
        n = Future.strange
        choice = n % 5
        if choice == 0:
            body = pb.put(2, 900000 + n) + pb.put(99, b"a kind of frame that is to come")
        elif choice == 1 and self.methods:
            body = pb.put(2, 900000 + n) + pb.put(5, pb.put(1, self.service_id) + pb.put(2, 77) + pb.put(3, b"\x08\x01"))
        elif choice == 2:
            body = pb.put(2, 900000 + n) + pb.put(3, pb.put(1, "TelepathyPort"))
        elif choice == 3:
            body = pb.put(1, b"for testing") + pb.put(2, 900000 + n) + pb.put(8, pb.put(1, 1) + pb.put(2, 12345))
        else:
            body = b""
        super().send(struct.pack("<I", len(body)) + body)

    def dress(self, body):
        """The same frame with unknown fields in the frame, in the call and in its arguments."""
        n, out = Future.strange, b""
        for number, value in pb.fields(body):
            if number == 5:
                call = b""
                for k, v in pb.fields(value):
                    if k == 3:
                        v = fields_of_tomorrow(n) + v + fields_of_tomorrow(n + 1)
                    call += pb.put(k, v)
                value = call + fields_of_tomorrow(n + 2)
            out += pb.put(number, value)
        return fields_of_tomorrow(n + 3) + out

    def take(self, body):
        # The answer to a bind of an unknown service must not undo our own.
        bound = pb.first(body, 4)
        if bound is not None and not pb.first(bound, 1, 0):
            self.refused += 1
            return
        super().take(body)


class FutureProducer(Future, peer.Producer):
    def register(self, name, extra=b""):
        super().register(name, pb.put(2, 1) + pb.put(3, 1) + fields_of_tomorrow(5))


class FutureConsumer(Future, peer.Consumer):
    pass


@tap.case("R131: a producer and a consumer of the future record a complete trace")
def _():
    with peer.World() as w:
        # Enum values that do not exist yet: scraping mode 17, and in the config a fill policy, a lockdown mode,
        # a data source's buffer_exhausted_policy; unknown fields at every level of the config.
        p = FutureProducer(w, "future", ["src"], init=pb.put(4, 17))
        c = FutureConsumer(w)
        source = pb.put(1, "src") + pb.put(9, 99) + fields_of_tomorrow(3)
        conf = (
            pb.put(1, pb.put(1, 1024) + pb.put(4, 57) + fields_of_tomorrow(1))
            + pb.put(2, pb.put(1, source) + fields_of_tomorrow(2))
            + pb.put(5, 88)
            + fields_of_tomorrow(4)
        )
        c.enable(conf)
        p.until_started()
        tap.expect(fields_of_tomorrow(3) in next(iter(p.instances.values())), "unknown fields of a config reach the producer")
        for n in range(WRITES):
            p.write([peer.packet(n) + fields_of_tomorrow(n)])
        tap.expect(c.flush(), "flush")
        c.call("ObserveEvents", pb.put(1, 1 << 20) + pb.put(1, 1 << 30))
        c.stop()
        packets = c.read()
        complete(packets, WRITES)
        kept = [q for q in packets if peer.number_of(q) is not None]
        tap.expect(all(fields_of_tomorrow(n) in q for n, q in enumerate(kept)), "unknown fields of packets are kept")
        tap.expect(len(p.errors) + len(c.errors) > 5, "unknown kinds of frames are answered with an error (R37)")
        tap.expect(p.refused + c.refused > 3, "unknown services are refused (R43)")
        tap.expect(not p.closed and not c.closed, "nobody was closed")


@tap.case("a config of the future, echoed in the trace, keeps what we do not know")
def _():
    with peer.World() as w:
        c = FutureConsumer(w)
        c.enable(peer.config(extra=fields_of_tomorrow(6)))
        c.stop()
        echoed = [pb.first(p, 33) for p in c.read() if pb.first(p, 33) is not None]
        tap.expect_eq(len(echoed), 1, "configs in the trace")
        tap.expect(fields_of_tomorrow(6) in echoed[0], "unknown fields")


tap.run()
