/* SPDX-License-Identifier: Apache-2.0 */
/* Lookups in service descriptions. The descriptions are constant tables; nothing here has state. */

#include "ipc/rpc.h"

#include <string.h>

uint32_t rpc_method_id(const struct rpc_service *service, const char *name, size_t len)
{
    for (size_t i = 0; i < service->count; i++) {
        const char *own = service->methods[i].name;
        if (strlen(own) == len && memcmp(own, name, len) == 0)
            return (uint32_t)i + 1;
    }
    return 0;
}

const char *rpc_method_name(const struct rpc_service *service, uint32_t id)
{
    return id >= 1 && id <= service->count ? service->methods[id - 1].name : "?";
}
