"""Raw peers of the service: sockets, frames and shared memory written by hand, for system tests.

    with peer.World() as w:                     # a private traced; w.traced, w.stack
        p = w.producer("prog", sources=["src"])
        c = w.consumer()
        c.enable(peer.config(sources=["src"]))
        p.until_started()
        p.write([peer.packet(1), peer.packet(2)])
        c.stop()
        packets = c.read()

Everything runs in one thread: `w.until` reads from all connections, and producers answer commands as they
come. A peer that is to misbehave sets `deaf` (its socket is not read) or `mute` (it acknowledges nothing).
"""

import array
import contextlib
import mmap
import os
import select
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pb
import stack
import tap

PAGE = 4096
WRITING, COMPLETE = 1, 3
DIV1 = 1 << 28
FIRST, LAST, PATCH = 1, 2, 4  # flags of a chunk
PRODUCER_METHODS = (
    "InitializeConnection RegisterDataSource UnregisterDataSource CommitData GetAsyncCommand RegisterTraceWriter"
    " UnregisterTraceWriter NotifyDataSourceStarted NotifyDataSourceStopped ActivateTriggers Sync UpdateDataSource"
).split()
CONSUMER_METHODS = (
    "EnableTracing DisableTracing ReadBuffers FreeBuffers Flush StartTracing ChangeTraceConfig Detach Attach"
    " GetTraceStats ObserveEvents QueryServiceState QueryCapabilities SaveTraceForBugreport CloneSession"
).split()


class Closed(AssertionError):
    """The service closed a connection that somebody waits for."""


def frame(request, kind, body):
    payload = pb.put(2, request) + pb.put(kind, body)
    return struct.pack("<I", len(payload)) + payload


def config(sources=(), buffers=((1024, 0),), duration_ms=0, extra=b"", **source_kw):
    """An encoded TraceConfig: buffers are (KB, fill policy), sources are names or encoded DataSourceConfigs."""
    out = b"".join(pb.put(1, pb.put(1, kb) + pb.put(4, policy)) for kb, policy in buffers)
    for s in sources:
        body = s if isinstance(s, bytes) else pb.put(1, s) + pb.put(2, source_kw.get("target", 0))
        out += pb.put(2, pb.put(1, body))
    if duration_ms:
        out += pb.put(3, duration_ms)
    return out + extra


def packet(n, pad=0):
    """A TracePacket for_testing { str: dots seq_value: n }."""
    return pb.put(8, 1000 + n) + pb.put(900, pb.put(1, "." * pad) + pb.put(2, n))


def number_of(raw):
    """The n of packet(n), or None for other packets."""
    event = pb.first(raw, 900)
    return pb.first(event, 2, 0) if isinstance(event, bytes) else None


def by_sequence(packets):
    """Numbers of the test packets, for each sequence."""
    out = {}
    for raw in packets:
        n = number_of(raw)
        if n is not None:
            out.setdefault(pb.first(raw, 10, 0), []).append(n)
    return out


class Call:
    def __init__(self, method):
        self.method, self.done, self.ok, self.parts = method, False, False, []


