/* SPDX-License-Identifier: Apache-2.0 */
/* Commands of the service to this producer. */
#ifndef CLIENT_PRODCMD_H
#define CLIENT_PRODCMD_H

#include "reactor/bytes.h"

struct prodlink;

/* Carries out one GetAsyncCommandResponse (IPC spec 11.2). A malformed one ends the connection. */
void prodcmd_handle(struct prodlink *link, struct bytes_view msg);

#endif
