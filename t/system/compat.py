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


def write_patched(p, n):
    """packet(n) over two chunks; the size of the message in it comes by a patch, in a commit of its own."""
    packet = peer.packet(n, 2000)
    at = packet.index(b"\xa2\x38") + 2  # the size of for_testing: 2 bytes, sent as 4
    event = pb.first(packet, 900)
    packet = packet[:at] + b"\0\0\0\0" + event
    cut, writer, target = at + 1000, 1, p.target()
    first = p.chunk_ids.get(writer, 0)
    p.chunk_ids[writer] = first + 2
    moves = b""
    for k, (piece, flags) in enumerate(((packet[:cut], peer.LAST | peer.PATCH), (packet[cut:], peer.FIRST))):
        page, p.next_page = p.next_page, (p.next_page + 1) % p.smb.pages
        p.world.until("a free page", lambda page=page: p.smb.word(page) == 0)
        p.smb.fill(page, writer, first + k, [piece], flags)
        moves += pb.put(1, peer.move(page, 0, target))
    p.call("CommitData", moves, drop=True)
    size = len(event)
    redundant = bytes((0x80 | size & 0x7F, 0x80 | size >> 7 & 0x7F, 0x80, 0))
    patch = pb.put(1, at + len(pb.put_varint(cut))) + pb.put(2, redundant)
    p.call("CommitData", pb.put(2, pb.put(1, target) + pb.put(2, writer) + pb.put(3, first) + pb.put(4, patch)), drop=True)


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


@tap.case("R126 to R130: a producer and a consumer of Android P record a complete trace")
def _():
    with peer.World() as w:
        p = OldProducer(w, "old", ["src"])
        c = OldConsumer(w)
        c.enable(peer.config(["src"]))
        p.until_started()
        tap.expect_eq(len(p.smb.map), 128 * 1024, "shared memory, as hinted")
        for n in range(WRITES):
            p.write([peer.packet(n)], drop=True)
        write_patched(p, WRITES)
        tap.expect(c.flush(), "an old producer acknowledges flushes")
        c.stop()
        complete(c.read(), WRITES + 1)
        c.ask("FreeBuffers")


@tap.case("R126 to R130: the same into a file, with a second producer whose memory is told by the config")
def _():
    with peer.World() as w:
        p, q = OldProducer(w, "old", ["src"]), OldProducer(w, "older", ["other"])
        c = OldConsumer(w)
        path = w.stack.path("out")
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        sizes = pb.put(6, pb.put(1, "older") + pb.put(2, 64) + pb.put(3, 8))
        c.enable(peer.config(["src", "other"], extra=pb.put(8, 1) + pb.put(9, 200) + sizes), [fd])
        os.close(fd)
        p.until_started()
        q.until_started()
        tap.expect_eq((len(q.smb.map), q.page), (64 << 10, 8 << 10), "shared memory, as configured")
        for n in range(WRITES):
            p.write([peer.packet(n)], drop=True)
            q.write([peer.packet(n)], drop=True)
        tap.expect(c.flush(), "flush")
        c.stop()
        with open(path, "rb") as f:
            packets = list(pb.packets(f.read()))
        tap.expect_eq(list(peer.by_sequence(packets).values()), [list(range(WRITES))] * 2, "packets")
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


# Which fields of a request are messages, so that those get unknown fields too.
CONFIG_TREE = {1: {}, 2: {1: {}}, 6: {}, 17: {2: {}}, 20: {}}
TREES = {
    "RegisterDataSource": {1: {}},
    "UpdateDataSource": {1: {}},
    "CommitData": {1: {}, 2: {4: {}}},
    "EnableTracing": {1: CONFIG_TREE},
    "ChangeTraceConfig": {1: CONFIG_TREE},
}


def dressed(body, tree, n):
    """A message with unknown fields around it and around the messages in it, which are else left as they are."""
    out, pos = b"", 0
    while pos < len(body):
        tag, at = pb.varint(body, pos)
        if tag & 7 == 2:
            size, at = pb.varint(body, at)
            end = at + size
        else:
            end = {0: lambda: pb.varint(body, at)[1], 1: lambda: at + 8, 5: lambda: at + 4}[tag & 7]()
        nested = tree.get(tag >> 3)
        out += body[pos:end] if nested is None else pb.put(tag >> 3, dressed(body[at:end], nested, n + 1))
        pos = end
    return fields_of_tomorrow(n) + out + fields_of_tomorrow(n + 1)


