#include "frontend_dsl/dsl_pattern.h"

#include "base/limits.h"
#include "frontend_dsl/sandbox_internal.h"

#include <lauxlib.h>
#include <string.h>

enum item_kind {
    ITEM_SINGLE,   /* a byte of a set, `repeat` times */
    ITEM_OPEN,     /* of capture a */
    ITEM_POSITION, /* capture a is where we are */
    ITEM_CLOSE,    /* of capture a */
    ITEM_BALANCE,  /* a .. b */
    ITEM_FRONTIER, /* into the set */
    ITEM_BACK,     /* what capture a has */
    ITEM_END,      /* of the text */
    ITEM_DONE,
};

struct item {
    uint8_t kind;
    char repeat; /* ? * + -, or 0 */
    uint8_t a, b;
    uint32_t set[8]; /* a bit for each byte */
};

struct frame {
    uint32_t item;
    size_t at;    /* where its run began; of -: where it has come */
    size_t count; /* bytes that it has beyond its least */
};

struct dsl_pattern {
    bool is_anchored;
    int n_captures;
    uint32_t n_items;
    struct frame *frames; /* [n_items], behind the items */
    struct item items[];
};

/* ---- sets of bytes ---- */

static bool set_has(const uint32_t set[8], unsigned char c)
{
    return set[c >> 5] >> (c & 31) & 1u;
}

static void set_add(uint32_t set[8], unsigned c)
{
    set[c >> 5] |= 1u << (c & 31);
}

static void set_invert(uint32_t set[8])
{
    for (int i = 0; i < 8; i++)
        set[i] = ~set[i];
}

static bool is_between(unsigned c, unsigned low, unsigned high)
{
    return c >= low && c <= high;
}

/* The classes, in ASCII whatever the locale; `letter` is small. False: it is no class. */
static bool class_has(char letter, unsigned c, bool *has)
{
    const bool is_upper = is_between(c, 'A', 'Z'), is_lower = is_between(c, 'a', 'z'),
               is_digit = is_between(c, '0', '9'), is_printed = is_between(c, 0x21, 0x7e);
    switch (letter) {
    case 'a':
        *has = is_upper || is_lower;
        return true;
    case 'c':
        *has = c < 0x20 || c == 0x7f;
        return true;
    case 'd':
        *has = is_digit;
        return true;
    case 'g':
        *has = is_printed;
        return true;
    case 'l':
        *has = is_lower;
        return true;
    case 'p':
        *has = is_printed && !is_upper && !is_lower && !is_digit;
        return true;
    case 's':
        *has = c == ' ' || is_between(c, '\t', '\r');
        return true;
    case 'u':
        *has = is_upper;
        return true;
    case 'w':
        *has = is_upper || is_lower || is_digit;
        return true;
    case 'x':
        *has = is_digit || is_between(c | 0x20, 'a', 'f');
        return true;
    case 'z': /* of old patterns */
        *has = c == 0;
        return true;
    default:
        return false;
    }
}

/* What stands behind a %: a class, its complement for a capital, else the character itself. */
static void set_add_escape(uint32_t set[8], unsigned char escape)
{
    const bool is_capital = is_between(escape, 'A', 'Z');
    const char letter = (char)(is_capital ? escape | 0x20 : escape);
    bool has;
    if (!class_has(letter, 0, &has)) {
        set_add(set, escape);
        return;
    }
    for (unsigned c = 0; c < 256; c++)
        if (class_has(letter, c, &has) && has != is_capital)
            set_add(set, c);
}

/* ---- reading a pattern ---- */

struct reader {
    lua_State *L;
    const unsigned char *text;
    size_t n, at;
    struct dsl_pattern *pattern;
    uint8_t open[DSL_PATTERN_CAPTURES]; /* captures that are not closed, the last on top */
    int n_open;
    bool is_closed[DSL_PATTERN_CAPTURES];
};

/* A set: [..], read from behind its bracket. The first character is one of it, also if it is a ].
 */
static void read_set(struct reader *r, uint32_t set[8])
{
    const unsigned char *text = r->text;
    bool is_inverted = r->at < r->n && text[r->at] == '^';
    size_t begin = r->at + is_inverted, end = begin;
    do {
        if (end >= r->n)
            luaL_error(r->L, "malformed pattern (missing ']')");
        end += text[end] == '%' && end + 1 < r->n ? 2 : 1;
    } while (end >= r->n || text[end] != ']');
    for (size_t i = begin; i < end; i++) {
        if (text[i] == '%' && i + 1 < end) {
            set_add_escape(set, text[++i]);
        } else if (i + 2 < end && text[i + 1] == '-') {
            for (unsigned c = text[i]; c <= text[i + 2]; c++)
                set_add(set, c);
            i += 2;
        } else {
            set_add(set, text[i]);
        }
    }
    if (is_inverted)
        set_invert(set);
    r->at = end + 1;
}

