/* The texts that are made of the option table: help, manual page, YAML reference, completion. */
#include "base/numeric.h"
#include "base/options_internal.h"

#include <string.h>

#define COLUMNS     80u
#define HELP_COLUMN 30u /* where the explanations of --help begin */

struct group {
    const char *title, *text;
};

static const struct group groups[N_OPTION_GROUPS] = {
    [GROUP_MODEL] = {"Model", "What is served."},
    [GROUP_RUN] = {"Computing", "How it runs, and how much waits."},
    [GROUP_HTTP] = {"HTTP", "Where clients connect."},
    [GROUP_SECURITY] = {"Security", "Who may connect."},
    [GROUP_API] = {"API", "How requests are read."},
    [GROUP_PROGRAMS] = {"Programs", "Generation programs, which run inside the server."},
    [GROUP_PROCESS] = {"Process", "Configuration and log."},
};

static const char usage[] = "serverd [OPTION]... [MODEL]";

static const char description[] = "Serves a language model over HTTP with the OpenAI API.";

static const char sources[] =
    "Every option can also be a variable of the environment (SERVERD_CTX_SIZE for --ctx-size) or a "
    "line of the YAML file that --config names (ctx-size: 4096). The command line wins over the "
    "environment, the environment over the file, the file over the default.";

static const char values[] =
    "Sizes are bytes, with K, M, G or T for powers of 1024: 512MiB, 4G. A flag --NAME is taken "
    "back by --no-NAME. A bare argument is the value of --model-path.";

/* ---- wrapping ---- */

/* Words from column `at` on, with `prefix` (`indent` columns wide) at the start of further
 * lines; ends with a newline. */
static void append_wrapped(struct buffer *out, const char *text, size_t at, const char *prefix,
                           size_t indent)
{
    bool is_first = true;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (!is_first && at + 1 + n > COLUMNS) {
            buffer_printf(out, "\n%s", prefix);
            at = indent;
            is_first = true;
        }
        if (!is_first) {
            buffer_append_char(out, ' ');
            at++;
        }
        buffer_append(out, text, n);
        at += n;
        is_first = false;
        text += n;
        text += strspn(text, " ");
    }
    buffer_append_char(out, '\n');
}

static bool has_range(const struct option_row *row)
{
    return row->type == TYPE_INT || row->type == TYPE_FLOAT || row->type == TYPE_SIZE;
}

/* "1 to 4096, default 16" or "bf16|f32, default bf16"; nothing if the option is a string without a
 * default. */
static void append_facts(struct buffer *out, const struct option_row *row)
{
    if (has_range(row)) {
        option_append_value(out, row, row->min);
        buffer_append_str(out, " to ");
        option_append_value(out, row, row->max);
        buffer_append_str(out, ", ");
    }
    if (row->choices)
        buffer_printf(out, "%s, ", row->choices);
    if (row->type == TYPE_STRING && !row->initial.s)
        return;
    buffer_append_str(out, "default ");
    option_append_value(out, row, row->initial);
}

/* Help with the facts behind it, in brackets. A flag that is off says nothing new. */
static void append_explanation(struct buffer *out, const struct option_row *row)
{
    struct buffer facts;
    buffer_init(&facts, 256);
    append_facts(&facts, row);
    buffer_append_str(out, row->help);
    if (facts.len > 0 && (row->type != TYPE_BOOL || row->initial.b))
        buffer_printf(out, " [%s]", buffer_str(&facts));
    buffer_deinit(&facts);
}

/* ---- --help ---- */

/* One entry; what is too wide for the left column has its explanation below. */
static void append_entry(struct buffer *out, const char *name, const char *metavar,
                         const char *explanation)
{
    static const char blank[HELP_COLUMN + 1] = "                              ";
    char letter = option_letter(name);
    size_t start = out->len;
    buffer_append_str(out, "  ");
    if (letter)
        buffer_printf(out, "-%c, ", letter);
    buffer_printf(out, "--%s", name);
    if (metavar)
        buffer_printf(out, " %s", metavar);
    size_t width = out->len - start;
    if (width + 2 > HELP_COLUMN)
        buffer_printf(out, "\n%s", blank);
    else
        buffer_append(out, blank, HELP_COLUMN - width);
    append_wrapped(out, explanation, HELP_COLUMN, blank, HELP_COLUMN);
}

