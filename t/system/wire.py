"""The rules of the socket protocol that a peer can see, by their number in ipc.md (I), on the real sockets.

What other scripts show already is not repeated: hazards.py has what must not harm us, compat.py the ages,
daemon.py sockets and identities, fairness.py deadlines; t/ipc has frames, calls and connections.
"""

import fcntl
import os
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import peer
import stack
import tap

ALL_MACHINES = pb.put(43, 1)  # TraceConfig.trace_all_machines
SLICE_MAX = 130992  # I-R102


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Log:
    """Mixed into a peer: keeps every frame of the service."""

    def take(self, body):
        self.log = getattr(self, "log", [])
        self.log.append(body)
        super().take(body)

    def replies(self, request):
        """Fields of each reply to a request, as they are on the wire."""
        return [list(pb.fields(pb.first(f, 6))) for f in self.log if pb.first(f, 2, 0) == request and pb.first(f, 6) is not None]

    def reply(self, method, args=b""):
        """Calls, and gives the last reply's fields as they are on the wire."""
        self.ask(method, args)
        return self.replies(self.requests)[-1]


class Producer(Log, peer.Producer):
    def on_setup(self, body):
        self.note("setup", pb.first(body, 1), pb.message(body, 2))
        super().on_setup(body)

    def on_start(self, body):
        self.note("start", pb.first(body, 1), pb.message(body, 2))
        super().on_start(body)

    def on_stop(self, body):
        self.note("stop", pb.first(body, 1))
        super().on_stop(body)

    def on_memory(self, body):
        self.note("memory", body, len(self.fds))
        super().on_memory(body)

    def note(self, *what):
        self.order = getattr(self, "order", [])
        self.order.append(what)


class Consumer(Log, peer.Consumer):
    pass


REJECTED = [(2, 0)]  # I-R56
EMPTY = [(1, 1), (2, 0), (3, b"")]  # I-R55, I-R96


def numbers(packets):
    return sorted(peer.by_sequence(packets).values())


# ---- bytes


def exchange(sock, text):
    """Sends the hex of ipc.md, and gives one whole frame."""
    sock.sendall(bytes.fromhex(text))
    head = sock.recv(4, socket.MSG_WAITALL)
    return head + sock.recv(struct.unpack("<I", head)[0], socket.MSG_WAITALL)


@tap.case("I-17: the byte examples, sent and answered as they are printed")
def _():
    with peer.World() as w:
        sock = peer.connect(w.stack.path("producer.sock"))
        sock.settimeout(stack.PATIENCE)
        bound = exchange(sock, "12000000 1001 1A0E 0A0C 50726F6475636572506F7274")
        start = "1E010000 1001 229902 0801 1001 1A18 0801 1214 496E697469616C697A65436F6E6E656374696F6E 1A"
        tap.expect_eq(bound[: len(bytes.fromhex(start))].hex(), bytes.fromhex(start).hex(), "the start of the bind reply")
        tap.expect_eq(exchange(sock, "09000000 1001 1A05 0A03 466F6F").hex(), "0400000010012200", "bind of a service that is none")
        tap.expect_eq(exchange(sock, "0C000000 1002 2A08 0801 100B 1A00 2000").hex(), "06000000100232021000", "Sync before InitializeConnection")
        exchange(sock, "0F000000 1001 2A0B 0801 1001 1A03 1A0178 2000")
        tap.expect_eq(exchange(sock, "0C000000 1002 2A08 0801 100B 1A00 2000").hex(), "0a0000001002320608011000" + "1a00", "Sync")
        tap.expect_eq(exchange(sock, "0C000000 1002 2A08 0801 102A 1A00 2000").hex(), "06000000100232020800", "method 42")
        tap.expect_eq(exchange(sock, "02000000 1009").hex(), "1500000010093a110a0f756e6b6e6f776e2072657175657374", "a frame of no kind")
        sock.close()
        c = w.consumer()
        c.enable(peer.config())
        c.stop()


