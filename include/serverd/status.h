/* The one form of a failure, used by every room and by the delegate ABI.
 *
 * A function that can fail returns serverd_status and takes `serverd_error *err` as its last
 * parameter. On SERVERD_OK nothing is written to `err`; on failure `err` says what went wrong,
 * where, the value found and the value allowed. `err` may not be NULL.
 *
 * The code tells who is hit, and so what to do. */
#ifndef SERVERD_STATUS_H
#define SERVERD_STATUS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum serverd_status {
    SERVERD_OK = 0,
    SERVERD_UNSUPPORTED, /* request or file: a feature that is not there; named in the text */
    SERVERD_INVALID,     /* request or option: a value out of its range or of the wrong form */
    SERVERD_NOMEM,       /* later again: no memory, no page */
    SERVERD_BUSY,        /* later again: a queue is full */
    SERVERD_TIMEOUT,     /* request: its time is over */
    SERVERD_NUMERIC,     /* request: NaN or infinity came out of the model */
    SERVERD_CORRUPT,     /* file: damaged or hostile */
    SERVERD_VERSION,     /* file: newer or older than what is understood */
    SERVERD_DEVICE_LOST, /* device: nothing but destroy and close may follow */
    SERVERD_INTERNAL     /* us: a bug */
} serverd_status;

#define SERVERD_ERROR_TEXT 504

typedef struct serverd_error {
    serverd_status code;
    uint32_t node; /* graph node or batch row that failed, UINT32_MAX if none */
    char text[SERVERD_ERROR_TEXT];
} serverd_error;

#ifdef __cplusplus
}
#endif
#endif
