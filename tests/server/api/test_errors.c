/* What requests may not be: one row per rule, with the status, code and field of its error. */
#include "api_fixture.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHAT        "/v1/chat/completions"
#define COMPLETIONS "/v1/completions"
#define EMBEDDINGS  "/v1/embeddings"
#define USER        "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]"

struct row {
    const char *path, *body;
    int status;
    const char *code, *param; /* NULL: null */
};

static const struct row rows[] = {
    /* no JSON object */
    {COMPLETIONS, "", 400, "invalid_json", NULL},
    {COMPLETIONS, "{", 400, "invalid_json", NULL},
    {COMPLETIONS, "[]", 400, "invalid_json", NULL},
    {COMPLETIONS, "\"a\"", 400, "invalid_json", NULL},
    {COMPLETIONS, "null", 400, "invalid_json", NULL},
    {COMPLETIONS, "{} {}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"a\",}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{'prompt':'a'}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"a\",\"temperature\":NaN}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"a\",\"temperature\":Infinity}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"a\",\"temperature\":1e999}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"a\",\"temperature\":01}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"a\",\"seed\":9223372036854775808}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"\xff\"}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"\xc0\xaf\"}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"\xed\xa0\x80\"}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"\\ud800\"}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"\\udc00\\ud800\"}", 400, "invalid_json", NULL},
    {COMPLETIONS, "{\"prompt\":\"\n\"}", 400, "invalid_json", NULL},
    {COMPLETIONS, "\xef\xbb\xbf{\"prompt\":\"a\"}", 400, "invalid_json", NULL},

    /* the model */
    {COMPLETIONS, "{\"model\":\"other\",\"prompt\":\"a\"}", 404, "model_not_found", "model"},
    {COMPLETIONS, "{\"model\":\"tiny\\u0000\",\"prompt\":\"a\"}", 400, "invalid_type", "model"},
    {COMPLETIONS, "{\"model\":5,\"prompt\":\"a\"}", 400, "invalid_type", "model"},
    {EMBEDDINGS, "{\"input\":\"a\"}", 400, "unsupported_value", "model"},

    /* types and ranges of the table */
    {COMPLETIONS, "{\"prompt\":\"a\",\"temperature\":\"1\"}", 400, "invalid_type", "temperature"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"temperature\":-0.1}", 400, "invalid_value", "temperature"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"temperature\":100.5}", 400, "invalid_value", "temperature"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"top_p\":0}", 400, "invalid_value", "top_p"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"top_p\":1.01}", 400, "invalid_value", "top_p"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"min_p\":-1}", 400, "invalid_value", "min_p"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"top_k\":1.5}", 400, "invalid_type", "top_k"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"top_k\":-2}", 400, "invalid_value", "top_k"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"top_k\":1e300}", 400, "invalid_type", "top_k"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"n\":0}", 400, "invalid_value", "n"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"n\":129}", 400, "invalid_value", "n"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"n\":true}", 400, "invalid_type", "n"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":-2}", 400, "invalid_value", "max_tokens"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":\"5\"}", 400, "invalid_type", "max_tokens"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"stream\":1}", 400, "invalid_type", "stream"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"echo\":\"true\"}", 400, "invalid_type", "echo"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"repetition_penalty\":0}", 400, "invalid_value",
     "repetition_penalty"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"frequency_penalty\":2.5}", 400, "invalid_value",
     "frequency_penalty"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"presence_penalty\":-2.5}", 400, "invalid_value",
     "presence_penalty"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logprobs\":21}", 400, "invalid_value", "logprobs"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logprobs\":-1}", 400, "invalid_value", "logprobs"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logprobs\":\"1\"}", 400, "invalid_type", "logprobs"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"n\":3,\"best_of\":2}", 400, "invalid_value", "best_of"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"best_of\":2,\"stream\":true}", 400, "invalid_value",
     "best_of"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"best_of\":129}", 400, "invalid_value", "best_of"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"seed\":1.5}", 400, "invalid_type", "seed"},
    {CHAT, "{" USER ",\"top_logprobs\":2}", 400, "invalid_value", "top_logprobs"},
    {CHAT, "{" USER ",\"logprobs\":true,\"top_logprobs\":21}", 400, "invalid_value",
     "top_logprobs"},
    {CHAT, "{" USER ",\"logprobs\":1}", 400, "invalid_type", "logprobs"},
    {CHAT, "{" USER ",\"stream_options\":{\"include_usage\":true}}", 400, "invalid_value",
     "stream_options"},
    {CHAT, "{" USER ",\"stream\":true,\"stream_options\":[]}", 400, "invalid_type",
     "stream_options"},
    {CHAT, "{" USER ",\"stream\":true,\"stream_options\":{\"include_usage\":1}}", 400,
     "invalid_type", "stream_options"},

    /* prompts */
    {COMPLETIONS, "{}", 400, "missing_required_parameter", "prompt"},
    {COMPLETIONS, "{\"prompt\":null}", 400, "missing_required_parameter", "prompt"},
    {COMPLETIONS, "{\"prompt\":5}", 400, "invalid_type", "prompt"},
    {COMPLETIONS, "{\"prompt\":{}}", 400, "invalid_type", "prompt"},
    {COMPLETIONS, "{\"prompt\":[]}", 400, "invalid_value", "prompt"},
    {COMPLETIONS, "{\"prompt\":\"\"}", 400, "invalid_value", "prompt"},
    {COMPLETIONS, "{\"prompt\":[[]]}", 400, "invalid_value", "prompt"},
    {COMPLETIONS, "{\"prompt\":[[3],[]]}", 400, "invalid_value", "prompt"},
    {COMPLETIONS, "{\"prompt\":[null]}", 400, "invalid_type", "prompt"},
    {COMPLETIONS, "{\"prompt\":[\"a\",5]}", 400, "invalid_type", "prompt"},
    {COMPLETIONS, "{\"prompt\":[5,\"a\"]}", 400, "invalid_type", "prompt"},
    {COMPLETIONS, "{\"prompt\":[[\"a\"]]}", 400, "invalid_type", "prompt"},
    {COMPLETIONS, "{\"prompt\":[961]}", 400, "invalid_value", "prompt"},
    {COMPLETIONS, "{\"prompt\":[-1]}", 400, "invalid_value", "prompt"},
    {COMPLETIONS, "{\"prompt\":[9223372036854775807]}", 400, "invalid_value", "prompt"},
    {COMPLETIONS, "{\"prompt\":[1.5]}", 400, "invalid_type", "prompt"},

    /* messages */
    {CHAT, "{}", 400, "missing_required_parameter", "messages"},
    {CHAT, "{\"messages\":[]}", 400, "invalid_value", "messages"},
    {CHAT, "{\"messages\":{}}", 400, "invalid_type", "messages"},
    {CHAT, "{\"messages\":\"a\"}", 400, "invalid_type", "messages"},
    {CHAT, "{\"messages\":[5]}", 400, "invalid_type", "messages[0]"},
    {CHAT, "{\"messages\":[{}]}", 400, "missing_required_parameter", "messages[0].role"},
    {CHAT, "{\"messages\":[{\"role\":\"nobody\",\"content\":\"a\"}]}", 400, "invalid_value",
     "messages[0].role"},
    {CHAT, "{\"messages\":[{\"role\":5,\"content\":\"a\"}]}", 400, "invalid_value",
     "messages[0].role"},
    {CHAT, "{\"messages\":[{\"role\":\"user\"}]}", 400, "missing_required_parameter",
     "messages[0].content"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":5}]}", 400, "invalid_type",
     "messages[0].content"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[5]}]}", 400, "invalid_type",
     "messages[0].content"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", 400,
     "invalid_type", "messages[0].content"},
    {CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":"
     "[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:,\"}}]}]}",
     400, "unsupported_modality", "messages[1].content"},
    {CHAT, "{" USER ",\"modalities\":[\"text\",\"audio\"]}", 400, "unsupported_modality",
     "modalities"},
    {CHAT, "{" USER ",\"chat_template_kwargs\":5}", 400, "invalid_type", "chat_template_kwargs"},
    {CHAT, "{" USER ",\"continue_final_message\":true,\"add_generation_prompt\":false}", 400,
     "invalid_value", "continue_final_message"},
    {CHAT,
     "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}],\"continue_final_message\":true,"
     "\"add_generation_prompt\":true}",
     400, "invalid_value", "continue_final_message"},

    /* stops, biases, masks */
    {COMPLETIONS, "{\"prompt\":\"a\",\"stop\":5}", 400, "invalid_type", "stop"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"stop\":[5]}", 400, "invalid_type", "stop"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"stop\":{}}", 400, "invalid_type", "stop"},
    {COMPLETIONS,
     "{\"prompt\":\"a\",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\","
     "\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\"]}",
     400, "invalid_value", "stop"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"stop_token_ids\":5}", 400, "invalid_type", "stop_token_ids"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"stop_token_ids\":[961]}", 400, "invalid_value",
     "stop_token_ids"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":5}", 400, "invalid_value", "logit_bias"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":[5,1]}", 400, "invalid_value", "logit_bias"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":[[5]]}", 400, "invalid_value", "logit_bias"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":[[961,1]]}", 400, "invalid_value",
     "logit_bias"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":[[\"a\",true]]}", 400, "invalid_value",
     "logit_bias"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", 400, "invalid_value",
     "logit_bias"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"961\":1}}", 400, "invalid_value",
     "logit_bias"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"5\":101}}", 400, "invalid_value",
     "logit_bias"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"5\":true}}", 400, "invalid_value",
     "logit_bias"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"allowed_token_ids\":[]}", 400, "invalid_value",
     "allowed_token_ids"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"allowed_token_ids\":[1e9]}", 400, "invalid_value",
     "allowed_token_ids"},

    /* truncation, DRY, banned words, the order of the steps */
    {CHAT, "{" USER ",\"prompt_logprobs\":21}", 400, "invalid_value", "prompt_logprobs"},
    {CHAT, "{" USER ",\"prompt_logprobs\":true}", 400, "invalid_type", "prompt_logprobs"},
    {CHAT, "{" USER ",\"prompt_logprobs\":1,\"stream\":true}", 400, "unsupported_value",
     "prompt_logprobs"},
    {CHAT, "{" USER ",\"truncate_prompt_tokens\":0}", 400, "invalid_value",
     "truncate_prompt_tokens"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"truncate_prompt_tokens\":-2}", 400, "invalid_value",
     "truncate_prompt_tokens"},
    {CHAT, "{" USER ",\"typical_p\":0}", 400, "invalid_value", "typical_p"},
    {CHAT, "{" USER ",\"typical_p\":1.5}", 400, "invalid_value", "typical_p"},
    {CHAT, "{" USER ",\"top_n_sigma\":\"1\"}", 400, "invalid_type", "top_n_sigma"},
    {CHAT, "{" USER ",\"xtc_probability\":1.5}", 400, "invalid_value", "xtc_probability"},
    {CHAT, "{" USER ",\"xtc_threshold\":-0.1}", 400, "invalid_value", "xtc_threshold"},
    {CHAT, "{" USER ",\"dry_multiplier\":-1}", 400, "invalid_value", "dry_multiplier"},
    {CHAT, "{" USER ",\"dry_base\":0.5}", 400, "invalid_value", "dry_base"},
    {CHAT, "{" USER ",\"dry_allowed_length\":0}", 400, "invalid_value", "dry_allowed_length"},
    {CHAT, "{" USER ",\"dry_penalty_last_n\":-2}", 400, "invalid_value", "dry_penalty_last_n"},
    {CHAT, "{" USER ",\"dry_sequence_breakers\":\"a\"}", 400, "invalid_type",
     "dry_sequence_breakers"},
    {CHAT, "{" USER ",\"dry_sequence_breakers\":[5]}", 400, "invalid_type",
     "dry_sequence_breakers"},
    {CHAT,
     "{" USER ",\"dry_sequence_breakers\":[\"0123456789012345678901234567890123456789012345678901"
     "2345678901234\"]}",
     400, "invalid_value", "dry_sequence_breakers"},
    {CHAT, "{" USER ",\"bad_words\":\"a\"}", 400, "invalid_type", "bad_words"},
    {CHAT, "{" USER ",\"bad_words\":[\"\"]}", 400, "invalid_value", "bad_words"},
    {CHAT, "{" USER ",\"bad_words\":[{}]}", 400, "invalid_type", "bad_words"},
    {CHAT, "{" USER ",\"bad_words\":[961]}", 400, "invalid_value", "bad_words"},
    {CHAT, "{" USER ",\"bad_words\":[[-1]]}", 400, "invalid_value", "bad_words"},
    {CHAT, "{" USER ",\"bad_words\":[[\"a\"]]}", 400, "invalid_type", "bad_words"},
    {CHAT, "{" USER ",\"samplers\":\"top_k\"}", 400, "invalid_type", "samplers"},
    {CHAT, "{" USER ",\"samplers\":[\"top_a\"]}", 400, "invalid_value", "samplers"},
    {CHAT, "{" USER ",\"samplers\":[5]}", 400, "invalid_value", "samplers"},
    {CHAT, "{" USER ",\"samplers\":[\"top_k\",\"top_k\"]}", 400, "invalid_value", "samplers"},
    {CHAT, "{" USER ",\"samplers\":[\"typ_p\",\"typical_p\"]}", 400, "invalid_value", "samplers"},
    {CHAT, "{" USER ",\"samplers\":[\"top_k\",\"dry\"]}", 400, "invalid_value", "samplers"},
    {CHAT, "{" USER ",\"logprobs_mode\":\"logits\"}", 400, "invalid_value", "logprobs_mode"},
    {CHAT, "{" USER ",\"post_sampling_probs\":1}", 400, "invalid_type", "post_sampling_probs"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"best_of\":2,\"logprobs_mode\":\"processed\"}", 400,
     "unsupported_value", "logprobs_mode"},

    /* what would change the output and is not there */
    {CHAT, "{" USER ",\"tools\":{}}", 400, "invalid_type", "tools"},
    {CHAT, "{" USER ",\"tools\":[5]}", 400, "invalid_type", "tools[0]"},
    {CHAT, "{" USER ",\"tools\":[{\"type\":\"mcp\"}]}", 400, "unsupported_value", "tools[0]"},
    {CHAT, "{" USER ",\"tools\":[{\"type\":\"function\"}]}", 400, "missing_required_parameter",
     "tools[0].function"},
    {CHAT, "{" USER ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]}", 400,
     "invalid_value", "tools[0].function"},
    {CHAT,
     "{" USER ",\"tools\":[{\"function\":{\"name\":\"f\"}},{\"function\":{\"name\":\"g\","
     "\"parameters\":[]}}]}",
     400, "invalid_type", "tools[1].function"},
    {CHAT, "{" USER ",\"functions\":[{}]}", 400, "invalid_value", "functions[0]"},
    {CHAT, "{" USER ",\"tool_choice\":\"required\"}", 400, "invalid_value", "tool_choice"},
    {CHAT,
     "{" USER ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}},\"tools\":[{"
     "\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}",
     400, "invalid_value", "tool_choice"},
    {CHAT,
     "{" USER ",\"tool_choice\":\"always\",\"tools\":[{\"type\":\"function\",\"function\":{"
     "\"name\":\"f\"}}]}",
     400, "invalid_value", "tool_choice"},
    {CHAT,
     "{" USER ",\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"auto\","
     "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]}},\"tools\":[{\"function\":"
     "{\"name\":\"f\"}}]}",
     400, "invalid_value", "tool_choice"},
    {CHAT,
     "{" USER ",\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":"
     "\"required\",\"tools\":[]}},\"tools\":[{\"function\":{\"name\":\"f\"}}]}",
     400, "invalid_value", "tool_choice"},
    {CHAT, "{\"messages\":[{\"role\":\"tool\",\"content\":\"a\"}]}", 400,
     "missing_required_parameter", "messages[0].tool_call_id"},
    {CHAT, "{\"messages\":[{\"role\":\"tool\",\"tool_call_id\":5,\"content\":\"a\"}]}", 400,
     "invalid_type", "messages[0].tool_call_id"},
    {CHAT, "{" USER ",\"response_format\":{\"type\":\"xml\"}}", 400, "unsupported_value",
     "response_format"},
    {CHAT, "{" USER ",\"response_format\":{\"type\":\"json_schema\"}}", 400,
     "missing_required_parameter", "response_format.json_schema.schema"},
    {CHAT, "{" USER ",\"regex\":5}", 400, "invalid_type", "regex"},
    {CHAT, "{" USER ",\"guided_choice\":\"a\"}", 400, "invalid_type", "guided_choice"},
    {CHAT, "{" USER ",\"regex\":\"a\",\"guided_choice\":[\"a\"]}", 400, "invalid_value",
     "guided_choice"},
    {CHAT, "{" USER ",\"regex\":\"a\",\"json_whitespace\":\"wide\"}", 400, "invalid_value",
     "json_whitespace"},
    {CHAT, "{" USER ",\"response_format\":5}", 400, "invalid_type", "response_format"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "unsupported_value", "suffix"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"suffix\":5}", 400, "invalid_type", "suffix"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"suffix\":\"b\",\"echo\":true}", 400, "unsupported_value",
     "suffix"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"service_tier\":\"fast\"}", 400, "invalid_value",
     "service_tier"},
    {COMPLETIONS, "{\"prompt\":\"a\",\"user\":5}", 400, "invalid_type", "user"},
    /* llama-server's */
    {"/completion", "{}", 400, "missing_required_parameter", "prompt"},
    {"/completion", "{\"prompt\":true}", 400, "invalid_type", "prompt"},
    {"/completion", "{\"prompt\":[]}", 400, "invalid_value", "prompt"},
    {"/completion", "{\"prompt\":[[\"a\",null]]}", 400, "invalid_type", "prompt"},
    {"/completion", "{\"prompt\":[1,-1]}", 400, "invalid_value", "prompt"},
    {"/completion", "{\"prompt\":[\"a\",99999999]}", 400, "invalid_value", "prompt"},
    {"/completion", "{\"prompt\":{\"prompt_string\":5}}", 400, "invalid_type", "prompt"},
    {"/completion", "{\"prompt\":{\"prompt_string\":\"a\",\"multimodal_data\":[\"b\"]}}", 400,
     "unsupported_modality", "prompt"},
    {"/completion", "{\"prompt\":\"a\",\"n_predict\":-2}", 400, "invalid_value", "n_predict"},
    {"/completion", "{\"prompt\":\"a\",\"n_probs\":21}", 400, "invalid_value", "n_probs"},
    {"/completion", "{\"prompt\":\"a\",\"repeat_last_n\":-2}", 400, "invalid_value",
     "repeat_last_n"},
    {"/completion", "{\"prompt\":\"a\",\"repeat_penalty\":11}", 400, "invalid_value",
     "repeat_penalty"},
    {"/completion", "{\"prompt\":\"a\",\"lora\":5}", 400, "invalid_type", "lora"},
    {"/completion", "{\"prompt\":\"a\",\"lora\":[{\"id\":0,\"scale\":1}]}", 400, "invalid_value",
     "lora"},
    {"/completion", "{\"prompt\":\"a\",\"response_fields\":\"b\"}", 400, "invalid_type",
     "response_fields"},
    {"/completion", "{\"prompt\":\"a\",\"response_fields\":[1]}", 400, "invalid_type",
     "response_fields"},
    {"/completion", "{\"prompt\":\"a\",\"grammar\":\"x ::=\",\"json_schema\":{}}", 400,
     "invalid_value", "grammar"},
    {"/infill", "{}", 400, "missing_required_parameter", "input_prefix"},
    {"/infill", "{\"input_prefix\":\"a\"}", 400, "unsupported_value", "input_prefix"},
    {CHAT, "{" USER ",\"stop_regex\":\"(\"}", 400, "invalid_regex", "stop_regex"},
    {CHAT, "{" USER ",\"stop_regex\":\"a*\"}", 400, "invalid_regex", "stop_regex"},
    {CHAT, "{" USER ",\"stop_regex\":5}", 400, "invalid_type", "stop_regex"},
    {CHAT, "{" USER ",\"stop_regex\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", 400, "invalid_value",
     "stop_regex"},
    {CHAT, "{" USER ",\"stop_regex\":\"[ab]*a[ab]{14}\"}", 400, "grammar_too_complex",
     "stop_regex"},

    /* the tokenizer's endpoints */
    {"/tokenize", "{}", 400, "missing_required_parameter", "prompt"},
    {"/tokenize", "{\"prompt\":5}", 400, "invalid_type", "prompt"},
    {"/tokenize", "{\"content\":5}", 400, "invalid_type", "content"},
    {"/detokenize", "{}", 400, "missing_required_parameter", "tokens"},
    {"/detokenize", "{\"tokens\":5}", 400, "invalid_type", "tokens"},
    {"/detokenize", "{\"tokens\":[961]}", 400, "invalid_value", "tokens"},
    {"/detokenize", "{\"tokens\":[\"a\"]}", 400, "invalid_type", "tokens"},
    {"/apply-template", "{\"messages\":[]}", 400, "invalid_value", "messages"},
};