@tap.case("I-R20, I-R42, I-R44: which service is on which socket, under which id, with which methods")
def _():
    address = f"127.0.0.1:{free_port()}"
    w = peer.World("--enable-relay-endpoint", env={"PERFETTO_PRODUCER_SOCK_NAME": address})
    with w:
        for where, found in (
            (address, {"ProducerPort": (1, peer.PRODUCER_METHODS), "RelayPort": (2, ["InitRelay", "SyncClock"])}),
            (w.stack.path("consumer.sock"), {"ConsumerPort": (1, peer.CONSUMER_METHODS)}),
        ):
            for name in ("ProducerPort", "RelayPort", "ConsumerPort", "producer_port", "perfetto.protos.ProducerPort", "ProducerPort\0", ""):
                p = peer.Peer(w, where, None)
                p.bind(name)
                number, methods = found.get(name, (0, []))
                tap.expect_eq((p.service_id, p.methods), (number, {m: n + 1 for n, m in enumerate(methods)}), f"{name} on {where}")


# ---- producers


@tap.case("I-R84, I-R86, I-R89: introduction, command stream and Sync in one write are served in that order")
def _():
    with peer.World() as w:
        p = Producer(w, "p", start=False)
        data = b""
        for request, method, args in ((11, 1, pb.put(3, "p")), (12, 5, b""), (13, 11, b"")):
            data += peer.frame(request, 5, pb.put(1, p.service_id) + pb.put(2, method) + pb.put(3, args) + pb.put(4, 0))
        p.send(data)
        w.until("the reply to Sync", lambda: p.replies(13))
        tap.expect_eq([pb.first(f, 2) for f in p.log[1:]], [11, 13], "replies; the stream has nothing to say yet")
        tap.expect_eq(p.replies(13), [EMPTY], "the reply to Sync")


@tap.case("I-R85: the reply to InitializeConnection; a second one is rejected and changes nothing")
def _():
    with peer.World() as w:
        p = Producer(w, "first", start=False)
        ok, has_more, reply = p.reply("InitializeConnection", pb.put(1, 0) + pb.put(2, 0) + pb.put(3, "first") + pb.put(8, "v1"))
        tap.expect_eq((ok, has_more), ((1, 1), (2, 0)), "the reply")
        tap.expect_eq(list(pb.fields(reply[1])), [(1, 0), (2, 1), (3, 0)], "own memory, patching, no emulation")
        tap.expect_eq(p.reply("InitializeConnection", pb.put(3, "second")), REJECTED, "the second one")
        (state,) = pb.every(w.consumer().state(), 1)
        tap.expect_eq((pb.first(state, 2), pb.first(state, 4)), (b"first", b"v1"), "name and version")
        tap.expect_eq(p.reply("Sync"), EMPTY, "it goes on")


@tap.case("I-R89, I-R90, T-E1: memory once and first, then setup, start and stop of each instance, with one id and one config")
def _():
    with peer.World() as w:
        p = Producer(w, "p", ["a", "b"])
        tap.expect_eq(p.ask("Sync")[0] and getattr(p, "order", []), [], "commands before there is a session")
        for session in (1, 2):
            p.order = []
            c = w.consumer()
            c.enable(peer.config(["a", "b"]))
            p.until_started(2)
            c.stop()
            kinds = [x[0] for x in p.order]
            if session == 1:
                tap.expect_eq(p.order.pop(0), ("memory", pb.put(1, 4), 1), "the announcement: page size, one descriptor")
            tap.expect("memory" not in kinds[1:] and (session == 1 or kinds[0] != "memory"), f"announced again: {kinds}")
            ids = {x[1] for x in p.order}
            tap.expect_eq((len(ids), 0 in ids, None in ids), (2, False, False), "ids of two instances")
            for n in ids:
                mine = [x for x in p.order if x[1] == n]
                tap.expect_eq([x[0] for x in mine], ["setup", "start", "stop"], "commands of an instance")
                tap.expect_eq(mine[0][2], mine[1][2], "config of setup and start")
                tap.expect(0 < pb.first(mine[0][2], 2, 0) <= 65535, "target buffer")
            c.ask("FreeBuffers")


def provided(w, name, records):
    """A producer with memory of its own, in which records have been written before it connects."""
    fd = os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, 1 << 20)
    fcntl.fcntl(fd, 1033, 0x7)  # F_ADD_SEALS: SEAL, SHRINK, GROW
    smb = peer.Smb(fd)
    smb.fill(0, 1, 0, records)
    p = Producer(w, name, [name], init=pb.put(1, 4096) + pb.put(6, 1), fds=[fd])
    os.close(fd)
    p.smb, p.next_page = smb, 1
    p.chunk_ids[1] = 1
    return p


