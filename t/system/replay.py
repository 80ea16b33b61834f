"""Recorded conversations (t/data/vectors) played against our service.

Each connection of a recording is a list of records. Ours sends the client's frames byte for byte, with the
shared memory as it was before each of them, and holds every frame of our service against the recorded one, in
order. Ids are the same because both services were fresh; clocks, versions and the machine differ and are not
compared. In the end the packets read back must be those of the recorded trace, sequence by sequence, apart
from the fields that a service adds.
"""

import array
import gzip
import mmap
import os
import select
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import stack
import tap

VECTORS = os.path.join(tap.SRCDIR, "t", "data", "vectors")
READ_BUFFERS, QUERY, CLONE = 3, 12, 15  # ConsumerPort
COMMIT, ASYNC = 4, 5  # ProducerPort
SETUP_TRACING, FLUSH = 3, 5  # GetAsyncCommandResponse


def unzip(*names):
    with gzip.open(os.path.join(VECTORS, *names)) as f:
        return f.read()


def records(*names):
    data, pos, out = unzip(*names), 0, []
    while pos < len(data):
        (size,) = struct.unpack_from("<I", data, pos + 2)
        out.append((chr(data[pos]), data[pos + 1], data[pos + 6 : pos + 6 + size]))
        pos += 6 + size
    return out


def tree(buf):
    """Fields in ascending order of number, so that two encodings of one message compare equal."""
    return sorted(pb.fields(buf), key=lambda f: f[0])


def command(frame, number):
    """The command of that number in a reply to GetAsyncCommand: bytes, where other replies have numbers."""
    return pb.first(pb.message(pb.message(frame, 6), 3), number)