static const struct row embedding_rows[] = {
    {EMBEDDINGS, "{}", 400, "missing_required_parameter", "input"},
    {EMBEDDINGS, "{\"input\":[]}", 400, "invalid_value", "input"},
    {EMBEDDINGS, "{\"input\":\"\"}", 400, "invalid_value", "input[0]"},
    {EMBEDDINGS, "{\"input\":[\"a\",\"\"]}", 400, "invalid_value", "input[1]"},
    {EMBEDDINGS, "{\"input\":[[]]}", 400, "invalid_value", "input[0]"},
    {EMBEDDINGS, "{\"input\":5}", 400, "invalid_type", "input[0]"},
    {EMBEDDINGS, "{\"input\":[\"a\",{}]}", 400, "invalid_type", "input[1]"},
    {EMBEDDINGS, "{\"input\":[100256]}", 400, "invalid_value", "input[0]"},
    {EMBEDDINGS, "{\"input\":\"a\",\"encoding_format\":\"hex\"}", 400, "invalid_value",
     "encoding_format"},
    {EMBEDDINGS, "{\"input\":\"a\",\"dimensions\":65}", 400, "invalid_value", "dimensions"},
    {EMBEDDINGS, "{\"input\":\"a\",\"dimensions\":0}", 400, "invalid_value", "dimensions"},
    {CHAT, "{" USER "}", 400, "unsupported_value", "model"},
};

