"""The shared memory's rules that a producer can see, by their number in smb.md (S), with chunks written by hand.

The service's side of sections 2 to 5, 8, 9 and 13. Its other side is in t/smb; what must not harm the service is
in hazards.py, sizes row by row are in t/svc and t/smb, and memory over a network is in wire.py.
"""

import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import pb
import peer
import tap

FREE, WRITING, READING, COMPLETE = range(4)
CHUNKS = {1: 1, 2: 2, 3: 4, 4: 7, 5: 14}  # S-R14: layout code -> chunks of a page
SENTINEL = b"\xff\xff\xff\x7f"
SCRAPED = pb.put(4, 1)  # smb_scraping_mode of an introduction


def redundant(n):
    """S-R28."""
    return bytes((0x80 | n & 0x7F, 0x80 | n >> 7 & 0x7F, 0x80 | n >> 14 & 0x7F, n >> 21 & 0x7F))


def record(data, size=None):
    return (pb.put_varint(len(data)) if size is None else size) + data


class Chunk:
    """A chunk of any layout in a producer's memory."""

    def __init__(self, p, page, layout=1, index=0):
        self.smb, self.page, self.index, self.layout = p.smb, page, index, layout
        self.size = (p.page - 8) // CHUNKS[layout] // 4 * 4
        self.at = page * p.page + 8 + index * self.size

    def put(self, writer, chunk_id, payload, count, flags=0):
        tap.expect(len(payload) <= self.size - 8, "the test's payload does not fit")
        self.smb.map[self.at + 8 : self.at + 8 + len(payload)] = payload
        struct.pack_into("<IHH", self.smb.map, self.at, chunk_id, writer, count | flags << 10)
        return self

    def header(self):
        return bytes(self.smb.map[self.at : self.at + 8])


def word(layout, *states):
    return layout << 28 | sum(s << 2 * i for i, s in enumerate(states))


def begin(w, buffers=((1024, 0),), init=b"", **kw):
    p, c = w.producer("p", ["src"], init=init), w.consumer()
    c.enable(peer.config(["src"], buffers=buffers, **kw))
    p.until_started()
    return p, c


def commit(p, *moves, patches=b"", target=None):
    """(page, chunk) pairs; whether the service answered that it did."""
    body = b"".join(pb.put(1, peer.move(page, chunk, p.target() if target is None else target)) for page, chunk in moves)
    return p.ask("CommitData", body + patches)[0]


def patch(p, writer, chunk_id, patches, more=False, target=None):
    body = pb.put(1, p.target() if target is None else target) + pb.put(2, writer) + pb.put(3, chunk_id)
    body += b"".join(pb.put(4, pb.put(1, offset) + pb.put(2, data)) for offset, data in patches)
    return pb.put(2, body + (pb.put(5, 1) if more else b""))


def stats(c, *numbers, buffer=None):
    body = pb.first(c.ask("GetTraceStats")[1], 1)
    if buffer is not None:
        body = pb.every(body, 1)[buffer]
    return tuple(pb.first(body, n, 0) for n in numbers)


DISCARDED, PATCHES_DISCARDED = 8, 9
WRITTEN, SUCCEEDED, FAILED, VIOLATIONS, LOSS = 2, 5, 6, 9, 19  # of a buffer


def sequences(packets):
    """Timestamps (field 8) of each producer sequence, in order; how our packets are told apart here."""
    out = {}
    for q in packets:
        if pb.first(q, 10, 0) > 1 and pb.first(q, 8) is not None:
            out.setdefault(pb.first(q, 10), []).append(pb.first(q, 8))
    return sorted(out.values())


def stamp(n):
    """A packet of nothing but a timestamp."""
    return b"\x40" + pb.put_varint(n)


# ---- size and allocation


@tap.case("S-R8: traced_probes asks for 2 MiB in pages of 32 KiB")
def _():
    with peer.World() as w:
        w.stack.start_probes()
        c = w.consumer()
        c.enable(peer.config(["linux.sys_stats"]))
        w.until("its memory", lambda: any("SMB 2097152 bytes" in x for x in w.report()))
        c.stop()