@tap.case("I-R90, I-R68, T-E8: memory of the producer is announced empty and at once; what was in it before is in the trace")
def _():
    with peer.World() as w:
        p = provided(w, "own", [peer.packet(0), peer.packet(1)])
        w.until("the announcement", lambda: getattr(p, "order", []))
        tap.expect_eq(p.order, [("memory", b"", 0)], "the announcement")
        c = w.consumer()
        c.enable(peer.config(["own"]))
        p.until_started()
        tap.expect(p.ask("CommitData", pb.put(1, peer.move(0, 0, p.target())))[0], "a commit")
        p.write([peer.packet(2)])
        c.stop()
        tap.expect_eq(numbers(c.read()), [[0, 1, 2]], "packets")
        tap.expect_eq([x[0] for x in p.order].count("memory"), 1, "announcements")


@tap.case("I-11, I-R96, S-R86: before the introduction every call is rejected, afterwards every one has an empty reply if it is asked for")
def _():
    calls = (
        ("RegisterDataSource", pb.put(1, pb.put(1, "a") + pb.put(8, 7))),
        ("RegisterDataSource", b""),  # no descriptor: ignored, and answered the same
        ("UpdateDataSource", pb.put(1, pb.put(1, "a") + pb.put(8, 7))),
        ("UpdateDataSource", pb.put(1, pb.put(1, "no such"))),
        ("RegisterTraceWriter", pb.put(1, 1) + pb.put(2, 1)),
        ("UnregisterTraceWriter", pb.put(1, 1)),
        ("NotifyDataSourceStarted", pb.put(1, 12345)),
        ("NotifyDataSourceStopped", pb.put(1, 12345)),
        ("ActivateTriggers", pb.put(1, "nobody waits for it")),
        ("UnregisterDataSource", pb.put(1, "a")),
        ("Sync", b""),
    )
    with peer.World() as w:
        p = Producer(w, "p", start=False)
        for method, args in calls:
            tap.expect_eq(p.reply(method, args), REJECTED, f"{method} too early")
        tap.expect_eq(p.reply("GetAsyncCommand"), REJECTED, "GetAsyncCommand too early")
        tap.expect_eq(p.reply("CommitData"), REJECTED, "CommitData too early")
        p.initialize()
        for method, args in calls:
            tap.expect_eq(p.reply(method, args), EMPTY, method)
        tap.expect_eq(p.reply("CommitData", pb.put(3, 1)), REJECTED, "CommitData before there is memory")
        state = w.consumer().state()
        tap.expect_eq(pb.every(state, 2), [], "data sources that are left")


@tap.case("I-R98, S-R94: in one CommitData chunks, then patches, then the acknowledgement (smb.md section 11, with short sizes)")
def _():
    with peer.World() as w:
        p, c = w.producer("p", ["src"]), w.consumer()
        c.enable(peer.config(["src"]))
        p.until_started()
        p.mute = True
        flush = c.call("Flush")
        w.until("the flush", lambda: p.flushes)
        event = b"\x0a" + pb.put_varint(2100) + b"x" * 2100
        one = b"\x40\x65\xa2\x38" + b"\0\0\0\0" + event
        p.smb.fill(0, 7, 0, [b"\xb8\x05\x01\x40\x64", one[:2026]], peer.LAST | peer.PATCH)
        p.smb.fill(1, 7, 1, [one[2026:], b"\x40\x66", b""], peer.FIRST)
        moves = b"".join(pb.put(1, peer.move(n, 0, p.target())) for n in (0, 1))
        patch = pb.put(1, p.target()) + pb.put(2, 7) + pb.put(3, 0) + pb.put(4, pb.put(1, 12) + pb.put(2, b"\xb7\x90\x80\x00"))
        p.call("CommitData", pb.put(3, p.flushes[-1]) + pb.put(2, patch) + moves)
        w.until("the end of the flush", lambda: flush.done)
        tap.expect(flush.ok, "the flush")
        own = [pb.fields(q) for q in c.read() if pb.first(q, 8, 0) in (100, 101, 102)]
        own = [[(n, v) for n, v in q if n in (8, 900, 87)] for q in own]
        tap.expect_eq(own, [[(87, 1), (8, 100)], [(8, 101), (900, event)], [(8, 102)]], "packets")
        p.mute = False
        c.stop()


