#include "text/call_writing.h"

#include "text/tokenizer.h"

#include <string.h>

/* As the chat templates show earlier calls. */
static const struct call_writing rows[] = {
    {.family = "harmony",
     .call = "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}",
     .is_single = true},
    {.family = "kimi_k3",
     .begin = "<|open|>tools<|sep|>",
     .call = "<|open|>call tool=\"{name}\" index=\"{number}\"<|sep|>{members}<|close|>call<|sep|>",
     .end = "<|close|>tools<|sep|>",
     .member = "<|open|>argument key=\"{key}\" type=\"{type}\"<|sep|>{value}<|close|>argument"
               "<|sep|>"},
    {.family = "kimi_k2",
     .begin = "<|tool_calls_section_begin|>",
     .call = "<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>{arguments}"
             "<|tool_call_end|>",
     .end = "<|tool_calls_section_end|>"},
    {.family = "dsml",
     .hint = "function_calls",
     .begin = "<｜DSML｜function_calls>\n",
     .call = "<｜DSML｜invoke name=\"{name}\">\n{members}</｜DSML｜invoke>",
     .between = "\n",
     .end = "\n</｜DSML｜function_calls>",
     .member = "<｜DSML｜parameter name=\"{key}\" string=\"{is_string}\">{value}"
               "</｜DSML｜parameter>\n"},
    {.family = "dsml",
     .begin = "<｜DSML｜tool_calls>\n",
     .call = "<｜DSML｜invoke name=\"{name}\">\n{members}</｜DSML｜invoke>",
     .between = "\n",
     .end = "\n</｜DSML｜tool_calls>",
     .member = "<｜DSML｜parameter name=\"{key}\" string=\"{is_string}\">{value}"
               "</｜DSML｜parameter>\n"},
    {.family = "deepseek_v3",
     .hint = "```json",
     .begin = "<｜tool▁calls▁begin｜>",
     .call = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```"
             "<｜tool▁call▁end｜>",
     .between = "\n",
     .end = "<｜tool▁calls▁end｜>"},
    {.family = "deepseek_v3",
     .begin = "<｜tool▁calls▁begin｜>",
     .call = "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>",
     .end = "<｜tool▁calls▁end｜>"},
    {.family = "gemma4",
     .call = "<|tool_call>call:{name}{{members}}<tool_call|>",
     .member = "{key}:{value}",
     .member_between = ",",
     .notation = VALUE_QUOTED,
     .quote = "<|\"|>"},
    {.family = "minimax_m2",
     .begin = "<minimax:tool_call>\n",
     .call = "<invoke name=\"{name}\">\n{members}</invoke>",
     .between = "\n",
     .end = "\n</minimax:tool_call>",
     .member = "<parameter name=\"{key}\">{value}</parameter>\n"},
    {.family = "muse",
     .call = " to={name}<|message|><atem:function_calls>\n<atem:invoke name=\"{name}\">\n{members}"
             "</atem:invoke>\n</atem:function_calls>",
     .between = "<|eom|><|start|>assistant",
     .member = "<atem:parameter name=\"{key}\">{value}</atem:parameter>\n"},
    {.family = "minicpm5",
     .call = "<function name=\"{name}\">{members}</function>",
     .between = "\n",
     .member = "<param name=\"{key}\">{value}</param>"},
    {.family = "hy3",
     .begin = "<tool_calls:opensource>\n",
     .call = "<tool_call:opensource>{name}<tool_sep:opensource>\n{members}</tool_call:opensource>",
     .between = "\n",
     .end = "\n</tool_calls:opensource>",
     .member = "<arg_key:opensource>{key}</arg_key:opensource>\n<arg_value:opensource>{value}"
               "</arg_value:opensource>\n"},
    {.family = "glm45",
     .call = "<tool_call>{name}{line}{members}</tool_call>",
     .between = "\n",
     .member = "<arg_key>{key}</arg_key>{line}<arg_value>{value}</arg_value>{line}"},
    {.family = "qwen3_coder",
     .call = "<tool_call>\n<function={name}>\n{members}</function>\n</tool_call>",
     .between = "\n",
     .member = "<parameter={key}>\n{value}\n</parameter>\n"},
    {.family = "lfm2",
     .begin = "<|tool_call_start|>[",
     .call = "{name}({members})",
     .between = ", ",
     .end = "]<|tool_call_end|>",
     .member = "{key}={value}",
     .member_between = ", ",
     .notation = VALUE_JSON},
    {.family = "nemotron",
     .begin = "<TOOLCALL>[",
     .call = "{\"name\": \"{name}\", \"arguments\": {arguments}}",
     .between = ", ",
     .end = "]</TOOLCALL>"},
    {.family = "apertus",
     .begin = "<|tools_prefix|>[",
     .call = "{\"{name}\": {arguments}}",
     .between = ", ",
     .end = "]<|tools_suffix|>"},
    {.family = "cohere",
     .begin = "<|START_ACTION|>[\n    ",
     .call = "{\"tool_call_id\": \"{number}\", \"tool_name\": \"{name}\", \"parameters\": "
             "{arguments}}",
     .between = ",\n    ",
     .end = "\n]<|END_ACTION|>"},
    {.family = "gigachat",
     .call = "<|function_call|>{\"name\": \"{name}\", \"arguments\": {arguments}}",
     .is_single = true},
    {.family = "functionary",
     .call = "{name}\n{arguments}",
     .between = ">>>",
     .is_at_start = true,
     .content = "all\n"},
    {.family = "mistral",
     .hint = "[CALL_ID]",
     .call = "[TOOL_CALLS]{name}[CALL_ID]{id}[ARGS]{arguments}"},
    {.family = "mistral", .hint = "[ARGS]", .call = "[TOOL_CALLS]{name}[ARGS]{arguments}"},
    {.family = "mistral",
     .begin = "[TOOL_CALLS][",
     .call = "{\"name\": \"{name}\", \"arguments\": {arguments}, \"id\": \"{id}\"}",
     .between = ", ",
     .end = "]"},
    {.family = "hermes",
     .call = "<tool_call>\n{\"name\": \"{name}\", \"arguments\": {arguments}}\n</tool_call>",
     .between = "\n"},
    {.family = "llama3_json",
     .call = "{\"name\": \"{name}\", \"parameters\": {arguments}}",
     .between = "; ",
     .prefix = "<|python_tag|>",
     .is_at_start = true},
    {.family = "pythonic",
     .begin = "[",
     .call = "{name}({members})",
     .between = ", ",
     .end = "]",
     .member = "{key}={value}",
     .member_between = ", ",
     .notation = VALUE_JSON,
     .is_at_start = true},
};
#define N_ROWS (sizeof rows / sizeof *rows)

const struct call_writing *call_writing_find(const char *family, const char *template_text)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (strcmp(rows[i].family, family) == 0 &&
            (!rows[i].hint || strstr(template_text, rows[i].hint)))
            return &rows[i];
    return NULL;
}

const struct call_writing *call_writing_at(size_t i)
{
    return i < N_ROWS ? &rows[i] : NULL;
}

/* The length of a slot that begins here, 0: it is text. */
static size_t slot_length(const char *at)
{
    if (*at != '{')
        return 0;
    size_t n = strspn(at + 1, "abcdefghijklmnopqrstuvwxyz_");
    return n > 0 && at[n + 1] == '}' ? n + 2 : 0;
}

/* The longest control token that begins here, 0: none. */
static size_t token_length(const struct tokenizer *tokenizer, const char *at)
{
    for (size_t n = tokenizer ? strlen(at) : 0; n > 0; n--) {
        int32_t id = tokenizer_find(tokenizer, at, n);
        if (id >= 0 && tokenizer_is_control(tokenizer, id))
            return n;
    }
    return 0;
}

struct writing_piece call_writing_next(const struct tokenizer *tokenizer, const char **at)
{
    const char *begin = *at, *end = begin;
    size_t n = *end ? slot_length(end) : 0;
    if (n > 0) {
        *at = begin + n;
        return (struct writing_piece){WRITING_SLOT, begin + 1, n - 2};
    }
    n = token_length(tokenizer, end);
    if (n > 0) {
        *at = begin + n;
        return (struct writing_piece){WRITING_TOKEN, begin, n};
    }
    while (*end && slot_length(end) == 0 && token_length(tokenizer, end) == 0)
        end++;
    *at = end;
    return (struct writing_piece){end > begin ? WRITING_TEXT : WRITING_END, begin,
                                  (size_t)(end - begin)};
}
