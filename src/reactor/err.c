/* SPDX-License-Identifier: Apache-2.0 */
/*
 * err: names for the two kinds of failure. Owns nothing but two static tables; the table of peer
 * faults is generated from the list in the header, so that a new fault cannot lack a name.
 */
#include "reactor/err.h"

#include <string.h>

static const char *const peer_names[ERR_PEER_END] = {"OK",
#define ERR_X(name, text) #name,
                                                     ERR_PEER_TABLE(ERR_X)
#undef ERR_X
};

static const char *const peer_texts[ERR_PEER_END] = {"success",
#define ERR_X(name, text) text,
                                                     ERR_PEER_TABLE(ERR_X)
#undef ERR_X
};

const char *err_text(int err)
{
    if (err >= 0)
        return err < ERR_PEER_END ? peer_texts[err] : "unknown fault of the peer";
    const char *text = err == -2147483647 - 1 ? NULL : strerrordesc_np(-err);
    return text != NULL ? text : "unknown error";
}

const char *err_name(int err)
{
    if (err >= 0)
        return err < ERR_PEER_END ? peer_names[err] : "?";
    const char *name = err == -2147483647 - 1 ? NULL : strerrorname_np(-err);
    return name != NULL ? name : "?";
}