@tap.case("I-R99: a producer that goes leaves its data; a stop does not wait for it, a flush ends as failed")
def _():
    with peer.World() as w:
        p, c = w.producer("p", ["src"]), w.consumer()
        c.enable(peer.config(["src"]))
        p.until_started()
        p.mute = True
        p.write([peer.packet(0)])
        flush = c.call("Flush", pb.put(1, 300))
        w.until("the flush", lambda: p.flushes)
        p.close()
        w.until("the end of the flush", lambda: flush.done)
        tap.expect(not flush.ok, "a flush without an answer is rejected")
        q = w.producer("q", ["src"])
        q.until_started()
        q.mute = True
        c.call("DisableTracing")
        w.until("the stop", lambda: q.stopped)
        tap.expect(not c.enabled.done, "a stop waits for who is there")
        q.close()
        tap.expect_eq(c.error(), "", "how the session ended")
        tap.expect_eq(numbers(c.read()), [[0]], "packets")


@tap.case("I-R110: what was sent whole before the connection closed is done")
def _():
    with peer.World() as w:
        c = w.consumer()
        c.enable(peer.config(["src"]))
        p = w.producer("p", ["src"])
        p.until_started()
        p.smb.fill(0, 1, 0, [peer.packet(0)])
        head = pb.put(1, p.service_id)
        commit = head + pb.put(2, 4) + pb.put(3, pb.put(1, peer.move(0, 0, p.target()))) + pb.put(4, 1)
        p.send(peer.frame(90, 5, commit) + peer.frame(91, 5, head + pb.put(2, 11) + pb.put(3, b"") + pb.put(4, 0)) + b"\x40\0\0")
        p.close()
        w.until("the producer to be gone", lambda: not pb.every(w.consumer().state(), 1))
        c.stop()
        tap.expect_eq(numbers(c.read()), [[0]], "packets")


# ---- consumers


@tap.case("I-R100, I-12: every method without a session")
def _():
    with peer.World() as w:
        c = Consumer(w)
        for method, args in (("StartTracing", b""), ("ChangeTraceConfig", pb.put(1, peer.config())), ("DisableTracing", b""), ("FreeBuffers", b"")):
            tap.expect_eq(c.reply(method, args), EMPTY, method)
        for method, args in (("Flush", b""), ("Detach", pb.put(1, "k")), ("Attach", pb.put(1, "k")), ("GetTraceStats", b"")):
            tap.expect_eq(c.reply(method, args), REJECTED, method)
        tap.expect_eq(c.reply("ReadBuffers"), EMPTY, "ReadBuffers")
        ok, _, reply = c.reply("CloneSession", pb.put(1, 77))
        tap.expect_eq((ok, pb.first(reply[1], 1, 0)), ((1, 1), 0), "CloneSession of nothing: success of the call, not of the clone")
        tap.expect(pb.first(reply[1], 2), "its error")
        _, _, reply = c.reply("SaveTraceForBugreport")
        text = b"SaveTraceForBugreport is deprecated. Use CloneSession(kBugreportSessionId) instead."
        tap.expect_eq((pb.first(reply[1], 1, 0), pb.first(reply[1], 2)), (0, text), "SaveTraceForBugreport")


@tap.case("I-R107: capabilities")
def _():
    with peer.World() as w:
        ok, reply = w.consumer().ask("QueryCapabilities")
        found = list(pb.fields(pb.first(reply, 1)))
        tap.expect_eq([v for n, v in found if n == 2], [1, 2, 4], "observable events")
        tap.expect_eq(sorted(n for n, v in found if n != 2 and v == 1), [1, 3, 4], "what the service can")


@tap.case("I-R101, I-R60: EnableTracing is answered at the end; a second one is refused and leaves the first session alone")
def _():
    with peer.World() as w:
        p, c = w.producer("p", ["src"]), Consumer(w)
        first = c.enable(peer.config(["src"]))
        one = c.requests
        p.until_started()
        tap.expect(not first.done, "an answer before the end")
        second = c.enable(peer.config())
        w.until("both answers", lambda: first.done and second.done)
        tap.expect_eq(c.replies(one), [REJECTED], "the older request")
        tap.expect(c.error(), "the newer one says why")
        p.write([peer.packet(0)])
        c.call("EnableTracing", pb.put(2, 1))  # attach_notification_only: who is told the end
        last = c.requests
        tap.expect_eq(c.reply("DisableTracing"), EMPTY, "DisableTracing")
        w.until("the end", lambda: c.replies(last))
        tap.expect_eq([list(pb.fields(r[2][1])) for r in c.replies(last)], [[(1, 1)]], "disabled, and no error")
        tap.expect_eq(numbers(c.read()), [[0]], "packets of the session")


