/* What the user wants: the texts of --device and --place. */
#include "base/error.h"
#include "base/numeric.h"
#include "program/op.h"
#include "runtime/placement_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A piece of a text. */
struct piece {
    const char *text;
    size_t len;
};

static bool is_text(struct piece piece, const char *text)
{
    return strlen(text) == piece.len && memcmp(text, piece.text, piece.len) == 0;
}

/* The piece up to one of `separators`; *text goes behind it. */
static struct piece next_piece(const char **text, const char *separators)
{
    struct piece piece = {*text, strcspn(*text, separators)};
    *text += piece.len + ((*text)[piece.len] != '\0');
    return piece;
}

static bool parse_number(struct piece piece, uint64_t max, uint64_t *out)
{
    char digits[24];
    if (piece.len == 0 || piece.len >= sizeof digits)
        return false;
    memcpy(digits, piece.text, piece.len);
    digits[piece.len] = '\0';
    return parse_u64(digits, 0, max, out);
}

/* ---- devices --------------------------------------------------------------------------------- */

static const serverd_delegate *find_delegate(const struct placement_options *options,
                                             struct piece name)
{
    for (uint32_t i = 0; i < options->n_delegates; i++)
        if (is_text(name, options->delegates[i]->name))
            return options->delegates[i];
    return NULL;
}

/* `number` counts the delegate's devices in the list: each of these, and each rank of a group, has
 * one of its own, as far as there are so many. Of the others none is asked for: asking may take
 * memory of it. */
static serverd_status ask_devices(struct placement *placement, struct placement_device *device,
                                  uint32_t number, serverd_error *err)
{
    const serverd_delegate *delegate = device->delegate;
    const serverd_collective *ranks = placement->host->collective;
    serverd_device found[LIMIT_DEVICES];
    uint32_t n = 0, cap = (ranks ? ranks->rank : number) + 1;
    for (uint32_t i = 0; i < cap; i++)
        found[i] = (serverd_device){.struct_bytes = sizeof found[i]};
    serverd_status status = SERVERD_OK;
    if (delegate->abi >> 16 != SERVERD_DELEGATE_ABI >> 16)
        status = fail(err, SERVERD_VERSION, "made for ABI %u, this is %u", delegate->abi >> 16,
                      SERVERD_DELEGATE_ABI >> 16);
    else
        status = delegate->devices(placement->host, found, cap, &n, err);
    if (status == SERVERD_OK && n == 0)
        status = fail(err, SERVERD_UNSUPPORTED, "none here: %.127s", found[0].reason);
    if (status == SERVERD_OK) {
        device->device = found[(cap - 1) % n];
        device->n_sharing = ranks ? (ranks->n_ranks + n - 1) / n : 1;
        return SERVERD_OK;
    }
    (void)error_context(err, "device %s", delegate->name);
    device->reason = SERVERD_REASON_UNAVAILABLE;
    device->error = *err;
    return status;
}

/* A device that was not found stays in the list, so that its absence can be explained. */
static serverd_status add_device(struct placement *placement, const serverd_delegate *delegate,
                                 struct piece options, struct placement_device **out,
                                 serverd_error *err)
{
    if (placement->n_devices == LIMIT_DEVICES)
        return fail(err, SERVERD_INVALID, "device: more than %u", LIMIT_DEVICES);
    struct placement_device *device = &placement->devices[placement->n_devices];
    if (options.len >= sizeof device->options)
        return fail(err, SERVERD_INVALID,
                    "device %s: options of %zu bytes, at most %zu are allowed", delegate->name,
                    options.len, sizeof device->options - 1);
    uint32_t number = 0;
    *device = (struct placement_device){.delegate = delegate};
    for (uint32_t i = 0; i < placement->n_devices; i++)
        number += placement->devices[i].delegate == delegate;
    if (number == 0)
        (void)snprintf(device->name, sizeof device->name, "%.60s", delegate->name);
    else
        (void)snprintf(device->name, sizeof device->name, "%.60s.%u", delegate->name, number);
    memcpy(device->options, options.text, options.len);
    placement->n_devices++;
    *out = device;
    return ask_devices(placement, device, number, err);
}

