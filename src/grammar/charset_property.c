/* \p{...} from PCRE2's Unicode data: a pattern of that one property runs over a text of all code
 * points, and its matches are the set. That takes some milliseconds, so a budget keeps the sets
 * that were asked for. */
#include "base/error.h"
#include "grammar/charset.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

#define NAME_MAX_BYTES 64u

/* The long names of general categories, which PCRE2 does not know. */
static const struct {
    const char *name, *code;
} categories[] = {
    {"Cased_Letter", "L&"},
    {"Close_Punctuation", "Pe"},
    {"Connector_Punctuation", "Pc"},
    {"Control", "Cc"},
    {"cntrl", "Cc"},
    {"Currency_Symbol", "Sc"},
    {"Dash_Punctuation", "Pd"},
    {"Decimal_Number", "Nd"},
    {"digit", "Nd"},
    {"Enclosing_Mark", "Me"},
    {"Final_Punctuation", "Pf"},
    {"Format", "Cf"},
    {"Initial_Punctuation", "Pi"},
    {"Letter", "L"},
    {"Letter_Number", "Nl"},
    {"Line_Separator", "Zl"},
    {"Lowercase_Letter", "Ll"},
    {"LC", "L&"},
    {"Mark", "M"},
    {"Combining_Mark", "M"},
    {"Math_Symbol", "Sm"},
    {"Modifier_Letter", "Lm"},
    {"Modifier_Symbol", "Sk"},
    {"Nonspacing_Mark", "Mn"},
    {"Number", "N"},
    {"Open_Punctuation", "Ps"},
    {"Other", "C"},
    {"Other_Letter", "Lo"},
    {"Other_Number", "No"},
    {"Other_Punctuation", "Po"},
    {"Other_Symbol", "So"},
    {"Paragraph_Separator", "Zp"},
    {"Private_Use", "Co"},
    {"Punctuation", "P"},
    {"punct", "P"},
    {"Separator", "Z"},
    {"Space_Separator", "Zs"},
    {"Spacing_Mark", "Mc"},
    {"Surrogate", "Cs"},
    {"Symbol", "S"},
    {"Titlecase_Letter", "Lt"},
    {"Unassigned", "Cn"},
    {"Uppercase_Letter", "Lu"},
};

/* The property as PCRE2 spells it. */
static bool spell_property(const char *name, size_t n, char out[NAME_MAX_BYTES + 8])
{
    memset(out, 0, NAME_MAX_BYTES + 8);
    static const struct {
        const char *prefix, *own;
    } prefixes[] = {
        {"Script_Extensions=", "scx:"}, {"scx=", "scx:"}, {"Script=", "sc:"}, {"sc=", "sc:"},
        {"General_Category=", ""},      {"gc=", ""}};
    const char *own = "";
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t length = strlen(prefixes[i].prefix);
        if (n > length && memcmp(name, prefixes[i].prefix, length) == 0) {
            own = prefixes[i].own;
            name += length;
            n -= length;
            break;
        }
    }
    if (n == 0 || n > NAME_MAX_BYTES)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!((name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') ||
              (name[i] >= '0' && name[i] <= '9') || name[i] == '_'))
            return false;
    for (size_t i = 0; *own == '\0' && i < sizeof categories / sizeof *categories; i++)
        if (strlen(categories[i].name) == n && memcmp(name, categories[i].name, n) == 0) {
            (void)snprintf(out, NAME_MAX_BYTES + 8, "%s", categories[i].code); /* fits */
            return true;
        }
    (void)snprintf(out, NAME_MAX_BYTES + 8, "%s%.*s", own, (int)n, name); /* fits */
    return true;
}

/* All code points one behind the other in UTF-32's order, but surrogates: one string of UTF-8. */
static size_t write_all(uint8_t *text)
{
    size_t n = 0;
    for (uint32_t c = 0; c <= CODE_POINT_MAX; c++) {
        if (c >= 0xd800 && c <= 0xdfff)
            continue;
        if (c < 0x80) {
            text[n++] = (uint8_t)c;
        } else if (c < 0x800) {
            text[n++] = (uint8_t)(0xc0 | c >> 6);
            text[n++] = (uint8_t)(0x80 | (c & 0x3f));
        } else if (c < 0x10000) {
            text[n++] = (uint8_t)(0xe0 | c >> 12);
            text[n++] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
            text[n++] = (uint8_t)(0x80 | (c & 0x3f));
        } else {
            text[n++] = (uint8_t)(0xf0 | c >> 18);
            text[n++] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
            text[n++] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
            text[n++] = (uint8_t)(0x80 | (c & 0x3f));
        }
    }
    return n;
}