static void read_single(struct reader *r, struct item *item)
{
    unsigned char c = r->text[r->at++];
    item->kind = ITEM_SINGLE;
    if (c == '.') {
        set_invert(item->set);
    } else if (c == '[') {
        read_set(r, item->set);
    } else if (c == '%') {
        if (r->at == r->n)
            luaL_error(r->L, "malformed pattern (ends with '%%')");
        set_add_escape(item->set, r->text[r->at++]);
    } else {
        set_add(item->set, c);
    }
    if (r->at < r->n && strchr("?*+-", r->text[r->at]) && r->text[r->at] != '\0')
        item->repeat = (char)r->text[r->at++];
}

static void read_open(struct reader *r, struct item *item)
{
    struct dsl_pattern *pattern = r->pattern;
    if (pattern->n_captures == DSL_PATTERN_CAPTURES)
        luaL_error(r->L, "too many captures");
    item->a = (uint8_t)pattern->n_captures++;
    r->at++;
    if (r->at < r->n && r->text[r->at] == ')') {
        item->kind = ITEM_POSITION;
        r->is_closed[item->a] = true;
        r->at++;
    } else {
        item->kind = ITEM_OPEN;
        r->open[r->n_open++] = item->a;
    }
}

static void read_close(struct reader *r, struct item *item)
{
    if (r->n_open == 0)
        luaL_error(r->L, "invalid pattern capture");
    item->kind = ITEM_CLOSE;
    item->a = r->open[--r->n_open];
    r->is_closed[item->a] = true;
    r->at++;
}

/* An escape that is more than a class; false: it is none. */
static bool read_escape(struct reader *r, struct item *item)
{
    if (r->at + 1 >= r->n)
        return false;
    unsigned char c = r->text[r->at + 1];
    if (c == 'b') {
        if (r->at + 3 >= r->n)
            luaL_error(r->L, "malformed pattern (missing arguments to '%%b')");
        item->kind = ITEM_BALANCE;
        item->a = r->text[r->at + 2];
        item->b = r->text[r->at + 3];
        r->at += 4;
    } else if (c == 'f') {
        r->at += 2;
        if (r->at >= r->n || r->text[r->at] != '[')
            luaL_error(r->L, "missing '[' after '%%f' in pattern");
        r->at++;
        item->kind = ITEM_FRONTIER;
        read_set(r, item->set);
    } else if (is_between(c, '0', '9')) {
        int capture = c - '1';
        if (capture < 0 || capture >= r->pattern->n_captures || !r->is_closed[capture])
            luaL_error(r->L, "invalid capture index %%%d", capture + 1);
        item->kind = ITEM_BACK;
        item->a = (uint8_t)capture;
        r->at += 2;
    } else {
        return false;
    }
    return true;
}

static void read_item(struct reader *r, struct item *item)
{
    unsigned char c = r->text[r->at];
    if (c == '(') {
        read_open(r, item);
    } else if (c == ')') {
        read_close(r, item);
    } else if (c == '$' && r->at + 1 == r->n) {
        item->kind = ITEM_END;
        r->at++;
    } else if (c != '%' || !read_escape(r, item)) {
        read_single(r, item);
    }
}

struct dsl_pattern *dsl_pattern_push(lua_State *L, const char *text, size_t n, bool has_anchor)
{
    if (n > LIMIT_DSL_PATTERN_BYTES)
        luaL_error(L, "a pattern of %d bytes is too long, at most %d are allowed",
                   n > INT32_MAX ? INT32_MAX : (int)n, (int)LIMIT_DSL_PATTERN_BYTES);
    sandbox_charge(L, n + 1);
    /* At most an item for each byte, and the last. */
    struct dsl_pattern *pattern = lua_newuserdatauv(
        L, sizeof *pattern + (n + 1) * (sizeof(struct item) + sizeof(struct frame)) + 8, 0);
    memset(pattern, 0, sizeof *pattern + (n + 1) * sizeof(struct item));
    struct reader r = {.L = L, .text = (const unsigned char *)text, .n = n, .pattern = pattern};
    if (has_anchor && n > 0 && text[0] == '^') {
        pattern->is_anchored = true;
        r.at = 1;
    }
    while (r.at < n)
        read_item(&r, &pattern->items[pattern->n_items++]);
    if (r.n_open > 0)
        luaL_error(L, "unfinished capture");
    pattern->items[pattern->n_items++].kind = ITEM_DONE;
    uintptr_t behind = (uintptr_t)&pattern->items[pattern->n_items];
    pattern->frames = (struct frame *)((behind + 7) & ~(uintptr_t)7);
    return pattern;
}

bool dsl_pattern_is_anchored(const struct dsl_pattern *pattern)
{
    return pattern->is_anchored;
}

/* ---- matching ---- */

struct matcher {
    lua_State *L;
    struct dsl_pattern *pattern;
    const unsigned char *text;
    size_t n, at;
    uint32_t item, n_frames;
    uint64_t steps; /* not charged yet */
    struct dsl_match *out;
};