class Future:
    """Mixed into a peer: before every real message come all the things that the service cannot know."""

    real = 0  # messages, of all peers
    sent = refused = unknown = strange = 0

    def send(self, data, fds=()):
        while len(data) > 4:
            (size,) = struct.unpack_from("<I", data)
            body, data = data[4 : 4 + size], data[4 + size :]
            Future.real += 1
            self.sent += 1
            for stranger in self.strangers(900000 + 10 * Future.real):
                super().send(struct.pack("<I", len(stranger)) + stranger)
            body = self.dress(body)
            super().send(struct.pack("<I", len(body)) + body, fds)
            fds = ()

    def strangers(self, n):
        """Frames of unknown kinds, calls of unknown methods and services, known methods with unknown enum values."""
        yield pb.put(2, n) + pb.put(99, b"a kind of frame that is to come")
        yield pb.put(2, n + 1) + pb.put(3, pb.put(1, "TelepathyPort"))
        self.strange += 1
        yield pb.put(2, n + 2) + pb.put(5, pb.put(1, 77) + pb.put(2, 1) + pb.put(3, b""))
        yield pb.put(1, b"for testing") + pb.put(8, pb.put(1, 1) + pb.put(2, 12345))
        yield b""
        if self.methods:
            for k, method in enumerate((len(self.methods) + 1, 77, 0)):
                self.strange += 1
                yield pb.put(2, n + 3 + k) + pb.put(5, pb.put(1, self.service_id) + pb.put(2, method) + pb.put(3, b"\x08\x01") + pb.put(4, k % 2))
            name, args = self.odd_call
            yield pb.put(2, n + 6) + pb.put(5, pb.put(1, self.service_id) + pb.put(2, self.methods[name]) + pb.put(3, args) + pb.put(4, 1))

    def dress(self, body):
        """The same frame with unknown fields in the frame, in the call, and in its arguments at every level."""
        n, out = Future.real, b""
        for number, value in pb.fields(body):
            if number == 5:
                called = {v: k for k, v in self.methods.items()}[pb.first(value, 2)]
                call = b"".join(pb.put(k, dressed(v, TREES.get(called, {}), n) if k == 3 else v) for k, v in pb.fields(value))
                value = call + fields_of_tomorrow(n + 2)
            out += pb.put(number, value)
        return fields_of_tomorrow(n + 3) + out

    def take(self, body):
        request = pb.first(body, 2, 0)
        # The answer to a bind of an unknown service must not undo our own.
        bound = pb.first(body, 4)
        if bound is not None and not pb.first(bound, 1, 0):
            self.refused += 1
            return
        if request > 900000:
            reply = pb.first(body, 6)
            tap.expect(reply is None or not pb.first(reply, 1, 0), f"something unknown succeeded: {body.hex()}")
            self.unknown += reply is not None
        super().take(body)

    def believed(self):
        """The service took what it knows and answered all the rest as the rules say (R37, R43, R50)."""
        tap.expect(self.ask(self.last_word)[0], self.last_word)
        got = (len(self.errors), self.refused, self.unknown)
        tap.expect_eq(got, (self.sent, self.sent, self.strange), "answers to unknown kinds of frames, services and methods")


class FutureProducer(Future, peer.Producer):
    last_word = "Sync"
    odd_call = ("NotifyDataSourceStarted", pb.put(1, 123456) + fields_of_tomorrow(6))

    def register(self, name, extra=b""):
        super().register(name, pb.put(2, 1) + pb.put(3, 1) + fields_of_tomorrow(5) + extra)


class FutureConsumer(Future, peer.Consumer):
    last_word = "QueryCapabilities"
    odd_call = ("QueryServiceState", pb.put(1, 1) + fields_of_tomorrow(6))


