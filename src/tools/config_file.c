#include "tools/config_file.h"

#include "base/error.h"
#include "base/file.h"
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* A key can only be new if it is the name of an option, so the list is as long as their number
 * at most. */
#define MAX_KEYS      (sizeof((struct options *)0)->source)
#define MAX_KEY_BYTES 64u

struct seen_key {
    char name[MAX_KEY_BYTES]; /* with "-" for "_" */
    size_t line;
};

struct reader {
    const char *path;
    struct options *options;
    yaml_parser_t parser;
    yaml_event_t event;
    struct seen_key seen[MAX_KEYS];
    size_t n_seen;
};

static size_t event_line(const struct reader *r)
{
    return r->event.start_mark.line + 1;
}

/* The next event into r->event, whose former content is freed. */
static serverd_status next_event(struct reader *r, serverd_error *err)
{
    yaml_event_delete(&r->event);
    if (yaml_parser_parse(&r->parser, &r->event))
        return SERVERD_OK;
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return fail(err, SERVERD_NOMEM, "%s: no memory", r->path);
    if (p->error == YAML_READER_ERROR)
        return fail(err, SERVERD_INVALID, "%s: %s at byte %zu", r->path, p->problem,
                    p->problem_offset);
    return fail(err, SERVERD_INVALID, "%s:%zu: not valid YAML: %s", r->path,
                p->problem_mark.line + 1, p->problem ? p->problem : "unknown reason");
}

static serverd_status check_scalar(const struct reader *r, const char *what, serverd_error *err)
{
    const yaml_event_t *event = &r->event;
    const char *found = event->type == YAML_ALIAS_EVENT            ? "an alias"
                        : event->type == YAML_SEQUENCE_START_EVENT ? "a list"
                        : event->type == YAML_MAPPING_START_EVENT  ? "a mapping"
                        : event->type != YAML_SCALAR_EVENT         ? "something else"
                        : event->data.scalar.anchor                ? "an anchor"
                        : event->data.scalar.tag                   ? "a tag"
                                                                   : NULL;
    if (found)
        return fail(err, SERVERD_INVALID, "%s:%zu: %s: expected a plain value, found %s", r->path,
                    event_line(r), what, found);
    if (strlen((const char *)event->data.scalar.value) != event->data.scalar.length)
        return fail(err, SERVERD_INVALID, "%s:%zu: %s: contains a NUL character", r->path,
                    event_line(r), what);
    return SERVERD_OK;
}

/* ctx_size and ctx-size are the same key. */
static serverd_status read_key(struct reader *r, struct seen_key *key, serverd_error *err)
{
    serverd_status status = check_scalar(r, "key", err);
    if (status != SERVERD_OK)
        return status;
    const char *name = (const char *)r->event.data.scalar.value;
    size_t n = r->event.data.scalar.length;
    if (n >= sizeof key->name)
        return fail(err, SERVERD_INVALID, "%s:%zu: unknown option %.40s...", r->path, event_line(r),
                    name);
    for (size_t i = 0; i <= n; i++)
        key->name[i] = name[i] == '_' ? '-' : name[i];
    key->line = event_line(r);
    for (size_t i = 0; i < r->n_seen; i++)
        if (strcmp(r->seen[i].name, key->name) == 0)
            return fail(err, SERVERD_INVALID, "%s:%zu: %s: repeated, first on line %zu", r->path,
                        key->line, key->name, r->seen[i].line);
    if (strcmp(key->name, "config") == 0)
        return fail(err, SERVERD_INVALID, "%s:%zu: config: a file cannot name another one", r->path,
                    key->line);
    return SERVERD_OK;
}

static serverd_status read_value(struct reader *r, const struct seen_key *key, serverd_error *err)
{
    serverd_status status = check_scalar(r, key->name, err);
    if (status != SERVERD_OK)
        return status;
    const yaml_event_t *event = &r->event;
    if (event->data.scalar.length == 0 && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        return fail(err, SERVERD_INVALID, "%s:%zu: %s: has no value", r->path, key->line,
                    key->name);
    status = options_set(r->options, key->name, (const char *)event->data.scalar.value, OPTION_FILE,
                         err);
    if (status != SERVERD_OK)
        return error_context(err, "%s:%zu", r->path, key->line);
    if (r->n_seen < MAX_KEYS)
        r->seen[r->n_seen++] = *key;
    return SERVERD_OK;
}

/* After MAPPING-START, up to and with MAPPING-END. */
static serverd_status read_mapping(struct reader *r, serverd_error *err)
{
    if (r->event.data.mapping_start.anchor || r->event.data.mapping_start.tag)
        return fail(err, SERVERD_INVALID, "%s:%zu: anchors and tags are not used here", r->path,
                    event_line(r));
    for (;;) {
        struct seen_key key;
        serverd_status status = next_event(r, err);
        if (status != SERVERD_OK || r->event.type == YAML_MAPPING_END_EVENT)
            return status;
        status = read_key(r, &key, err);
        if (status == SERVERD_OK)
            status = next_event(r, err);
        if (status == SERVERD_OK)
            status = read_value(r, &key, err);
        if (status != SERVERD_OK)
            return status;
    }
}

static serverd_status read_stream(struct reader *r, serverd_error *err)
{
    bool has_document = false;
    serverd_status status;
    while ((status = next_event(r, err)) == SERVERD_OK && r->event.type != YAML_STREAM_END_EVENT) {
        switch (r->event.type) {
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT:
            break;
        case YAML_DOCUMENT_START_EVENT:
            if (has_document)
                return fail(err, SERVERD_INVALID, "%s:%zu: a second document, one allowed", r->path,
                            event_line(r));
            has_document = true;
            break;
        case YAML_MAPPING_START_EVENT:
            status = read_mapping(r, err);
            if (status != SERVERD_OK)
                return status;
            break;
        case YAML_SCALAR_EVENT: /* "---" with nothing behind it is an empty scalar */
            if (r->event.data.scalar.length == 0)
                break;
            /* fall through */
        default:
            return fail(err, SERVERD_INVALID, "%s:%zu: expected lines of the form option: value",
                        r->path, event_line(r));
        }
    }
    return status;
}

serverd_status config_file_read(const char *path, struct options *options, serverd_error *err)
{
    char *text;
    size_t len;
    serverd_status status = file_read(path, LIMIT_CONFIG_BYTES, &text, &len, err);
    if (status != SERVERD_OK)
        return status;
    struct reader reader = {.path = path, .options = options};
    if (yaml_parser_initialize(&reader.parser)) {
        yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, len);
        status = read_stream(&reader, err);
        yaml_event_delete(&reader.event);
    } else {
        status = fail(err, SERVERD_NOMEM, "%s: no memory", path);
    }
    yaml_parser_delete(&reader.parser);
    free(text);
    return status;
}