@tap.case("I-R101, I-R68: a descriptor is taken by a session that writes into a file without a path, and by no other")
def _():
    with peer.World() as w:
        path = w.stack.path("out")
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        c = w.consumer()
        c.enable(peer.config(), fds=[fd])  # leaves it in the slot
        os.close(fd)
        c.stop()
        c.ask("FreeBuffers")
        c.enable(peer.config(extra=pb.put(8, 1)))  # takes it (I-R65)
        c.stop()
        with open(path, "rb") as f:
            tap.expect(list(pb.packets(f.read())), "nothing in the file")
        c.ask("FreeBuffers")
        c.enable(peer.config(extra=pb.put(8, 1)))
        tap.expect(c.error(), "without a descriptor it is an error")


class Slices(peer.Consumer):
    def part(self, call, body):
        if call.method == "ReadBuffers":
            self.sizes = getattr(self, "sizes", []) + [len(pb.first(s, 1, b"")) for s in pb.every(body, 2)]
            tap.expect(all(pb.first(s, 2) is not None for s in pb.every(body, 2)), "last_slice_for_packet is always written")
        super().part(call, body)


def write_large(p, n, size):
    """One packet of many chunks, which come inside the commits."""
    data, at = peer.packet(n, size), 0
    while at < len(data):
        piece = data[at : at + 65000]
        flags = (peer.FIRST if at else 0) | (peer.LAST if at + len(piece) < len(data) else 0)
        chunk_id = p.chunk_ids.get(1, 0)
        p.chunk_ids[1] = chunk_id + 1
        body = struct.pack("<IHH", chunk_id, 1, 1 | flags << 10) + pb.put_varint(len(piece)) + piece
        p.ask("CommitData", pb.put(1, peer.move(0, 0, p.target(), body)))
        at += len(piece)


@tap.case("I-R102, I-R103, T-E5: 7 packets of 1 MiB in slices that fit frames; reading takes them away, also while tracing")
def _():
    with peer.World() as w:
        p, c = w.producer("p", ["src"]), Slices(w)
        c.enable(peer.config(["src"], buffers=((16384, 0),)))
        p.until_started()
        for n in range(7):
            write_large(p, n, 1 << 20)
        packets = c.read()
        tap.expect_eq(numbers(packets), [list(range(7))], "packets")
        tap.expect(all(len(q) > 1 << 20 for q in packets if peer.number_of(q) is not None), "a packet is cut")
        tap.expect(max(c.sizes) <= SLICE_MAX, f"a slice of {max(c.sizes)} bytes")
        p.write([peer.packet(7)], writer=2)
        tap.expect_eq(numbers(c.read()), [[7]], "a second read while tracing")
        c.stop()
        tap.expect_eq(numbers(c.read()), [], "a third read")


def bytecode(*fields):
    """Filter bytecode that lets these fields of packets through, whole."""
    words = [1 << 3 | 3, 1, 0, *[n << 3 | 1 for n in fields], 0]
    check = 0xCBF29CE484222325
    for byte in b"".join(w.to_bytes(4, "little") for w in words):
        check = (check ^ byte) * 0x100000001B3 % 2**64
    return b"".join(pb.put_varint(w) for w in [*words, check % 2**32])


@tap.case("T-E11: filtered packets of 1 MiB come in slices that fit frames")
def _():
    with peer.World() as w:
        p, c = w.producer("p", ["src"]), Slices(w)
        c.enable(peer.config(["src"], buffers=((16384, 0),), extra=pb.put(33, pb.put(2, bytecode(3, 10, 900)))))
        p.until_started()
        for n in range(3):
            write_large(p, n, 1 << 20)
        packets = c.read()
        tap.expect_eq(numbers(packets), [[0, 1, 2]], "packets")
        mine = [q for q in packets if peer.number_of(q) is not None]
        tap.expect(all(len(q) > 1 << 20 and pb.first(q, 8) is None for q in mine), "whole, but for what the filter takes out")
        tap.expect(max(c.sizes) <= SLICE_MAX, f"a slice of {max(c.sizes)} bytes")
        c.stop()


