/* JSON files of a model's folder: bounded before they are parsed, and read with errors that name
 * the file and the field's path in it. Used by the importers of Hugging Face folders. */
#ifndef COMPILER_JSON_FILE_H
#define COMPILER_JSON_FILE_H

#include "serverd/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct json_bounds {
    size_t bytes, values;
};

/* The whole text as an object, or as an array if that is `needed`; json_decref it. No name may be
 * in an object twice. */
serverd_status json_file_parse(const char *path, const char *text, size_t n, size_t max_values,
                               json_type needed, json_t **out, serverd_error *err);
serverd_status json_file_read(const char *path, struct json_bounds bounds, json_type needed,
                              json_t **out, serverd_error *err);

/* An object somewhere in a file: `where` is its path there, "" for the whole. A view. */
struct json_place {
    const char *file;
    const char *where;
    const json_t *object; /* NULL: has no members */
};

/* A member; NULL if it is not there or null. */
const json_t *json_place_get(const struct json_place *place, const char *name);
bool json_place_has(const struct json_place *place, const char *name); /* also if it is null */

/* Typed members. One that is not there or null leaves *out as it is; one of another type or out of
 * range is SERVERD_CORRUPT with file, path, found and allowed. Texts live as long as the JSON. */
serverd_status json_place_u32(const struct json_place *place, const char *name, uint32_t min,
                              uint32_t max, uint32_t *out, serverd_error *err);
serverd_status json_place_f64(const struct json_place *place, const char *name, double min,
                              double max, double *out, serverd_error *err);
serverd_status json_place_bool(const struct json_place *place, const char *name, bool *out,
                               serverd_error *err);
serverd_status json_place_string(const struct json_place *place, const char *name, const char **out,
                                 serverd_error *err);
/* An object; *out stays as it is if there is none. */
serverd_status json_place_object(const struct json_place *place, const char *name,
                                 struct json_place *out, serverd_error *err);
serverd_status json_place_array(const struct json_place *place, const char *name,
                                const json_t **out, serverd_error *err);
serverd_status json_place_need(const struct json_place *place, const char *name,
                               serverd_error *err);

/* SERVERD_CORRUPT: "FILE: WHERE.NAME: found an array, a string is needed". */
serverd_status json_place_fail(const struct json_place *place, const char *name, const char *needed,
                               serverd_error *err);

/* "DIR/NAME", cut to `size`; SERVERD_INVALID if it does not fit. */
serverd_status join_path(const char *folder, const char *name, size_t size, char *out,
                         serverd_error *err);

#endif