class Peer:
    """One connection. `methods` maps names to ids as the service listed them."""

    def __init__(self, world, address, service):
        self.world, self.service, self.closed, self.deaf = world, service, False, False
        self.inbox, self.fds, self.calls, self.requests, self.errors = b"", [], {}, 0, []
        self.methods, self.service_id = None, 0
        self.sock = connect(address)
        world.peers.append(self)
        if service:
            self.bind(service)

    def bind(self, name):
        self.requests += 1
        self.send(frame(self.requests, 3, pb.put(1, name)))
        self.world.until(f"{name} to be bound", lambda: self.methods is not None or self.closed)

    def close(self):
        if not self.closed:
            self.closed = True
            self.sock.close()
        while self.fds:
            os.close(self.fds.pop())

    # ---- sending

    def send(self, data, fds=()):
        """All of it, however long that takes, while the others go on."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        end = time.monotonic() + stack.PATIENCE
        while data:
            try:
                n = self.sock.sendmsg([data], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                data, ancillary = data[n:], []
            except BlockingIOError:
                tap.expect(time.monotonic() < end, f"{self.service}: the service does not take our bytes")
                self.world.pump(0.02)
                if self.closed:
                    raise Closed(f"{self.service}: closed while sending")
            except (BrokenPipeError, ConnectionResetError) as err:
                self.closed = True
                raise Closed(f"{self.service}: closed while sending") from err

    def call(self, method, args=b"", drop=False, fds=()):
        """method: a name, or a number for one that nobody listed."""
        self.requests += 1
        number = method if isinstance(method, int) else self.methods[method]
        c = Call(method)
        if not drop:
            self.calls[self.requests] = c
        body = pb.put(1, self.service_id) + pb.put(2, number) + pb.put(3, args) + pb.put(4, int(drop))
        self.send(frame(self.requests, 5, body), fds)
        return c

    def ask(self, method, args=b"", fds=(), seconds=stack.PATIENCE):
        """Calls and waits: (success, reply bytes)."""
        c = self.call(method, args, fds=fds)
        self.world.until(f"the reply to {method}", lambda: c.done or self.closed, seconds)
        if not c.done:
            raise Closed(f"{self.service}: closed while waiting for {method}")
        return c.ok, b"".join(c.parts)

    # ---- receiving

    def receive(self):
        try:
            data, ancillary, _, _ = self.sock.recvmsg(1 << 18, socket.CMSG_SPACE(16), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.fds += array.array("i", payload[: len(payload) // 4 * 4])
        if not data:
            self.closed = True
            self.sock.close()
            return
        self.inbox += data
        while len(self.inbox) >= 4:
            (size,) = struct.unpack_from("<I", self.inbox)
            tap.expect(size <= 131068, f"the service sent a frame of {size} bytes")
            if len(self.inbox) < 4 + size:
                break
            body, self.inbox = self.inbox[4 : 4 + size], self.inbox[4 + size :]
            self.take(body)

    def take(self, body):
        request, reply, bound = pb.first(body, 2, 0), pb.first(body, 6), pb.first(body, 4)
        if pb.first(body, 7) is not None:
            self.errors.append(request)
        if bound is not None:
            self.service_id = pb.first(bound, 2, 0)
            self.methods = {pb.first(m, 2).decode(): pb.first(m, 1) for m in pb.every(bound, 3)}
        if reply is None or request not in self.calls:
            return
        c = self.calls[request]
        c.ok = bool(pb.first(reply, 1, 0))
        self.part(c, pb.first(reply, 3, b""))
        if not pb.first(reply, 2, 0):
            c.done = True
            del self.calls[request]

    def part(self, c, body):
        c.parts.append(body)


class Smb:
    def __init__(self, fd, page=PAGE):
        self.map, self.page = mmap.mmap(fd, os.fstat(fd).st_size), page
        self.pages = len(self.map) // page

    def word(self, page):
        return struct.unpack_from("<I", self.map, page * self.page)[0]

    def put_word(self, page, value):
        struct.pack_into("<I", self.map, page * self.page, value)

    def fill(self, page, writer, chunk_id, records, flags=0, count=None, state=COMPLETE):
        """One chunk over the whole page."""
        body = b"".join(pb.put_varint(len(r)) + r for r in records)
        tap.expect(len(body) <= self.page - 16, "test packets do not fit a page")
        at = page * self.page
        self.map[at + 16 : at + 16 + len(body)] = body
        count = len(records) if count is None else count
        struct.pack_into("<IHH", self.map, at + 8, chunk_id & 0xFFFFFFFF, writer, count | flags << 10)
        self.put_word(page, DIV1 | state)


def move(page=0, chunk=0, target=None, data=None):
    out = pb.put(1, page) + pb.put(2, chunk)
    if target is not None:
        out += pb.put(3, target)
    return out + (pb.put(4, data) if data is not None else b"")


class Producer(Peer):
    notify = True  # says when instances have started and stopped

    def __init__(self, world, name="test", sources=(), init=b"", fds=(), address=None, start=True):
        super().__init__(world, address or world.stack.path("producer.sock"), "ProducerPort")
        self.name, self.smb, self.page, self.mute = name, None, PAGE, False
        self.instances, self.stopped, self.chunk_ids, self.flushes = {}, [], {}, []
        self.last_target = None
        self.commands, self.next_page, self.emulated = None, 0, False
        self.targets, self.setups = {}, {}
        if start:
            self.initialize(init, fds)
            self.get_commands()
            for s in sources:
                self.register(s)

    def initialize(self, init=b"", fds=()):
        ok, reply = self.ask("InitializeConnection", init + pb.put(3, self.name), fds)
        tap.expect(ok, f"{self.name} was not let in")
        self.emulated = bool(pb.first(reply, 3, 0))
        return reply

    def get_commands(self):
        self.commands = self.call("GetAsyncCommand")

    def register(self, name, extra=pb.put(2, 1) + pb.put(3, 1)):
        self.ask("RegisterDataSource", pb.put(1, pb.put(1, name) + extra))

    def part(self, c, body):
        if c is not self.commands:
            super().part(c, body)
            return
        for number, value in pb.fields(body):
            handler = {1: self.on_start, 2: self.on_stop, 3: self.on_memory, 5: self.on_flush, 6: self.on_setup}.get(number)
            if handler:
                handler(value)

    def on_memory(self, body):
        self.page = pb.first(body, 1, self.page // 1024) * 1024
        if self.fds:
            fd = self.fds.pop(0)
            self.smb = Smb(fd, self.page)
            os.close(fd)

    def on_setup(self, body):
        self.setups[pb.first(body, 1)] = pb.message(body, 2)

    def on_start(self, body):
        number, conf = pb.first(body, 1), pb.message(body, 2)
        self.instances[number] = conf
        self.last_target = pb.first(conf, 2)
        self.targets[pb.first(conf, 1, b"").decode()] = pb.first(conf, 2, 0)
        if not self.mute and self.notify:
            self.call("NotifyDataSourceStarted", pb.put(1, number), drop=True)

    def on_stop(self, body):
        number = pb.first(body, 1)
        self.stopped.append(number)
        self.instances.pop(number, None)
        if not self.mute and self.notify:
            self.call("NotifyDataSourceStopped", pb.put(1, number), drop=True)

    def on_flush(self, body):
        self.flushes.append(pb.first(body, 2))
        if not self.mute:
            self.call("CommitData", pb.put(3, self.flushes[-1]), drop=True)

    def until_started(self, n=1):
        self.world.until(f"{self.name} to be started", lambda: len(self.instances) >= n or self.closed)
        if self.closed:
            raise Closed(f"{self.name}: closed while waiting for the start")

    def target(self):
        """The buffer of the instance that was started last, also when it has been stopped since."""
        return self.last_target

    def write(self, records, writer=1, target=None, drop=False):
        """Records become one chunk, committed at once; waits for the answer unless dropped."""
        target = self.target() if target is None else target
        chunk_id = self.chunk_ids.get(writer, 0)
        self.chunk_ids[writer] = chunk_id + 1
        if self.emulated:
            body = struct.pack("<IHH", chunk_id, writer, len(records))
            body += b"".join(pb.put_varint(len(r)) + r for r in records)
            args = pb.put(1, move(0, 0, target, body))
        else:
            page = self.next_page
            self.next_page = (page + 1) % self.smb.pages
            self.world.until("a free page", lambda: self.smb.word(page) == 0 or self.closed)
            self.smb.fill(page, writer, chunk_id, records)
            args = pb.put(1, move(page, 0, target))
        if drop:
            self.call("CommitData", args, drop=True)
        else:
            ok, _ = self.ask("CommitData", args)
            tap.expect(ok, f"{self.name}: a commit was rejected")


class Consumer(Peer):
    def __init__(self, world, address=None):
        super().__init__(world, address or world.stack.path("consumer.sock"), "ConsumerPort")
        self.enabled, self.reading = None, {}

    def enable(self, conf, fds=()):
        self.enabled = self.call("EnableTracing", pb.put(1, conf), fds=fds)
        return self.enabled

    def error(self):
        """What EnableTracing said in the end; '' when the session ended well."""
        self.world.until("the session's end", lambda: self.enabled.done or self.closed)
        return pb.first(b"".join(self.enabled.parts), 3, b"").decode()

    def stop(self):
        self.ask("DisableTracing")
        tap.expect_eq(self.error(), "", "how the session ended")

    def part(self, c, body):
        if c.method != "ReadBuffers":
            super().part(c, body)
            return
        for s in pb.every(body, 2):
            self.reading.setdefault(c, []).append(pb.first(s, 1, b""))
            if pb.first(s, 2, 0):
                c.parts.append(b"".join(self.reading.pop(c)))

    def read(self):
        c = self.call("ReadBuffers")
        self.world.until("the end of a read", lambda: c.done or self.closed)
        if not c.done:
            raise Closed("closed while reading")
        return [p for raw in c.parts for p in pb.packets(pb.put(1, raw))]

    def flush(self, timeout_ms=0):
        return self.ask("Flush", pb.put(1, timeout_ms))[0]

    def state(self):
        """TracingServiceState."""
        ok, reply = self.ask("QueryServiceState")
        tap.expect(ok, "QueryServiceState was rejected")
        return b"".join(pb.every(reply, 1))


def connect(address):
    host, _, port = address.rpartition(":")
    if port.isdigit() and host:
        sock = socket.create_connection((host, int(port)), stack.PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX)
    sock.connect("\0" + address[1:] if address.startswith("@") else address)
    return sock


@contextlib.contextmanager
def as_user(uid):
    """Connections made inside have this uid; root only."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