@tap.case("I-R102: sessions that cannot be read: into a file, and before the trigger")
def _():
    with peer.World() as w:
        fd = os.open(w.stack.path("out"), os.O_RDWR | os.O_CREAT, 0o600)
        for extra, fds in ((pb.put(8, 1), [fd]), (pb.put(17, pb.put(1, 2) + pb.put(2, pb.put(1, "t") + pb.put(4, 1000)) + pb.put(3, 60000)), [])):
            c = Consumer(w)
            c.enable(peer.config(extra=extra), fds)
            tap.expect_eq(c.reply("ReadBuffers"), EMPTY, "ReadBuffers")
            c.stop()
        os.close(fd)


@tap.case("I-R105: ObserveEvents: a newer call ends the older with an empty success; no events end it at once; the state is told first")
def _():
    with peer.World() as w:
        p, c = w.producer("p", ["src"]), Consumer(w)
        c.enable(peer.config(["src"]))
        p.until_started()
        p.ask("Sync")  # its word that it has started has been heard
        first = c.call("ObserveEvents", pb.put(1, 1) + pb.put(1, 2))
        one = c.requests
        w.until("what is known already", lambda: len(first.parts) >= 1)
        c.ask("QueryCapabilities")
        events = [e for part in first.parts for e in pb.every(part, 1)]
        change = pb.first(events[0], 1)
        tap.expect_eq((pb.first(change, 1), pb.first(change, 2), pb.first(change, 3)), (b"p", b"src", 2), "the instance is started")
        tap.expect(not any(pb.first(e, 2) for e in events), "that all are started was told when nobody asked for it (R199)")
        second = c.call("ObserveEvents", pb.put(1, 2))
        w.until("the end of the first", lambda: first.done)
        tap.expect_eq(c.replies(one)[-1], EMPTY, "how the first ends")
        third = c.call("ObserveEvents")
        last = c.requests
        w.until("the end of both", lambda: second.done and third.done)
        tap.expect_eq(c.replies(last), [EMPTY], "a call for no events")
        c.stop()
        d = w.consumer()
        d.enable(peer.config(extra=pb.put(12, 1)))  # deferred_start: nothing is told before StartTracing
        known = d.call("ObserveEvents", pb.put(1, 2))
        w.until("what is known already (Q10)", lambda: known.parts)
        tap.expect_eq([pb.first(pb.first(x, 1), 2) for x in known.parts], [1], "all of no data sources are started")


@tap.case("I-R106: sessions_only leaves out producers and data sources")
def _():
    with peer.World() as w:
        w.producer("p", ["src"])
        c = w.consumer()
        c.enable(peer.config())
        for only in (0, 1):
            ok, reply = c.ask("QueryServiceState", pb.put(1, only))
            state = b"".join(pb.every(reply, 1))
            tap.expect_eq([len(pb.every(state, n)) for n in (1, 2, 6)], [1 - only, 1 - only, 1], f"sessions_only {only}")
        c.stop()


@tap.case("I-R109, T-E7: a consumer that goes takes its session along; a detached one waits, with its data, and not for ever")
def _():
    def sessions(w):
        return len(pb.every(w.consumer().state(), 6))

    with peer.World() as w:
        p, c = w.producer("p", ["src"]), w.consumer()
        c.enable(peer.config(["src"]))
        p.until_started()
        c.close()
        w.until("the session to be gone", lambda: sessions(w) == 0 and p.stopped)
        c = Consumer(w)
        c.enable(peer.config(["src"]))
        enable = c.requests
        p.until_started()
        tap.expect_eq(c.reply("Detach", pb.put(1, "key")), EMPTY, "Detach")
        p.write([peer.packet(0)], writer=3)
        tap.expect_eq(c.reply("GetTraceStats"), REJECTED, "the connection has no session any more")
        tap.expect_eq(c.replies(enable), [], "EnableTracing stays unanswered")
        c.close()
        p.write([peer.packet(1)], writer=3)
        d = Consumer(w)
        ok, _, reply = d.reply("Attach", pb.put(1, "key"))
        echoed = pb.message(reply[1], 1)
        tap.expect_eq((ok, pb.first(pb.message(pb.message(echoed, 2), 1), 1)), ((1, 1), b"src"), "Attach gives the config")
        d.enabled = d.call("EnableTracing", pb.put(2, 1))
        p.write([peer.packet(2)], writer=3)
        d.stop()
        tap.expect_eq(numbers(d.read()), [[0, 1, 2]], "packets from before, meanwhile and after")
        d.close()
        e = Consumer(w)
        e.enable(peer.config(["src"], duration_ms=200))
        e.ask("Detach", pb.put(1, "short"))
        w.until("the detached session to end", lambda: sessions(w) == 0)
        tap.expect_eq(e.reply("Attach", pb.put(1, "short")), REJECTED, "Attach to what has ended")