/* The envelope has its four members, and no more unless allowed; *e is to be released. */
static json_t *read_error(const struct api_reply *reply)
{
    json_t *root = json_loadb(reply->body, reply->len, 0, NULL);
    json_t *error = json_object_get(root, "error");
    assert_non_null(error);
    assert_int_equal(json_object_size(root), 1);
    assert_true(json_string_length(json_object_get(error, "message")) > 0);
    assert_non_null(json_object_get(error, "param"));
    assert_non_null(json_object_get(error, "code"));
    return root;
}

static void check_member(const json_t *error, const char *name, const char *expected,
                         const char *body)
{
    const char *found = json_string_value(json_object_get(error, name));
    if ((found == NULL) != (expected == NULL) || (found && strcmp(found, expected) != 0))
        fail_msg("%.300s: %s is %s, not %s", body, name, found ? found : "null",
                 expected ? expected : "null");
}

static void check_reply(const struct row *row, const struct api_reply *reply)
{
    if (reply->status != row->status)
        fail_msg("%s %.300s: %d %.300s", row->path, row->body, reply->status, reply->body);
    json_t *root = read_error(reply);
    const json_t *error = json_object_get(root, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    check_member(error, "code", row->code, row->body);
    check_member(error, "param", row->param, row->body);
    check_member(error, "type", "invalid_request_error", row->body);
    /* clients match these words */
    assert_null(strstr(message, "429"));
    assert_null(strstr(message, "rate limit"));
    json_decref(root);
}

static void check_rows(struct api_world *world, const struct row *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct api_reply reply = api_post(world, list[i].path, list[i].body);
        check_reply(&list[i], &reply);
        free(reply.body);
    }
}

