/* Messages to the service manager (sd_notify's protocol): one datagram to $NOTIFY_SOCKET. */
#ifndef TOOLS_NOTIFY_H
#define TOOLS_NOTIFY_H

#include <stdint.h>

/* Nothing happens if no manager listens. state: "READY=1", "WATCHDOG=1", ... */
void notify_manager(const char *state);

/* How often the manager wants a sign of life, in ms; 0: never. */
uint64_t notify_watchdog_ms(void);

#endif
