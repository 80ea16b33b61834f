/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IPC_RPC_H
#define IPC_RPC_H

/* What host and client share: the description of a service (spec section 5). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct upb_MiniTable;

#define RPC_METHODS_MAX 32 /* methods of one service that we expose or call */

/* One method. Its id is its position + 1 (R42). */
struct rpc_method {
    const char *name; /* CamelCase, as in the bind reply */
    bool stream;      /* replies with has_more=true are usual; documentation only (R58) */
    const struct upb_MiniTable *request; /* layout of args_proto */
    const struct upb_MiniTable *reply;   /* layout of reply_proto */
};

struct rpc_service {
    const char *name; /* unqualified (R41) */
    const struct rpc_method *methods;
    size_t count; /* at most RPC_METHODS_MAX */
};

/* Position + 1 of a method name, 0 when the service has none of that name. */
uint32_t rpc_method_id(const struct rpc_service *service, const char *name, size_t len);

/* Name of a method id, "?" when out of range. */
const char *rpc_method_name(const struct rpc_service *service, uint32_t id);

#endif