static void append_option_entry(struct buffer *out, const struct option_row *row)
{
    struct buffer explanation;
    buffer_init(&explanation, 4096);
    append_explanation(&explanation, row);
    append_entry(out, row->name, row->metavar, buffer_str(&explanation));
    buffer_deinit(&explanation);
}

void options_help(struct buffer *out)
{
    buffer_printf(out, "Usage: %s\n\n", usage);
    append_wrapped(out, description, 0, "", 0);
    for (int g = 0; g < N_OPTION_GROUPS; g++) {
        buffer_printf(out, "\n%s:\n", groups[g].title);
        for (size_t i = 0; i < N_OPTIONS; i++)
            if ((int)option_rows[i].group == g)
                append_option_entry(out, &option_rows[i]);
    }
    buffer_append_str(out, "\nTexts:\n");
    for (size_t i = 0; i < N_OPTION_COMMANDS; i++)
        append_entry(out, option_commands[i].name, NULL, option_commands[i].help);
    buffer_append_char(out, '\n');
    append_wrapped(out, sources, 0, "", 0);
    buffer_append_char(out, '\n');
    append_wrapped(out, values, 0, "", 0);
}

/* ---- manual page ---- */

/* Text for roff: a hyphen that is typed is \-, and a line may not begin with a control. */
static void append_roff(struct buffer *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        buffer_append_str(out, "\\&");
    for (const char *s = text; *s; s++) {
        if (*s == '-')
            buffer_append_str(out, "\\-");
        else if (*s == '\\')
            buffer_append_str(out, "\\e");
        else
            buffer_append_char(out, *s);
    }
}

static void append_roff_line(struct buffer *out, const char *before, const char *text)
{
    buffer_append_str(out, before);
    append_roff(out, text);
    buffer_append_char(out, '\n');
}

static void append_man_name(struct buffer *out, const char *name, const char *metavar)
{
    char letter = option_letter(name);
    buffer_append_str(out, ".TP\n");
    if (letter)
        buffer_printf(out, "\\fB\\-%c\\fR, ", letter);
    buffer_append_str(out, "\\fB\\-\\-");
    append_roff(out, name);
    buffer_append_str(out, "\\fR");
    if (metavar) {
        buffer_append_str(out, " \\fI");
        append_roff(out, metavar);
        buffer_append_str(out, "\\fR");
    }
    buffer_append_char(out, '\n');
}

static void append_man_option(struct buffer *out, const struct option_row *row)
{
    struct buffer explanation;
    buffer_init(&explanation, 4096);
    append_explanation(&explanation, row);
    append_man_name(out, row->name, row->metavar);
    append_roff_line(out, "", buffer_str(&explanation));
    buffer_deinit(&explanation);
}

void options_man(struct buffer *out)
{
    buffer_append_str(out, ".TH SERVERD 1 \"\" serverd \"User Commands\"\n"
                           ".SH NAME\n"
                           "serverd \\- serve a language model over HTTP\n"
                           ".SH SYNOPSIS\n"
                           ".B serverd\n"
                           "[\\fIOPTION\\fR]... [\\fIMODEL\\fR]\n"
                           ".SH DESCRIPTION\n");
    append_roff_line(out, "", description);
    append_roff_line(out, ".PP\n", sources);
    append_roff_line(out, ".PP\n", values);
    buffer_append_str(out, ".SH OPTIONS\n");
    for (int g = 0; g < N_OPTION_GROUPS; g++) {
        buffer_printf(out, ".SS %s\n", groups[g].title);
        append_roff_line(out, "", groups[g].text);
        for (size_t i = 0; i < N_OPTIONS; i++)
            if ((int)option_rows[i].group == g)
                append_man_option(out, &option_rows[i]);
    }
    buffer_append_str(out, ".SS Texts\n");
    for (size_t i = 0; i < N_OPTION_COMMANDS; i++) {
        append_man_name(out, option_commands[i].name, NULL);
        append_roff_line(out, "", option_commands[i].help);
    }
}