static void each_rule_has_its_error(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    check_rows(world, rows, sizeof rows / sizeof *rows);
    api_world_destroy(world);
}

static void each_rule_of_embeddings_has_its_error(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("bert", NULL);
    check_rows(world, embedding_rows, sizeof embedding_rows / sizeof *embedding_rows);
    api_world_destroy(world);
}

/* ---- long bodies --------------------------------------------------------------------------- */

static void repeat(struct buffer *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buffer_append_str(out, text);
}

static void check_built(struct api_world *world, const char *path, struct buffer *body,
                        const char *code, const char *param)
{
    struct row row = {path, buffer_str(body), 400, code, param};
    assert_false(body->is_failed);
    struct api_reply reply = api_call(world, path, body->data, body->len);
    check_reply(&row, &reply);
    free(reply.body);
    buffer_reset(body);
}

static void bodies_that_are_too_deep_or_too_wide_are_refused(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    struct buffer body;
    buffer_init(&body, 64 * MIB);
    buffer_append_str(&body, "{\"x\":");
    repeat(&body, "[", 64);
    repeat(&body, "]", 64);
    buffer_append_str(&body, "}");
    check_built(world, COMPLETIONS, &body, "invalid_json", NULL);

    repeat(&body, "{\"x\":", 1000000);
    check_built(world, COMPLETIONS, &body, "invalid_json", NULL);

    buffer_append_str(&body, "{\"x\":[");
    repeat(&body, "0,", 1000000);
    buffer_append_str(&body, "0]}");
    check_built(world, COMPLETIONS, &body, "invalid_json", NULL);

    buffer_append_str(&body, "{\"temperature\":0.");
    repeat(&body, "0", 600);
    buffer_append_str(&body, "}");
    check_built(world, COMPLETIONS, &body, "invalid_json", NULL);

    /* a bracket inside a string is text */
    buffer_append_str(&body, "{\"frobnicate\":\"");
    repeat(&body, "[\\\"{", 100);
    buffer_append_str(&body, "\"}");
    check_built(world, COMPLETIONS, &body, "missing_required_parameter", "prompt");

    buffer_append_str(&body, "{\"prompt\":[");
    repeat(&body, "\"a\",", 2048);
    buffer_append_str(&body, "\"a\"]}");
    check_built(world, COMPLETIONS, &body, "invalid_value", "prompt");

    buffer_append_str(&body, "{\"messages\":[");
    repeat(&body, "{\"role\":\"user\",\"content\":\"\"},", 4096);
    buffer_append_str(&body, "{}]}");
    check_built(world, CHAT, &body, "invalid_value", "messages");

    buffer_append_str(&body, "{\"prompt\":\"a\",\"stop\":\"");
    repeat(&body, "a", 1025);
    buffer_append_str(&body, "\"}");
    check_built(world, COMPLETIONS, &body, "invalid_value", "stop");
    buffer_deinit(&body);
    api_world_destroy(world);
}

