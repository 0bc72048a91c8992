#include "text/tool_family.h"

#include <string.h>

/* The marks stand in the chat templates that the models come with. Detection takes the first row
 * that fits, so a row stands above those whose hints its templates have, too. */
static const struct tool_family families[] = {
    {.name = "harmony",
     .hints = {"<|channel|>", "<|constrain|>"},
     .patterns = {"<|channel|>commentary to=functions.{name}{skip}<|message|>{arguments}",
                  "<|channel|>analysis to=functions.{name}{skip}<|message|>{arguments}",
                  " to=functions.{name}<|channel|>{skip}<|message|>{arguments}"},
     .dropped = {"<|start|>assistant", "<|channel|>final<|message|>",
                 "<|channel|>commentary<|message|>", "<|end|>", "<|call|>", "<|return|>"}},
    {.name = "kimi_k3",
     .hints = {"open_tag(", "call"},
     .patterns = {"<|open|>tools<|sep|><|open|>call "
                  "tool=\"{name}\"{skip}<|sep|>{parameters}<|close|>call<|sep|>",
                  "<|open|>call tool=\"{name}\"{skip}<|sep|>{parameters}<|close|>call<|sep|>"},
     .parameter = "<|open|>argument key=\"{key}\" "
                  "type=\"{type}\"<|sep|>{value}<|close|>argument<|sep|>",
     .dropped = {"<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>tools<|sep|>",
                 "<|close|>message<|sep|>", "<|end_of_msg|>"}},
    {.name = "kimi_k2",
     .hints = {"<|tool_call_argument_begin|>"},
     .patterns = {"<|tool_calls_section_begin|><|tool_call_begin|>{index_name}"
                  "<|tool_call_argument_begin|>{arguments}<|tool_call_end|>",
                  "<|tool_call_begin|>{index_name}<|tool_call_argument_begin|>{arguments}"
                  "<|tool_call_end|>"},
     .dropped = {"<|tool_calls_section_end|>"},
     .id_form = TOOL_ID_FUNCTIONS},
    {.name = "dsml",
     .hints = {"DSML", "invoke"},
     .patterns = {"<｜DSML｜function_calls><｜DSML｜invoke name=\"{name}\">{parameters}"
                  "</｜DSML｜invoke>",
                  "<｜DSML｜tool_calls><｜DSML｜invoke name=\"{name}\">{parameters}"
                  "</｜DSML｜invoke>",
                  "<｜DSML｜invoke name=\"{name}\">{parameters}</｜DSML｜invoke>"},
     .parameter = "<｜DSML｜parameter name=\"{key}\" "
                  "string=\"{type}\">{value}</｜DSML｜parameter>",
     .dropped = {"</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"}},
    {.name = "deepseek_v3",
     .hints = {"<｜tool▁call▁begin｜>"},
     .patterns = {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}"
                  "```json{arguments}```<｜tool▁call▁end｜>",
                  "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}```json{arguments}```"
                  "<｜tool▁call▁end｜>",
                  "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}"
                  "<｜tool▁call▁end｜>",
                  "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"},
     .dropped = {"<｜tool▁calls▁end｜>"}},
    {.name = "gemma4",
     .hints = {"<|tool_call>", "<tool_call|>"},
     .patterns = {"<|tool_call>call:{name}{object}<tool_call|>"}},
    {.name = "minimax_m2",
     .hints = {"minimax:tool_call"},
     .patterns = {"<minimax:tool_call><invoke name=\"{name}\">{parameters}</invoke>",
                  "<invoke name=\"{name}\">{parameters}</invoke>"},
     .parameter = "<parameter name=\"{key}\">{value}</parameter>",
     .dropped = {"</minimax:tool_call>"}},
    {.name = "muse",
     .hints = {"atem:invoke"},
     .patterns = {"<atem:function_calls><atem:invoke name=\"{name}\">{parameters}</atem:invoke>",
                  "<atem:invoke name=\"{name}\">{parameters}</atem:invoke>",
                  " to={recipient}<|message|><atem:function_calls><atem:invoke "
                  "name=\"{name}\">{parameters}</atem:invoke>"},
     .parameter = "<atem:parameter name=\"{key}\">{value}</atem:parameter>",
     .dropped = {"</atem:function_calls>", "<|start|>assistant", " to=user<|message|>", "<|eom|>",
                 "<|eot|>"}},
    {.name = "minicpm5",
     .hints = {"<param name=", "<function name="},
     .patterns = {"<function name=\"{name}\">{parameters}</function>"},
     .parameter = "<param name=\"{key}\">{value}</param>"},
    {.name = "hy3",
     .hints = {"<arg_key{}>", "hy_Assistant"},
     .patterns = {"<tool_calls:opensource><tool_call:opensource>{name}<tool_sep:opensource>"
                  "{parameters}</tool_call:opensource>",
                  "<tool_call:opensource>{name}<tool_sep:opensource>{parameters}"
                  "</tool_call:opensource>"},
     .parameter = "<arg_key:opensource>{key}</arg_key:opensource><arg_value:opensource>{value}"
                  "</arg_value:opensource>",
     .dropped = {"</tool_calls:opensource>"}},
    {.name = "glm45",
     .hints = {"<arg_key>"},
     .patterns = {"<tool_call>{name}{parameters}</tool_call>"},
     .parameter = "<arg_key>{key}</arg_key><arg_value>{value}</arg_value>"},
    {.name = "qwen3_coder",
     .hints = {"<function=", "<parameter="},
     .patterns = {"<tool_call><function={name}>{parameters}</function></tool_call>",
                  "<function={name}>{parameters}</function>"},
     .parameter = "<parameter={key}>{value}</parameter>",
     .dropped = {"</tool_call>"}},
    {.name = "lfm2",
     .hints = {"<|tool_call_start|>"},
     .patterns = {"<|tool_call_start|>{python}<|tool_call_end|>"}},
    {.name = "nemotron", .hints = {"<TOOLCALL>"}, .patterns = {"<TOOLCALL>{calls}</TOOLCALL>"}},
    {.name = "apertus",
     .hints = {"<|tools_prefix|>"},
     .patterns = {"<|tools_prefix|>{named_calls}<|tools_suffix|>"}},
    {.name = "cohere",
     .hints = {"<|START_ACTION|>"},
     .patterns = {"<|START_ACTION|>{calls}<|END_ACTION|>"},
     .dropped = {"<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"}},
    {.name = "gigachat", .hints = {"<|function_call|>"}, .patterns = {"<|function_call|>{call}"}},
    {.name = "functionary",
     .hints = {">>>${recipient}"},
     .patterns = {">>>{name}{arguments}", "{name}{arguments}"},
     .is_at_start = true,
     .dropped = {">>>all\n", "all\n"}},
    {.name = "mistral",
     .hints = {"[TOOL_CALLS]"},
     .patterns = {"[TOOL_CALLS]{calls}", "[TOOL_CALLS]{name}[CALL_ID]{id}[ARGS]{arguments}",
                  "[TOOL_CALLS]{name}[ARGS]{arguments}", "[TOOL_CALLS]{name}{arguments}"},
     .separator = ",",
     .id_form = TOOL_ID_SHORT},
    /* the smaller models forget the marks */
    {.name = "hermes",
     .hints = {"<tool_call>"},
     .patterns = {"<tool_call>{call}</tool_call>", "{call}"},
     .is_at_start = true},
    {.name = "llama3_json",
     .hints = {"\"parameters\":", "ipython"},
     .patterns = {"<|python_tag|>{call}", "{call}"},
     .is_at_start = true,
     .separator = ";"},
    {.name = "pythonic",
     .hints = {"[func_name1(params_name1=params_value1"},
     .patterns = {"<|python_start|>{python}<|python_end|>", "{python}"},
     .is_at_start = true},
};

