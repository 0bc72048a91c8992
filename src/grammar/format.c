#include "grammar/format.h"

#include "base/buffer.h"
#include "base/error.h"
#include "grammar/regex.h"

#include <string.h>

/* RFC 3339. A day that its month has not, 29 February of common years too, is no date. */
#define LEAP_YEAR "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
#define DATE                                                                                       \
    "(?:\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)" \
    "|02-(?:0[1-9]|1\\d|2[0-8]))|" LEAP_YEAR "-02-29)"
#define HOUR_MINUTE  "(?:[01]\\d|2[0-3]):[0-5]\\d"
#define FRACTION     "(?:\\.\\d+)?"
#define TIME         HOUR_MINUTE ":[0-5]\\d" FRACTION
#define ZONE         "(?:[zZ]|[-+]" HOUR_MINUTE ")"
#define ZONE_CAPITAL "(?:Z|[-+]" HOUR_MINUTE ")"

/* RFC 3339, appendix A */
#define DURATION_TIME "T(?:\\d+H(?:\\d+M(?:\\d+S)?)?|\\d+M(?:\\d+S)?|\\d+S)"
#define DURATION_DATE "(?:\\d+D|\\d+M(?:\\d+D)?|\\d+Y(?:\\d+M(?:\\d+D)?)?)"
#define DURATION      "P(?:" DURATION_DATE "(?:" DURATION_TIME ")?|" DURATION_TIME "|\\d+W)"

/* RFC 3986, appendix A */
#define IPV4_BYTE "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4      IPV4_BYTE "(?:\\." IPV4_BYTE "){3}"
#define H16       "[0-9A-Fa-f]{1,4}"
#define LS32      "(?:" H16 ":" H16 "|" IPV4 ")"
#define IPV6                                                                                       \
    "(?:(?:" H16 ":){6}" LS32 "|::(?:" H16 ":){5}" LS32 "|(?:" H16 ")?::(?:" H16 ":){4}" LS32      \
    "|(?:(?:" H16 ":)?" H16 ")?::(?:" H16 ":){3}" LS32 "|(?:(?:" H16 ":){0,2}" H16 ")?::(?:" H16   \
    ":){2}" LS32 "|(?:(?:" H16 ":){0,3}" H16 ")?::" H16 ":" LS32 "|(?:(?:" H16 ":){0,4}" H16       \
    ")?::" LS32 "|(?:(?:" H16 ":){0,5}" H16 ")?::" H16 "|(?:(?:" H16 ":){0,6}" H16 ")?::)"
#define PERCENT    "%[0-9A-Fa-f]{2}"
#define REG_CHAR   "(?:[-A-Za-z0-9._~!$&'()*+,;=]|" PERCENT ")"
#define USER_CHAR  "(?:[-A-Za-z0-9._~!$&'()*+,;=:]|" PERCENT ")"
#define PATH_CHAR  "(?:[-A-Za-z0-9._~!$&'()*+,;=:@]|" PERCENT ")"
#define NO_COLON   "(?:[-A-Za-z0-9._~!$&'()*+,;=@]|" PERCENT ")"
#define QUERY_CHAR "(?:[-A-Za-z0-9._~!$&'()*+,;=:@/?]|" PERCENT ")"
#define IP_LITERAL "\\[(?:" IPV6 "|[vV][0-9A-Fa-f]+\\.[-A-Za-z0-9._~!$&'()*+,;=:]+)\\]"
#define AUTHORITY  "(?:" USER_CHAR "*@)?(?:" IP_LITERAL "|" REG_CHAR "*)(?::\\d*)?"
#define TAIL       "(?:\\?" QUERY_CHAR "*)?(?:#" QUERY_CHAR "*)?"
#define SEGMENTS   "(?:/" PATH_CHAR "*)*"
#define URI                                                                                        \
    "[A-Za-z][-A-Za-z0-9+.]*:(?://" AUTHORITY SEGMENTS "|/(?:" PATH_CHAR "+" SEGMENTS              \
    ")?|" PATH_CHAR "+" SEGMENTS "|)" TAIL
#define RELATIVE                                                                                   \
    "(?://" AUTHORITY SEGMENTS "|/(?:" PATH_CHAR "+" SEGMENTS ")?|" NO_COLON "+" SEGMENTS "|"      \
    ")" TAIL

/* RFC 6570; literals with the apostrophe of erratum 6937 */
#define VARIABLE_CHAR "(?:[A-Za-z0-9_]|" PERCENT ")"
#define VARIABLE      VARIABLE_CHAR "(?:\\.?" VARIABLE_CHAR ")*(?::[1-9]\\d{0,3}|\\*)?"
#define TEMPLATE_LITERAL                                                                           \
    "(?:[!#$&'(-;=?-\\[\\]_a-z~\\u00A0-\\uD7FF\\uE000-\\uFDCF\\uFDF0-\\uFFEF]"                     \
    "|[\\u{10000}-\\u{10FFFF}]|" PERCENT ")"
#define TEMPLATE "(?:" TEMPLATE_LITERAL "|\\{[+#./;?&=,!@|]?" VARIABLE "(?:," VARIABLE ")*\\})*"

/* RFC 5321, Mailbox, without the limits of its section 4.5.3.1 */
#define ATOM  "[-A-Za-z0-9!#$%&'*+/=?^_`{|}~]+"
#define LABEL "[A-Za-z0-9](?:[-A-Za-z0-9]*[A-Za-z0-9])?"
#define EMAIL                                                                                      \
    "(?:" ATOM "(?:\\." ATOM ")*|\"(?:[ !#-\\[\\]-~]|\\\\[ -~])*\")@(?:" LABEL "(?:\\." LABEL      \
    ")*|\\[(?:" IPV4 "|IPv6:" IPV6 ")\\])"