@tap.case("T-E4: a session into a descriptor: after FreeBuffers the file is whole and the consumer is told")
def _():
    with peer.World() as w:
        p, c = w.producer("p", ["src"]), w.consumer()
        path = w.stack.path("out")
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        c.enable(peer.config(["src"], extra=pb.put(8, 1)), [fd])
        os.close(fd)
        p.until_started()
        for n in range(50):
            p.write([peer.packet(n)])
        c.flush()
        c.ask("FreeBuffers")
        tap.expect_eq(c.error(), "", "EnableTracing")
        with open(path, "rb") as f:
            tap.expect_eq(numbers(pb.packets(f.read())), [list(range(50))], "packets in the file")


# ---- more than one socket, and remote ones


@tap.case("T-E9: two producer sockets, a producer on each, one session")
def _():
    s = stack.Stack()
    with s, peer.World(env={"PERFETTO_PRODUCER_SOCK_NAME": f"{s.path('a')},{s.path('b')}"}) as w:
        ps = [w.producer(n, ["src"], address=s.path(n)) for n in ("a", "b")]
        c = w.consumer()
        c.enable(peer.config(["src"]))
        for n, p in enumerate(ps):
            p.until_started()
            p.write([peer.packet(n)])
        c.stop()
        tap.expect_eq(numbers(c.read()), [[0], [1]], "packets")


def identity(pid, uid, hint, name=""):
    body = pb.put(2, 0) + pb.put(8, pb.put(1, pid) + pb.put(2, uid) + pb.put(3, hint) + pb.put(4, name))
    return struct.pack("<I", len(body)) + body


class Remote(Producer):
    who = None

    def bind(self, name):
        if self.who:
            self.send(identity(*self.who))
        super().bind(name)