static serverd_status add_all(struct placement *placement, const struct placement_options *options,
                              serverd_error *err)
{
    serverd_status status = fail(err, SERVERD_UNSUPPORTED, "device auto: no delegate is built in");
    bool is_any = false;
    for (uint32_t i = 0; i < options->n_delegates; i++) {
        if (options->delegates[i]->flags & SERVERD_DELEGATE_BY_NAME_ONLY)
            continue;
        struct placement_device *device = NULL;
        status = add_device(placement, options->delegates[i], (struct piece){"", 0}, &device, err);
        if (!device)
            return status;
        device->is_general = true;
        is_any |= status == SERVERD_OK;
    }
    return is_any ? SERVERD_OK : status;
}

/* NAME[:options] */
static serverd_status add_named(struct placement *placement,
                                const struct placement_options *options, struct piece text,
                                serverd_error *err)
{
    struct piece name = {text.text, 0}, rest = {"", 0};
    while (name.len < text.len && name.text[name.len] != ':')
        name.len++;
    if (name.len < text.len)
        rest = (struct piece){name.text + name.len + 1, text.len - name.len - 1};
    const serverd_delegate *delegate = find_delegate(options, name);
    if (!delegate)
        return fail(err, SERVERD_INVALID, "device: there is no %.*s", (int)min_size(name.len, 64),
                    name.text);
    struct placement_device *device;
    serverd_status status = add_device(placement, delegate, rest, &device, err);
    if (status == SERVERD_OK)
        device->is_general = true;
    return status;
}

static serverd_status read_device(struct placement *placement,
                                  const struct placement_options *options, serverd_error *err)
{
    static const char hetero[] = "hetero:";
    const char *text = options->device ? options->device : "auto";
    if (strcmp(text, "auto") == 0)
        return add_all(placement, options, err);
    if (strncmp(text, hetero, sizeof hetero - 1) != 0)
        return add_named(placement, options, (struct piece){text, strlen(text)}, err);
    placement->is_hetero = true;
    serverd_status status = SERVERD_OK;
    text += sizeof hetero - 1;
    do {
        if (placement->n_devices == LIMIT_HETERO_DEVICES)
            return fail(err, SERVERD_INVALID, "device: hetero has at most %u",
                        LIMIT_HETERO_DEVICES);
        status = add_named(placement, options, next_piece(&text, ","), err);
    } while (*text && status == SERVERD_OK);
    return status;
}

/* ---- places ---------------------------------------------------------------------------------- */

enum rule_kind { RULE_LAYERS, RULE_NODES, RULE_EMBED, RULE_OUTPUT, RULE_OP };

struct rule {
    enum rule_kind kind;
    uint64_t first, last; /* layers, nodes; first: op */
};

/* A or A-B */
static bool parse_range(struct piece text, struct rule *rule)
{
    struct piece first = text, last;
    for (first.len = 0; first.len < text.len && first.text[first.len] != '-';)
        first.len++;
    last = first;
    if (first.len < text.len)
        last = (struct piece){text.text + first.len + 1, text.len - first.len - 1};
    return parse_number(first, UINT32_MAX - 1, &rule->first) &&
           parse_number(last, UINT32_MAX - 1, &rule->last) && rule->first <= rule->last;
}

static bool parse_rule(struct piece what, struct rule *rule)
{
    static const struct {
        const char *prefix;
        enum rule_kind kind;
    } ranges[] = {{"blk.", RULE_LAYERS}, {"node.", RULE_NODES}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        size_t n = strlen(ranges[i].prefix);
        if (what.len <= n || memcmp(what.text, ranges[i].prefix, n) != 0)
            continue;
        rule->kind = ranges[i].kind;
        return parse_range((struct piece){what.text + n, what.len - n}, rule);
    }
    rule->kind = is_text(what, "embed") ? RULE_EMBED : RULE_OUTPUT;
    if (is_text(what, "embed") || is_text(what, "output"))
        return true;
    rule->kind = RULE_OP;
    for (rule->first = 0; rule->first < SERVERD_OP_COUNT; rule->first++)
        if (is_text(what, op_info((uint32_t)rule->first)->name))
            return true;
    return false;
}

/* `embed` the operation is what is before the layers, too, so the two meanings of the word are one.
 */
static bool fits(const serverd_graph *graph, const struct rule *rule, uint32_t node,
                 bool is_behind_layers)
{
    const serverd_node *n = &graph->nodes[node];
    switch (rule->kind) {
    case RULE_LAYERS:
        return n->layer != UINT32_MAX && n->layer >= rule->first && n->layer <= rule->last;
    case RULE_NODES:
        return node >= rule->first && node <= rule->last;
    case RULE_EMBED:
        return n->layer == UINT32_MAX && !is_behind_layers;
    case RULE_OUTPUT:
        return n->layer == UINT32_MAX && is_behind_layers;
    default:
        return n->op == rule->first;
    }
}