static void count_steps(struct matcher *m, size_t n)
{
    m->steps += n;
    if (m->steps < 1024)
        return;
    sandbox_charge(m->L, m->steps);
    m->steps = 0;
}

static bool matches_here(const struct matcher *m, const struct item *item, size_t at)
{
    return at < m->n && set_has(item->set, m->text[at]);
}

static void push_frame(struct matcher *m, size_t at, size_t count)
{
    m->pattern->frames[m->n_frames++] = (struct frame){.item = m->item, .at = at, .count = count};
}

static bool step_single(struct matcher *m, const struct item *item)
{
    const size_t begin = m->at;
    switch (item->repeat) {
    case '\0':
        if (!matches_here(m, item, begin))
            return false;
        m->at++;
        break;
    case '?':
        if (matches_here(m, item, begin)) {
            m->at++;
            push_frame(m, begin, 1);
        }
        break;
    case '-':
        push_frame(m, begin, 0);
        break;
    default: { /* * and + */
        const size_t least = item->repeat == '+';
        while (matches_here(m, item, m->at))
            m->at++;
        count_steps(m, m->at - begin);
        if (m->at - begin < least)
            return false;
        if (m->at - begin > least)
            push_frame(m, begin + least, m->at - begin - least);
    }
    }
    m->item++;
    return true;
}

/* Goes back to the last place with another way and takes it; false: there is none. */
static bool backtrack(struct matcher *m)
{
    while (m->n_frames > 0) {
        struct frame *frame = &m->pattern->frames[m->n_frames - 1];
        const struct item *item = &m->pattern->items[frame->item];
        m->item = frame->item + 1;
        if (item->repeat == '-') {
            if (matches_here(m, item, frame->at)) {
                m->at = ++frame->at;
                return true;
            }
        } else {
            m->at = frame->at + --frame->count;
            m->n_frames -= frame->count == 0;
            return true;
        }
        m->n_frames--;
    }
    return false;
}

static bool step_balance(struct matcher *m, const struct item *item)
{
    if (m->at >= m->n || m->text[m->at] != item->a)
        return false;
    size_t depth = 1;
    for (size_t i = m->at + 1; i < m->n; i++) {
        unsigned char c = m->text[i];
        if (c == item->b) {
            if (--depth == 0) {
                count_steps(m, i + 1 - m->at);
                m->at = i + 1;
                m->item++;
                return true;
            }
        } else if (c == item->a) {
            depth++;
        }
    }
    count_steps(m, m->n - m->at);
    return false;
}

static bool step_back(struct matcher *m, const struct item *item)
{
    const struct dsl_capture *capture = &m->out->captures[item->a];
    if (capture->n > m->n - m->at ||
        memcmp(m->text + capture->begin, m->text + m->at, capture->n) != 0)
        return false;
    count_steps(m, capture->n / 16);
    m->at += capture->n;
    m->item++;
    return true;
}

static bool step(struct matcher *m)
{
    const struct item *item = &m->pattern->items[m->item];
    struct dsl_capture *capture = &m->out->captures[item->a % DSL_PATTERN_CAPTURES];
    switch ((enum item_kind)item->kind) {
    case ITEM_SINGLE:
        return step_single(m, item);
    case ITEM_BALANCE:
        return step_balance(m, item);
    case ITEM_BACK:
        return step_back(m, item);
    case ITEM_FRONTIER: { /* beyond both ends of the text there are zeros */
        unsigned char before = m->at > 0 ? m->text[m->at - 1] : 0,
                      here = m->at < m->n ? m->text[m->at] : 0;
        if (set_has(item->set, before) || !set_has(item->set, here))
            return false;
        break;
    }
    case ITEM_OPEN:
        capture->begin = m->at;
        break;
    case ITEM_POSITION:
        *capture = (struct dsl_capture){.begin = m->at, .n = SIZE_MAX};
        break;
    case ITEM_CLOSE:
        capture->n = m->at - capture->begin;
        break;
    case ITEM_END:
        if (m->at != m->n)
            return false;
        break;
    case ITEM_DONE:
        return true;
    }
    m->item++;
    return true;
}

bool dsl_pattern_match(lua_State *L, struct dsl_pattern *pattern, const char *text, size_t n,
                       size_t at, struct dsl_match *out)
{
    struct matcher m = {.L = L,
                        .pattern = pattern,
                        .text = (const unsigned char *)text,
                        .n = n,
                        .at = at,
                        .out = out};
    const uint32_t done = pattern->n_items - 1;
    bool has_way = true;
    while (has_way && m.item != done) {
        count_steps(&m, 1);
        has_way = step(&m) || backtrack(&m);
    }
    if (m.steps > 0)
        sandbox_charge(L, m.steps);
    if (!has_way)
        return false;
    out->begin = at;
    out->end = m.at;
    out->n_captures = pattern->n_captures;
    return true;
}
