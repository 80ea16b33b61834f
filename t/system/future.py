"""Our programs with a service of the future: a go-between adds to every message of the service what they cannot know.

It puts unknown fields around all that the service says, announces methods that nobody has heard of, and sends
frames of unknown kinds, answers to requests that nobody made, and commands and items that are still to come
before every real frame. The programs must record as ever (ipc.md R38, R46, R58, R93, R131).
"""

import array
import os
import select
import socket
import struct
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import stack
import tap

PRODUCER, CONSUMER = "producer", "consumer"
GET_ASYNC_COMMAND, READ_BUFFERS = 5, 3


def tomorrow(n):
    """Unknown fields of every wire type."""
    return (
        pb.put(40000 + n % 5, n)
        + pb.put(40010, b"?" * 7)
        + pb.put_varint(40020 << 3 | 1) + struct.pack("<Q", n)
        + pb.put_varint(40030 << 3 | 5) + struct.pack("<I", n)
    )  # fmt: skip


def framed(body):
    return struct.pack("<I", len(body)) + body


class Pair:
    """One client's connection and ours to the service."""

    def __init__(self, client, address, kind):
        self.client, self.kind = client, kind
        self.service = socket.socket(socket.AF_UNIX)
        self.service.connect(address)
        self.methods = {}  # request -> method
        self.inbox = {client: b"", self.service: b""}
        self.count = 0

    def other(self, sock):
        return self.service if sock is self.client else self.client

    def pump(self, sock):
        """Moves what is there; False at the end."""
        data, ancillary, _, _ = sock.recvmsg(1 << 18, socket.CMSG_SPACE(8))
        fds = []
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += array.array("i", payload[: len(payload) // 4 * 4])
        if not data:
            return False
        self.inbox[sock] += data
        out = b""
        for body in self.frames(sock):
            if sock is self.client:
                invoke = pb.first(body, 5)
                if invoke is not None:
                    self.methods[pb.first(body, 2, 0)] = pb.first(invoke, 2)
                out += framed(body)
            else:
                out += self.spoiled(body)
        # Descriptors may come before their frame (R63), never after it.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        if fds and not out:
            out = framed(b"")  # carries them
        while out:
            n = self.other(sock).sendmsg([out], rights, socket.MSG_NOSIGNAL)
            out, rights = out[n:], []
        for fd in fds:
            os.close(fd)
        return True

    def frames(self, sock):
        buf = self.inbox[sock]
        while len(buf) >= 4:
            (size,) = struct.unpack_from("<I", buf)
            if len(buf) < 4 + size:
                break
            yield buf[4 : 4 + size]
            buf = buf[4 + size :]
        self.inbox[sock] = buf

    def spoiled(self, body):
        """A frame of the service, and what comes before it."""
        self.count += 1
        n, out = self.count, framed(b"")
        request = pb.first(body, 2, 0)
        out += framed(pb.put(2, 10**9 + n) + pb.put(88, b"a kind of frame that is to come"))
        out += framed(pb.put(2, 10**9 + n) + pb.put(6, pb.put(1, 1) + pb.put(2, 0) + pb.put(3, b"")))
        out += framed(pb.put(2, 10**9 + n) + pb.put(7, pb.put(1, "what?")))
        out += framed(b"\xff\xff\xff")
        bound, reply = pb.first(body, 4), pb.first(body, 6)
        if bound is not None:
            more = b"".join(pb.put(3, pb.put(1, 100 + k) + pb.put(2, f"Telepathy{k}") + tomorrow(k)) for k in range(3))
            return out + framed(tomorrow(n) + pb.put(2, request) + pb.put(4, tomorrow(n) + bound + more + pb.put(3, b"")))
        if reply is None:
            return out + framed(body)
        method, message, ok = self.methods.get(request), pb.first(reply, 3), pb.first(reply, 1, 0)
        if not ok:
            return out + framed(tomorrow(n) + pb.put(2, request) + pb.put(6, reply + tomorrow(n)))
        if method in ((GET_ASYNC_COMMAND,) if self.kind == PRODUCER else (READ_BUFFERS,)):
            item = tomorrow(n) + pb.put(500, pb.put(1, 1))  # a command, or part of a reply, that is to come
            out += framed(pb.put(2, request) + pb.put(6, pb.put(1, 1) + pb.put(2, 1) + pb.put(3, item)))
        large = len(message) > 100000
        head = pb.put(1, ok) + pb.put(2, pb.first(reply, 2, 0)) + (b"" if large else tomorrow(n))
        return out + framed(pb.put(2, request) + pb.put(6, head + pb.put(3, message + (b"" if large else tomorrow(n)))))


class Between:
    """Sockets for programs, in front of those of the real service."""

    def __init__(self, s):
        self.s, self.pairs, self.seen, self.error = s, {}, 0, None
        self.listeners = {}
        for kind in (PRODUCER, CONSUMER):
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(s.path(kind + ".future"))
            sock.listen()
            self.listeners[sock] = kind
        self.env = {f"PERFETTO_{k.upper()}_SOCK_NAME": s.path(k + ".future") for k in self.listeners.values()}
        self.wake, self.quit = os.pipe()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while True:
                ready = select.select([self.wake, *self.listeners, *self.pairs], [], [])[0]
                if self.wake in ready:
                    return
                for sock in ready:
                    if sock in self.listeners:
                        kind = self.listeners[sock]
                        pair = Pair(sock.accept()[0], self.s.path(kind + ".sock"), kind)
                        self.pairs[pair.client] = self.pairs[pair.service] = pair
                    elif sock in self.pairs:
                        self.move(sock)
        except Exception as err:  # pylint: disable=broad-except
            self.error = err

    def move(self, sock):
        pair = self.pairs[sock]
        before = pair.count
        try:
            going = pair.pump(sock)
        except (ConnectionError, BrokenPipeError):
            going = False
        self.seen += pair.count - before
        if not going:
            for x in (pair.client, pair.service):
                del self.pairs[x]
                x.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        os.write(self.quit, b"x")
        self.thread.join(stack.PATIENCE)
        if not kind:
            tap.expect(self.error is None, f"the go-between failed: {self.error!r}")
            tap.expect(self.seen > 0, "nothing went through it")


CONFIG = """
buffers { size_kb: 4096 }
duration_ms: %d
data_sources { config { name: "linux.sys_stats" sys_stats_config { stat_period_ms: 50 meminfo_period_ms: 50 } } }
data_sources { config { name: "linux.process_stats" process_stats_config { scan_all_processes_on_start: true } } }
%s
"""


def checked(s, name):
    """The trace parses, has no losses, and has what both sources write."""
    with open(s.path(name), "rb") as f:
        packets = list(pb.packets(f.read()))
    stats = sum(pb.first(p, 7) is not None for p in packets)
    tap.expect(stats > 3, f"{stats} packets of sys_stats")
    tap.expect(any(pb.first(p, 2) is not None for p in packets), "no process tree")
    r = s.perfetto("--inspect", "--check", s.path(name))
    tap.expect_eq(r.returncode, 0, r.stdout + r.stderr)


@tap.case("R131, R93: the client and the probes record through it to a file and by themselves, and query")
def _():
    with stack.Stack() as s:
        s.start_traced()
        with Between(s) as b:
            s.env.update(b.env)
            s.start_probes()
            r = s.perfetto("-c", "-", "--txt", "-o", s.path("out"), stdin=CONFIG % (600, ""))
            tap.expect_eq(r.returncode, 0, r.stderr)
            checked(s, "out")
            r = s.perfetto("-c", "-", "--txt", "-o", s.path("out2"), stdin=CONFIG % (600, "write_into_file: true file_write_period_ms: 100"))
            tap.expect_eq(r.returncode, 0, r.stderr)
            checked(s, "out2")
            r = s.perfetto("--query")
            tap.expect("linux.sys_stats" in r.stdout and r.returncode == 0, r.stdout + r.stderr)


@tap.case("R131: detach, attach, triggers and clones work through it")
def _():
    with stack.Stack() as s:
        s.start_traced()
        with Between(s) as b:
            s.env.update(b.env)
            s.start_probes()
            config = CONFIG % (0, 'write_into_file: true file_write_period_ms: 100 unique_session_name: "one"')
            r = s.perfetto("-c", "-", "--txt", "-o", s.path("out"), "--detach=key", stdin=config.replace("duration_ms: 0", ""))
            tap.expect_eq(r.returncode, 0, r.stderr)
            tap.expect_eq(s.perfetto("--is_detached=key").returncode, 0, "--is_detached")
            # The period of the statistics is 50 ms; the file tells when there are some.
            stack.until("data", lambda: os.path.getsize(s.path("out")) > 2000)
            r = s.perfetto("--clone-by-name", "one", "-o", s.path("clone"))
            tap.expect_eq(r.returncode, 0, r.stderr)
            r = s.perfetto("--attach=key", "--stop")
            tap.expect_eq(r.returncode, 0, r.stderr)
            with open(s.path("out"), "rb") as f:
                tap.expect(any(pb.first(p, 7) is not None for p in pb.packets(f.read())), "no statistics in the file")
            trigger = 'trigger_config { trigger_mode: STOP_TRACING trigger_timeout_ms: 60000 triggers { name: "now" stop_delay_ms: 300 } }'
            with open(s.path("cfg"), "w", encoding="ascii") as f:
                f.write((CONFIG % (0, trigger)).replace("duration_ms: 0", ""))
            p = s.start("perfetto", "-c", s.path("cfg"), "--txt", "-o", s.path("out3"))
            stack.until("the session", lambda: "(started: 1)" in s.perfetto("--query").stdout)
            tap.expect_eq(s.perfetto("now", name="trigger_perfetto").returncode, 0, "trigger_perfetto")
            tap.expect_eq(p.wait(stack.PATIENCE), 0, s.log_of(p))
            checked(s, "out3")


tap.run()