static void a_long_prompt_is_told_the_context_length(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    struct buffer body;
    buffer_init(&body, MIB);
    const char *const paths[] = {COMPLETIONS, CHAT};
    for (int i = 0; i < 2; i++) {
        buffer_append_str(&body, i == 0 ? "{\"prompt\":\""
                                        : "{\"messages\":[{\"role\":\"user\",\"content\":\"");
        repeat(&body, "!", 600);
        buffer_append_str(&body, i == 0 ? "\"}" : "\"}]}");
        struct api_reply reply = api_call(world, paths[i], body.data, body.len);
        assert_int_equal(reply.status, 400);
        json_t *root = read_error(&reply);
        const json_t *error = json_object_get(root, "error");
        check_member(error, "code", "context_length_exceeded", "a long prompt");
        assert_non_null(strstr(json_string_value(json_object_get(error, "message")),
                               "This model's maximum context length is 512 tokens"));
        assert_true(json_integer_value(json_object_get(error, "n_prompt_tokens")) >= 600);
        assert_int_equal(json_integer_value(json_object_get(error, "n_ctx")), 512);
        json_decref(root);
        free(reply.body);
        buffer_reset(&body);
    }
    buffer_deinit(&body);
    api_world_destroy(world);
}

static void a_full_context_may_be_scored_but_not_continued(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    struct buffer body;
    buffer_init(&body, MIB);
    for (int max_tokens = 0; max_tokens < 2; max_tokens++) {
        buffer_append_str(&body, "{\"prompt\":[3");
        repeat(&body, ",3", 511);
        buffer_printf(&body, "],\"max_tokens\":%d}", max_tokens);
        struct api_reply reply = api_call(world, COMPLETIONS, body.data, body.len);
        assert_int_equal(reply.status, max_tokens == 0 ? 200 : 400);
        free(reply.body);
        buffer_reset(&body);
    }
    buffer_deinit(&body);
    api_world_destroy(world);
}