@tap.case("S-R1, S-R2: memory is allocated with the first instance, once; the config's size and page and the hints count each by itself")
def _():
    with peer.World() as w:
        for name, hints, entry, want in (
            ("both", (8192, 65536), pb.put(2, 128) + pb.put(3, 16), (128 << 10, 16 << 10)),
            ("page", (8192, 65536), pb.put(3, 16), (64 << 10, 16 << 10)),
            ("size", (8192, 65536), pb.put(2, 128), (128 << 10, 8 << 10)),
            ("hints", (8192, 65536), None, (64 << 10, 8 << 10)),
            ("nothing", (0, 0), None, (256 << 10, 4 << 10)),
            ("invalid", (0, 0), pb.put(2, 18), (256 << 10, 4 << 10)),  # S-R3: then both are the default
        ):
            p = w.producer(name, [name], init=pb.put(1, hints[0]) + pb.put(2, hints[1]))
            p.ask("Sync")
            tap.expect(p.smb is None, "memory before there is a session")
            other = pb.put(6, pb.put(1, "another") + pb.put(2, 1024))
            second = pb.put(6, pb.put(1, name) + pb.put(2, 512) + pb.put(3, 32))  # the first entry of a name counts
            extra = other + (pb.put(6, pb.put(1, name) + entry) + second if entry else b"")
            cs = [w.consumer() for _ in range(2)]
            for c, more in zip(cs, (extra, second)):  # the second session finds what the first one made
                c.enable(peer.config([name], extra=more))
                p.until_started(1 + cs.index(c))
            tap.expect_eq((len(p.smb.map), p.page), want, name)
            for c in cs:
                c.stop()
                c.close()
            p.close()


# ---- pages and states


@tap.case("S-R14 to S-R19: every chunk of every layout is taken, its header cleared, its page freed with the last one")
def _():
    with peer.World() as w:
        p, c = begin(w)
        n = 0
        for layout, count in CHUNKS.items():
            for reserved in (0, 1 << 31):  # S-R17: it stays until the last chunk is free
                page = n % p.smb.pages
                chunks = [Chunk(p, page, layout, i).put(1, n + i, record(stamp(n + i + 1)), 1) for i in range(count)]
                p.smb.put_word(page, reserved | word(layout, *[COMPLETE] * count))
                for i, chunk in enumerate(chunks):
                    tap.expect(commit(p, (page, i)), "a commit")
                    left = reserved | word(layout, *[FREE] * (i + 1), *[COMPLETE] * (count - i - 1))
                    tap.expect_eq(hex(p.smb.word(page)), hex(left if i < count - 1 else 0), f"word of layout {layout} after chunk {i}")
                    tap.expect_eq(chunk.header(), bytes(8), "a chunk header after it was freed")
                n += count
        c.stop()
        tap.expect_eq(sequences(c.read()), [list(range(1, n + 1))], "packets")


@tap.case("S-R16, S-R87: what is not complete, not there or beyond the memory is left alone")
def _():
    with peer.World() as w:
        p, c = begin(w)
        for layout in (2, 3):
            for state in (FREE, WRITING, READING):
                page = layout
                Chunk(p, page, layout, 1).put(1, 0, record(stamp(5)), 1)
                before = word(layout, COMPLETE, state)
                p.smb.put_word(page, before)
                tap.expect(commit(p, (page, 1), (page, CHUNKS[layout]), (page, 13), (p.smb.pages, 0)), "a commit")
                tap.expect_eq(hex(p.smb.word(page)), hex(before), "the word")
        for code in (0, 6, 7):  # no chunks at all
            p.smb.put_word(9, code << 28 | 3)
            commit(p, (9, 0))
            tap.expect_eq(p.smb.word(9), code << 28 | 3, f"a page of layout {code}")
        c.stop()
        tap.expect_eq(sequences(c.read()), [], "packets")


