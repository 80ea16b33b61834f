/* SPDX-License-Identifier: Apache-2.0 */
/* printflt: rules on the text of print events, tried in order; the first that matches decides.
 *
 * The text is whatever user space wrote to trace_marker and need not be terminated; the rules are
 * owned here. Nothing is written when a text is refused, so the order of events stays what it was.
 */
#include "probes/ftrace/printflt.h"

#include <stdlib.h>
#include <string.h>

#include "reactor/alloc.h"

void printflt_add(struct printflt *f, struct ptext prefix, const struct ptext *atrace_type,
                  bool allow)
{
    f->rules = alloc_resize(f->rules, f->n + 1, sizeof *f->rules);
    struct printflt_rule *r = &f->rules[f->n++];
    r->type = atrace_type ? alloc_strndup(atrace_type->p, ptext_len(*atrace_type)) : NULL;
    r->prefix = alloc_strndup(prefix.p, ptext_len(prefix));
    r->allow = allow;
}

void printflt_fini(struct printflt *f)
{
    for (size_t i = 0; i < f->n; i++) {
        free(f->rules[i].type);
        free(f->rules[i].prefix);
    }
    free(f->rules);
    *f = (struct printflt){0};
}

/* TYPE|digits|PREFIX..., where there may be no digit at all (R105). */
static bool atrace_match(const struct printflt_rule *r, struct ptext t)
{
    struct ptext type;
    if (!memchr(t.p, '|', ptext_len(t)) || !ptext_cut(&t, '|', &type) || !ptext_eq(type, r->type))
        return false;
    while (t.p < t.end && *t.p >= '0' && *t.p <= '9')
        t.p++;
    if (t.p == t.end || *t.p != '|')
        return false;
    t.p++;
    return ptext_starts(t, r->prefix);
}

bool printflt_allows(const struct printflt *f, struct ptext text)
{
    for (size_t i = 0; i < f->n; i++) {
        const struct printflt_rule *r = &f->rules[i];
        if (r->type ? atrace_match(r, text) : ptext_starts(text, r->prefix))
            return r->allow;
    }
    return true;
}