/* NAME or NAME.N; a device that is not there yet is added. */
static serverd_status find_device(struct placement *placement,
                                  const struct placement_options *options, struct piece name,
                                  uint32_t *out, serverd_error *err)
{
    struct piece base = name;
    uint64_t number = 0;
    if (!find_delegate(options, name)) {
        while (base.len > 0 && base.text[base.len - 1] != '.')
            base.len--;
        struct piece digits = {name.text + base.len, name.len - base.len};
        if (base.len == 0 || !parse_number(digits, LIMIT_DEVICES, &number))
            return fail(err, SERVERD_INVALID, "place: there is no device %.*s",
                        (int)min_size(name.len, 64), name.text);
        base.len--;
    }
    const serverd_delegate *delegate = find_delegate(options, base);
    if (!delegate)
        return fail(err, SERVERD_INVALID, "place: there is no device %.*s",
                    (int)min_size(name.len, 64), name.text);
    const char *same = "";
    for (uint32_t i = 0; i < placement->n_devices; i++) {
        if (placement->devices[i].delegate != delegate)
            continue;
        same = placement->devices[i].options;
        if (number-- > 0)
            continue;
        *out = i;
        if (placement->devices[i].reason == SERVERD_REASON_NONE)
            return SERVERD_OK;
        *err = placement->devices[i].error;
        return err->code;
    }
    struct placement_device *device;
    *out = placement->n_devices;
    serverd_status status =
        add_device(placement, delegate, (struct piece){same, strlen(same)}, &device, err);
    if (status == SERVERD_OK && number > 0)
        return find_device(placement, options, name, out, err);
    return status;
}

static serverd_status apply_place(struct placement *placement,
                                  const struct placement_options *options, struct piece what,
                                  struct piece name, serverd_error *err)
{
    struct rule rule;
    uint32_t device;
    if (!parse_rule(what, &rule))
        return fail(err, SERVERD_INVALID,
                    "place: %.*s is no blk.A-B, node.A-B, embed, output or operation",
                    (int)min_size(what.len, 64), what.text);
    serverd_status status = find_device(placement, options, name, &device, err);
    if (status != SERVERD_OK)
        return status;
    bool is_any = false, is_behind = false;
    for (uint32_t n = 0; n < placement->graph->n_nodes; n++) {
        is_behind |= placement->graph->nodes[n].layer != UINT32_MAX;
        if (!fits(placement->graph, &rule, n, is_behind))
            continue;
        is_any = true;
        if (placement->placed[n] == PLACEMENT_NO_DEVICE)
            placement->placed[n] = (uint8_t)device;
    }
    if (!is_any)
        return fail(err, SERVERD_INVALID, "place: the model has no %.*s",
                    (int)min_size(what.len, 64), what.text);
    return SERVERD_OK;
}

/* Where ranks meet, the delegate `collective` runs the nodes that nobody runs better: it is asked,
 * too. */
static serverd_status add_meetings(struct placement *placement,
                                   const struct placement_options *options, serverd_error *err)
{
    static const char name[] = "collective";
    const serverd_delegate *delegate =
        find_delegate(options, (struct piece){name, sizeof name - 1});
    if (!placement->host->collective || !delegate)
        return SERVERD_OK;
    struct placement_device *device = NULL;
    for (uint32_t i = 0; i < placement->n_devices && !device; i++)
        if (placement->devices[i].delegate == delegate)
            device = &placement->devices[i];
    serverd_status status =
        device ? SERVERD_OK : add_device(placement, delegate, (struct piece){"", 0}, &device, err);
    if (device)
        device->is_general = true;
    return status;
}

serverd_status placement_read_wishes(struct placement *placement,
                                     const struct placement_options *options, serverd_error *err)
{
    serverd_status status = read_device(placement, options, err);
    for (const char *text = options->place ? options->place : ""; *text && status == SERVERD_OK;) {
        struct piece entry = next_piece(&text, ",");
        struct piece what = {entry.text, 0};
        while (what.len < entry.len && what.text[what.len] != '=')
            what.len++;
        if (what.len == entry.len)
            return fail(err, SERVERD_INVALID, "place: %.*s is not WHAT=DEVICE",
                        (int)min_size(entry.len, 64), entry.text);
        status =
            apply_place(placement, options, what,
                        (struct piece){what.text + what.len + 1, entry.len - what.len - 1}, err);
    }
    return status == SERVERD_OK ? add_meetings(placement, options, err) : status;
}
