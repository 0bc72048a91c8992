/* The option table in memory, shared by options.c (values) and options_text.c (help, man page,
 * YAML reference, completion). */
#ifndef BASE_OPTIONS_INTERNAL_H
#define BASE_OPTIONS_INTERNAL_H

#include "base/options.h"

#include <stddef.h>

enum option_type { TYPE_STRING, TYPE_INT, TYPE_FLOAT, TYPE_SIZE, TYPE_BOOL, TYPE_ENUM };

enum option_group {
    GROUP_MODEL,
    GROUP_RUN,
    GROUP_HTTP,
    GROUP_SECURITY,
    GROUP_API,
    GROUP_PROGRAMS,
    GROUP_PROCESS
};

enum { N_OPTION_GROUPS = GROUP_PROCESS + 1 };

/* The member for the option's type; `i` is also the index of an enum's choice. */
union option_value {
    const char *s;
    int64_t i;
    double f;
    uint64_t u;
    bool b;
};

struct option_row {
    const char *name, *metavar, *help;
    const char *choices; /* a|b|c of an enum */
    enum option_type type;
    enum option_group group;
    size_t offset; /* of the field in struct options */
    union option_value initial, min, max;
};

enum {
#define OPTION_STRING(field, name, def, metavar, group, help)          ROW_##field,
#define OPTION_INT(field, name, def, min, max, metavar, group, help)   ROW_##field,
#define OPTION_FLOAT(field, name, def, min, max, metavar, group, help) ROW_##field,
#define OPTION_SIZE(field, name, def, min, max, group, help)           ROW_##field,
#define OPTION_BOOL(field, name, def, group, help)                     ROW_##field,
#define OPTION_ENUM(field, name, def, choices, group, help)            ROW_##field,
#include "base/options.def"
#undef OPTION_STRING
#undef OPTION_INT
#undef OPTION_FLOAT
#undef OPTION_SIZE
#undef OPTION_BOOL
#undef OPTION_ENUM
    N_OPTIONS
};

extern const struct option_row option_rows[N_OPTIONS];

/* Words of the command line that are not options: they ask for a text. */
struct option_command {
    const char *name, *help;
    enum options_request request;
};

enum { N_OPTION_COMMANDS = 5 };
extern const struct option_command option_commands[N_OPTION_COMMANDS];

/* -x for --name. */
struct option_letter {
    char letter;
    const char *name;
};

enum { N_OPTION_LETTERS = 2 };
extern const struct option_letter option_letters[N_OPTION_LETTERS];

/* The letter that stands for the option or command, or 0. */
char option_letter(const char *name);

/* A value as text that options_set reads back; nothing for a string that is not set. */
void option_append_value(struct buffer *out, const struct option_row *row,
                         union option_value value);

#endif
