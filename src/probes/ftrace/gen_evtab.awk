# Turns ftrace_events.tsv into the constant tables of evtab.c:
#   awk -F '\t' -f gen_evtab.awk ftrace_events.tsv >evtab_gen.h
# One string pool (equal names shared, offsets of 16 bits), one array of events, one of fields. The
# input is in ascending (group, event, field number); evtab.c searches by it and a test holds it.
function intern(s) {
    if (!(s in offset)) {
        offset[s] = size
        size += length(s) + 1
        pool = pool "    \"" s "\\0\"\n"
    }
    return offset[s]
}
function flush_event() {
    if (event != "")
        rows = rows "    {" event ", " n_fields - first "},\n"
}
BEGIN {
    size = n_fields = 0
    type["int32"] = "I32"; type["int64"] = "I64"; type["uint32"] = "U32"
    type["uint64"] = "U64"; type["string"] = "STR"; type["bytes"] = "BYTES"
}
NR == 1 { next }
$1 "/" $2 != key {
    flush_event()
    key = $1 "/" $2
    first = n_fields
    event = intern($1) ", " intern($2) ", " $3 ", " first
}
$5 != "" {
    if (!($7 in type) || $6 > 255) {
        print "line " NR ": type or number does not fit the tables" > "/dev/stderr"
        exit bad = 1
    }
    fields = fields "    {" intern($5) ", " $6 ", EVTAB_" type[$7] "},\n"
    n_fields++
}
END {
    if (bad)
        exit 1
    flush_event()
    if (size > 65535 || n_fields > 65535) {
        print "the tables outgrew their 16-bit offsets" > "/dev/stderr"
        exit 1
    }
    print "/* Generated from ftrace_events.tsv by gen_evtab.awk. */"
    printf "static const char pool[] =\n%s    \"\";\n\n", pool
    printf "static const struct evtab_field fields[] = {\n%s};\n\n", fields
    printf "static const struct row rows[] = {\n%s};\n", rows
}
