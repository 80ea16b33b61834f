"""One peer that floods, stalls or sulks: the others are served as if it were not there, and memory stays bounded.

The bounds on time are for slow machines under load; what they catch is a service that waits for the peer:
10 ms, 5 s or 10 s where the protocol has timeouts, for ever where it has none.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import peer
import stack
import tap

BOUND = 2.0  # seconds for one request of a bystander
MEMORY_KB = 24 << 10  # growth beyond the buffers and the shared memory that the test asked for


class Bystander:
    """A session of its own, with one producer: commits, reads and control replies, each timed."""

    def __init__(self, w, name="bystander"):
        self.w, self.n, self.worst, self.sent = w, 0, 0.0, []
        self.p, self.c = w.producer(name, [name]), w.consumer()
        self.c.enable(peer.config([name]))
        self.p.until_started()
        self.got = []

    def timed(self, what, fn):
        begin = time.monotonic()
        out = fn()
        took = time.monotonic() - begin
        self.worst = max(self.worst, took)
        tap.expect(took < BOUND, f"{what} of the bystander took {took:.2f} s")
        return out

    def live(self, rounds=20):
        for _ in range(rounds):
            self.timed("a commit", lambda: self.p.write([peer.packet(self.n)]))
            self.n += 1
            self.timed("Sync", lambda: self.p.ask("Sync"))
            self.timed("QueryServiceState", self.c.state)
            self.got += self.timed("a read", self.c.read)

    def end(self):
        tap.expect(self.timed("a flush", self.c.flush), "the bystander's flush")
        self.timed("the stop", self.c.stop)
        self.got += self.c.read()
        tap.expect_eq(list(peer.by_sequence(self.got).values()), [list(range(self.n))], "packets of the bystander")
        print(f"# slowest request of the bystander: {self.worst * 1000:.0f} ms")


@contextlib.contextmanager
def beside(smb_kb=0):
    """A service, a bystander, and a watch over memory."""
    with peer.World() as w:
        b = Bystander(w)
        b.live(3)
        before = w.memory_kb()
        yield w, b
        grown = w.grown_kb(before) - smb_kb
        tap.expect(grown < MEMORY_KB, f"memory grew by {grown} KB beyond what was asked for")
        b.end()
        w.close_all()
        w.until_uncharged()


def forked(fn):
    child = os.fork()
    if child == 0:
        try:
            fn()
        finally:
            os._exit(0)
    return child


def reap(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def commit_flood(p, moves):
    """A frame that commits, to be sent over and over."""
    args = b"".join(pb.put(1, m) for m in moves)
    return peer.frame(1, 5, pb.put(1, p.service_id) + pb.put(2, p.methods["CommitData"]) + pb.put(3, args) + pb.put(4, 1))


def many_chunks(p):
    """40 chunks of 3 KB in each request."""
    body = b"".join(pb.put_varint(100) + bytes(100) for _ in range(30))
    return [peer.move(0, 0, p.target(), struct.pack("<IHH", 0, 1, 30) + body)] * 40


def many_nothings(p):
    """12,000 chunks that are not there: work without bytes."""
    return [peer.move(1, 1, p.target())] * 12000


for what, moves in (("large chunks", many_chunks), ("chunks that are not there", many_nothings)):

    def flooded(moves=moves):
        with beside(smb_kb=1024 + 4 * 256) as (w, b):
            floods, c = [w.producer(f"flood{n}", ["flood"]) for n in range(4)], w.consumer()
            c.enable(peer.config(["flood"]))
            children = []
            for p in floods:
                p.until_started()
                data = commit_flood(p, moves(p))

                def flood(p=p, data=data):
                    p.sock.setblocking(True)
                    while True:
                        p.sock.sendall(data)

                children.append(forked(flood))
            before = w.memory_kb()
            most = 0
            try:
                for _ in range(15):
                    b.live(2)
                    most = max(most, w.grown_kb(before))
                for child in children:
                    tap.expect(os.waitpid(child, os.WNOHANG)[0] == 0, "the floods go on to the end")
            finally:
                for child in children:
                    reap(child)
            print(f"# memory grew by {most} KB at most")
            tap.expect(most < MEMORY_KB, f"memory grew by {most} KB under the flood")
            requests = next(x for x in w.report() if x.startswith("commits:"))
            tap.expect(int(requests.split()[1]) > 20, f"there was a flood: {requests}")
            for p in floods:
                p.close()
            c.stop()

    tap.add(f"four producers that flood with commits of {what}", flooded)


@tap.case("a producer that floods a small ring, with a ProtoVM program that takes all the steps it gets")
def _():
    program = pb.put(2, pb.put(3, b"")) * 4000  # merges the whole packet, over and over
    packet = b"".join(pb.put(2000 + n, n) for n in range(900))
    body = struct.pack("<HH", 1, 1) + pb.put_varint(len(packet)) + packet
    with beside(smb_kb=1024 + (16 << 10)) as (w, b):
        p, c = w.producer("flood"), w.consumer()
        p.register("flood", pb.put(10, program))
        source = pb.put(1, "flood") + pb.put(12, pb.put(1, 16 << 10))
        c.enable(pb.put(1, pb.put(1, 64) + pb.put(8, 1)) + pb.put(2, pb.put(1, source)))
        p.until_started()
        target = p.target()

        def flood():
            p.sock.setblocking(True)
            chunk = 0
            while True:
                chunks = [struct.pack("<I", chunk + i) + body for i in range(10)]
                p.sock.sendall(commit_flood(p, [peer.move(0, 0, target, data) for data in chunks]))
                chunk += 10

        child = forked(flood)
        try:
            for _ in range(10):
                b.live(2)
            tap.expect(os.waitpid(child, os.WNOHANG)[0] == 0, "the flood goes on to the end")
        finally:
            reap(child)
        p.close()
        c.stop()
        vms = [pb.message(raw, 125) for raw in c.read() if pb.first(raw, 125)]
        tap.expect_eq(len(vms), 1, "packets of ProtoVMs")
        vm = pb.message(vms[0], 1)
        tap.expect_eq(pb.first(vm, 1), program, "its program")
        tap.expect(len(pb.first(vm, 2)) > 1000, "its state")


@tap.case("a producer that floods with requests and never reads the answers")
def _():
    with beside() as (w, b):
        p = w.producer("chatter")
        p.deaf = True
        data = peer.frame(1, 5, pb.put(1, p.service_id) + pb.put(2, p.methods["Sync"])) * 100

        def flood():
            p.sock.setblocking(True)
            while True:
                p.sock.sendall(data)

        child = forked(flood)
        try:
            b.live(30)
        finally:
            reap(child)
        p.close()


@tap.case("a producer that stops reading its socket while sessions come and go (T-E6)")
def _():
    with beside(smb_kb=256) as (w, b):
        p = w.producer("deaf", ["deaf"])
        p.deaf = True
        p.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        fat = pb.put(1, "deaf") + pb.put(1000, b"z" * 60000)
        c = w.consumer()
        for _ in range(40):
            c.enable(peer.config([fat], extra=pb.put(23, 100)))
            b.live(1)
            c.call("DisableTracing")
            b.timed("the stop of a session of the deaf producer", c.error)
            c.ask("FreeBuffers")
        b.live(10)


@tap.case("a producer that never acknowledges a flush delays its own session only")
def _():
    with beside(smb_kb=1024 + 256) as (w, b):
        p, c = w.producer("sulk", ["sulk"]), w.consumer()
        c.enable(peer.config(["sulk"]))
        p.until_started()
        p.mute = True
        flushes = [c.call("Flush", pb.put(1, 3000)) for _ in range(50)]
        b.live(20)
        tap.expect(b.timed("a flush", b.c.flush), "the bystander's flush")
        tap.expect(not any(f.done for f in flushes), "the flushes still wait")
        more = []
        for _ in range(1200):
            more.append(c.call("Flush", pb.put(1, 600000)))
            w.pump(0)  # the producer reads its commands, or it would be dropped for that
        w.until("the refusal of too many flushes", lambda: more[-1].done)
        tap.expect(not more[-1].ok, "it is a refusal")
        b.live(5)
        p.close()
        c.ask("FreeBuffers")


@tap.case("a producer that never acknowledges a stop delays its own session only")
def _():
    with beside(smb_kb=1024 + 256) as (w, b):
        p, c = w.producer("sulk", ["sulk"]), w.consumer()
        c.enable(peer.config(["sulk"], extra=pb.put(23, 1500)))
        p.until_started()
        p.mute = True
        c.call("DisableTracing")
        w.until("the stop command", lambda: p.stopped)
        b.live(10)
        tap.expect_eq(c.error(), "", "how the session ended, after its own timeout")


@tap.case("a consumer that never reads")
def _():
    with beside(smb_kb=(16 << 10) + 256) as (w, b):
        p, c = w.producer("src", ["src"]), w.consumer()
        c.enable(peer.config(["src"], buffers=((16384, 0),)))
        p.until_started()
        for n in range(3500):
            p.write([peer.packet(n, 3000)], drop=True)
        p.ask("Sync")
        c.deaf = True
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.call("ReadBuffers")
        for _ in range(2000):
            try:
                c.sock.sendmsg([peer.frame(77, 5, pb.put(1, c.service_id) + pb.put(2, c.methods["QueryServiceState"]))], [], socket.MSG_DONTWAIT)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                break
        b.live(30)
        c.close()
        p.close()


@tap.case("--limit-queues: many consumers of one user that do not read share one account")
def _():
    with peer.World("--limit-queues", "6M") as w:
        p, c = w.producer("fat", ["s%d" % n + "x" * 30000 for n in range(60)]), w.consumer()
        p.ask("Sync")
        before = w.memory_kb()
        deaf = []
        for n in range(30):  # each could hold 1 MB of answers and more
            d = w.consumer()
            d.ask("QueryCapabilities")
            d.deaf = True
            d.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.append(d)
        query = peer.frame(77, 5, pb.put(1, c.service_id) + pb.put(2, c.methods["QueryServiceState"]))
        for _ in range(30):
            for d in deaf:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
                    d.sock.sendmsg([query], [], socket.MSG_DONTWAIT)
            c.ask("QueryCapabilities")  # small answers are free
        w.until("a connection to be dropped", lambda: any("--limit-queues" in x for x in w.stack.log_of(w.traced).split("\n")))
        grown = w.grown_kb(before)
        print(f"# memory grew by {grown} KB")
        tap.expect(grown < 20 << 10, f"memory grew by {grown} KB beside a limit of 6 MB")
        queued = next(x for x in w.report() if x.startswith("charged:"))
        tap.expect(" queued bytes" in queued, queued)
        c.ask("QueryCapabilities")
        w.close_all()
        w.until_uncharged()


@tap.case("a pipe as output that nobody empties")
def _():
    with beside(smb_kb=(8 << 10) + 256) as (w, b):
        p, c = w.producer("src", ["src"]), w.consumer()
        r, end = os.pipe()
        fcntl.fcntl(end, 1031, 4096)  # F_SETPIPE_SZ
        c.enable(peer.config(["src"], buffers=((8192, 0),), extra=pb.put(8, 1) + pb.put(9, 100)), [end])
        os.close(end)
        p.until_started()
        for n in range(1500):
            p.write([peer.packet(n, 3000)], drop=True)
            if n % 100 == 0:
                b.live(1)
        stack.until("the pipe to be full", lambda: full(r))
        b.live(20)
        # It is emptied in the end: what the session still holds comes whole.
        c.call("DisableTracing")
        data = b""
        while not c.enabled.done:
            w.pump(0.001)
            data += drain(r)
        tap.expect_eq(c.error(), "", "how the session ended")
        data += drain(r)
        os.close(r)
        numbers = list(peer.by_sequence(pb.packets(data)).values())
        tap.expect(len(numbers) == 1 and numbers[0][-1] == 1499, "the last packet is in the output")
        tap.expect_eq(numbers[0], sorted(set(numbers[0])), "order of the packets")


def full(r):
    """A pipe without a free page; the pages in it need not be full, since what does not fit one stays outside."""
    end = os.open(f"/proc/self/fd/{r}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not select.select([], [end], [], 0)[1]
    finally:
        os.close(end)


def drain(r):
    out = b""
    os.set_blocking(r, False)
    while True:
        try:
            part = os.read(r, 1 << 16)
        except BlockingIOError:
            return out
        if not part:
            return out
        out += part


@tap.case("a connection that sends one byte of a frame at a time, and one that sends half a frame for ever")
def _():
    with beside() as (w, b):
        half = [w.raw() for _ in range(50)]
        for x in half:
            x.send(b"\xfc\xff\x01\x00" + bytes(100000))
        slow = w.raw()
        for byte in peer.frame(1, 3, pb.put(1, "ProducerPort")):
            slow.send(bytes([byte]))
            b.live(1)
        w.until("the bind", lambda: slow.methods)
        for x in half:
            x.close()


tap.run()
