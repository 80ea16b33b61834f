"""What scripts written for other clients expect of the command line: the acceptance scenarios of cli.md
(A1 to A39), each with the real programs and a producer that sends what it is told to.

The three of detached mode (A30 to A32) are in detached.py. Where the scenario asks for status 0 although
nothing was recorded, ours is 1 (perfetto.1, Differences); such places say so.
"""

import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import peer
import stack
import tap

NAME = "android.perfetto.FakeProducer"
CONFIG, STATS, TRIGGER, SNAPSHOT, TESTING, UUID = 33, 35, 46, 113, 900, 89
ONCE = "duration_ms: 100"


def t_config(n=11, m=32, extra="", kb=1024):
    return (
        f"buffers {{ size_kb: {kb} }}\n"
        f'data_sources {{ config {{ name: "{NAME}" for_testing {{ message_count: {n} message_size: {m} }} }} }}\n{extra}\n'
    )


def only_uuid():
    """Filter bytecode that lets nothing but Trace.packet.trace_uuid through, as the escapes of a string."""
    words = [1 << 3 | 3, 1, 0, UUID << 3 | 1, 0]
    check = 0xCBF29CE484222325
    for byte in b"".join(w.to_bytes(4, "little") for w in words):
        check = (check ^ byte) * 0x100000001B3 & ((1 << 64) - 1)
    code = b"".join(pb.put_varint(w) for w in [*words, check & 0xFFFFFFFF])
    return "".join(f"\\{byte:03o}" for byte in code)


def b_config(score, filtered=False, n=3, m=10, extra=""):
    extra += f"\nbugreport_score: {score}\n"
    if "duration_ms" not in extra:
        extra += "duration_ms: 60000\n"
    if filtered:
        extra += f'trace_filter {{ bytecode_v2: "{only_uuid()}" }}\n'
    return t_config(n, m, extra, kb=32768)


def triggers(mode, timeout, *named):
    each = "".join(f' triggers {{ name: "{n}" stop_delay_ms: {d} }}' for n, d in named)
    return f"trigger_config {{ trigger_mode: {mode} trigger_timeout_ms: {timeout}{each} }}"


def activate(*names):
    return "".join(f'activate_triggers: "{n}"\n' for n in names)


def parse(path):
    with open(path, "rb") as f:
        return list(pb.packets(f.read()))


def events(packets):
    return [pb.message(p, TESTING) for p in packets if pb.first(p, TESTING) is not None]


def expect_events(packets, n, m):
    sizes = [len(pb.message(e, 1)) for e in events(packets)]
    tap.expect_eq(sizes, [m] * n, "sizes of the test packets")


def names(packets, field):
    return [pb.message(pb.message(p, field), 1).decode() for p in packets if pb.first(p, field) is not None]


class Run:
    """A program that was started and is waited for while the producer goes on working."""

    def __init__(self, scene, program, args, stdin, stdout):
        self.scene = scene
        self.err = open(scene.stack.path(f"stderr.{time.monotonic_ns()}"), "w+b")
        self.p = subprocess.Popen(
            [scene.stack.program(program), *args], env=scene.stack.env, cwd=scene.stack.dir, stdin=subprocess.PIPE, stdout=stdout, stderr=self.err
        )
        try:
            self.p.stdin.write(stdin.encode() if isinstance(stdin, str) else stdin)
            self.p.stdin.close()
        except BrokenPipeError:
            pass  # it had ended before it read that

    def said(self):
        with open(self.err.name, errors="replace") as f:
            return f.read()

    def wait(self, status=0):
        self.scene.until(f"{self.p.args} to end", lambda: self.p.poll() is not None)
        tap.expect_eq(self.p.returncode, status, f"status of {self.p.args}; it said {self.said()}")
        return self

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        return self.wait()


