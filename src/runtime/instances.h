/* The opened devices of a model and their KV stores, which have common page numbers. One caller at
 * a time. */
#ifndef RUNTIME_INSTANCES_H
#define RUNTIME_INSTANCES_H

#include "base/limits.h"
#include "runtime/placement.h"

struct instance {
    const serverd_delegate *delegate;
    uint32_t device; /* of the placement */
    serverd_instance *instance;
    serverd_kv_spec spec;     /* its layers; n_layers 0: no attention with a state is here */
    serverd_kv_layer *layers; /* [n_layers], n_kv_heads 0: elsewhere */
    serverd_kv_bytes bytes;   /* of its part of a page */
    serverd_kv *kv;
};

/* Every instance has a partition at least. */
struct instances {
    struct instance items[LIMIT_DEVICES];
    uint32_t n;
    uint32_t n_pages, n_window_pages;
    serverd_kv_bytes bytes; /* of a page: the sum of the parts */
};

/* Opens the devices that the placement's partitions are on, and sets their options. *is_device: it
 * is a device that failed, number *failed of the placement, and not the user. */
serverd_status instances_open(struct instances *instances, const struct placement *placement,
                              uint32_t *failed, bool *is_device, serverd_error *err);
void instances_close(struct instances *instances); /* all stores, then all instances */

/* The instance that a partition is on. */
struct instance *instances_of(struct instances *instances, uint32_t device);

/* Divides the layers of `spec` among the instances and asks what a page takes: bytes. *failed as
 * above, for the number of a device that cannot hold its part. */
serverd_status instances_divide_kv(struct instances *instances, const struct placement *placement,
                                   const serverd_kv_spec *spec, uint32_t *failed,
                                   serverd_error *err);
serverd_status instances_create_kv(struct instances *instances, uint32_t n_pages,
                                   uint32_t n_window_pages, uint32_t *failed, serverd_error *err);

/* As the delegate's; all stores. */
serverd_status instances_kv_zero(struct instances *instances, const serverd_kv_page *pages,
                                 uint32_t n, serverd_error *err);
serverd_status instances_kv_copy(struct instances *instances, serverd_kv_page from,
                                 serverd_kv_page to, uint32_t n_tokens, serverd_error *err);
/* The parts of a page in the order of the instances, and behind them those of the window page. */
bool instances_can_export(const struct instances *instances);
serverd_status instances_kv_export(const struct instances *instances, serverd_kv_page page,
                                   char *out, serverd_error *err);
serverd_status instances_kv_import(struct instances *instances, serverd_kv_page page,
                                   const char *bytes, serverd_error *err);
/* Some store lets pages leave late (delegate.h: kv_settle); all that left is there. */
bool instances_leave_late(const struct instances *instances);
serverd_status instances_kv_settle(struct instances *instances, serverd_error *err);

#endif