static const struct reasoning_format formats[] = {
    {.name = "harmony",
     .hints = {"<|channel|>", "analysis"},
     .open = "<|channel|>analysis<|message|>",
     .close = "<|end|>",
     .dropped = {"<|start|>assistant", "<|channel|>final<|message|>",
                 "<|channel|>commentary<|message|>", "<|end|>", "<|return|>"}},
    {.name = "gemma4",
     .hints = {"<|channel>thought"},
     .open = "<|channel>thought\n",
     .close = "<channel|>"},
    {.name = "cohere",
     .hints = {"<|START_THINKING|>"},
     .open = "<|START_THINKING|>",
     .close = "<|END_THINKING|>",
     .dropped = {"<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"}},
    {.name = "apertus",
     .hints = {"<|inner_prefix|>"},
     .open = "<|inner_prefix|>",
     .close = "<|inner_suffix|>"},
    {.name = "kimi_k3",
     .hints = {"open_tag('think'"},
     .open = "<|open|>think<|sep|>",
     .close = "<|close|>think<|sep|>",
     .dropped = {"<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>",
                 "<|end_of_msg|>"}},
    {.name = "muse",
     .hints = {"to=self<|message|>"},
     .open = " to=self<|message|>",
     .close = "<|eom|>",
     .dropped = {"<|start|>assistant", " to=user<|message|>", "<|eot|>"}},
    {.name = "hy3",
     .hints = {"hy_Assistant", "<think{}>"},
     .open = "<think:opensource>",
     .close = "</think:opensource>"},
    {.name = "mistral", .hints = {"[THINK]"}, .open = "[THINK]", .close = "[/THINK]"},
    {.name = "think", .hints = {"</think>"}, .open = "<think>", .close = "</think>"},
};
#define N_FAMILIES (sizeof families / sizeof *families)
#define N_FORMATS  (sizeof formats / sizeof *formats)