@tap.case("S-R26, S-R89: a sequence is a writer of a connection; any 16-bit id may commit, registered or not")
def _():
    with peer.World() as w:
        p, c = begin(w)
        q = w.producer("q", ["src"])
        q.until_started()
        for n, writer in enumerate((0, 1, 32767, 32768, 65535)):
            for k, x in enumerate((p, q)):
                x.smb.fill(n, writer, 0, [stamp(100 * k + n + 1)])
                tap.expect(commit(x, (n, 0)), "a commit")
        c.stop()
        tap.expect_eq(sequences(c.read()), [[100 * k + n + 1] for k in (0, 1) for n in range(5)], "packets")


# ---- packets in a chunk


@tap.case("S-R23, S-R25, S-R27, S-R28, S-R30: sizes of one to four bytes, empty packets, and what lies behind the last record")
def _():
    with peer.World() as w:
        p, c = begin(w, buffers=((1024, 0),))
        payload = b"".join(
            (
                record(stamp(1)),
                record(stamp(2), redundant(2)),
                record(b""),
                record(stamp(3), b"\x82\x00"),
                record(b"", redundant(0)),
                record(stamp(4), b"\x82\x80\x00"),
                record(b""),
            )
        )
        Chunk(p, 0).put(1, 0, payload + record(stamp(666)), 7)
        p.smb.put_word(0, word(1, COMPLETE))
        commit(p, (0, 0))
        p.smb.fill(1, 1, 1, [stamp(5)])
        commit(p, (1, 0))
        tap.expect_eq(stats(c, VIOLATIONS, LOSS, buffer=0), (0, 0), "violations and losses")
        c.stop()
        packets = c.read()
        tap.expect_eq(sequences(packets), [[1, 2, 3, 4, 5]], "packets")
        tap.expect(all(not pb.first(q, 42, 0) for q in packets), "an empty packet is no loss")