@tap.case("T-R6, T-E10, I-R91: 1000 packets of 1 KiB of a remote producer, with page numbers beyond the service's memory")
def _():
    address = f"127.0.0.1:{free_port()}"
    w = peer.World(env={"PERFETTO_PRODUCER_SOCK_NAME": address})
    with w:
        p, c = w.producer("remote", ["src"], address=address), w.consumer()
        tap.expect(p.emulated, "use_shmem_emulation")
        c.enable(peer.config(["src"], buffers=((4096, 0),)))
        p.until_started()
        for n in range(0, 1000, 3):
            records = [peer.packet(k, 1024) for k in range(n, min(n + 3, 1000))]
            body = struct.pack("<IHH", n // 3, 1, len(records)) + b"".join(pb.put_varint(len(r)) + r for r in records)
            p.call("CommitData", pb.put(1, peer.move(1000 + n, n % 14, p.target(), body)), drop=True)
        tap.expect(c.flush(), "flush")
        c.stop()
        tap.expect_eq(numbers(c.read()), [list(range(1000))], "packets")


@tap.case("I-R95, S-R111, S-R112: a remote producer that scrapes itself is asked to flush though all its sources say no_flush")
def _():
    address = f"127.0.0.1:{free_port()}"
    w = peer.World(env={"PERFETTO_PRODUCER_SOCK_NAME": address})
    with w:
        c = w.consumer()
        for scraping, asked in ((1, True), (2, False)):
            p = Remote(w, "remote", address=address, init=pb.put(4, scraping))
            p.register("src", pb.put(9, 1))  # no_flush
            c.enable(peer.config(["src"]))
            p.until_started()
            tap.expect(c.flush(), "flush")
            c.stop()
            flushes = [x for f in p.log for x in pb.every(pb.message(pb.message(f, 6), 3), 5) if isinstance(x, bytes)]
            tap.expect_eq((bool(flushes), [pb.every(x, 1) for x in flushes if pb.every(x, 1)]), (asked, []), f"flushes with scraping mode {scraping}")
            c.ask("FreeBuffers")
            p.close()


@tap.case("I-R73: an identity that comes after the introduction changes nothing for the producer")
def _():
    address = f"127.0.0.1:{free_port()}"
    w = peer.World(env={"PERFETTO_PRODUCER_SOCK_NAME": address})
    with w:
        p, c = w.producer("late", ["src"], address=address), w.consumer()
        p.send(identity(321, 123, "hint"))
        c.enable(peer.config(["src"]))
        p.until_started()
        p.write([peer.packet(0)])
        c.stop()
        (mine,) = [q for q in c.read() if peer.number_of(q) is not None]
        tap.expect_eq([pb.first(mine, n) for n in (3, 79, 98)], [0, None, None], "uid, pid and machine")


class Relay(peer.Peer):
    def __init__(self, world, address, who):
        super().__init__(world, address, None)
        self.send(identity(*who))
        self.bind("RelayPort")


HOST_CLOCKS = [6, 2, 4, 1, 3, 5]  # I-R118


def of_machines(packets, field):
    """The packets with that field, by machine."""
    out = {}
    for q in packets:
        if pb.first(q, field) is not None:
            out.setdefault(pb.first(q, 98), []).append(pb.first(q, field))
    return out


@tap.case("I-R114 to I-R118, T-R4, T-R5: two relays: two machines, one system_info each, the last five clock exchanges, until they go")
def _():
    address = f"127.0.0.1:{free_port()}"
    w = peer.World("--enable-relay-endpoint", env={"PERFETTO_PRODUCER_SOCK_NAME": address})
    with w:
        relays, ps = [], []
        for n in range(2):
            r = Relay(w, address, (70 + n, 0, f"boot-{n}", f"vm{n}"))
            if n == 0:  # either method may come first
                tap.expect_eq(r.ask("InitRelay", pb.put(1, pb.put(2, "Linux"))), (True, b""), "InitRelay")
            for k in range(7):
                clocks = pb.put(2, pb.put(1, 6) + pb.put(2, 1000 + k))
                tap.expect_eq(r.ask("SyncClock", pb.put(1, (1, 2, 55)[k % 3]) + clocks), (True, b""), "SyncClock")
            if n == 1:
                r.ask("InitRelay", pb.put(1, pb.put(2, "Linux")))
            Remote.who = (4000 + n, 3000 + n, f"boot-{n}", f"vm{n}")
            ps.append(Remote(w, f"remote{n}", ["src"], address=address))
            relays.append(r)
        Remote.who = None

        def trace(extra=b""):
            c = w.consumer()
            for p in ps:
                p.instances = {}
            c.enable(peer.config(["src"], extra=ALL_MACHINES + extra))
            for n, p in enumerate(ps):
                p.until_started()
                p.write([peer.packet(n)], writer=p.requests)
            first = c.read()
            second = c.read()
            c.stop()
            return first, second + c.read()

        first, later = trace()
        tap.expect_eq(of_machines(later, 107), {}, "I-R116: clocks in a later read")
        ours = {peer.number_of(q): q for q in first if peer.number_of(q) is not None}
        machines = [pb.first(ours[n], 98) for n in (0, 1)]
        tap.expect(machines[0] != machines[1] and all(machines), f"machines {machines}")
        tap.expect_eq([(pb.first(ours[n], 3), pb.first(ours[n], 79)) for n in (0, 1)], [(3000, 4000), (3001, 4001)], "uids and pids")
        tap.expect_eq({m: len(x) for m, x in of_machines(first, 45).items()}, {None: 1, machines[0]: 1, machines[1]: 1}, "system_info")
        syncs = of_machines(first, 107)
        tap.expect_eq({m: len(x) for m, x in syncs.items()}, {m: 1 for m in machines}, "remote_clock_sync")
        for m in machines:
            pairs = pb.every(syncs[m][0], 1)
            client = [pb.first(pb.first(pb.first(x, 2), 1), 2) for x in pairs]
            tap.expect_eq(client, [1002, 1003, 1004, 1005, 1006], "the last five exchanges")
            host = [[pb.first(k, 1) for k in pb.every(pb.first(x, 3), 1)] for x in pairs]
            tap.expect(all(x[:6] == HOST_CLOCKS and x[6:] in ([], [9]) for x in host), f"clocks of the host: {host}")
        first, _ = trace(pb.put(20, pb.put(1, 1)))  # builtin_data_sources { disable_clock_snapshotting }
        tap.expect_eq(of_machines(first, 107), {}, "I-R116: clocks without clock snapshots")
        relays[0].close()
        w.until("the relay to be gone", lambda: len(of_machines(trace()[0], 107)) == 1)


tap.run()
