"""200 producer processes of 3 users, killed at random, and 15 sessions of 3 users, the most there can be.

CHAOS_SECONDS in the environment says for how long (5; `./bootstrap soak` gives more). Afterwards the service
lives, every sequence is without a gap from its first packet that is still there to its last, the sessions that
were left alone are complete, and every account is at zero.
"""

import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import peer
import tap

SECONDS = float(os.environ.get("CHAOS_SECONDS", "5"))
PRODUCERS = 200
USERS = (0, 12001, 12002)
KINDS = ("read all the time", "read in the end", "written into a file")
GROUPS = 5  # of data sources: a producer offers one, a session records one
PERIOD_MS = 200
LOSSES = {"chunks written": 2, "overwritten": 3, "discarded": 18, "violations": 9, "lost by writers": 19, "failed readaheads": 8}


class Crowd:
    def __init__(self, w, rng):
        self.w, self.rng, self.alive, self.born, self.killed = w, rng, {}, 0, 0
        self.program = os.path.join(tap.BUILDDIR, "t", "chaff")

    def spawn(self):
        n = self.born
        self.born += 1
        args = [self.program, self.w.stack.path("producer.sock"), f"chaff{n}", str(USERS[n % 3]), str(PERIOD_MS), f"chaos.{n % GROUPS}"]
        self.alive[n] = subprocess.Popen(args, stdin=subprocess.DEVNULL)

    def kill_one(self):
        p = self.alive.pop(self.rng.choice(list(self.alive)))
        p.kill()
        p.wait()
        self.killed += 1

    def check(self):
        for n, p in self.alive.items():
            tap.expect(p.poll() is None, f"producer {n} ended by itself with {p.returncode}: the service dropped it")

    def end(self):
        for p in self.alive.values():
            p.kill()
        for p in self.alive.values():
            p.wait()
        self.alive = {}


class Session:
    def __init__(self, w, n):
        self.n, self.kind, self.path, self.packets, self.call = n, KINDS[n // 5], None, [], None
        uid = USERS[n % 3]
        with peer.as_user(uid):
            self.c = w.consumer()
        extra, fds = pb.put(22, f"session{n}"), []
        if self.kind == KINDS[2]:
            self.path = w.stack.path(f"out{n}")
            fds = [os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)]
            extra += pb.put(8, 1) + pb.put(9, 200)
        if n % 2:
            extra += pb.put(13, 300)  # periodic flushes
        policy = 2 if n % 4 == 3 else 0
        self.c.enable(peer.config([f"chaos.{n % GROUPS}"], buffers=((32768 if policy else 8192, policy),), extra=extra), fds)
        for fd in fds:
            os.close(fd)

    def read_some(self):
        if self.kind != KINDS[0] or (self.call and not self.call.done):
            return
        self.collect()
        self.call = self.c.call("ReadBuffers")

    def collect(self):
        if self.call:
            self.packets += self.call.parts
            self.call = None

    def finish(self):
        tap.expect_eq(self.c.error(), "", f"how session {self.n} ended")
        if self.path:
            with open(self.path, "rb") as f:
                self.packets = list(pb.packets(f.read()))
            return
        self.c.world.until("the last read", lambda: not self.call or self.call.done)
        self.collect()
        self.packets += self.c.read()

    def lost(self):
        """What the service says of the buffer: why there may be a gap."""
        stats = [pb.first(x, 35) for x in self.packets if pb.first(x, 35) is not None]
        buffer = pb.first(stats[-1], 1, b"") if stats else b""
        return {name: pb.first(buffer, n, 0) for name, n in LOSSES.items()}

    def check(self):
        """Numbers without gaps; how many sequences there were.

        A ring that this machine was too slow to read in time may have turned over: the service must say so, in
        its statistics and at each gap."""
        found, lost = {}, self.lost()
        for x in self.packets:
            n = peer.number_of(x)
            if n is not None:
                found.setdefault(pb.first(x, 10, 0), []).append((n, pb.first(x, 42, 0)))
        for sequence, numbers in found.items():
            for (a, _), (b, dropped) in zip([(-1 if self.kind != KINDS[1] else numbers[0][0] - 1, 0), *numbers], numbers):
                told = lost["overwritten"] and dropped and b > a + 1
                tap.expect(b == a + 1 or told, f"session {self.n} ({self.kind}): sequence {sequence} has {b} after {a}; {lost}")
        if self.kind != KINDS[1] and lost["overwritten"]:
            print(f"# session {self.n} ({self.kind}) was read too slowly here: {lost}")
        tap.expect(len(found) >= PRODUCERS // GROUPS // 2, f"session {self.n} ({self.kind}) has only {len(found)} sequences")
        return len(found), sum(map(len, found.values()))


@tap.case(f"{PRODUCERS} producers killed at random beside 15 sessions of 3 users, for {SECONDS:g} s")
def _():
    if os.getuid() != 0:
        tap.skip("needs root, to be three users")
    rng = random.Random(20)
    with peer.World() as w:
        w.let_all_in()
        crowd = Crowd(w, rng)
        try:
            play(w, crowd, rng)
        finally:
            crowd.end()
        w.close_all()
        w.until_uncharged()
        bad = [x for x in w.stack.log_of(w.traced).split("\n") if ": error: " in x]
        tap.expect(not bad, "\n".join(bad[:10]))


def play(w, crowd, rng):
    sessions = [Session(w, n) for n in range(15)]
    for _ in range(PRODUCERS):
        crowd.spawn()
    extra = w.consumer()
    extra.enable(peer.config())
    tap.expect("limit" in extra.error(), "V20: a sixteenth session is refused")
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        w.pump(0.02)
        crowd.check()
        if rng.random() < 0.7:
            crowd.kill_one()
            crowd.spawn()
        for s in sessions:
            if rng.random() < 0.1:
                s.read_some()
    begin = time.monotonic()
    state = extra.state()
    print(f"# a query of {len(pb.every(state, 1))} producers took {1000 * (time.monotonic() - begin):.0f} ms")
    for s in sessions:
        s.c.call("DisableTracing")
    sums = [0, 0]
    for s in sessions:
        s.finish()
        sums = [a + b for a, b in zip(sums, s.check())]
        s.c.ask("FreeBuffers")
    crowd.check()
    print(f"# {crowd.born} producers, {crowd.killed} killed; {sums[0]} sequences with {sums[1]} packets; {w.memory_kb()} KB")


tap.run()
