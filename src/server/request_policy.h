/* What HTTP must look like before anything else looks at it. libmicrohttpd accepts heads that
 * other parties read differently (folded lines, two lengths, a space before the colon): whoever
 * stands in front of this server could be made to see other requests than it does. They are
 * refused here, before the body is read, and the connection ends. */
#ifndef SERVER_REQUEST_POLICY_H
#define SERVER_REQUEST_POLICY_H

#include "server/server_internal.h"

/* Checks method, version, target and headers. True: x->refusal says what is wrong and the
 * connection has to end; x->is_chunked is known then. */
bool policy_refuses_head(struct exchange *x, const char *method, const char *version);

/* Checks Content-Type, Content-Encoding and length against the route; sets x->refusal. True if
 * the body is too large to be read and thrown away. */
bool policy_refuses_body(struct exchange *x);

#endif