@tap.case("S-R31 to S-R33: a packet of four fragments, longer than its page, cut inside a tag and a varint")
def _():
    with peer.World() as w:
        p, c = begin(w)
        event = b"\x0a" + pb.put_varint(9000) + b"y" * 9000
        whole = stamp(300) + b"\xa2\x38" + pb.put_varint(len(event)) + event
        cuts = [0, 2, 4, 4000, len(whole)]  # inside the timestamp's varint, inside the tag of field 900
        for n in range(4):
            flags = (peer.FIRST if n else 0) | (peer.LAST if n < 3 else 0)
            extra = [stamp(1)] if n == 0 else []
            piece = whole[cuts[n] : cuts[n + 1]]
            if n == 3:
                for k in range(0, len(piece), 3000):
                    last = k + 3000 >= len(piece)
                    records = [piece[k : k + 3000]] + ([stamp(400)] if last else [])
                    p.smb.fill(n + k // 3000, 1, n + k // 3000, records, peer.FIRST | (0 if last else peer.LAST))
                    commit(p, (n + k // 3000, 0))
            else:
                p.smb.fill(n, 1, n, extra + [piece], flags)
                commit(p, (n, 0))
        c.stop()
        packets = c.read()
        tap.expect_eq(sequences(packets), [[1, 300, 400]], "packets")
        tap.expect_eq([pb.first(q, 900) for q in packets if pb.first(q, 8) == 300], [event], "the long one")


@tap.case("S-R29, T38: the sentinel gives up the rest of a chunk, and the whole of a packet that it ends; others are whole")
def _():
    with peer.World() as w:
        p, c = begin(w)
        Chunk(p, 0).put(1, 0, record(stamp(1)) + record(stamp(2)[:1]), 2, peer.LAST)
        Chunk(p, 1).put(1, 1, SENTINEL + record(stamp(666)), 2, peer.FIRST)
        Chunk(p, 2).put(1, 2, record(stamp(3)), 1)
        for page in range(3):
            p.smb.put_word(page, word(1, COMPLETE))
            commit(p, (page, 0))
        c.stop()
        packets = c.read()
        tap.expect_eq(sequences(packets), [[1, 3]], "packets")
        tap.expect_eq([bool(pb.first(q, 42, 0)) for q in packets if pb.first(q, 8) in (1, 3)], [False, True], "previous_packet_dropped")
        tap.expect(stats(c, LOSS, buffer=0)[0] > 0, "the loss is counted")
        tap.expect_eq(stats(c, VIOLATIONS, buffer=0), (0,), "violations")


@tap.case("T39: a record of no bytes in place of a middle fragment; a first one, and rubbish behind it")
def _():
    with peer.World() as w:
        p, c = begin(w)
        p.smb.fill(0, 1, 0, [stamp(300)[:2]], peer.LAST)
        p.smb.fill(1, 1, 1, [b""], peer.FIRST | peer.LAST)
        p.smb.fill(2, 1, 2, [stamp(300)[2:]], peer.FIRST)
        Chunk(p, 3).put(2, 0, b"\0" + b"\xff" * 40, 3)
        p.smb.put_word(3, word(1, COMPLETE))
        commit(p, (0, 0), (1, 0), (2, 0), (3, 0))
        c.stop()
        tap.expect_eq(sequences(c.read()), [[300]], "packets")


@tap.case("S-R96, T40: counts and sizes that are not true cost their chunk, never the neighbours")
def _():
    with peer.World() as w:
        for policy in (0, 2):
            p, c = begin(w, buffers=((1024, policy),))
            lies = (
                (record(stamp(2)), 5),
                (b"\x03" + stamp(2), 1023),
                (b"\xff\xff\x7f" + stamp(2), 1),
                (b"\xff" * 12, 1),
                (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 2),
                (b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", 1),
                (b"", 1000),
            )
            for n, (payload, count) in enumerate(lies):
                writer = 10 + n
                size = p.page - 16
                p.smb.map[3 * p.page + 16 : 3 * p.page + 16 + size] = b"\xff" * size
                p.smb.fill(2, writer, 0, [stamp(1)])
                Chunk(p, 3).put(writer, 1, payload, count)
                p.smb.put_word(3, word(1, COMPLETE))
                p.smb.fill(4, writer, 2, [stamp(9)])
                commit(p, (2, 0), (3, 0), (4, 0))
            c.stop()
            found = sequences(c.read())
            tap.expect_eq(len(found), len(lies), "sequences")
            tap.expect(all(x[0] == 1 and x[-1] == 9 for x in found), f"neighbours: {found}")
            tap.expect(stats(c, VIOLATIONS, buffer=0)[0] > 0, "violations are counted")
            p.close()
            c.close()


# ---- commits and patches


@tap.case("S-R87, S-R88: a forbidden chunk is freed and counted; a buffer stays allowed after the stop, until it is freed")
def _():
    with peer.World() as w:
        p, c = begin(w)
        mine = p.target()
        other, d = w.producer("other", ["other"]), w.consumer()
        d.enable(peer.config(["other"]))
        other.until_started()
        p.ask("RegisterTraceWriter", pb.put(1, 7) + pb.put(2, mine + 1000))
        for target, writer in ((other.target(), 1), (60000, 1), (mine, 7)):
            p.smb.fill(0, writer, 0, [stamp(666)])
            tap.expect(commit(p, (0, 0), target=target), "a commit")
            tap.expect_eq(p.smb.word(0), 0, "freed, though refused")
        tap.expect_eq(stats(c, DISCARDED), (3,), "chunks_discarded")
        p.smb.fill(0, 1, 0, [stamp(1)])
        commit(p, (0, 0), target=mine | 5 << 16)  # the low 16 bits count
        c.stop()
        p.smb.fill(0, 1, 1, [stamp(2)])
        commit(p, (0, 0), target=mine)
        tap.expect_eq(sequences(c.read()), [[1, 2]], "packets, also from after the stop")
        c.ask("FreeBuffers")
        p.smb.fill(0, 1, 2, [stamp(3)])
        commit(p, (0, 0), target=mine)
        tap.expect_eq(p.smb.word(0), 0, "freed, though its buffer is gone")
        tap.expect_eq(stats(d, DISCARDED), (4,), "chunks_discarded")
        d.stop()


def waiting(p, page, writer, chunk_id):
    """A chunk whose last packet needs a patch and goes on in the next one: 16 bytes of payload."""
    first = record(stamp(1)) + record(b"\x40\x02\xa2\x38" + bytes(4) + b"\x10\x07", b"\x8a\x00")
    Chunk(p, page).put(writer, chunk_id, first, 2, peer.LAST | peer.PATCH)
    p.smb.put_word(page, word(1, COMPLETE))
    p.smb.fill(page + 1, writer, chunk_id + 1, [b"\x10\x08", stamp(3)], peer.FIRST)
    commit(p, (page, 0), (page + 1, 0))
    return first.index(bytes(4))


@tap.case("S-R90 to S-R93, T36: which patches are dropped, which fail, and when a chunk waits no longer")
def _():
    with peer.World() as w:
        p, c = begin(w)
        at = waiting(p, 0, 5, 0)
        good = (at, b"\x84\x80\x80\x00")
        for bad in (
            patch(p, 0, 0, [good]),  # no such writer
            patch(p, 32768, 0, [good]),
            patch(p, 5, 0, [good], target=60000),
            patch(p, 5, 0, [(0, b"abcd")] * 1025, more=True),
            patch(p, 5, 0, [(at, b"abc"), (at, b"abcde"), (at, b"")], more=True),  # alone, each
        ):
            tap.expect(commit(p, patches=bad), "a commit")
        tap.expect_eq(stats(c, PATCHES_DISCARDED), (3 + 1025 + 3,), "patches_discarded")
        before = stats(c, FAILED, buffer=0)[0]
        q = w.producer("q", ["src"])
        q.until_started()
        commit(q, patches=patch(q, 5, 0, [good]))  # another's chunk
        commit(p, patches=patch(p, 5, 77, [good]))  # no such chunk
        commit(p, patches=patch(p, 6, 0, [good]))
        for offset in (14, 16, 4092, 2**32 - 4):  # T36: beyond the fragments, and what would wrap
            commit(p, patches=patch(p, 5, 0, [(offset, b"abcd")], more=True))
        tap.expect_eq(stats(c, FAILED, buffer=0), (before + 7,), "patches_failed")
        tap.expect_eq([x for x in sequences(c.read()) if 3 in x], [], "it waits")
        commit(p, patches=patch(p, 5, 0, [good], more=True))  # more are to come
        tap.expect_eq([x for x in sequences(c.read()) if 3 in x], [], "S-R92: it waits on")
        commit(p, patches=patch(p, 5, 0, [good]))
        tap.expect_eq(stats(c, SUCCEEDED, buffer=0), (2,), "patches_succeeded")
        c.stop()
        packets = c.read()
        tap.expect_eq(sequences(packets), [[2, 3]], "what waited")
        tap.expect_eq([pb.first(x, 900) for x in packets if pb.first(x, 8) == 2], [b"\x10\x07\x10\x08"], "the patched size holds")


@tap.case("S-R95, T37: in order of chunk ids, past 2^32, however they came; what has no beginning is left out and marked")
def _():
    with peer.World() as w:
        p, c = begin(w)
        for page, chunk_id in ((0, 2**32 - 1), (2, 1), (1, 0)):
            p.smb.fill(page, 1, chunk_id, [stamp(page + 1)])
            commit(p, (page, 0))
        p.smb.fill(3, 2, 10, [b"\x05", stamp(7)], peer.FIRST)  # goes on from what never came
        commit(p, (3, 0))
        c.stop()
        packets = c.read()
        tap.expect_eq(sequences(packets), [[1, 2, 3], [7]], "packets")
        tap.expect_eq([bool(pb.first(q, 42, 0)) for q in packets if pb.first(q, 8) == 7], [True], "previous_packet_dropped")


# ---- scraping


def write_open(p, page, writer, chunk_id, records, count=None, flags=0, state=WRITING):
    body = b"".join(record(r) for r in records)
    Chunk(p, page).put(writer, chunk_id, body, len(records) if count is None else count, flags)
    p.smb.put_word(page, word(1, state))


@tap.case("S-R98 to S-R105: what a flush scrapes, what it leaves, and that nothing comes twice")
def _():
    with peer.World() as w:
        p, c = begin(w, init=SCRAPED)
        for writer in (1, 2, 4):
            p.ask("RegisterTraceWriter", pb.put(1, writer) + pb.put(2, p.target()))
        write_open(p, 0, 1, 0, [stamp(1)])  # its only packet may be half written
        tap.expect(c.flush(), "flush")
        tap.expect_eq(sequences(c.read()), [], "one unfinished packet")
        tap.expect_eq(stats(c, WRITTEN, buffer=0), (0,), "chunks with one unfinished packet that were copied")
        write_open(p, 0, 1, 0, [stamp(1)], count=2)  # inflated: the first one is finished
        write_open(p, 1, 2, 0, [stamp(11), stamp(12)], state=COMPLETE)  # complete, and not committed yet
        write_open(p, 2, 3, 0, [stamp(21), stamp(22)], count=3)  # nobody registered it
        write_open(p, 3, 4, 0, [stamp(31), stamp(32)[:1]], count=2, flags=peer.LAST | peer.PATCH)
        words = [p.smb.word(n) for n in range(4)]
        tap.expect(c.flush(), "flush")
        tap.expect_eq(sequences(c.read()), [[1], [11, 12], [31]], "scraped")
        tap.expect_eq([p.smb.word(n) for n in range(4)], words, "S-R102: nothing in the memory is changed")
        tap.expect(c.flush(), "flush")
        tap.expect_eq(sequences(c.read()), [], "scraped again")
        write_open(p, 0, 1, 0, [stamp(1), stamp(2), b""], state=COMPLETE)
        commit(p, (0, 0), (1, 0))
        tap.expect_eq(sequences(c.read()), [[2]], "S-R104: committed after it was scraped, only what is new")
        p.mute = True
        write_open(p, 0, 1, 1, [stamp(3)], count=2)
        tap.expect(not c.flush(timeout_ms=50), "a flush without an answer")
        tap.expect_eq(sequences(c.read()), [[3]], "S-R99: scraped all the same")
        p.mute = False
        write_open(p, 5, 2, 1, [stamp(13), stamp(14), stamp(15)], count=4)
        p.close()
        w.until("the producer to be gone", lambda: not pb.every(w.consumer().state(), 1))
        c.stop()
        tap.expect_eq(sequences(c.read()), [[13, 14, 15]], "what a producer that went had finished")


@tap.case("S-R98, S-R100: nobody is scraped who did not ask for it")
def _():
    with peer.World() as w:
        for init in (b"", pb.put(4, 0), pb.put(4, 2)):
            p, c = begin(w, init=init)
            p.ask("RegisterTraceWriter", pb.put(1, 1) + pb.put(2, p.target()))
            write_open(p, 0, 1, 0, [stamp(1), stamp(2)], count=3)
            tap.expect(c.flush(), "flush")
            p.close()
            c.stop()
            tap.expect_eq(sequences(c.read()), [], "packets")
            c.close()


@tap.case("S-R103, S-R104, T41: an incomplete chunk whose last packet needs patches and goes on gives its earlier packets")
def _():
    with peer.World() as w:
        p, c = begin(w)
        body = record(stamp(1)) + record(stamp(2)) + record(b"\xa2\x38" + bytes(4))
        data = struct.pack("<IHH", 0, 1, 3 | (peer.LAST | peer.PATCH) << 10) + body
        p.ask("CommitData", pb.put(1, peer.move(0, 0, p.target(), data) + pb.put(5, 1)))
        tap.expect_eq(sequences(c.read()), [[1, 2]], "packets")
        # Its flags did not count while it was incomplete, so now there may be others.
        body = record(stamp(1)) + record(stamp(2)) + record(stamp(3)) + record(b"")
        p.ask("CommitData", pb.put(1, peer.move(0, 0, p.target(), struct.pack("<IHH", 0, 1, 4) + body)))
        tap.expect_eq(sequences(c.read()), [[3]], "what its completion adds")
        tap.expect_eq(stats(c, VIOLATIONS, buffer=0), (0,), "violations")
        c.stop()


tap.run()