static void unknown_fields_are_errors_only_if_asked_for(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    const char *body = "{\"prompt\":\"a\",\"max_tokens\":0,\"frobnicate\":1,\"a b\":2}";
    struct api_reply reply = api_post(world, COMPLETIONS, body);
    assert_int_equal(reply.status, 200);
    assert_string_equal(reply.ignored, "frobnicate"); /* the other name is not fit for a header */
    free(reply.body);
    world->options.strict_fields = true;
    const struct row row = {COMPLETIONS, body, 400, "unknown_parameter", "frobnicate"};
    reply = api_post(world, COMPLETIONS, body);
    check_reply(&row, &reply);
    free(reply.body);
    api_world_destroy(world);
}

static void a_model_without_a_template_refuses_chat(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    world->model.chat_template = NULL;
    const struct row row = {CHAT, "{" USER "}", 400, "no_chat_template", NULL};
    check_rows(world, &row, 1);
    world->model.chat_template = world->chat_template;
    api_world_destroy(world);
}

/* ---- continuing a message ------------------------------------------------------------------- */

#define CONTINUE(text)                                                                             \
    "{\"messages\":[{\"role\":\"assistant\",\"content\":\"" text                                   \
    "\"}],\"continue_final_message\":true,\"add_generation_prompt\":false}"

