/* A policy's file: a list of mappings. */
#include "quantise/policy_internal.h"

#include "base/error.h"
#include "base/hint.h"
#include "base/limits.h"

#include <string.h>
#include <yaml.h>

/* Events of a document: more than all rules have. */
#define MOST_EVENTS (LIMIT_QUANTISE_RULES * 32u)

struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    uint32_t n_events;
};

/* Where the present event begins, or where there is none, because it cannot be read. */
static size_t line_of(const struct reader *r)
{
    const bool is_broken = r->parser.error != YAML_NO_ERROR;
    return (is_broken ? r->parser.problem_mark.line : r->event.start_mark.line) + 1;
}

static serverd_status next_event(struct reader *r, serverd_error *err)
{
    yaml_event_delete(&r->event);
    if (r->n_events++ > MOST_EVENTS)
        return fail(err, SERVERD_INVALID, "more than %u rules", LIMIT_QUANTISE_RULES);
    if (yaml_parser_parse(&r->parser, &r->event))
        return SERVERD_OK;
    if (r->parser.error == YAML_MEMORY_ERROR)
        return fail(err, SERVERD_NOMEM, "no memory");
    return fail(err, SERVERD_INVALID, "not valid YAML: %s",
                r->parser.problem ? r->parser.problem : "unknown reason");
}

/* A plain word without anchor and tag. */
static serverd_status check_scalar(const struct reader *r, const char *what, serverd_error *err)
{
    const yaml_event_t *e = &r->event;
    if (e->type != YAML_SCALAR_EVENT || e->data.scalar.anchor || e->data.scalar.tag)
        return fail(err, SERVERD_INVALID, "%s: a plain value is needed", what);
    if (e->data.scalar.length >= LIMIT_OPTION_BYTES ||
        memchr(e->data.scalar.value, 0, e->data.scalar.length))
        return fail(err, SERVERD_INVALID, "%s: too long, or with a NUL character", what);
    return SERVERD_OK;
}

enum { KEY_MATCH, KEY_KIND, KEY_FORMAT, KEY_GROUP, KEY_METHOD, KEY_COUNT };
static const char *const keys[KEY_COUNT] = {"match", "kind", "format", "group", "method"};

static serverd_status read_key(const struct reader *r, unsigned *seen, int *key, serverd_error *err)
{
    serverd_status status = check_scalar(r, "key", err);
    if (status != SERVERD_OK)
        return status;
    const char *word = (const char *)r->event.data.scalar.value;
    struct hint hint = hint_for(word);
    for (*key = 0; *key < KEY_COUNT; (*key)++) {
        if (strcmp(word, keys[*key]) == 0)
            break;
        hint_consider(&hint, keys[*key], strlen(keys[*key]));
    }
    if (*key == KEY_COUNT)
        return hint.best ? fail(err, SERVERD_INVALID, "unknown key %.64s, is %.*s meant?", word,
                                (int)hint.n_best, hint.best)
                         : fail(err, SERVERD_INVALID, "unknown key %.64s", word);
    if (*seen & 1u << *key)
        return fail(err, SERVERD_INVALID, "%s: repeated", word);
    *seen |= 1u << *key;
    return SERVERD_OK;
}

static serverd_status read_value(const struct reader *r, int key, struct policy_rule *rule,
                                 serverd_error *err)
{
    serverd_status status = check_scalar(r, keys[key], err);
    if (status != SERVERD_OK)
        return status;
    const char *text = (const char *)r->event.data.scalar.value;
    size_t n = r->event.data.scalar.length;
    switch (key) {
    case KEY_MATCH:
        return policy_parse_match(text, n, &rule->match, err);
    case KEY_KIND:
        return policy_parse_kind(text, n, &rule->kind, err);
    case KEY_FORMAT:
        return policy_parse_format(text, n, &rule->choice, err);
    case KEY_GROUP:
        return policy_parse_group(text, n, &rule->choice, err);
    default:
        return policy_parse_methods(text, n, &rule->choice, err);
    }
}

/* After MAPPING-START, up to its end. The rule's expression belongs to the caller on failure, too.
 */
static serverd_status read_rule(struct reader *r, struct policy_rule *rule, serverd_error *err)
{
    unsigned seen = 0;
    serverd_status status;
    while ((status = next_event(r, err)) == SERVERD_OK && r->event.type != YAML_MAPPING_END_EVENT) {
        int key;
        if ((status = read_key(r, &seen, &key, err)) != SERVERD_OK ||
            (status = next_event(r, err)) != SERVERD_OK ||
            (status = read_value(r, key, rule, err)) != SERVERD_OK)
            return status;
    }
    if (status == SERVERD_OK && !(seen & 1u << KEY_FORMAT))
        return fail(err, SERVERD_INVALID, "a rule without format");
    return status == SERVERD_OK ? policy_complete(&rule->choice, err) : status;
}

static serverd_status read_rules(struct reader *r, struct quantise_policy *policy,
                                 serverd_error *err)
{
    serverd_status status;
    while ((status = next_event(r, err)) == SERVERD_OK &&
           r->event.type != YAML_SEQUENCE_END_EVENT) {
        struct policy_rule rule = {.kind = -1};
        if (r->event.type != YAML_MAPPING_START_EVENT)
            return fail(err, SERVERD_INVALID, "a rule is a mapping: {format: ..}");
        if ((status = read_rule(r, &rule, err)) == SERVERD_OK)
            status = policy_add(policy, &rule, err);
        if (status != SERVERD_OK) {
            pcre2_code_free(rule.match);
            return status;
        }
    }
    return status;
}

static serverd_status read_document(struct reader *r, struct quantise_policy *policy,
                                    serverd_error *err)
{
    serverd_status status;
    while ((status = next_event(r, err)) == SERVERD_OK && r->event.type != YAML_STREAM_END_EVENT) {
        switch (r->event.type) {
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_START_EVENT:
        case YAML_DOCUMENT_END_EVENT:
            break;
        case YAML_SEQUENCE_START_EVENT:
            if ((status = read_rules(r, policy, err)) != SERVERD_OK)
                return status;
            break;
        default:
            return fail(err, SERVERD_INVALID, "a list of rules is needed");
        }
    }
    return status;
}

serverd_status policy_read_yaml(const char *yaml, size_t n, const char *path,
                                struct quantise_policy *policy, serverd_error *err)
{
    struct reader r = {.n_events = 0};
    if (!yaml_parser_initialize(&r.parser))
        return fail(err, SERVERD_NOMEM, "%s: no memory", path);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)yaml, n);
    serverd_status status = read_document(&r, policy, err);
    if (status != SERVERD_OK)
        error_context(err, "%s:%zu", path, line_of(&r));
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    return status;
}
