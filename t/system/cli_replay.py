"""The command line client against a service that plays back recorded conversations (t/data/vectors).

The client must ask what upstream's client asked, in that order and with the same arguments (apart from the
random trace id), and must make the same file of the answers.
"""

import gzip
import os
import socket
import struct
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import stack
import tap

VECTORS = os.path.join(tap.SRCDIR, "t", "data", "vectors")
UUID_FIELDS = (27, 28)  # TraceConfig.trace_uuid_msb, trace_uuid_lsb


def records(name):
    with gzip.open(os.path.join(VECTORS, name)) as f:
        data = f.read()
    out, at = [], 0
    while at < len(data):
        kind, fds, size = struct.unpack_from("<cBI", data, at)
        out.append((kind.decode(), fds, data[at + 6 : at + 6 + size]))
        at += 6 + size
    return out


def unzip(name):
    with gzip.open(os.path.join(VECTORS, name)) as f:
        return f.read()


def with_request_id(frame, rid):
    """The frame with another request_id (field 2)."""
    out = b"\x10" + pb.put_varint(rid)
    for number, value in pb.fields(frame):
        if number != 2:
            out += pb.put(number, value)
    return out


def canonical(value):
    """A message as a sorted list of fields, whatever order they came in; other values as they are."""
    if not isinstance(value, bytes):
        return value
    try:
        return sorted(((n, canonical(v)) for n, v in pb.fields(value)), key=repr)
    except (ValueError, struct.error):
        return value


def comparable(method, args):
    """Arguments without what is random, and without false and 0, which may be written or left out."""
    fields = list(pb.fields(args))
    if method == 1:
        config = b"".join(pb.put(n, v) for n, v in pb.fields(pb.first(args, 1, b"")) if n not in UUID_FIELDS)
        fields = [(n, v) for n, v in fields if n != 1] + [(1, config)]
    return sorted(((n, canonical(v)) for n, v in fields if v not in (0, b"")), key=repr)


class Replay:
    """Plays one recorded consumer connection after the other."""

    def __init__(self, path, names):
        self.names, self.wrong, self.fds = names, [], []
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen(8)
        self.server.settimeout(stack.PATIENCE)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            for name in self.names:
                conn, _ = self.server.accept()
                conn.settimeout(stack.PATIENCE)
                self.play(name, conn)
                conn.close()
        except Exception as err:
            self.wrong.append(f"{type(err).__name__}: {err}")

    def receive(self, conn, state):
        while True:
            if len(state["buf"]) >= 4:
                size = struct.unpack_from("<I", state["buf"])[0]
                if len(state["buf"]) >= 4 + size:
                    frame, state["buf"] = state["buf"][4 : 4 + size], state["buf"][4 + size :]
                    return frame
            data, fds, _, _ = socket.recv_fds(conn, 1 << 17, 4)
            state["fds"] += fds
            self.fds += fds
            if not data:
                return None
            state["buf"] += data

    def play(self, name, conn):
        state, ids = {"buf": b"", "fds": []}, {}
        for kind, fds, want in records(name):
            if kind == "<":
                rid = ids.get(pb.first(want, 2))
                if rid is not None:
                    frame = with_request_id(want, rid)
                    conn.sendall(struct.pack("<I", len(frame)) + frame)
                continue
            got = self.receive(conn, state)
            if got is None:
                self.wrong.append(f"{name}: the client hung up early")
                return
            ids[pb.first(want, 2)] = pb.first(got, 2)
            self.compare(name, want, got, fds, state)
        if self.receive(conn, state) is not None:
            self.wrong.append(f"{name}: the client asks more than upstream's")

    def compare(self, name, want, got, fds, state):
        a, b = pb.first(want, 5), pb.first(got, 5)
        if (a is None) != (b is None):
            self.wrong.append(f"{name}: another kind of frame")
        elif a is not None:
            method = pb.first(a, 2)
            if pb.first(b, 2) != method:
                self.wrong.append(f"{name}: method {pb.first(b, 2)} instead of {method}")
            x, y = comparable(method, pb.first(a, 3, b"")), comparable(method, pb.first(b, 3, b""))
            if x != y:
                self.wrong.append(f"{name}: method {method}: arguments {y!r} instead of {x!r}")
            if len(state["fds"]) != fds:
                self.wrong.append(f"{name}: method {method}: {len(state['fds'])} descriptors instead of {fds}")
            state["fds"] = []
        elif pb.first(want, 3) != pb.first(got, 3):
            self.wrong.append(f"{name}: binds {pb.first(got, 3)!r}")

    def check(self):
        self.thread.join(stack.PATIENCE)
        self.server.close()
        for fd in self.fds:
            os.close(fd)
        tap.expect(not self.wrong, "\n".join(self.wrong))