class Scene(peer.World):
    """A service, and the test producer."""

    def __init__(self, producer=True):
        super().__init__()
        self.stack.env["TMPDIR"] = self.path("tmp")
        os.mkdir(self.path("tmp"))
        self.fake = self.producer(NAME, sources=[NAME]) if producer else None

    def path(self, name):
        return self.stack.path(name)

    def start(self, *args, stdin=b"", program="perfetto", stdout=subprocess.DEVNULL):
        return Run(self, program, args, stdin, stdout)

    def run(self, *args, status=0, **kw):
        return self.start(*args, **kw).wait(status)

    def text(self, config, *args):
        """perfetto -c - --txt ARGS, until its data source is started."""
        n = len(self.fake.instances)
        r = self.start("-c", "-", "--txt", *args, stdin=config)
        self.fake.until_started(n + 1)
        return r

    def produce(self):
        """The batch that the newest config asks for, all of it in the service's buffer afterwards."""
        conf = pb.message(list(self.fake.instances.values())[-1], 1001)
        n, m = pb.first(conf, 1), pb.first(conf, 4)
        seq, records = 1, []
        for _ in range(n):
            seq = seq * 1103515245 + 12345 & 0xFFFFFFFF
            records.append(pb.put(TESTING, pb.put(1, b"." * (m - 1) + b"\0") + pb.put(2, seq)))
        per_page = max(1, (peer.PAGE - 64) // (m + 32))
        for i in range(0, n, per_page):
            self.fake.write(records[i : i + per_page])

    def sessions(self):
        r = subprocess.run([self.stack.program("perfetto"), "--query-raw"], env=self.stack.env, stdout=subprocess.PIPE, timeout=stack.PATIENCE)
        return pb.first(r.stdout, 4, 0)

    def tmp(self, name="systrace.pftrace"):
        return self.path(os.path.join("tmp", name))


# ---- command lines ----

BAD = (
    (("--invalid-arg",), ONCE, ""),
    (("-c", "-", "-o", "-"), "", "TraceConfig is empty"),
    (("-c", "-", "--txt", "-o", "-", "--dropbox=foo"), ONCE, ""),
    (("-c", "-", "--txt"), ONCE, "Either --out or --upload"),
    (("-o", "-", "-c", "-", "-t", "2s"), ONCE, "Cannot specify both -c"),
    (("-o", "-", "-c", "-", "-b", "2m"), ONCE, "Cannot specify both -c"),
    (("-o", "-", "-c", "-", "-s", "2m"), ONCE, "Cannot specify both -c"),
    (("-c", "-", "--txt", "-o", "-", "--stop"), ONCE, "--stop is supported only in combination"),
    (("-c", "-", "--txt", "-o", "-", "--attach=foo"), ONCE, "Cannot specify a trace config"),
    (("-t", "2s", "-o", "-", "--attach=foo"), ONCE, "Cannot specify a trace config"),
    (("--attach",), ONCE, r"option.*--attach.*requires an argument"),
    (("-t", "2s", "-o", "-", "--detach"), ONCE, r"option.*--detach.*requires an argument"),
    (("-t", "2s", "--detach=foo"), ONCE, "--out or --upload is required"),
    (("-t", "2s", "--query"), ONCE, "Cannot specify a trace config"),
    (("-c", "-", "--query"), ONCE, "Cannot specify a trace config"),
)


@tap.case("A1 invalid command lines")
def _():
    with Scene(producer=False) as s:
        for args, stdin, text in BAD:
            said = s.run(*args, stdin=stdin, status=1).said()
            tap.expect(re.search(text, said), f"{args}: no '{text}' in {said}")


@tap.case("A2 version")
def _():
    with Scene(producer=False) as s:
        for program in ("perfetto", "trigger_perfetto", "traced", "traced_probes"):
            s.run("--version", program=program)


@tap.case("A3 A4 a config without buffers; the light form beside an empty stdin")
def _():
    with Scene(producer=False) as s:
        s.run("-c", "-", "--txt", "-o", "-", stdin=ONCE)
        s.run("-o", "-", "-c", "-", "-t", "100ms")


@tap.case("A5 detach and attach")
def _():
    with Scene(producer=False) as s:
        r = s.run("--attach=not_existent", status=2)
        tap.expect("Session re-attach failed" in r.said(), r.said())
        s.run("-o", "-", "-c", "-", "--txt", "--detach=valid_stop", stdin="duration_ms: 10000; write_into_file: true")
        s.run("--attach=valid_stop", "--stop")


# ---- triggers ----


@tap.case("A6 a start trigger")
def _():
    with Scene() as s:
        r = s.start("-o", "out", "-c", "-", "--txt", stdin=t_config(extra=triggers("START_TRACING", 15000, ("trigger_name", 500))))
        s.until("the set-up", lambda: s.fake.setups)
        tap.expect(not s.fake.instances, "it was started without its trigger")
        s.run("trigger_name", program="trigger_perfetto")
        s.fake.until_started()
        s.produce()
        r.wait()
        got = parse(s.path("out"))
        (config,) = [pb.message(p, CONFIG) for p in got if pb.first(p, CONFIG) is not None]
        tap.expect_eq(pb.first(pb.message(config, 17), 1), 1, "mode in the config")
        tap.expect_eq(names(got, TRIGGER), ["trigger_name"], "triggers")
        expect_events(got, 11, 32)


def stop_trigger(fire):
    with Scene() as s:
        extra = triggers("STOP_TRACING", 15000, ("trigger_name", 500), ("trigger_name_3", 60000))
        r = s.text(t_config(extra=extra), "-o", "out")
        s.produce()
        fire(s, ("trigger_name_2", "trigger_name", "trigger_name_3"))
        r.wait()
        got = parse(s.path("out"))
        (config,) = [pb.message(p, CONFIG) for p in got if pb.first(p, CONFIG) is not None]
        tap.expect_eq(pb.first(pb.message(config, 17), 1), 2, "mode in the config")
        tap.expect_eq(names(got, TRIGGER), ["trigger_name", "trigger_name_3"], "triggers")
        expect_events(got, 11, 32)
        tap.expect(len(got) > 11, "only test packets")


@tap.case("A7 a stop trigger")
def _():
    stop_trigger(lambda s, ts: s.run(*ts, program="trigger_perfetto"))


@tap.case("A8 a stop trigger from a config, which leaves the output alone")
def _():
    stop_trigger(lambda s, ts: s.run("-o", "out", "-c", "-", "--txt", stdin=activate(*ts)))


@tap.case("A9 triggers make no file")
def _():
    with Scene(producer=False) as s:
        s.run("-o", "out", "-c", "-", "--txt", stdin=activate("a", "b", "c"))
        tap.expect(not os.path.exists(s.path("out")), "there is a file")


@tap.case("A10 query")
def _():
    with Scene() as s:
        s.run("--query")
        s.run("--query-raw")


@tap.case("A11 a snapshot by a trigger")
def _():
    with Scene() as s:
        r = s.text(t_config(extra=triggers("CLONE_SNAPSHOT", 600000, ("trigger_name", 500))), "-o", "out")
        s.produce()
        s.run("-c", "-", "--txt", stdin=activate("trigger_name"))
        s.until("the snapshot", lambda: "saved the snapshot" in r.said())
        r.stop()
        got = parse(s.path("out.0"))
        expect_events(got, 11, 32)
        tap.expect_eq(names(got, TRIGGER), ["trigger_name"], "triggers")
        tap.expect(len(got) > 11, "only test packets")


@tap.case("A12 two snapshots: the shorter delay is first, and takes the list of triggers along")
def _():
    with Scene() as s:
        r = s.text(t_config(extra=triggers("CLONE_SNAPSHOT", 600000, ("trigger_name_1", 1500), ("trigger_name_2", 500))), "-o", "out")
        s.produce()
        s.run("trigger_name_1", "trigger_name_2", program="trigger_perfetto")
        s.until("both snapshots", lambda: r.said().count("saved the snapshot") == 2)
        r.stop()
        first, second = parse(s.path("out.0")), parse(s.path("out.1"))
        tap.expect_eq(names(first, TRIGGER), ["trigger_name_1", "trigger_name_2"], "triggers of the first")
        tap.expect_eq(names(first, SNAPSHOT), ["trigger_name_2"], "cause of the first")
        tap.expect_eq(names(second, TRIGGER), [], "triggers of the second")
        tap.expect_eq(names(second, SNAPSHOT), ["trigger_name_1"], "cause of the second")
        for packets, name, delay in ((first, "trigger_name_2", 500), (second, "trigger_name_1", 1500)):
            (cause,) = [p for p in packets if pb.first(p, SNAPSHOT) is not None]
            (hit,) = [p for p in first if pb.message(pb.message(p, TRIGGER), 1) == name.encode()]
            tap.expect_eq(pb.first(pb.message(cause, SNAPSHOT), 4), delay, "stop_delay_ms")
            tap.expect_eq(pb.message(cause, SNAPSHOT), pb.message(hit, TRIGGER), "the two descriptions of the trigger")
            tap.expect_eq(pb.first(cause, 8), pb.first(hit, 8), "their times")


# ---- clones ----


def bugreport(extra, *args, original=True):
    with Scene() as s:
        r = s.text(b_config(1, extra=extra), "-o", "out")
        s.produce()
        s.run(*[a.replace("DIR", s.path("tmp")) for a in args])
        expect_events(parse(s.tmp()), 3, 10)
        r.stop()
        if original:
            expect_events(parse(s.path("out")), 3, 10)


@tap.case("A13 save for a bugreport")
def _():
    bugreport("", "--save-for-bugreport")


@tap.case("A14 the same for a session that writes into a file")
def _():
    bugreport("write_into_file: true\nfile_write_period_ms: 60000", "--save-for-bugreport")


@tap.case("A15 the same by --clone -1")
def _():
    bugreport("", "--out", "DIR/systrace.pftrace", "--clone", "-1")


@tap.case("A16 clone by name; a name that is none leaves no file, and status 1, unlike upstream")
def _():
    with Scene() as s:
        r = s.text(t_config(extra='unique_session_name: "my_unique_session_name"'), "-o", "out")
        s.produce()
        s.run("-o", "one", "--clone-by-name", "my_unique_session_name")
        said = s.run("-o", "two", "--clone-by-name", "non_existing_session_name", status=1).said()
        tap.expect('Service error: Failed to clone tracing session "non_existing_session_name"' in said, said)
        tap.expect(not os.path.exists(s.path("two")), "an empty file is left")
        r.stop()
        expect_events(parse(s.path("one")), 11, 32)
        expect_events(parse(s.path("out")), 11, 32)


@tap.case("A17 a clone of a session that writes into a file has what was written already")
def _():
    with Scene() as s:
        r = s.text(t_config(extra='unique_session_name: "n"\nwrite_into_file: true\nfile_write_period_ms: 10'), "-o", "out")
        s.produce()

        def written():
            try:
                return len(events(parse(s.path("out")))) == 11
            except ValueError:
                return False

        s.until("the packets in the file", written)
        s.run("--out", "one", "--clone-by-name", "n")
        r.stop()
        expect_events(parse(s.path("one")), 11, 32)
        expect_events(parse(s.path("out")), 11, 32)


@tap.case("A18 nothing to save for a bugreport: no file, and status 1, unlike upstream")
def _():
    with Scene() as s:
        s.run("--save-for-bugreport", status=1)
        tap.expect(not os.path.exists(s.tmp()), "an empty file is left")


@tap.case("A19, T-E3: the service vanishes: the line, the file, and status 1, unlike upstream")
def _():
    with Scene(producer=False) as s:
        config = 'unique_session_name: "n"\nbuffers { size_kb: 1024 }\nwrite_into_file: true\nfile_write_period_ms: 10\n'
        r = s.start("-o", "out", "-c", "-", "--txt", stdin=config)
        s.until("a file with packets", lambda: os.path.exists(s.path("out")) and os.path.getsize(s.path("out")) > 0)
        s.traced.kill()
        s.traced.wait()
        s.stack.children.remove(s.traced)
        s.traced = s.stack.start_traced()
        r.wait(1)
        line = "Service error: EnableTracing IPC request rejected. This is likely due to a loss of the traced connection"
        tap.expect(line in r.said(), r.said())
        tap.expect(parse(s.path("out")), "the file is empty")


@tap.case("A20 a bugreport of a session whose trigger never came")
def _():
    bugreport("duration_ms: 0\n" + triggers("STOP_TRACING", 86400000, ("trigger_name", 1)), "--save-for-bugreport", original=False)


@tap.case("A21 save all, none there")
def _():
    with Scene() as s:
        said = s.run("--save-all-for-bugreport").said()
        tap.expect("No tracing sessions eligible" in said, said)


@tap.case("A22 save all of four, in the order of their scores, filters aside")
def _():
    with Scene() as s:
        running = []
        for score, name in ((1, ""), (2, "custom_name.pftrace"), (3, "custom_name.pftrace"), (4, "")):
            extra = f'unique_session_name: "s{score}"\n' + (f'bugreport_filename: "{name}"' if name else "")
            running.append(s.text(b_config(score, filtered=True, extra=extra), "-o", "/dev/null"))
        s.until("four sessions", lambda: s.sessions() == 4)
        s.run("--save-all-for-bugreport")
        for r in running:
            r.stop()
        for name, score in (("systrace.pftrace", 4), ("custom_name.pftrace", 3), ("custom_name_1.pftrace", 2), ("systrace_1.pftrace", 1)):
            got = [pb.first(pb.message(p, CONFIG), 30) for p in parse(s.tmp(name)) if pb.first(p, CONFIG) is not None]
            tap.expect_eq(got, [score], f"score in {name}")


@tap.case("A23 save all, a large one")
def _():
    with Scene() as s:
        r = s.text(b_config(1, n=10000, m=1024, extra='unique_session_name: "n"'), "-o", "/dev/null")
        s.produce()
        s.run("--save-all-for-bugreport")
        r.stop()
        expect_events(parse(s.tmp()), 10000, 1024)


# ---- output, background, snapshots, limits ----


@tap.case("A24 no clobber")
def _():
    with Scene(producer=False) as s:

        def content():
            with open(s.path("out"), "rb") as f:
                return f.read()

        s.run("--time", "1ms", "--out", "out")
        before = content()
        said = s.run("--time", "1ms", "--no-clobber", "--out", "out", status=1).said()
        text = "Error: Output file 'out' already exists, refusing to overwrite due to '--no-clobber'."
        tap.expect(text in said, said)
        tap.expect(content() == before, "the file was touched")
        s.run("--time", "1ms", "--out", "out")
        tap.expect(content() and content() != before, "the file was not written anew")


@tap.case("A25 A26 attributes")
def _():
    with Scene(producer=False) as s:
        pairs = ("a=b", "k=foo=bar", "empty=", "empty2=", "novalue")
        s.run("--out", "out", "--time", "1ms", *[w for p in pairs for w in ("--add-attribute", p)])
        config = next(pb.message(p, CONFIG) for p in parse(s.path("out")) if pb.first(p, CONFIG) is not None)
        got = [(pb.message(a, 1), pb.first(a, VALUE)) for a in pb.every(pb.message(config, ATTRIBUTES), 1)]
        tap.expect_eq(got, [(b"a", b"b"), (b"k", b"foo=bar"), (b"empty", b""), (b"empty2", b""), (b"novalue", b"")], "attributes")
        for bad in ("=value", ""):
            s.run("--out", "other", "--time", "1ms", "--add-attribute", bad, status=1)


@tap.case("A33 A34 in the background: the PID alone, once all has started; complete after SIGTERM")
def _():
    with Scene() as s:
        with open(s.path("pid"), "wb") as out:
            r = s.start("-c", "-", "--txt", "-o", "out", "--background-wait", stdin=t_config(), stdout=out)
        r.wait()
        tap.expect(s.fake.instances, "it returned before the data source had started")
        with open(s.path("pid")) as f:
            pid = f.read()
        tap.expect(re.fullmatch(r"\d+\n", pid), repr(pid))
        s.produce()
        os.kill(int(pid), signal.SIGTERM)
        s.until("its end", lambda: gone(int(pid)))
        expect_events(parse(s.path("out")), 11, 32)
        s.stack.env["PERFETTO_CONSUMER_SOCK_NAME"] = s.path("nobody")
        with open(s.path("pid"), "wb") as out:
            s.start("-c", "-", "--txt", "-o", "out", "--background-wait", stdin=t_config(), stdout=out).wait(1)
        tap.expect(os.path.getsize(s.path("pid")) > 1, "no PID without a service")


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@tap.case("A35 periodic snapshots: each complete, later ones with newer data, the session goes on")
def _():
    with Scene() as s:
        r = s.text(t_config(n=2, extra='unique_session_name: "my_snapshot"'), "-o", "out")
        for k in (1, 2, 3):
            s.produce()
            s.run("--clone-by-name", "my_snapshot", "-o", f"snap{k}")
            expect_events(parse(s.path(f"snap{k}")), 2 * k, 32)
            s.run("--inspect", f"snap{k}", "--check")
        r.stop()
        expect_events(parse(s.path("out")), 6, 32)


@tap.case("A36 the light form with and without a service records the same")
def _():
    with Scene(producer=False) as s:
        s.stack.start_probes()
        s.run("-t", "300ms", "-b", "4mb", "-o", "with")
        s.run("--autostart", "-t", "300ms", "-b", "4mb", "-o", "without")
        kinds = []
        for name in ("with", "without"):
            config = next(pb.message(p, CONFIG) for p in parse(s.path(name)) if pb.first(p, CONFIG) is not None)
            kinds.append([f for f in pb.fields(config) if f[0] in (1, 2, 3)])
            s.run("--inspect", name, "--check")
        tap.expect(kinds[0] == kinds[1], "the configs differ")


@tap.case("A37 data sources with buffers of their own do not push each other out")
def _():
    with Scene(producer=False) as s:
        busy, rare = s.producer("busy", sources=["busy"]), s.producer("rare", sources=["rare"])
        config = "".join(f'buffers {{ size_kb: 64 }} data_sources {{ config {{ name: "{n}" target_buffer: {i} }} }}\n' for i, n in enumerate(("busy", "rare")))
        r = s.start("-c", "-", "--txt", "-o", "out", stdin=config)
        busy.until_started()
        rare.until_started()
        rare.write([peer.packet(7)])
        for n in range(100):
            busy.write([peer.packet(1000 + n, pad=3000)])
        r.stop()
        got = [peer.number_of(p) for p in parse(s.path("out"))]
        tap.expect(7 in got, "the rare packet is gone")
        tap.expect(1099 in got and 1000 not in got, "the busy buffer did not wrap around")
        tap.expect("buffer 0 (64 KB) overwrote" in r.said() and "buffer 1" not in r.said(), r.said())


@tap.case("A38 max_file_size_bytes ends the session, and the file stays below")
def _():
    with Scene() as s:
        r = s.text(t_config(200, 1024, "write_into_file: true\nfile_write_period_ms: 100\nmax_file_size_bytes: 50000"), "-o", "out")
        s.produce()
        r.wait()
        tap.expect(40000 < os.path.getsize(s.path("out")) <= 50000, f"{os.path.getsize(s.path('out'))} bytes")
        tap.expect(events(parse(s.path("out"))), "no data")


@tap.case("A39 a start trigger that does not come; triggers and duration exclude each other")
def _():
    with Scene() as s:
        extra = triggers("START_TRACING", 300, ("t", 100))
        r = s.run("-c", "-", "--txt", "-o", "out", stdin=t_config(extra=extra))
        tap.expect_eq(os.path.getsize(s.path("out")), 0, "bytes")
        tap.expect("none of its triggers arrived" in r.said(), r.said())
        r = s.run("-c", "-", "--txt", "-o", "out", stdin=t_config(extra=extra + " duration_ms: 1000"), status=1)
        tap.expect("Service error: " in r.said(), r.said())


def field_number(message, field):
    with open(os.path.join(tap.SRCDIR, "protos", "tables", "proto_fields.tsv")) as f:
        for line in f:
            c = line.split("\t")
            if len(c) > 3 and c[1] == message and c[3] == field:
                return int(c[2])
    raise AssertionError(f"no field {message}.{field}")


ATTRIBUTES = field_number("TraceConfig", "trace_attributes")
VALUE = field_number("TraceAttributes.Attribute", "string_value")

tap.run()