class Connection:
    """One recorded connection, played up to the record at `next`."""

    def __init__(self, scenario, name, address, dir):
        self.name, self.dir = name, dir
        self.records = records(scenario, name + ".vec.gz")
        self.next = 0
        self.methods = {}  # request id -> method, of the invokes sent
        self.packets = []  # of ReadBuffers
        self.parts = b""
        self.smb = None
        self.inbox = b""
        self.fds = []
        self.files = 0
        self.moving = []  # pages of the last commit that the service has yet to free
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(address)

    def done(self):
        return self.next == len(self.records)

    def expects(self, what):
        """True when the next recorded frame is one of the service: `setup`, `flush` or `enabled`."""
        if self.done() or self.records[self.next][0] != "<":
            return False
        frame = self.records[self.next][2]
        if what == "enabled":
            return self.methods.get(pb.first(frame, 2)) == 1
        return isinstance(command(frame, {"setup": SETUP_TRACING, "flush": FLUSH}[what]), bytes)

    # ---- the client's side

    def fill_smb(self, blocks):
        step = 4 + 4096
        for pos in range(0, len(blocks), step):
            (offset,) = struct.unpack_from("<I", blocks, pos)
            if self.smb:
                self.smb[offset : offset + 4096] = blocks[pos + 4 : pos + step]

    def page_is_free(self, page, chunk, size):
        (word,) = struct.unpack_from("<I", self.smb, page * size)
        return word >> 2 * chunk & 3 == 0

    def send(self, fds, frame):
        invoke = pb.first(frame, 5)
        ancillary = []
        if invoke is not None:
            self.methods[pb.first(frame, 2)] = pb.first(invoke, 2)
        if fds:
            self.files += 1
            fd = os.open(self.output(self.files), os.O_RDWR | os.O_CREAT, 0o644)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        data = struct.pack("<I", len(frame)) + frame
        sent = self.sock.sendmsg([data], ancillary)
        self.sock.sendall(data[sent:])
        if fds:
            os.close(fd)
        if invoke is not None and self.smb and pb.first(invoke, 2) == COMMIT:
            request = pb.message(invoke, 3)
            for move in pb.every(request, 1):
                self.moving.append((pb.first(move, 1, 0), pb.first(move, 2, 0)))

    def output(self, n):
        return os.path.join(self.dir, f"{self.name}.{n}")

    # ---- the service's side

    def receive(self):
        """Reads what is there; False at the end of the connection."""
        data, ancillary, _, _ = self.sock.recvmsg(1 << 17, socket.CMSG_SPACE(8))
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.fds += array.array("i", payload[: len(payload) // 4 * 4])
        self.inbox += data
        return bool(data)

    def frame(self):
        if len(self.inbox) < 4:
            return None
        (size,) = struct.unpack_from("<I", self.inbox)
        if len(self.inbox) < 4 + size:
            return None
        frame, self.inbox = self.inbox[4 : 4 + size], self.inbox[4 + size :]
        return frame

    def take(self, got):
        """One frame of our service, held against the recorded one."""
        _, fds, want = self.records[self.next]
        where = f"{self.name}, record {self.next}"
        tap.expect_eq(pb.first(got, 2), pb.first(want, 2), f"{where}: request id of {got.hex()[:80]}")
        kinds = [[n for n, _ in pb.fields(f) if n != 2] for f in (got, want)]
        tap.expect_eq(kinds[0], kinds[1], f"{where}: kind of frame")
        request = pb.first(got, 2)
        if fds:
            tap.expect_eq(len(self.fds), 1, f"{where}: descriptors")
            self.map_smb()
        if kinds[0] != [6]:
            tap.expect_eq(tree(pb.message(got, kinds[0][0])), tree(pb.message(want, kinds[0][0])), where)
            self.next += 1
            return
        got, want = pb.message(got, 6), pb.message(want, 6)
        method = self.methods[request]
        consumer = self.name.startswith("consumer")
        if consumer and method == READ_BUFFERS:
            self.take_packets(request, got)
            return
        for field, name in ((1, "success"), (2, "has_more")):
            tap.expect_eq(pb.first(got, field), pb.first(want, field), f"{where}: {name}")
        self.compare(where, consumer, method, pb.message(got, 3), pb.message(want, 3))
        self.next += 1

    def compare(self, where, consumer, method, got, want):
        if consumer and method == QUERY:
            for field in (1, 2):
                tap.expect_eq(len(pb.every(got, field)), len(pb.every(want, field)), f"{where}: field {field}")
            return
        if consumer and method == CLONE:
            tap.expect_eq(pb.first(got, 1), pb.first(want, 1), f"{where}: success of the clone")
            tap.expect(pb.first(got, 3) or pb.first(got, 4), f"{where}: uuid of the clone")
            return
        got, want = tree(got), tree(want)
        tap.expect_eq([n for n, _ in got], [n for n, _ in want], f"{where}: fields")
        for (_, g), (field, w) in zip(got, want):
            if isinstance(w, bytes) and w:
                g, w = tree(g), tree(w)
                # Configs nest once more.
                g = [(n, tree(v) if n == 2 and isinstance(v, bytes) else v) for n, v in g]
                w = [(n, tree(v) if n == 2 and isinstance(v, bytes) else v) for n, v in w]
            tap.expect_eq(g, w, f"{where}: field {field}")

    def take_packets(self, request, reply):
        for part in pb.every(pb.message(reply, 3), 2):
            self.parts += pb.first(part, 1, b"")
            if pb.first(part, 2, 0):
                self.packets.append(self.parts)
                self.parts = b""
        if not pb.first(reply, 2, 0):
            while not self.done() and pb.first(self.records[self.next][2], 2) == request:
                self.next += 1

    def map_smb(self):
        fd = self.fds.pop()
        self.smb = mmap.mmap(fd, os.fstat(fd).st_size)
        os.close(fd)

    # ---- playing

    def step(self):
        """Plays what needs no waiting. True when there was something."""
        if self.moving:
            size = self.page_size()
            self.moving = [m for m in self.moving if not self.page_is_free(*m, size)]
            if self.moving:
                return False
        if self.done():
            return False
        kind, fds, payload = self.records[self.next]
        if kind == "S":
            self.fill_smb(payload)
        elif kind == ">":
            self.send(fds, payload)
        else:
            frame = self.frame()
            if frame is None:
                return False
            self.take(frame)
            return True
        self.next += 1
        return True

    def page_size(self):
        for kind, _, frame in self.records:
            setup = command(frame, SETUP_TRACING) if kind == "<" else None
            if isinstance(setup, bytes):
                return pb.first(setup, 1) * 1024
        raise AssertionError("no setup_tracing was recorded")


class Replay:
    def __init__(self, scenario, s):
        self.scenario, self.s, self.connections = scenario, s, []

    def open(self, name):
        c = Connection(self.scenario, name, self.s.path(name.split(".")[0] + ".sock"), self.s.dir)
        self.connections.append(c)
        return c

    def play(self, what, until):
        """Plays all open connections until the condition holds."""
        end = time.monotonic() + stack.PATIENCE
        while not until():
            if any([c.step() for c in self.connections if c.sock]):
                continue
            tap.expect(time.monotonic() < end, f"waited in vain until {what}: {self.where()}")
            socks = {c.sock: c for c in self.connections if c.sock}
            # Freed chunks make no noise: look at them now and then.
            for sock in select.select(list(socks), [], [], 0.01)[0]:
                if not socks[sock].receive():
                    raise AssertionError(f"{socks[sock].name} was dropped by the service: {self.where()}")

    def where(self):
        return ", ".join(f"{c.name} at record {c.next} of {len(c.records)}" for c in self.connections)

    def hold(self, c, what):
        self.play(f"{c.name} waits for {what}", lambda: c.expects(what))

    def finish(self, c):
        self.play(f"{c.name} has said all", lambda: c.done() and not c.moving)
        if c.name.startswith("consumer"):
            c.sock.close()
            c.sock = None


ADDED = {3, 10, 42, 79, 98}  # by the service: uid, sequence, loss, pid, machine


def sequences(packets):
    """What each producer sequence holds, without the service's fields."""
    found = {}
    for packet in packets:
        sequence = pb.first(packet, 10, 0)
        if sequence > 1:
            bare = [f for f in pb.fields(packet) if f[0] not in ADDED]
            found.setdefault(sequence, []).append(bare)
    return sorted(found.values(), key=repr)


PERIODIC = ([6], [36], [35], [69, 4])  # clocks, marker, statistics, end of a read: as often as timers fire


def service_kinds(packets):
    """Kinds of the service's own packets: what comes once in order, what comes periodically, and the last of all."""
    once, periodic, kind = [], set(), None
    for packet in packets:
        if pb.first(packet, 10, 0) != 1:
            continue
        kind = [n for n, _ in pb.fields(packet) if n not in ADDED | {8, 58}]
        if 69 in kind:
            kind = [69, *[n for n, _ in pb.fields(pb.message(packet, 69))]]
        if kind in PERIODIC:
            periodic.add(tuple(kind))
        else:
            once.append(kind)
    return once, sorted(periodic), kind


def compare_traces(got, name, scenario):
    want = list(pb.packets(unzip(scenario, name)))
    a, b = sequences(got), sequences(want)
    tap.expect_eq([len(x) for x in a], [len(x) for x in b], "packets of each sequence")
    tap.expect(a == b, "the packets differ from the recorded ones")
    tap.expect_eq(service_kinds(got), service_kinds(want), "the service's own packets")


def scenario(name):
    def add(fn):
        def run():
            with stack.Stack() as s:
                s.start_traced()
                fn(Replay(name, s), name)

        tap.add(f"{name}, played against our service", run)
        return fn

    return add


def plain(r, name):
    """One producer, one consumer that reads at the end."""
    p = r.open("producer.0")
    r.hold(p, "setup")
    c = r.open("consumer.0")
    r.finish(c)
    compare_traces(c.packets, "out.pftrace.gz", name)
    r.finish(p)


for each in ("small_packets", "large_nested_packets", "ring_overwrite", "track_event_c", "sdk_old_v4"):
    scenario(each)(plain)


@scenario("record_sys_stats")
def _(r, name):
    plain(r, name)
    r.finish(r.open("consumer.1"))


@scenario("detach_attach")
def _(r, name):
    p = r.open("producer.0")
    r.hold(p, "setup")
    c = r.open("consumer.0")
    r.finish(c)
    r.finish(r.open("consumer.1"))
    r.finish(r.open("consumer.2"))
    # The first recorded flush is the periodic one, the second is asked for by the last consumer.
    r.hold(p, "flush")
    at = p.next
    r.play("the periodic flush", lambda: p.next > at and p.expects("flush"))
    r.finish(r.open("consumer.3"))
    with open(c.output(1), "rb") as f:
        compare_traces(list(pb.packets(f.read())), "out.pftrace.gz", name)
    r.finish(p)


@scenario("triggers_clone")
def _(r, name):
    p = r.open("producer.0")
    r.hold(p, "setup")
    c = r.open("consumer.0")
    r.hold(c, "enabled")
    r.hold(p, "flush")
    clone = r.open("consumer.1")
    r.finish(clone)
    compare_traces(clone.packets, "clone.pftrace.gz", name)
    r.hold(p, "flush")
    r.finish(r.open("producer.1"))
    r.finish(c)
    compare_traces(c.packets, "out.pftrace.gz", name)
    r.finish(p)


tap.run()