/* RFC 1123, section 2.1: labels of at most 63 characters; 253 in all */
#define HOST_LABEL   "[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
#define HOSTNAME     HOST_LABEL "(?:\\." HOST_LABEL ")*"
#define HOSTNAME_MAX 253u

#define HEX  "[0-9A-Fa-f]"
#define UUID HEX "{8}-" HEX "{4}-" HEX "{4}-" HEX "{4}-" HEX "{12}" /* RFC 4122 */

/* RFC 4648, section 4 */
#define BASE64 "[A-Za-z0-9+/]"
#define BYTE   "(?:" BASE64 "{4})*(?:" BASE64 "{2}==|" BASE64 "{3}=)?"

static const struct format {
    const char *name, *check, *produce; /* patterns of whole texts; produce NULL: the same */
    uint32_t max;                       /* code points; 0: no bound */
    const char *leap_prefix;            /* what stands before a leap second; NULL: it has none */
} formats[] = {
    {.name = "date-time",
     .check = DATE "[tT]" TIME ZONE,
     .produce = DATE "T" TIME ZONE_CAPITAL,
     .leap_prefix = DATE "[tT]"},
    {.name = "date", .check = DATE},
    {.name = "time", .check = TIME ZONE, .produce = TIME ZONE_CAPITAL, .leap_prefix = ""},
    {.name = "duration", .check = DURATION},
    {.name = "email", .check = EMAIL},
    {.name = "hostname", .check = HOSTNAME, .max = HOSTNAME_MAX},
    {.name = "ipv4", .check = IPV4},
    {.name = "ipv6", .check = IPV6},
    {.name = "uri", .check = URI},
    {.name = "uri-reference", .check = "(?:" URI "|" RELATIVE ")"},
    {.name = "uri-template", .check = TEMPLATE},
    {.name = "uuid", .check = UUID},
    {.name = "byte", .check = BYTE},
};

#define N_FORMATS (sizeof formats / sizeof *formats)

/* What was made within this budget. */
struct format_cache {
    struct string_set sets[N_FORMATS][2]; /* by enum format_use; automaton NULL: not yet */
};

static const struct format *find(const char *name, size_t n)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (strlen(formats[i].name) == n && memcmp(formats[i].name, name, n) == 0)
            return &formats[i];
    return NULL;
}

bool format_is_known(const char *name, size_t n)
{
    return find(name, n) != NULL;
}

/* A leap second is 23:59:60 in UTC: at each local time with the two offsets that make it so. */
static void write_leap_second(struct buffer *out, const char *prefix)
{
    buffer_append_str(out, prefix);
    for (int local = 0; local < 24 * 60; local++) {
        int ahead = (local + 1) % (24 * 60), behind = 24 * 60 - 1 - local;
        buffer_printf(out, "%s%02d:%02d:60" FRACTION "(?:\\+%02d:%02d|-%02d:%02d%s)",
                      local > 0 ? "|" : "(?:", local / 60, local % 60, ahead / 60, ahead % 60,
                      behind / 60, behind % 60, behind == 0 ? "|[zZ]" : "");
    }
    buffer_append_char(out, ')');
}

static serverd_status add_leap_second(struct grammar_budget *budget, const char *prefix,
                                      struct string_set *set, serverd_error *err)
{
    struct buffer pattern;
    struct string_set leap;
    const struct automaton *both;
    serverd_status status;
    buffer_init(&pattern, LIMIT_REGEX_BYTES);
    write_leap_second(&pattern, prefix);
    status = pattern.is_failed
                 ? grammar_budget_memory(err)
                 : regex_compile(budget, pattern.data, pattern.len, REGEX_WHOLE, &leap, err);
    buffer_deinit(&pattern);
    if (!status)
        status = automaton_union(budget, set->automaton, leap.automaton, &both, err);
    if (!status)
        set->automaton = both;
    return status;
}

static serverd_status make_set(struct grammar_budget *budget, const struct format *format,
                               enum format_use use, struct string_set *out, serverd_error *err)
{
    struct string_set set;
    const char *pattern =
        use == FORMAT_PRODUCE && format->produce ? format->produce : format->check;
    serverd_status status = regex_compile(budget, pattern, strlen(pattern), REGEX_WHOLE, &set, err);
    if (!status && format->leap_prefix && use == FORMAT_CHECK)
        status = add_leap_second(budget, format->leap_prefix, &set, err);
    if (status)
        return status;
    uint32_t max = format->max > 0 ? format->max : set.max;
    return string_set_make(budget, set.automaton, set.min, max, out, err);
}

serverd_status format_set(struct grammar_budget *budget, const char *name, size_t n,
                          enum format_use use, struct string_set *out, serverd_error *err)
{
    const struct format *format = find(name, n);
    if (!format)
        return fail(err, SERVERD_INTERNAL, "a format that is not known");
    if (!budget->formats)
        budget->formats = arena_alloc(budget->arena, sizeof *budget->formats);
    if (!budget->formats)
        return grammar_budget_memory(err);
    struct string_set *cached = &budget->formats->sets[format - formats][use];
    serverd_status status =
        cached->automaton ? SERVERD_OK : make_set(budget, format, use, cached, err);
    if (!status)
        *out = *cached;
    return status;
}