class World:
    """A private service and the peers that talk to it; leaving it ends the service, which must end well."""

    def __init__(self, *args, env=None):
        self.stack, self.peers = stack.Stack(), []
        self.traced = self.stack.start_traced(*args, env=env)

    def producer(self, *args, **kw):
        return Producer(self, *args, **kw)

    def consumer(self, *args, **kw):
        return Consumer(self, *args, **kw)

    def raw(self, address="producer.sock"):
        return Peer(self, self.stack.path(address), None)

    def let_all_in(self):
        """Other users may connect."""
        os.chmod(self.stack.dir, 0o711)
        for name in ("producer.sock", "consumer.sock"):
            os.chmod(self.stack.path(name), 0o666)

    def pump(self, timeout):
        socks = {p.sock: p for p in self.peers if not p.closed and not p.deaf}
        for sock in select.select(list(socks), [], [], timeout)[0]:
            socks[sock].receive()
        tap.expect(self.traced.poll() is None, f"the service is dead: {self.traced.returncode}")

    def until(self, what, probe, seconds=stack.PATIENCE):
        end = time.monotonic() + seconds
        while not probe():
            tap.expect(time.monotonic() < end, f"waited {seconds} s in vain for {what}")
            self.pump(0.01)

    def memory_kb(self, key="VmRSS"):
        with open(f"/proc/{self.traced.pid}/status", encoding="ascii") as f:
            return int(next(line for line in f if line.startswith(key + ":")).split()[1])

    def grown_kb(self, before):
        """Growth of memory since memory_kb() said `before`; 0 under AddressSanitizer, which keeps what is freed."""
        with open(f"/proc/{self.traced.pid}/maps", encoding="ascii") as f:
            return 0 if "libasan" in f.read() else self.memory_kb() - before

    def file_host(self):
        """The process that starts those which write files."""
        children = lambda: stack.children_of(self.traced.pid)
        stack.until("the host of files", lambda: [stack.name_of(pid) for pid in children()] == ["traced-files"])
        return children()[0]

    def file_writers(self, n=1):
        """Those which write files; waits until there are n."""
        host = self.file_host()
        self.until(f"{n} processes that write files", lambda: len(stack.children_of(host)) == n)
        return stack.children_of(host)

    def report(self):
        """Lines of the service's report (SIGUSR1), without the prefix."""
        before = len(self.stack.log_of(self.traced))
        self.traced.send_signal(10)
        text = lambda: self.stack.log_of(self.traced)[before:]
        self.until("the report", lambda: "end of report" in text())
        return [line.partition("info: ")[2] for line in text().split("\n")]

    def until_uncharged(self):
        """All peers are closed: every account must go back to nothing."""
        want = "charged: 0 connections, 0 SMB bytes, 0 buffer bytes, 0 data source bytes, 0 queued bytes, 0 files, to 0 uids"
        self.until("charges to be zero", lambda: want in self.report())

    def close_all(self):
        for p in self.peers:
            p.close()
        self.peers = []

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.close_all()
        self.stack.__exit__(kind, *rest)
        tap.expect(kind or self.traced.returncode == 0, f"traced ended with {self.traced.returncode}")