def config(scenario):
    with open(os.path.join(VECTORS, scenario, "config.pbtxt")) as f:
        return f.read()


for scenario in ("record_sys_stats", "small_packets", "large_nested_packets", "ring_overwrite", "track_event_c", "sdk_old_v4", "triggers_clone"):

    @tap.case(f"recording {scenario} gives the recorded file")
    def _(scenario=scenario):
        with stack.Stack() as s:
            r = Replay(s.env["PERFETTO_CONSUMER_SOCK_NAME"], [f"{scenario}/consumer.0.vec.gz"])
            p = s.perfetto("-c", "-", "--txt", "-o", s.path("out"), stdin=config(scenario))
            tap.expect_eq(p.returncode, 0, f"status; it said {p.stderr}")
            r.check()
            with open(s.path("out"), "rb") as f:
                tap.expect(f.read() == unzip(f"{scenario}/out.pftrace.gz"), "the file differs")


@tap.case("the raw query gives the recorded bytes")
def _():
    with stack.Stack() as s:
        r = Replay(s.env["PERFETTO_CONSUMER_SOCK_NAME"], ["record_sys_stats/consumer.1.vec.gz"])
        out = subprocess.run([s.program("perfetto"), "--query-raw"], env=s.env, stdout=subprocess.PIPE, timeout=60)
        tap.expect_eq(out.returncode, 0, "status")
        r.check()
        tap.expect(out.stdout == unzip("record_sys_stats/query_raw.pb.gz"), "the state differs")


@tap.case("detach, two probes, and attach with stop ask what upstream asks")
def _():
    with stack.Stack() as s:
        r = Replay(s.env["PERFETTO_CONSUMER_SOCK_NAME"], [f"detach_attach/consumer.{i}.vec.gz" for i in range(4)])
        keys = [next(pb.first(pb.first(pb.first(f, 5), 3), 1).decode() for k, _, f in records(f"detach_attach/consumer.{i}.vec.gz")
                     if k == ">" and pb.first(f, 5) and pb.first(pb.first(f, 5), 2) in (8, 9)) for i in range(4)]  # fmt: skip
        p = s.perfetto("-c", "-", "--txt", "-o", s.path("out"), "--detach=" + keys[0], stdin=config("detach_attach"))
        tap.expect_eq(p.returncode, 0, f"status of --detach; it said {p.stderr}")
        tap.expect_eq(s.perfetto("--is_detached=" + keys[1]).returncode, 0, "status of --is_detached")
        tap.expect_eq(s.perfetto("--is_detached=" + keys[2]).returncode, 2, "status for an unknown key")
        tap.expect_eq(s.perfetto("--attach=" + keys[3], "--stop").returncode, 0, "status of --attach --stop")
        r.check()


@tap.case("a clone asks what upstream asks and gives the recorded file")
def _():
    with stack.Stack() as s:
        name = "triggers_clone/consumer.1.vec.gz"
        args = next(pb.first(pb.first(f, 5), 3) for k, _, f in records(name) if k == ">" and pb.first(f, 5))
        r = Replay(s.env["PERFETTO_CONSUMER_SOCK_NAME"], [name])
        select = ["--clone", str(pb.first(args, 1))] if pb.first(args, 1) else ["--clone-by-name", pb.first(args, 4).decode()]
        p = s.perfetto(*select, "-o", s.path("out"))
        tap.expect_eq(p.returncode, 0, f"status; it said {p.stderr}")
        r.check()
        with open(s.path("out"), "rb") as f:
            tap.expect(f.read() == unzip("triggers_clone/clone.pftrace.gz"), "the file differs")


@tap.case("the replaying service notices a client that asks something else")
def _():
    with stack.Stack() as s:
        r = Replay(s.env["PERFETTO_CONSUMER_SOCK_NAME"], ["record_sys_stats/consumer.0.vec.gz"])
        s.perfetto("-c", "-", "--txt", "-o", s.path("out"), stdin="duration_ms: 77")
        r.thread.join(stack.PATIENCE)
        tap.expect(r.wrong, "another config passed for the recorded one")
        r.server.close()


tap.run()
