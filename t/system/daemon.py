"""traced as a program: options, sockets of every family, inherited sockets, relays, signals, idleness, units."""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import peer
import stack
import tap


ALL_MACHINES = pb.put(43, 1)  # TraceConfig.trace_all_machines
REMOTE_CLOCK_SYNC = 107  # TracePacket


def run(s, *args, env=None):
    return subprocess.run(
        [s.program("traced"), *args], env=dict(s.env, **(env or {})), cwd=s.dir, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=stack.PATIENCE
    )


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def record(w, p, c, n=5):
    """One session with one producer, to its end: the packets."""
    c.enable(peer.config(["src"], extra=ALL_MACHINES))
    p.until_started()
    for i in range(n):
        p.write([peer.packet(i)])
    tap.expect(c.flush(), "flush")
    c.stop()
    packets = c.read()
    c.ask("FreeBuffers")
    tap.expect_eq(list(peer.by_sequence(packets).values()), [list(range(n))], "packets")
    return packets


# ---- options


@tap.case("R238: --version and --help say so on stdout and end with 0")
def _():
    with stack.Stack() as s:
        r = run(s, "--version")
        tap.expect_eq((r.returncode, r.stderr), (0, ""), "--version")
        tap.expect(re.fullmatch(r"Perfetto v\S+ \(.*\)\n", r.stdout), f"version text: {r.stdout!r}")
        r = run(s, "--help")
        tap.expect_eq((r.returncode, r.stderr), (0, ""), "--help")
        for option in ("background", "set-socket-permissions", "enable-relay-endpoint-on", "exit-on-idle", "limit-smb"):
            tap.expect("--" + option in r.stdout, f"--help does not name --{option}")


@tap.case("R830, R239: what traced does not understand prints the usage on stderr and ends with 1")
def _():
    with stack.Stack() as s:
        for args in (
            ["--no-such"],
            ["-v"],
            ["--exit-on-idle", "0"],
            ["--exit-on-idle", "soon"],
            ["--limit-connections", "-1"],
            ["--limit-smb", "12Q"],
            ["--limit-buffers", "99999999999G"],
            ["--set-socket-permissions"],
        ):
            r = run(s, *args)
            tap.expect_eq((r.returncode, r.stdout), (1, ""), f"traced {args}")
            tap.expect("usage: traced" in r.stderr, f"traced {args}: {r.stderr}")


@tap.case("R830, R835, R837: other arguments are ignored; readiness is one byte, once it listens; the log says where")
def _():
    with stack.Stack() as s:
        r, w = os.pipe()
        log = open(s.path("log"), "w+b")
        p = subprocess.Popen([s.program("traced"), "ignored", "this too"], env=dict(s.env, TRACED_NOTIFY_FD=str(w)), pass_fds=[w], stdin=subprocess.DEVNULL, stderr=log)
        p.log, p.name = log, "traced"
        s.children.append(p)
        os.close(w)
        with open(r, "rb") as f:
            tap.expect_eq(f.read(), b"1", "what comes before the end of the pipe")
        for name in ("producer.sock", "consumer.sock"):
            peer.connect(s.path(name)).close()
            stack.until(f"{name} in the log", lambda name=name: s.path(name) in s.log_of(p))
        tap.expect("'this too' is not an option and is ignored" in s.log_of(p), s.log_of(p))
        tap.expect_eq(s.stop(p), 0, "status")
        for bad in ("x", "-1", "987654", ""):
            got = run(s, env={"TRACED_NOTIFY_FD": bad})
            tap.expect(got.returncode == 1 and "TRACED_NOTIFY_FD" in got.stderr, f"{bad!r}: {got.returncode} {got.stderr}")


@tap.case("R75: PERFETTO_MACHINE_NAME is the name of this machine, for filters of data sources, else that of the kernel")
def _():
    for env, name in (({"PERFETTO_MACHINE_NAME": "my machine"}, "my machine"), ({}, os.uname().sysname)):
        with peer.World(env=env) as w:
            p, c = w.producer(sources=["src"]), w.consumer()
            for want, runs in ((name, True), ("another", False)):
                source = pb.put(2, pb.put(1, pb.put(1, "src")) + pb.put(4, want))
                p.instances = {}
                c.enable(peer.config(extra=source))
                c.ask("QueryCapabilities")
                p.ask("Sync")
                tap.expect_eq(bool(p.instances), runs, f"a filter for {want!r} on {name!r}")
                c.stop()
                c.ask("FreeBuffers")


@tap.case("the manual page names every option, and no other")
def _():
    with stack.Stack() as s:
        listed = set(re.findall(r"^  --([a-z-]+)", run(s, "--help").stdout, re.M))
        with open(os.path.join(tap.SRCDIR, "man", "traced.8"), encoding="utf-8") as f:
            page = set(re.findall(r"^\.It Fl -([a-z-]+)", f.read(), re.M))
        tap.expect_eq(sorted(page), sorted(listed), "options of the page and of --help")