@tap.case("R131, T-E2: a producer and a consumer of the future record a complete trace")
def _():
    with peer.World() as w:
        # Enum values that do not exist yet: scraping mode 17, and in the config a fill policy, a lockdown mode, a
        # compression, a file flush, a data source's buffer_exhausted_policy; unknown fields at every level.
        p = FutureProducer(w, "future", ["src"], init=pb.put(4, 17))
        c = FutureConsumer(w)
        source = pb.put(1, "src") + pb.put(9, 99) + fields_of_tomorrow(3)
        conf = (
            pb.put(1, pb.put(1, 1024) + pb.put(4, 57) + pb.put(8, 23))
            + pb.put(2, pb.put(1, source))
            + pb.put(5, 88)
            + pb.put(24, 99)
            + pb.put(45, 7)
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
        p.believed()
        c.believed()


@tap.case("R131: every method of both ports, called by peers of the future, works as ever")
def _():
    with peer.World() as w:
        p, c = FutureProducer(w, "future", ["src", "more"]), FutureConsumer(w)
        for method in ("QueryCapabilities", "QueryServiceState", "SaveTraceForBugreport"):
            tap.expect(c.ask(method)[0], method)
        seen = c.call("ObserveEvents", pb.put(1, 1) + pb.put(1, 2) + pb.put(1, 1 << 20))
        stop_by_trigger = pb.put(17, pb.put(1, 2) + pb.put(2, pb.put(1, "now") + pb.put(4, 1)) + pb.put(3, 60000))
        source = pb.put(1, "src") + pb.put(2, 0)
        conf = peer.config(extra=pb.put(2, pb.put(1, source) + pb.put(2, "nobody")) + pb.put(12, 1) + pb.put(22, "name"))
        c.enable(conf)
        tap.expect(c.ask("ChangeTraceConfig", pb.put(1, pb.put(1, pb.put(1, 1024)) + pb.put(2, pb.put(1, source))))[0], "ChangeTraceConfig")
        tap.expect(c.ask("StartTracing")[0], "StartTracing")
        p.until_started()
        w.until("the events", lambda: any(pb.first(pb.message(x, 1), 2) for x in seen.parts))
        tap.expect(p.ask("UpdateDataSource", pb.put(1, pb.put(1, "more") + pb.put(9, 1)))[0], "UpdateDataSource")
        tap.expect(p.ask("RegisterTraceWriter", pb.put(1, 1) + pb.put(2, p.target()))[0], "RegisterTraceWriter")
        for n in range(WRITES):
            p.write([peer.packet(n)])
        write_patched(p, WRITES)
        tap.expect(c.flush(), "Flush")
        tap.expect(pb.first(c.ask("GetTraceStats")[1], 1), "GetTraceStats")
        d = FutureConsumer(w)
        ok, reply = d.ask("CloneSession", pb.put(4, "name"))
        tap.expect(ok and pb.first(reply, 1), f"CloneSession: {reply}")
        tap.expect_eq(numbers(d.read()), list(range(WRITES + 1)), "packets of the clone")
        tap.expect(c.ask("Detach", pb.put(1, "key"))[0], "Detach")
        tap.expect(c.ask("Attach", pb.put(1, "key"))[0], "Attach")
        c.enabled = c.call("EnableTracing", pb.put(2, 1))
        c.stop()
        complete(c.read(), WRITES + 1)
        tap.expect(c.ask("FreeBuffers")[0], "FreeBuffers")
        for method, args in (("UnregisterTraceWriter", pb.put(1, 1)), ("UnregisterDataSource", pb.put(1, "more")), ("Sync", b"")):
            tap.expect(p.ask(method, args)[0], method)
        p.instances = {}
        c.enable(peer.config(["src"], extra=stop_by_trigger))
        p.until_started()
        p.write([peer.packet(0)], writer=2)
        tap.expect(p.ask("ActivateTriggers", pb.put(1, "now"))[0], "ActivateTriggers")
        tap.expect_eq(c.error(), "", "how the session ended")
        tap.expect_eq(numbers(c.read()), [0], "packets")
        for x in (p, c, d):
            x.believed()


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
