"""A real upstream peer: Chromium has the upstream client library in each of its processes.

    CHROMIUM=/usr/bin/chromium srcdir=. builddir=build python3 t/system/browser.py

Versions 84 and 156 pass. Two have faults of their own: 92 at times registers its metadata source twice and then
answers no flush and no stop; 112 ends itself (SIGTRAP) when a service dies under it. A browser is too large to be
asked of every machine, so the cases skip unless CHROMIUM names one.
"""

import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import pb
import stack
import tap

# It never comes to rest: some thousand events in a second, from several threads of several processes.
PAGE = "data:text/html,<body><script>let n=0;setInterval(()=>{performance.mark('m'+n++);document.body.textContent='x'.repeat(n)},1)</script>"
FLAGS = """--headless --no-sandbox --no-zygote --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --remote-debugging-port=0
    --enable-features=EnablePerfettoSystemTracing""".split()

CONFIG = """
buffers { size_kb: 65536 }
data_sources { config { name: "track_event" track_event_config { enabled_categories: "*" disabled_categories: "none" } } }
data_sources { config { name: "org.chromium.trace_event"
    chrome_config { trace_config: "{\\"record_mode\\":\\"record-continuously\\",\\"included_categories\\":[\\"*\\"]}" } } }
flush_period_ms: 500
duration_ms: 2000
"""

# TracePacket
TRACK_EVENT, SEQUENCE, DROPPED, TRUSTED_PID, FIRST = 11, 10, 42, 79, 87


class Browser:
    def __init__(self, s):
        if not os.environ.get("CHROMIUM"):
            tap.skip("CHROMIUM names no browser")
        self.s = s
        self.log = open(s.path("browser.log"), "wb")
        self.process = subprocess.Popen(
            [os.environ["CHROMIUM"], *FLAGS, f"--user-data-dir={s.path('profile')}", PAGE],
            env=s.env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def wait_registered(self):
        def sources():
            assert self.process.poll() is None, open(self.log.name).read()
            listed = self.s.perfetto("--query").stdout
            return any(name in listed for name in ("track_event", "org.chromium.trace_event"))

        stack.until("the browser's data sources", sources)


def record(s, *options, extra=""):
    r = s.perfetto("-c", "-", "--txt", "-o", s.path("out"), *options, stdin=CONFIG + extra)
    tap.expect_eq(r.returncode, 0, r.stderr)
    with open(s.path("out"), "rb") as f:
        return pb.packets(f.read())


def events_without_holes(packets):
    """The sequences that hold track events, none of which lost a packet on its way."""
    sequences = {}
    for p in packets:
        if not pb.first(p, TRACK_EVENT):
            continue
        seq = pb.first(p, SEQUENCE)
        known = sequences.setdefault(seq, 0)
        tap.expect(not pb.first(p, DROPPED) or (known == 0 and pb.first(p, FIRST)), f"a hole in sequence {seq} after {known} events")
        sequences[seq] = known + 1
    return sequences


@tap.case("the upstream client library in a browser records without holes")
def _():
    with stack.Stack() as s, Browser(s) as browser:
        s.start_traced()
        browser.wait_registered()
        found = events_without_holes(record(s))
        tap.expect(len(found) >= 3 and sum(found.values()) > 1000, f"events of each sequence: {found}")


@tap.case("it comes back to a service that was killed while it recorded")
def _():
    with stack.Stack() as s:
        traced = s.start_traced()
        with Browser(s) as browser:
            browser.wait_registered()
            with open(s.path("config"), "w") as f:
                f.write(CONFIG.replace("duration_ms: 2000", "duration_ms: 600000"))
            recording = s.start("perfetto", "-c", s.path("config"), "--txt", "-o", s.path("cut"))
            stack.until("the recording", lambda: "(started: 1)" in s.perfetto("--query").stdout)
            s.stop(traced, signal.SIGKILL)
            recording.wait(stack.PATIENCE)
            s.start_traced()
            browser.wait_registered()
            found = events_without_holes(record(s, extra="compression { deflate {} }"))
            tap.expect(sum(found.values()) > 1000, f"events of each sequence: {found}")


tap.run()