/* Other names that users and other servers have for them. */
static const struct {
    const char *alias, *name;
} aliases[] = {
    {"qwen", "hermes"},           {"qwen25", "hermes"},
    {"qwen3", "hermes"},          {"granite", "hermes"},
    {"llama3", "llama3_json"},    {"llama4_pythonic", "pythonic"},
    {"llama4", "pythonic"},       {"gpt-oss", "harmony"},
    {"gpt_oss", "harmony"},       {"deepseek_v31", "deepseek_v3"},
    {"deepseek_v32", "dsml"},     {"deepseek_v4", "dsml"},
    {"qwen3_xml", "qwen3_coder"}, {"step3p5", "qwen3_coder"},
    {"glm47", "glm45"},           {"deepseek_r1", "think"},
    {"deepseek-r1", "think"},     {"qwen3_reasoning", "think"},
};

static const char *real_name(const char *name)
{
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (strcmp(aliases[i].alias, name) == 0)
            return aliases[i].name;
    return name;
}

static bool fits(const char *const *hints, const char *text)
{
    for (size_t i = 0; i < TOOL_FAMILY_HINTS && hints[i]; i++)
        if (!strstr(text, hints[i]))
            return false;
    return true;
}

const struct tool_family *tool_family_find(const char *name)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].name, real_name(name)) == 0)
            return &families[i];
    return NULL;
}

const struct tool_family *tool_family_detect(const char *text)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (fits(families[i].hints, text))
            return &families[i];
    return NULL;
}

const struct reasoning_format *reasoning_format_find(const char *name)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (strcmp(formats[i].name, real_name(name)) == 0)
            return &formats[i];
    return NULL;
}

const struct reasoning_format *reasoning_format_detect(const char *text)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (fits(formats[i].hints, text))
            return &formats[i];
    return NULL;
}

const struct tool_family *tool_family_at(size_t i)
{
    return i < N_FAMILIES ? &families[i] : NULL;
}

const struct reasoning_format *reasoning_format_at(size_t i)
{
    return i < N_FORMATS ? &formats[i] : NULL;
}

/* Behind the last place where `mark` stands, 0: nowhere. */
static size_t last_end(const char *text, size_t n, const char *mark)
{
    size_t len = strlen(mark);
    while (len > 0 && n >= len) {
        const char *at = memrchr(text, mark[0], n - len + 1);
        if (!at)
            return 0;
        if (memcmp(at, mark, len) == 0)
            return (size_t)(at - text) + len;
        n = (size_t)(at - text) + len - 1;
    }
    return 0;
}

static bool is_space(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!memchr(" \t\r\n", text[i], 4))
            return false;
    return true;
}

bool reasoning_is_open(const struct reasoning_format *format, const char *prompt, size_t n)
{
    size_t opened = last_end(prompt, n, format->open);
    /* text behind the mark is a message, not the start of one */
    return opened > 0 && last_end(prompt, n, format->close) <= opened &&
           is_space(prompt + opened, n - opened);
}

bool reasoning_is_over(const struct reasoning_format *format, const char *prompt, size_t n)
{
    size_t closed = last_end(prompt, n, format->close);
    return closed > 0 && is_space(prompt + closed, n - closed);
}
