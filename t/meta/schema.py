"""The .proto files say what the tables in protos/tables say: every message, field and enum value, no more.

protoc compiles the schemas to descriptors; those are compared with the tables, so neither a hand edit
nor a slip of the generator goes unseen.
"""

import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import tap

TYPES = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 8: "bool",
    9: "string", 10: "group", 11: "message", 12: "bytes", 13: "uint32", 14: "enum", 15: "sfixed32",
    16: "sfixed64", 17: "sint32", 18: "sint64",
}  # fmt: skip
LABELS = {1: "optional", 2: "required", 3: "repeated"}


def varint(buf, pos):
    value = shift = 0
    while True:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, pos


def parse(buf):
    """{field number: [values]}; a length-delimited value stays bytes."""
    out, pos = {}, 0
    while pos < len(buf):
        tag, pos = varint(buf, pos)
        if tag & 7 == 0:
            value, pos = varint(buf, pos)
        elif tag & 7 == 2:
            size, pos = varint(buf, pos)
            value, pos = buf[pos : pos + size], pos + size
        else:
            raise ValueError(f"wire type {tag & 7} does not occur in descriptors")
        out.setdefault(tag >> 3, []).append(value)
    return out


def first(msg, num, default=b""):
    return msg.get(num, [default])[0]


def text(msg, num):
    return first(msg, num).decode()


def signed32(value):
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


class Schemas:
    """What protoc made of the .proto files, in the shape of the tables' rows."""

    def __init__(self):
        self.fields, self.enums, self.packages = set(), set(), set()
        protos = sorted(
            os.path.relpath(os.path.join(d, f), tap.SRCDIR)
            for d, _, names in os.walk(os.path.join(tap.SRCDIR, "protos"))
            for f in names
            if f.endswith(".proto")
        )
        with tempfile.TemporaryDirectory() as tmp:
            out = os.path.join(tmp, "set")
            protoc = os.environ.get("PROTOC") or "protoc"
            subprocess.run([protoc, "-I", ".", "--descriptor_set_out=" + out] + protos, cwd=tap.SRCDIR, check=True)
            with open(out, "rb") as f:
                files = parse(f.read())[1]
        for raw in files:
            file = parse(raw)
            self.path = text(file, 1)[len("protos/") :]
            self.packages.add(text(file, 2))
            for enum in file.get(5, []):
                self.enum(parse(enum), "")
            for msg in file.get(4, []):
                self.message(parse(msg), "")

    def message(self, msg, scope):
        full = scope + text(msg, 1)
        oneofs = [text(parse(o), 1) for o in msg.get(8, [])]
        if not msg.get(2) and not msg.get(3) and not msg.get(4):
            self.fields.add((self.path, full, "", "(no fields)", "", "", "", "", ""))
        for raw in msg.get(2, []):
            f = parse(raw)
            options = parse(first(f, 8))
            notes = oneofs[f[9][0]] if 9 in f else ""
            notes += " [packed]" if first(options, 2, 0) else ""
            notes += " [deprecated]" if first(options, 3, 0) else ""
            type_name = text(f, 6).replace(".perfetto.protos.", "", 1)
            self.fields.add(
                (self.path, full, str(f[3][0]), text(f, 1), LABELS[f[4][0]], TYPES[f[5][0]], type_name, text(f, 7), notes)
            )
        for child in msg.get(3, []):
            self.message(parse(child), full + ".")
        for enum in msg.get(4, []):
            self.enum(parse(enum), full + ".")

    def enum(self, enum, scope):
        for raw in enum.get(2, []):
            value = parse(raw)
            self.enums.add((self.path, scope + text(enum, 1), str(signed32(first(value, 2, 0))), text(value, 1)))


def table(name, width):
    with open(os.path.join(tap.SRCDIR, "protos", "tables", name), encoding="utf-8") as f:
        rows = [line.rstrip("\n").split("\t") for line in f][1:]
    return {tuple((r + [""] * width)[:width]) for r in rows}


def same(got, want, noun):
    missing, extra = sorted(want - got), sorted(got - want)
    for row in missing[:10]:
        print("# only in the table:  ", "\t".join(row))
    for row in extra[:10]:
        print("# only in the schemas:", "\t".join(row))
    tap.expect(not missing and not extra, f"{len(missing)} {noun} missing, {len(extra)} too many")
    tap.expect(len(want) > 0, "the table is empty")


schemas = Schemas()
FIELDS = table("proto_fields.tsv", 9)


def with_content(rows):
    """Messages without fields are listed in the table unless they hold nested types."""
    return {r for r in rows if r[2]}


@tap.case("every field has the table's name, number, type, label, default and oneof")
def _():
    same(with_content(schemas.fields), with_content(FIELDS), "fields")


@tap.case("every message without fields is there")
def _():
    have = {r[:2] for r in schemas.fields}
    missing = {r[:2] for r in FIELDS} - have
    missing = {m for m in missing if not any(h[1].startswith(m[1] + ".") for h in have)}
    tap.expect(not missing, f"missing: {sorted(missing)[:10]}")


@tap.case("every enum value has the table's name and number")
def _():
    same(schemas.enums, table("proto_enums.tsv", 4), "enum values")


@tap.case("all schemas are in package perfetto.protos")
def _():
    tap.expect_eq(schemas.packages, {"perfetto.protos"}, "packages")


@tap.case("the files are the generator's own")
def _():
    r = subprocess.run(
        [sys.executable, os.path.join(tap.SRCDIR, "protos", "generate.py"), "--check"], stdout=subprocess.PIPE, text=True
    )
    tap.expect(r.returncode == 0, r.stdout)


tap.run()
