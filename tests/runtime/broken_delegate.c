/* A delegate that is wrong in one way: -DVARIANT=N, as test_delegate_file.c counts them. Built with
 * the plain compiler against a copy of the public headers. */
#include <serverd/delegate.h>

#include <stddef.h>

static serverd_status stub(void)
{
    return SERVERD_INTERNAL;
}

static serverd_delegate table = {
    .abi = SERVERD_DELEGATE_ABI,
    .struct_bytes = sizeof(serverd_delegate),
    .name = "broken",
    .version = "1",
    .devices = (void *)stub,
    .match = (void *)stub,
    .form = (void *)stub,
    .pack = (void *)stub,
    .open = (void *)stub,
    .load = (void *)stub,
    .execute = (void *)stub,
    .unload = (void *)stub,
    .close = (void *)stub,
    .footprint = (void *)stub,
};

#if VARIANT == 0 /* nothing is wrong, but it fails in everything */
#define CHANGE
#elif VARIANT == 1
#define CHANGE table.abi = SERVERD_DELEGATE_ABI + (1u << 16)
#elif VARIANT == 2
#define CHANGE return NULL
#elif VARIANT == 3
#define CHANGE table.struct_bytes = offsetof(serverd_delegate, close)
#elif VARIANT == 4
#define CHANGE table.execute = NULL
#elif VARIANT == 5
#define CHANGE table.name = "cpu"
#elif VARIANT == 6
#define CHANGE table.name = "a,b=c"
#elif VARIANT == 7
#define CHANGE table.name = NULL
#elif VARIANT == 8
#define CHANGE table.kv_create = (void *)stub
#elif VARIANT ==                                                                                   \
    9 /* an older minor version, without the last members: what lies there is nothing */
#define CHANGE                                                                                     \
    table.abi = SERVERD_DELEGATE_ABI, table.struct_bytes = offsetof(serverd_delegate, kv_identity)
#elif VARIANT == 10 /* a later minor version, with more behind */
#define CHANGE table.abi = SERVERD_DELEGATE_ABI + 7, table.struct_bytes = sizeof table + 64
#endif

#ifdef CHANGE
__attribute__((visibility("default"))) const serverd_delegate *
serverd_delegate_entry(uint32_t host_abi);

const serverd_delegate *serverd_delegate_entry(uint32_t host_abi)
{
    (void)host_abi;
    CHANGE;
    return &table;
}
#else /* 11: no symbol */
__attribute__((visibility("default"))) const void *another_symbol(void);
const void *another_symbol(void)
{
    return &table;
}
#endif
