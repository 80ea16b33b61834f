#!/usr/bin/env python3
"""Writes the .proto files of this folder, and files.am, from the two tables in tables/.

The tables are the source: one line per field, one per enum value. The .proto
files are committed so that they can be read, searched and used without running
anything; t/meta/schema.t proves that they still say what the tables say.

usage: protos/generate.py            rewrite the files in place
       protos/generate.py --check    write nothing, exit 1 where a file would change
"""

import os
import sys

PACKAGE = "perfetto.protos"
HERE = os.path.dirname(os.path.abspath(__file__))


class Node:
    """A message, or an enum when `values` is set; children keep the table's order."""

    def __init__(self, name):
        self.name = name
        self.children = {}
        self.fields = []
        self.values = None

    def child(self, name):
        if name not in self.children:
            self.children[name] = Node(name)
        return self.children[name]


def read_table(name, width):
    with open(os.path.join(HERE, "tables", name), encoding="utf-8") as f:
        rows = [line.rstrip("\n").split("\t") for line in f]
    return [(r + [""] * width)[:width] for r in rows[1:]]


def load():
    """Returns {file: root Node} and {full type name: file}."""
    files, home = {}, {}

    def place(path, full):
        node = files.setdefault(path, Node(""))
        for part in full.split("."):
            node = node.child(part)
        home[full] = path
        return node

    for path, msg, num, name, label, typ, tname, default, notes in read_table("proto_fields.tsv", 9):
        node = place(path, msg)
        if num:
            node.fields.append((int(num), name, label, typ, tname, default, notes))
    for path, enum, num, value in read_table("proto_enums.tsv", 4):
        node = place(path, enum)
        node.values = (node.values or []) + [(int(num), value)]
    return files, home


def spell(full, scope, home):
    """The shortest spelling of type `full` that protoc resolves to it from inside `scope`."""
    parts = full.split(".")
    for cut in range(len(parts) - 1, -1, -1):
        spelled = parts[cut:]
        prefix = parts[:cut]
        if prefix != scope[: len(prefix)]:
            continue
        # protoc looks for the first part from the innermost scope outwards; nearer twins would win.
        nearer = range(len(prefix) + 1, len(scope) + 1)
        if not any(".".join(scope[:n] + spelled[:1]) in home for n in nearer):
            return ".".join(spelled)
    return "." + PACKAGE + "." + full


def field_line(field, scope, home, in_oneof):
    num, name, label, typ, tname, default, notes = field
    opts = []
    if default:
        opts.append("default = " + (f'"{default}"' if typ == "string" else default))
    if "[packed]" in notes:
        opts.append("packed = true")
    if "[deprecated]" in notes:
        opts.append("deprecated = true")
    what = spell(tname, scope, home) if tname else typ
    tail = f" [{', '.join(opts)}]" if opts else ""
    lead = "" if in_oneof else label + " "
    return f"{lead}{what} {name} = {num}{tail};"


def write_enum(node, indent, out):
    pad = "  " * indent
    out.append(f"{pad}enum {node.name} {{")
    if len({n for n, _ in node.values}) < len(node.values):
        out.append(f"{pad}  option allow_alias = true;")
    out += [f"{pad}  {value} = {num};" for num, value in node.values]
    out.append(f"{pad}}}")


def write_message(node, scope, home, indent, out):
    pad = "  " * indent
    scope = scope + [node.name]
    out.append(f"{pad}message {node.name} {{")
    for child in node.children.values():
        if child.values is not None:
            write_enum(child, indent + 1, out)
        else:
            write_message(child, scope, home, indent + 1, out)
    oneof_of = {id(f): f[6].split("[")[0].strip() for f in node.fields}
    done = set()
    for field in node.fields:
        oneof = oneof_of[id(field)]
        if not oneof:
            out.append(f"{pad}  {field_line(field, scope, home, False)}")
        elif oneof not in done:
            done.add(oneof)
            out.append(f"{pad}  oneof {oneof} {{")
            out += [
                f"{pad}    {field_line(f, scope, home, True)}"
                for f in node.fields
                if oneof_of[id(f)] == oneof
            ]
            out.append(f"{pad}  }}")
    out.append(f"{pad}}}")


def imports(node, path, home, found):
    for f in node.fields:
        if f[4] and home[f[4]] != path:
            found.add("protos/" + home[f[4]])
    for child in node.children.values():
        imports(child, path, home, found)
    return found


def render(path, root, home):
    out = [
        "// Written by protos/generate.py from protos/tables; change the tables, then run it.",
        'syntax = "proto2";',
        f"package {PACKAGE};",
    ]
    needed = sorted(imports(root, path, home, set()))
    if needed:
        out.append("")
        out += [f'import "{p}";' for p in needed]
    for child in root.children.values():
        out.append("")
        if child.values is not None:
            write_enum(child, 0, out)
        else:
            write_message(child, [], home, 0, out)
    return "\n".join(out) + "\n"


def render_files_am(paths):
    lines = ["# Written by protos/generate.py: every schema, for Makefile.am.", "PROTO_FILES = \\"]
    lines += [f"\tprotos/{p} \\" for p in paths[:-1]] + [f"\tprotos/{paths[-1]}"]
    return "\n".join(lines) + "\n"


def main():
    check = "--check" in sys.argv[1:]
    files, home = load()
    texts = {p: render(p, root, home) for p, root in files.items()}
    texts["files.am"] = render_files_am(sorted(files))
    stale = 0
    for path, text in sorted(texts.items()):
        full = os.path.join(HERE, path)
        try:
            with open(full, encoding="utf-8") as f:
                same = f.read() == text
        except FileNotFoundError:
            same = False
        if same:
            continue
        stale += 1
        if check:
            print(f"protos/{path} is not what the tables say; run protos/generate.py")
            continue
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