static uint32_t decode(const uint8_t *s)
{
    if (s[0] < 0x80)
        return s[0];
    if (s[0] < 0xe0)
        return (s[0] & 0x1fu) << 6 | (s[1] & 0x3fu);
    if (s[0] < 0xf0)
        return (s[0] & 0xfu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
    return (s[0] & 7u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
}

static const uint8_t *last_character(const uint8_t *end)
{
    do
        end--;
    while ((*end & 0xc0) == 0x80);
    return end;
}

/* Runs the property over all code points. */
static serverd_status scan(struct grammar_budget *budget, struct arena *scratch,
                           pcre2_code *property, pcre2_match_data *match, struct charset *out,
                           serverd_error *err)
{
    /* A set of a property has fewer ranges than this, whichever it is. */
    size_t max_ranges = 16384, n_ranges = 0, start = 0;
    struct char_range *ranges = arena_array(scratch, max_ranges, sizeof *ranges);
    uint8_t *text = arena_alloc(scratch, 4 * ((size_t)CODE_POINT_MAX + 1));
    if (!text || !ranges)
        return grammar_budget_memory(err);
    (void)pcre2_jit_compile(property, PCRE2_JIT_COMPLETE); /* without it, the same but slower */
    size_t n_text = write_all(text);
    while (start < n_text && n_ranges < max_ranges &&
           pcre2_match(property, text, n_text, start, PCRE2_NO_UTF_CHECK, match, NULL) > 0) {
        const size_t *span = pcre2_get_ovector_pointer(match);
        ranges[n_ranges++] =
            (struct char_range){decode(text + span[0]), decode(last_character(text + span[1]))};
        start = span[1];
    }
    serverd_status status = grammar_budget_spend(budget, n_text / 64, err);
    return status ? status : charset_make(budget, ranges, n_ranges, out, err);
}

/* The set of a property in PCRE2's spelling. */
static serverd_status make_property(struct grammar_budget *budget, const char *own,
                                    struct charset *out, serverd_error *err)
{
    char pattern[NAME_MAX_BYTES + 16];
    int n = snprintf(pattern, sizeof pattern, "\\p{%s}++", own), code;
    size_t at;
    serverd_status status;
    pcre2_code *property =
        pcre2_compile((PCRE2_SPTR)pattern, (size_t)n, PCRE2_UTF, &code, &at, NULL);
    if (!property)
        return fail(err, SERVERD_INVALID, "no such property");
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    if (match && scratch)
        status = scan(budget, scratch, property, match, out, err);
    else
        status = grammar_budget_memory(err);
    arena_destroy(scratch);
    pcre2_match_data_free(match);
    pcre2_code_free(property);
    return status;
}

/* What this budget was asked for already. */
struct property_entry {
    char own[NAME_MAX_BYTES + 8];
    struct charset set;
    struct property_entry *next;
};

serverd_status charset_property(struct grammar_budget *budget, const char *name, size_t n,
                                struct charset *out, serverd_error *err)
{
    static const struct char_range ascii = {0, 0x7f};
    char own[NAME_MAX_BYTES + 8];
    if (n == 5 && memcmp(name, "ASCII", 5) == 0)
        return charset_make(budget, &ascii, 1, out, err);
    if (n == 8 && memcmp(name, "Assigned", 8) == 0) {
        struct charset unassigned;
        serverd_status status = charset_property(budget, "Cn", 2, &unassigned, err);
        return status ? status : charset_complement(budget, unassigned, out, err);
    }
    if (!spell_property(name, n, own))
        return fail(err, SERVERD_INVALID, "no such property");
    for (const struct property_entry *entry = budget->properties; entry; entry = entry->next) {
        if (strcmp(entry->own, own) == 0) {
            *out = entry->set;
            return SERVERD_OK;
        }
    }
    struct property_entry *entry = arena_alloc(budget->arena, sizeof *entry);
    if (!entry)
        return grammar_budget_memory(err);
    memcpy(entry->own, own, sizeof own);
    serverd_status status = make_property(budget, own, &entry->set, err);
    if (status)
        return status;
    entry->next = budget->properties;
    budget->properties = entry;
    *out = entry->set;
    return SERVERD_OK;
}