static void a_message_that_the_template_drops_cannot_be_continued(void **state)
{
    (void)state;
    static const char *const templates[] = {"", "{# nothing #}", "x",
                                            "{{ messages[0].content[0:2] }}"};
    const struct row row = {CHAT, CONTINUE("abcd"), 400, "template_error",
                            "continue_final_message"};
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        struct api_world *world = api_world_create("llama", templates[i]);
        check_rows(world, &row, 1);
        api_world_destroy(world);
    }
}

static void check_continued(const char *chat_template, const char *body, const char *prompt)
{
    struct api_world *world = api_world_create("llama", chat_template);
    struct api_reply reply = api_post(world, "/apply-template", body);
    json_t *root = json_loadb(reply.body, reply.len, 0, NULL);
    if (reply.status != 200)
        fail_msg("%s", reply.body);
    assert_string_equal(json_string_value(json_object_get(root, "prompt")), prompt);
    json_decref(root);
    free(reply.body);
    api_world_destroy(world);
}

static void a_message_is_left_open_at_its_last_occurrence(void **state)
{
    (void)state;
    check_continued("{{ messages[0].content }} {{ messages[0].content }}</s>", CONTINUE("ab"),
                    "ab ab");
    /* a template that strips the text in front */
    check_continued("<a>{{ messages[0].content | trim }}</a>", CONTINUE(" ab "), "<a>ab ");
}