@tap.case("R17, R239, R831: --set-socket-permissions sets owner, group and mode of every socket file")
def _():
    with stack.Stack() as s:
        s.env["PERFETTO_PRODUCER_SOCK_NAME"] = ",".join([s.path("p1"), "@test-%d-perm" % os.getpid(), s.path("p2")])
        gid = os.getgid()
        s.start_traced("--set-socket-permissions", f"{gid}:0622:{gid}:0640")
        for name, mode in (("p1", 0o622), ("p2", 0o622), ("consumer.sock", 0o640)):
            st = os.stat(s.path(name))
            tap.expect_eq((st.st_mode & 0o7777, st.st_uid, st.st_gid), (mode, os.geteuid(), gid), name)


@tap.case("R17: permissions that cannot be are refused with 1")
def _():
    with stack.Stack() as s:
        for text in ("root:0660", "root:066:root:0660", "no-such-group:0660:root:0660", "root:0669:root:0660", ":::"):
            tap.expect_eq(run(s, "--set-socket-permissions", text).returncode, 1, text)


@tap.case("--background prints the pid of a daemon that serves")
def _():
    with stack.Stack() as s:
        r = run(s, "--background", "--log-file", "log", "--exit-on-idle", "60")
        tap.expect_eq((r.returncode, r.stderr), (0, ""), "the parent")
        pid = int(r.stdout)
        try:
            stack.until("the socket", lambda: os.path.exists(s.path("consumer.sock")))
            tap.expect_eq(os.getsid(pid), pid, "session of the daemon")
            tap.expect_eq(os.readlink(f"/proc/{pid}/cwd"), "/", "folder of the daemon")
            tap.expect_eq(s.perfetto("--query").returncode, 0, "a query")
        finally:
            os.kill(pid, signal.SIGTERM)
        stack.until("the daemon's end", lambda: not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat").read().split()[2] == "Z")
        with open(s.path("log"), encoding="utf-8") as f:
            tap.expect("listening for producers" in f.read(), "the log file of --log-file has the log")


# ---- sockets


@tap.case("R12: a comma list makes one producer socket of each part, paths and abstract names")
def _():
    abstract = "@perfetto-test-%d" % os.getpid()
    s = stack.Stack()
    w = peer.World(env={"PERFETTO_PRODUCER_SOCK_NAME": f",{s.path('a')},,{abstract},"})
    with s, w:
        for address in (s.path("a"), abstract):
            record(w, w.producer(sources=["src"], address=address), w.consumer())
            w.close_all()
        w.until_uncharged()


@tap.case("R12: an empty list of producer sockets is an error")
def _():
    with stack.Stack() as s:
        r = run(s, env={"PERFETTO_PRODUCER_SOCK_NAME": ",,"})
        tap.expect_eq(r.returncode, 1, "status")
        tap.expect("PERFETTO_PRODUCER_SOCK_NAME" in r.stderr, r.stderr)


@tap.case("R15, R241, R834: a socket that cannot be made ends the service with 1 and one line that says which")
def _():
    with stack.Stack() as s:
        r = run(s, env={"PERFETTO_CONSUMER_SOCK_NAME": s.path("no/such/dir/c")})
        tap.expect_eq(r.returncode, 1, "status")
        tap.expect("no/such/dir/c" in r.stderr, r.stderr)


DEFAULTS = """
mount -t tmpfs none /run && mount -t tmpfs none /tmp || exit 77
until_there() { n=0; until [ -S "$1" ]; do n=$((n + 1)); [ $n -lt 3000 ] || exit 1; sleep 0.01; done; }
"$1/traced" & first=$!
until_there /tmp/perfetto-consumer
[ -S /tmp/perfetto-producer ] || exit 2
"$1/perfetto" --query || exit 3
mkdir /run/perfetto
"$1/perfetto" --query && exit 4
"$1/traced" & second=$!
until_there /run/perfetto/traced-consumer.sock
[ -S /run/perfetto/traced-producer.sock ] || exit 5
"$1/perfetto" --query || exit 6
kill $first $second
wait $first || exit 7
wait $second || exit 8
"""


@tap.case("R9, R10, R11, R870: the default sockets of service and clients, each by what it finds when it starts")
def _():
    if os.geteuid() != 0 or not shutil.which("unshare"):
        tap.skip("needs root and unshare, for a private /run and /tmp")
    if tap.BUILDDIR.startswith(("/tmp/", "/run/")):
        tap.skip("the build folder is in what the test hides")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PERFETTO_")}
    r = subprocess.run(["unshare", "-m", "sh", "-c", DEFAULTS, "sh", tap.BUILDDIR], env=env, cwd="/", capture_output=True, text=True, timeout=stack.PATIENCE * 3)
    if r.returncode == 77 or "unshare" in r.stderr:
        tap.skip("no private mounts here")
    tap.expect_eq(r.returncode, 0, r.stdout + r.stderr)


@tap.case("R14, R241, R833: a stale file and a running service's socket are taken over; the loser's end leaves ours alone")
def _():
    with stack.Stack() as s:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(s.path("producer.sock"))
        with open(s.path("consumer.sock"), "w", encoding="ascii"):
            pass
        first = s.start_traced()
        tap.expect_eq(s.perfetto("--query").returncode, 0, "query after a stale socket")
        s.start_traced()
        tap.expect_eq(s.stop(first), 0, "the first service's end")
        tap.expect_eq(s.perfetto("--query").returncode, 0, "query of the second service")


@tap.case("R242: once it says that it is ready, both sockets take connections and have their permissions")
def _():
    with stack.Stack() as s:
        gid = os.getgid()
        s.start_traced("--set-socket-permissions", f"{gid}:0600:{gid}:0600")
        for name in ("producer.sock", "consumer.sock"):  # no retry, no wait
            peer.connect(s.path(name)).close()
            tap.expect_eq(os.stat(s.path(name)).st_mode & 0o7777, 0o600, name)


@tap.case("R18, R243: who may open a socket is what its permissions say, and nobody asks for more")
def _():
    if os.geteuid() != 0:
        tap.skip("needs root, to be somebody else")
    stranger = 54321
    with peer.World("--set-socket-permissions", "0:0622:0:0640") as w:
        os.chmod(w.stack.dir, 0o711)
        with peer.as_user(stranger):
            p = w.producer(sources=["src"])
            try:
                w.consumer()
                raise AssertionError("a stranger opened the consumer socket")
            except PermissionError:
                pass
        record(w, p, w.consumer())
        w.close_all()
        os.chmod(w.stack.path("consumer.sock"), 0o666)
        p = w.producer(sources=["src"])
        with peer.as_user(stranger):
            c = w.consumer()
        record(w, p, c)  # whoever could open it is trusted with the packets of root's producers


@tap.case("R113, R245: when the service goes, every connection ends")
def _():
    for sig in (signal.SIGKILL, signal.SIGTERM):
        with stack.Stack() as s:
            p = s.start_traced()
            socks = [peer.connect(s.path(n)) for n in ("producer.sock", "consumer.sock")]
            for sock, service in zip(socks, ("ProducerPort", "ConsumerPort")):
                sock.settimeout(stack.PATIENCE)
                sock.sendall(peer.frame(1, 3, pb.put(1, service)))
                tap.expect(sock.recv(1 << 16), "an answer")
            p.send_signal(sig)
            for sock in socks:
                tap.expect_eq(sock.recv(1), b"", f"what comes after signal {sig}")
                sock.close()
            p.wait(stack.PATIENCE)


@tap.case("R246: the service brings no producer of its own")
def _():
    with peer.World() as w:
        state = w.consumer().state()
        tap.expect_eq([pb.every(state, 1), pb.every(state, 2)], [[], []], "producers and data sources")


@tap.case("R16, R836: sockets of ANDROID_SOCKET_* are used instead of names; one alone is an error")
def _():
    with stack.Stack() as s:
        socks = {}
        for name in ("producer", "consumer"):
            socks[name] = socket.socket(socket.AF_UNIX)
            socks[name].bind(s.path(name + ".sock"))
        fds = [socks[n].fileno() for n in socks]
        env = {f"ANDROID_SOCKET_traced_{n}": str(x.fileno()) for n, x in socks.items()}
        p = subprocess.Popen([s.program("traced")], env=dict(s.env, PERFETTO_PRODUCER_SOCK_NAME="", **env), pass_fds=fds, stderr=subprocess.DEVNULL)
        try:
            stack.until("answers", lambda: s.perfetto("--query").returncode == 0)
        finally:
            p.terminate()
            p.wait()
        tap.expect(os.path.exists(s.path("producer.sock")), "the socket file is its maker's")
        env.pop("ANDROID_SOCKET_traced_producer")
        tap.expect_eq(run(s, env=env).returncode, 1, "with one variable only")


@tap.case("TCP: a remote producer is told to emulate shared memory, and its packets arrive (T-E10)")
def _():
    port = free_port()
    w = peer.World(env={"PERFETTO_PRODUCER_SOCK_NAME": f"127.0.0.1:{port}"})
    with w:
        p = w.producer(sources=["src"], address=f"127.0.0.1:{port}")
        tap.expect(p.emulated, "use_shmem_emulation")
        packets = record(w, p, w.consumer(), 12)
        ours = [q for q in packets if peer.number_of(q) is not None]
        tap.expect(all(pb.first(q, 3) == 0 for q in ours), "R71: nobody in particular is uid 0")
        tap.expect(all(pb.first(q, 98) is None for q in ours), "machine id without SetPeerIdentity")


@tap.case("vsock: the same over the loopback of the kernel")
def _():
    if not hasattr(socket, "AF_VSOCK") or not os.path.exists("/dev/vsock"):
        tap.skip("no vsock here")
    port = 20000 + os.getpid() % 20000
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            probe.bind((1, port))
            probe.listen()
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as other:
                other.settimeout(2)
                other.connect((1, port))
    except OSError as err:
        tap.skip(f"vsock loopback does not work here: {err}")
    w = peer.World(env={"PERFETTO_PRODUCER_SOCK_NAME": f"vsock://-1:{port}"})
    with w:
        plain = peer.connect

        def connect(address):
            if not address.startswith("vsock:"):
                return plain(address)
            sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            sock.connect((1, port))
            return sock

        peer.connect = connect
        try:
            record(w, w.producer(sources=["src"], address=f"vsock://1:{port}"), w.consumer())
        finally:
            peer.connect = plain


def fake_vsock(s):
    """Variables that put AF_VSOCK on top of TCP in the programs that have them (t/support/fakevsock.c)."""
    cc = shutil.which(os.environ.get("CC", "cc").split()[0])
    if not cc:
        tap.skip("no compiler for the module that stands in for vsock")
    module = s.path("fakevsock.so")
    subprocess.run([cc, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", module, os.path.join(tap.SRCDIR, "t", "support", "fakevsock.c"), "-ldl"], check=True)
    return {"LD_PRELOAD": module, "ASAN_OPTIONS": "verify_asan_link_order=0"}


@tap.case("vsock, with TCP in its place below: listening, nobody's credentials, emulation, relays, and our own programs over it")
def _():
    s = stack.Stack()
    with s:
        preload = fake_vsock(s)
        port, other = free_port(), free_port()
        address = f"vsock://-1:{port}"
        env = dict(preload, PERFETTO_PRODUCER_SOCK_NAME=address, PERFETTO_CONSUMER_SOCK_NAME=f"vsock://-1:{other}")
        with peer.World("--enable-relay-endpoint-on", address, env=env) as w:
            tcp, consumer = f"127.0.0.1:{port}", f"127.0.0.1:{other}"
            tap.expect("whoever reaches it" in w.stack.log_of(w.traced), "consumers over vsock are a line in the log, too")
            p = w.producer(sources=["src"], address=tcp)
            tap.expect(p.emulated, "use_shmem_emulation")
            packets = record(w, p, w.consumer(consumer))
            ours = [q for q in packets if peer.number_of(q) is not None]
            tap.expect(all((pb.first(q, 3), pb.first(q, 98)) == (0, None) for q in ours), "R71: who it is")
            who = peer.Peer(w, tcp, None)
            who.send(identity(7, 8, ""))
            who.bind("RelayPort")
            tap.expect_eq(len(who.methods), 2, "RelayPort")
            who.bind("ProducerPort")
            w.until("ProducerPort", lambda: "Sync" in who.methods)
            who.ask("InitializeConnection", pb.put(3, "who"))
            (got,) = [x for x in pb.every(w.consumer(consumer).state(), 1) if pb.first(x, 2) == b"who"]
            tap.expect_eq((pb.first(got, 3), pb.first(got, 5), pb.first(got, 7)), (8, 7, fnv("vsock://1")), "R74: without a hint the local address is the machine")
            s.env.update(preload, PERFETTO_PRODUCER_SOCK_NAME=f"vsock://1:{port}", PERFETTO_CONSUMER_SOCK_NAME=f"vsock://1:{other}")
            s.start_probes()
            config = 'buffers { size_kb: 1024 } duration_ms: 400 data_sources { config { name: "linux.sys_stats" sys_stats_config { stat_period_ms: 50 } } }'
            r = s.perfetto("-c", "-", "--txt", "-o", s.path("out"), stdin=config)
            tap.expect_eq(r.returncode, 0, r.stderr)
            with open(s.path("out"), "rb") as f:
                tap.expect(any(pb.first(q, 7) is not None for q in pb.packets(f.read())), "no statistics in the trace")


@tap.case("a consumer socket on the network is a line in the log")
def _():
    w = peer.World(env={"PERFETTO_CONSUMER_SOCK_NAME": f"127.0.0.1:{free_port()}"})
    with w:
        tap.expect("whoever reaches it can read all traces" in w.stack.log_of(w.traced), "a warning")


# ---- relays


def identity(pid, uid, hint, name=""):
    body = pb.put(2, 0) + pb.put(8, pb.put(1, pid) + pb.put(2, uid) + pb.put(3, hint) + pb.put(4, name))
    return struct.pack("<I", len(body)) + body


def fnv(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value % 2**32 or 1


class Remote(peer.Producer):
    """A producer behind a relay: its identity goes first."""

    who = (4321, 1234, "boot-1", "vm1")

    def bind(self, name):
        self.send(identity(*self.who))
        super().bind(name)


class Relay(peer.Peer):
    def __init__(self, world, address, who=(77, 0, "boot-1", "vm1")):
        super().__init__(world, address, None)
        if who:
            self.send(identity(*who))
        self.bind("RelayPort")


@tap.case("R19, T-R4, T-R5: a relayed producer keeps its identity; clocks and system info of its machine are in the trace")
def _():
    address = f"127.0.0.1:{free_port()}"
    w = peer.World("--enable-relay-endpoint", env={"PERFETTO_PRODUCER_SOCK_NAME": address})
    with w:
        relay = Relay(w, address)
        tap.expect_eq(relay.methods, {"InitRelay": 1, "SyncClock": 2}, "methods of RelayPort")
        tap.expect(relay.ask("InitRelay", pb.put(1, pb.put(1, pb.put(1, "Linux"))))[0], "InitRelay")
        for phase in (1, 2):
            clocks = pb.put(2, pb.put(1, 6) + pb.put(2, 10**9)) + pb.put(2, pb.put(1, 1) + pb.put(2, 10**18))
            tap.expect(relay.ask("SyncClock", pb.put(1, phase) + clocks)[0], "SyncClock")
        p = Remote(w, sources=["src"], address=address)
        c = w.consumer()
        c.enable(peer.config(["src"]))
        tap.expect(c.flush(), "a flush, so that the start is over")
        p.ask("Sync")
        tap.expect_eq(p.instances, {}, "R237: a remote producer waits to be asked for; instances")
        c.stop()
        c.ask("FreeBuffers")
        c.enable(peer.config(["src"], extra=ALL_MACHINES))
        p.until_started()
        p.write([peer.packet(0)])
        c.flush()
        c.stop()
        packets = c.read()
        (mine,) = [q for q in packets if peer.number_of(q) is not None]
        tap.expect_eq([pb.first(mine, n) for n in (3, 79, 98)], [1234, 4321, fnv("boot-1")], "uid, pid and machine")
        syncs = [q for q in packets if pb.first(q, REMOTE_CLOCK_SYNC) is not None]
        tap.expect_eq(len(syncs), 1, "remote_clock_sync packets")
        tap.expect_eq(pb.first(syncs[0], 98), fnv("boot-1"), "machine of the clocks")
        pairs = pb.every(pb.first(syncs[0], REMOTE_CLOCK_SYNC), 1)
        tap.expect_eq(len(pairs), 2, "exchanges")
        tap.expect(all(pb.first(x, 2) and pb.first(x, 3) for x in pairs), "both clock sets of each")
        infos = [q for q in packets if pb.first(q, 45) is not None and pb.first(q, 98) == fnv("boot-1")]
        tap.expect_eq(len(infos), 1, "system_info of the machine")


@tap.case("R231: the first identity on a network socket counts, none on a Unix socket; without a hint the address is the machine")
def _():
    address = f"127.0.0.1:{free_port()}"
    s = stack.Stack()
    local = s.path("local")
    with s, peer.World("--enable-relay-endpoint", env={"PERFETTO_PRODUCER_SOCK_NAME": f"{address},{local}"}) as w:
        first, later = identity(4321, 1234, "boot-1", "vm1"), identity(9, 9, "boot-9", "vm9")
        for where, frames, want in (
            (address, [first, later], (1234, 4321, fnv("boot-1"), b"vm1")),
            (address, [identity(7, 8, "")], (8, 7, fnv("127.0.0.1"), None)),
            (local, [first], (os.getuid(), os.getpid(), None, None)),
        ):
            p = peer.Peer(w, where, None)
            for f in frames:
                p.send(f)
            p.bind("ProducerPort")
            tap.expect(p.ask("InitializeConnection", pb.put(3, "who"))[0], "InitializeConnection")
            (got,) = pb.every(w.consumer().state(), 1)
            tap.expect_eq((pb.first(got, 3), pb.first(got, 5), pb.first(got, 7), pb.first(got, 8)), want, f"{where} after {len(frames)} identities")
            w.close_all()
            w.until_uncharged()


@tap.case("R19, R230: RelayPort is on the sockets that were named, and on no other")
def _():
    s = stack.Stack()
    a, b = s.path("a"), s.path("b")
    with s, peer.World("--enable-relay-endpoint-on", b, env={"PERFETTO_PRODUCER_SOCK_NAME": f"{a},{b}"}) as w:
        tap.expect_eq(len(Relay(w, b).methods), 2, "methods on the named one")
        tap.expect_eq(Relay(w, a).methods, {}, "methods on the other")
        record(w, w.producer(sources=["src"], address=b), w.consumer())
    with stack.Stack() as s:
        tap.expect_eq(run(s, "--enable-relay-endpoint-on", "nowhere").returncode, 1, "R832: an unknown name")
    with peer.World() as w:
        tap.expect_eq(Relay(w, w.stack.path("producer.sock"), None).methods, {}, "without an option")


@tap.case("relays that leave, flood or lie leave nothing behind")
def _():
    address = f"127.0.0.1:{free_port()}"
    w = peer.World("--enable-relay-endpoint", env={"PERFETTO_PRODUCER_SOCK_NAME": address})
    with w:
        for n in range(20):
            early = n % 2  # who it is comes before its first word, or after it
            late = Relay(w, address, (1, 1, f"hint{n}", "") if early else None)
            late.ask("InitRelay", pb.put(1, b"\x0a\x00"))
            late.send(identity(1, 1, f"hint{n}"))
            late.ask("SyncClock", pb.put(1, 1))
            for _ in range(10):
                late.ask("SyncClock", pb.put(1, 9) + pb.put(2, pb.put(1, 6)) * 500)
            tap.expect(not late.ask("SyncClock", b"\x12\xff")[0], "clocks that do not parse")
            tap.expect(not late.ask("InitRelay", pb.put(1, b"x" * 100000))[0], "system info without bound")
            late.close()
        c = w.consumer()
        c.enable(peer.config(extra=ALL_MACHINES))
        c.stop()
        packets = c.read()
        tap.expect(all(pb.first(q, REMOTE_CLOCK_SYNC) is None for q in packets), "R234: no clocks of relays that left")
        tap.expect_eq(len([q for q in packets if pb.first(q, 45) is not None]), 1, "R234: system_info of this machine alone")
        w.close_all()
        w.until_uncharged()


# ---- signals


@tap.case("TERM and INT end it with 0, close files whole and remove the sockets")
def _():
    for sig in (signal.SIGTERM, signal.SIGINT):
        with peer.World() as w:
            p, c = w.producer(sources=["src"]), w.consumer()
            path = w.stack.path("out")
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            c.enable(peer.config(["src"], extra=pb.put(8, 1) + pb.put(9, 3600000)), fds=[fd])
            os.close(fd)
            p.until_started()
            for i in range(5):
                p.write([peer.packet(i)])
            tap.expect_eq(w.stack.stop(w.traced, sig), 0, f"status after {sig}")
            with open(path, "rb") as f:
                packets = list(pb.packets(f.read()))
            tap.expect_eq(list(peer.by_sequence(packets).values()), [list(range(5))], "packets in the file")
            tap.expect(not os.path.exists(w.stack.path("producer.sock")), "the producer socket is gone")
            tap.expect(not os.path.exists(w.stack.path("consumer.sock")), "the consumer socket is gone")


@tap.case("HUP opens the log anew")
def _():
    with stack.Stack() as s:
        p = s.start_traced("--log-file", s.path("log"))
        os.rename(s.path("log"), s.path("log.1"))
        p.send_signal(signal.SIGHUP)
        stack.until("the new log", lambda: os.path.exists(s.path("log")) and "reopened" in open(s.path("log"), encoding="utf-8").read())
        p.send_signal(signal.SIGUSR1)
        stack.until("the report in it", lambda: "end of report" in open(s.path("log"), encoding="utf-8").read())
        tap.expect("end of report" not in open(s.path("log.1"), encoding="utf-8").read(), "the old log gets nothing more")


@tap.case("HUP without a log file is harmless")
def _():
    with peer.World() as w:
        w.traced.send_signal(signal.SIGHUP)
        w.report()


@tap.case("USR1 reports peers, sessions, losses, charges and the loop's figures")
def _():
    with peer.World() as w:
        p, c = w.producer(sources=["src"]), w.consumer()
        c.enable(peer.config(["src"]))
        p.until_started()
        p.write([peer.packet(0)])
        for _ in range(3):  # something that takes long enough to be named
            c.ask("QueryServiceState", pb.put(9, 1) * 60000)
        text = "\n".join(w.report())
        for what in (
            r"service: 1 producers, 1 consumers, 1 sessions, 1 data sources",
            r"commits: 1 requests, 1 chunks",
            r"chunks discarded",
            r"charged: 2 connections, 262144 SMB bytes, 1048576 buffer bytes, \d+ data source bytes, \d+ queued bytes, 0 files, to 1 uids",
            r"loop: longest slice \d+",
            r"loop: slices over the limit \d+",
            r"loop: longest slice with waits \d+",
            r"loop: slices over the limit with waits \d+",
            r"slices: [a-z][^:]*(: [^:]+)?: longest \d+ us, \d+ over; with waits \d+ us, \d+ over",
            r"loop: latest deadline \d+",
            r"session 1: STARTED",
            r"buffer 0: \d+ of 1048576 bytes used, 1 chunks written",
            r"producer 1: pid \d+ uid \d+, 1 data sources, SMB 262144 bytes, 1 chunks",
        ):
            tap.expect(re.search(what, text, re.I), f"no {what!r} in\n{text}")
        c.stop()


@tap.case("USR2 switches debug lines on and off")
def _():
    with stack.Stack() as s:
        p = s.start_traced()
        for word in ("on", "off"):
            p.send_signal(signal.SIGUSR2)
            stack.until(f"debug lines to be {word}", lambda: f"debug lines are {word}" in s.log_of(p))


# ---- limits


@tap.case("--limit-connections: one user's next connection is closed, and the log says why")
def _():
    with peer.World("--limit-connections", "3") as w:
        socks = [peer.connect(w.stack.path("producer.sock")) for _ in range(4)]
        socks[3].settimeout(stack.PATIENCE)
        (size,) = struct.unpack("<I", socks[3].recv(4))
        error = pb.first(socks[3].recv(size), 7)
        tap.expect(b"--limit-connections" in pb.first(error, 1), f"the fourth connection is told {error}")
        tap.expect_eq(socks[3].recv(1), b"", "the fourth connection")
        stack.until("the line", lambda: "--limit-connections" in w.stack.log_of(w.traced))
        r = w.stack.perfetto("--query")
        why = "not let in by the tracing service at %s: uid %d has 3 connections already" % (w.stack.path("consumer.sock"), os.getuid())
        tap.expect(r.returncode == 1 and why in r.stderr and "--limit-connections" in r.stderr, r.stderr)
        socks[0].close()
        w.until("a place", lambda: any("3 connections" not in x and "charged: " in x for x in w.report()))
        for x in socks:
            x.close()
        w.until_uncharged()


@tap.case("peers over a network, whoever they say that they are, use up nobody's limits but their own")
def _():
    address = f"127.0.0.1:{free_port()}"
    s = stack.Stack()
    env = {"PERFETTO_PRODUCER_SOCK_NAME": f"{address},{s.path('p')}"}
    with s, peer.World("--limit-connections", "3", "--limit-smb", "300K", env=env) as w:
        far = w.producer("far", ["src"], address=address)
        c = w.consumer()
        c.enable(peer.config(["src"]))
        far.until_started()
        near = w.producer("near", ["src"], address=s.path("p"))
        near.until_started()
        tap.expect(near.smb, "memory of a local producer beside a remote one that is uid 0, too")
        c.stop()
        c.ask("FreeBuffers")
        crowd = [Remote(w, "more", address=address) for _ in range(2)]
        one_too_many = peer.Peer(w, address, None)
        w.until("one too many over the network", lambda: one_too_many.closed)
        tap.expect("network peers have 3 connections" in w.stack.log_of(w.traced), w.stack.log_of(w.traced))
        near.close()
        record(w, w.producer(sources=["src"], address=s.path("p")), c)
        for p in crowd:
            tap.expect(p.ask("Sync")[0], "a remote producer goes on")
        w.close_all()
        w.until_uncharged()


@tap.case("--limit-sessions and --limit-all-sessions: the refusal names the limit")
def _():
    for option, n in (("--limit-sessions", 2), ("--limit-all-sessions", 1)):
        with peer.World(option, str(n)) as w:
            cs = [w.consumer() for _ in range(n + 1)]
            for c in cs:
                c.enable(peer.config())
                c.ask("QueryCapabilities")  # one after the other
            tap.expect("limit" in cs[n].error(), f"error: {cs[n].error()!r}")
            cs[0].stop()
            cs[0].ask("FreeBuffers")
            cs[n].enable(peer.config())
            cs[n].ask("QueryCapabilities")
            tap.expect(not cs[n].enabled.done, "a freed session makes room")


@tap.case("--limit-buffers: a session that asks for more is refused; --limit-smb: the producer goes without")
def _():
    with peer.World("--limit-buffers", "2M", "--limit-smb", "300K") as w:
        c, d = w.consumer(), w.consumer()
        c.enable(peer.config(buffers=((3000, 0),)))
        tap.expect("trace buffers" in c.error(), c.error())
        one, two = w.producer("one", ["src"]), w.producer("two", ["src"])
        d.enable(peer.config(["src"]))
        one.until_started()
        stack.until("the line", lambda: "--limit-smb" in w.stack.log_of(w.traced))
        tap.expect_eq([bool(one.smb), bool(two.smb)], [True, False], "who has shared memory")
        d.stop()


# ---- socket activation, readiness, idleness


def activated(s, *args, env=None, names="producer:consumer"):
    """traced with both sockets passed by hand (LISTEN_FDS), and a socket for its notifications."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(s.path("notify"))
    notify.settimeout(stack.PATIENCE)
    socks = []
    for name in ("producer", "consumer"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(s.path(name + ".sock"))
        sock.listen()
        socks.append(sock)
    log = open(s.path("traced.log"), "w+b")
    # The shell's pid is the program's after exec, as LISTEN_PID has to be.
    script = 'LISTEN_PID=$$ exec "$@" 3<&%d 4<&%d' % (socks[0].fileno(), socks[1].fileno())
    p = subprocess.Popen(
        ["bash", "-c", script, "sh", s.program("traced"), *args],
        env=dict(s.env, LISTEN_FDS="2", LISTEN_FDNAMES=names, NOTIFY_SOCKET=s.path("notify"), **(env or {})),
        pass_fds=[x.fileno() for x in socks], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )
    p.log, p.name = log, "traced"
    s.children.append(p)
    return p, notify, socks


@tap.case("LISTEN_FDS: sockets are told apart by name; READY, STATUS and STOPPING are notified")
def _():
    with stack.Stack() as s:
        p, notify, _socks = activated(s, names="traced-producer.socket:traced-consumer.socket")
        tap.expect("READY=1" in notify.recv(4096).decode(), "readiness")
        tap.expect_eq(s.perfetto("--query").returncode, 0, "a query through the inherited socket")
        got = notify.recv(4096).decode()
        tap.expect(got.startswith("STATUS=") and "consumer connections" in got, f"status: {got!r}")
        p.terminate()
        while got != "STOPPING=1":
            got = notify.recv(4096).decode()
        tap.expect_eq(p.wait(stack.PATIENCE), 0, "status")
        tap.expect(os.path.exists(s.path("producer.sock")), "the manager's socket files stay")


@tap.case("LISTEN_FDS: a peer that came before the service is served")
def _():
    with stack.Stack() as s:
        p, _notify, socks = activated(s)
        with socket.socket(socket.AF_UNIX) as early:
            early.connect(s.path("consumer.sock"))
            early.sendall(peer.frame(1, 3, pb.put(1, "ConsumerPort")))
            early.settimeout(stack.PATIENCE)
            tap.expect(len(early.recv(4096)) > 20, "an answer")
        del socks, p


@tap.case("WATCHDOG_USEC: the loop feeds the watchdog")
def _():
    with stack.Stack() as s:
        _p, notify, _socks = activated(s, env={"WATCHDOG_USEC": "200000"})
        seen = 0
        while seen < 3:
            seen += notify.recv(4096) == b"WATCHDOG=1"


@tap.case("sockets of unknown names are closed with a line in the log")
def _():
    with stack.Stack() as s:
        p, notify, _socks = activated(s, names="web:database")
        notify.recv(4096)
        tap.expect("FileDescriptorName" in s.log_of(p), s.log_of(p))


@tap.case("systemd-socket-activate starts it at the first connection")
def _():
    tool = shutil.which("systemd-socket-activate")
    if not tool:
        tap.skip("no systemd-socket-activate; on Debian it is in the package systemd")
    with stack.Stack() as s:
        command = [tool, "-l", s.path("producer.sock"), "-l", s.path("consumer.sock"), "--fdname=producer:consumer", s.program("traced")]
        log = open(s.path("activate.log"), "w+b")
        p = subprocess.Popen(command, env=s.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=s.dir)
        p.log, p.name = log, "systemd-socket-activate"
        s.children.append(p)
        stack.until("the sockets", lambda: os.path.exists(s.path("consumer.sock")))
        r = s.perfetto("--query")
        tap.expect_eq(r.returncode, 0, f"a query: {r.stderr} {s.log_of(p)}")


@tap.case("--exit-on-idle: it ends by itself, but not under a session or a connection")
def _():
    with stack.Stack() as s:
        begin = time.monotonic()
        p, notify, _socks = activated(s, "--exit-on-idle", "1")
        notify.recv(4096)
        with socket.socket(socket.AF_UNIX) as busy:
            busy.connect(s.path("producer.sock"))
            try:
                p.wait(2.5)
                raise AssertionError("it ended under a connection")
            except subprocess.TimeoutExpired:
                pass
        tap.expect_eq(p.wait(stack.PATIENCE), 0, "status")
        tap.expect(time.monotonic() - begin > 2.5, "it ended after the connection")
        tap.expect("exit-on-idle" in s.log_of(p), s.log_of(p))


# ---- units


def analyze(*args):
    tool = shutil.which("systemd-analyze")
    if not tool:
        tap.skip("no systemd-analyze; on Debian it is in the package systemd")
    return subprocess.run([tool, *args], capture_output=True, text=True, timeout=stack.PATIENCE * 2)


def installed_units(root):
    """A folder with our units whose programs exist."""
    units = os.path.join(root, "units")
    os.mkdir(units)
    source = os.path.join(tap.SRCDIR, "systemd")
    for name in os.listdir(source):
        with open(os.path.join(source, name), encoding="utf-8") as f:
            text = f.read()
        if name.endswith((".socket", ".service.in")):
            text = text.replace("@bindir@", root)
            with open(os.path.join(units, name.replace(".service.in", ".service")), "w", encoding="utf-8") as f:
                f.write(text)
    for program in ("traced", "traced_probes"):
        os.symlink(shutil.which("true"), os.path.join(root, program))
    return units


UNITS = ("traced.service", "traced-producer.socket", "traced-consumer.socket", "traced_probes.service")


@tap.case("systemd-analyze verify finds nothing in the units")
def _():
    with stack.Stack() as s:
        units = installed_units(s.dir)
        r = analyze("verify", "--man=no", "--recursive-errors=no", *[os.path.join(units, u) for u in UNITS])
        if "unrecognized option" in r.stderr:
            tap.skip("this systemd-analyze is too old")
        complaints = [x for x in (r.stdout + r.stderr).split("\n") if "traced" in x and "Failed to prepare filename" not in x]
        tap.expect_eq((r.returncode, complaints), (0, []), "systemd-analyze verify")


def exposure(s, unit):
    r = analyze("security", "--offline=true", "--no-pager", os.path.join(installed_units(s.dir), unit))
    if "unrecognized option" in r.stderr:
        tap.skip("this systemd-analyze cannot do it offline")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", r.stdout)
    tap.expect(found, r.stdout + r.stderr)
    return float(found.group(1)), r.stdout


for unit, most in (("traced.service", 1.0), ("traced_probes.service", 4.0)):

    def check(unit=unit, most=most):
        with stack.Stack() as s:
            score, text = exposure(s, unit)
            bad = "\n".join(x for x in text.split("\n") if "✗" in x)
            tap.expect(score <= most, f"{unit} scores {score}\n{bad}")

    tap.add(f"systemd-analyze security: {unit} scores {most} or better", check)

tap.run()