/* ---- YAML reference ---- */

static void append_yaml_option(struct buffer *out, const struct option_row *row)
{
    struct buffer explanation;
    buffer_init(&explanation, 4096);
    append_explanation(&explanation, row);
    buffer_append_str(out, "\n# ");
    append_wrapped(out, buffer_str(&explanation), 2, "# ", 2);
    buffer_printf(out, "#%s: ", row->name);
    if (row->type == TYPE_STRING && !row->initial.s)
        buffer_append_str(out, row->metavar);
    else
        option_append_value(out, row, row->initial);
    buffer_append_char(out, '\n');
    buffer_deinit(&explanation);
}

void options_yaml(struct buffer *out)
{
    buffer_append_str(out, "# Configuration of serverd: serverd --config FILE\n#\n# ");
    append_wrapped(out,
                   "Every option with its default. Take the # in front of a key away to set "
                   "it. The command line and the environment win over this file.",
                   2, "# ", 2);
    for (int g = 0; g < N_OPTION_GROUPS; g++) {
        buffer_printf(out, "\n# ---- %s: %s ----\n", groups[g].title, groups[g].text);
        for (size_t i = 0; i < N_OPTIONS; i++)
            if ((int)option_rows[i].group == g && i != ROW_config)
                append_yaml_option(out, &option_rows[i]);
    }
}

/* ---- bash completion ---- */

static bool takes_file(const struct option_row *row)
{
    return row->type == TYPE_STRING &&
           (strcmp(row->metavar, "FILE") == 0 || strcmp(row->metavar, "PATH") == 0);
}

/* A word list of the choices of one option. */
static void append_completion_case(struct buffer *out, const struct option_row *row)
{
    if (row->type == TYPE_BOOL)
        return;
    buffer_printf(out, "    --%s)\n        ", row->name);
    if (takes_file(row)) {
        buffer_append_str(out, "COMPREPLY=($(compgen -f -- \"$word\"))");
    } else if (row->choices) {
        buffer_append_str(out, "COMPREPLY=($(compgen -W '");
        for (const char *s = row->choices; *s; s++)
            buffer_append_char(out, *s == '|' ? ' ' : *s);
        buffer_append_str(out, "' -- \"$word\"))");
    } else {
        buffer_append_str(out, "COMPREPLY=()");
    }
    buffer_append_str(out, "\n        return\n        ;;\n");
}

static void append_completion_word(struct buffer *out, const char *prefix, const char *name)
{
    buffer_printf(out, "\n        --%s%s", prefix, name);
}

void options_bash_completion(struct buffer *out)
{
    buffer_append_str(out, "# bash completion for serverd\n"
                           "_serverd() {\n"
                           "    local word=${COMP_WORDS[COMP_CWORD]} before=\n"
                           "    ((COMP_CWORD > 0)) && before=${COMP_WORDS[COMP_CWORD - 1]}\n"
                           "    case $before in\n");
    for (size_t i = 0; i < N_OPTIONS; i++)
        append_completion_case(out, &option_rows[i]);
    buffer_append_str(out, "    esac\n"
                           "    if [[ $word != -* ]]; then\n"
                           "        COMPREPLY=($(compgen -f -- \"$word\"))\n"
                           "        return\n"
                           "    fi\n"
                           "    COMPREPLY=($(compgen -W '");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        append_completion_word(out, "", option_rows[i].name);
        if (option_rows[i].type == TYPE_BOOL)
            append_completion_word(out, "no-", option_rows[i].name);
    }
    for (size_t i = 0; i < N_OPTION_COMMANDS; i++)
        append_completion_word(out, "", option_commands[i].name);
    buffer_append_str(out, "' -- \"$word\"))\n"
                           "}\n"
                           "complete -o filenames -F _serverd serverd\n");
}