/* The search is linear even where every place looks like a match. */
static void a_long_message_is_left_open_quickly(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    struct buffer body;
    buffer_init(&body, 16 * MIB);
    buffer_append_str(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    repeat(&body, "a", 600000);
    buffer_append_str(&body, "\"},{\"role\":\"assistant\",\"content\":\"");
    repeat(&body, "a", 300000);
    buffer_append_str(&body, "\"}],\"continue_final_message\":true,"
                             "\"add_generation_prompt\":false}");
    uint64_t begin = clock_now_ns(&system_clock);
    struct api_reply reply = api_call(world, "/apply-template", body.data, body.len);
    assert_int_equal(reply.status, 200);
    assert_true(clock_now_ns(&system_clock) - begin < UINT64_C(5000000000));
    free(reply.body);
    buffer_deinit(&body);
    api_world_destroy(world);
}

/* The text of a call's arguments is JSON inside JSON: it has the same bounds as the body. */
static void deep_call_arguments_stay_text(void **state)
{
    (void)state;
    struct api_world *world =
        api_world_create("llama", "{{ messages[0].tool_calls[0].function.arguments }}");
    struct buffer body;
    buffer_init(&body, MIB);
    buffer_append_str(&body,
                      "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":"
                      "[{\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":");
    repeat(&body, "[", 1000);
    repeat(&body, "]", 1000);
    buffer_append_str(&body, "}\"}}]}]}");
    struct api_reply reply = api_call(world, "/apply-template", body.data, body.len);
    assert_int_equal(reply.status, 200);
    assert_non_null(strstr(reply.body, "[[[["));
    assert_non_null(strstr(reply.body, "{\\\"x\\\":")); /* a map would show single quotes */
    free(reply.body);
    buffer_deinit(&body);
    api_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rule_has_its_error),
        cmocka_unit_test(each_rule_of_embeddings_has_its_error),
        cmocka_unit_test(bodies_that_are_too_deep_or_too_wide_are_refused),
        cmocka_unit_test(a_long_prompt_is_told_the_context_length),
        cmocka_unit_test(a_full_context_may_be_scored_but_not_continued),
        cmocka_unit_test(unknown_fields_are_errors_only_if_asked_for),
        cmocka_unit_test(a_model_without_a_template_refuses_chat),
        cmocka_unit_test(a_message_that_the_template_drops_cannot_be_continued),
        cmocka_unit_test(a_message_is_left_open_at_its_last_occurrence),
        cmocka_unit_test(a_long_message_is_left_open_quickly),
        cmocka_unit_test(deep_call_arguments_stay_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
