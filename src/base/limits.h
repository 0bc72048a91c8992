/* Every bound of the process that is not an option. What happens at the bound stands beside it.
 * No bound lives elsewhere; zero never means unlimited. */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

#include <stddef.h>

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* GGUF files: refused with SERVERD_CORRUPT and the field's name. */
#define LIMIT_GGUF_KEYS         65536u
#define LIMIT_GGUF_TENSORS      65536u
#define LIMIT_GGUF_NAME_BYTES   (64 * KIB)
#define LIMIT_GGUF_STRING_BYTES (16 * MIB)
#define LIMIT_GGUF_ARRAY_ITEMS  (1u << 26)
#define LIMIT_GGUF_ALIGNMENT    (1u << 20)
#define LIMIT_GGUF_SHARDS       1024u
#define LIMIT_GGUF_HEADER_BYTES (1 * GIB)

/* Files of one model: refused with SERVERD_CORRUPT. */
#define LIMIT_SOURCE_FILES  4096u
#define LIMIT_LICENSE_BYTES 4096u /* a longer one is not kept */

/* Program files: refused with SERVERD_CORRUPT and the field's name. */
#define LIMIT_SDP_SECTIONS    4096u
#define LIMIT_PLAN_PARTITIONS 64u
#define LIMIT_LIVE_BUFFERS    1024u /* of a plan, at a time */
#define LIMIT_TEST_CASES      8u
#define LIMIT_TEST_TOKENS     1024u /* of a case */
#define LIMIT_TEST_TOP        64u

/* Adapters: refused by file and field. */
#define LIMIT_ADAPTER_SITES    8192u
#define LIMIT_ADAPTER_RANK     4096u
#define LIMIT_ADAPTER_DIM      (1u << 22)
#define LIMIT_ADAPTER_BYTES    (16 * GIB)
#define LIMIT_ADAPTER_NAME     128u  /* bytes of its name in the API, the end's too */
#define LIMIT_ADAPTER_PATTERNS 4096u /* of a rank_pattern or alpha_pattern */
#define LIMIT_ADAPTERS         256u  /* of a model at once, whatever --max-adapters says */

/* Folders in the form of Hugging Face: refused with SERVERD_CORRUPT, file and field. */
#define LIMIT_SAFETENSORS_HEADER 100000000u
#define LIMIT_SAFETENSORS_SHARDS 1024u
#define LIMIT_SAFETENSORS_VALUES (1u << 21) /* JSON values of a header or an index */
#define LIMIT_HF_CONFIG_BYTES    (16 * MIB) /* config.json and the like */
#define LIMIT_HF_CONFIG_VALUES   (1u << 20)
#define LIMIT_TOKENIZER_JSON     (256 * MIB)
#define LIMIT_TOKENIZER_VALUES   (1u << 24)
#define LIMIT_HF_TEMPLATES       64u
#define LIMIT_ZIP_ENTRIES        4096u
#define LIMIT_ZIP_RATIO          64u /* bytes of all files to those of their archive, beyond */
#define LIMIT_ZIP_BYTES          (64 * MIB)

/* Threads of the worker pool: more are not started. */
#define LIMIT_WORKERS 1024u

/* Devices of a model: more are refused; hetero's, whose cuts are all tried; text of one's options.
 */
#define LIMIT_DELEGATES      32u /* built in and loaded from files */
#define LIMIT_DEVICES        16u
#define LIMIT_HETERO_DEVICES 4u
#define LIMIT_DEVICE_OPTIONS 1024u
#define LIMIT_RANKS          16u /* that share a model */

/* Sessions and rows of a step of the library (serverd/runtime.h): more are refused. */
#define LIMIT_SESSIONS  4096u
#define LIMIT_STEP_ROWS (1u << 20)

/* The text that explains who runs what: cut. */
#define LIMIT_EXPLAIN_BYTES (4 * MIB)

/* Pages of a KV pool: more memory is not used. */
#define LIMIT_KV_PAGES (1u << 28)

/* The disk tier: a model with larger pages has none; staging memory is not used beyond so many
 * pages; the oldest files of more go. */
#define LIMIT_DISK_PAGE_BYTES (256 * MIB)
#define LIMIT_DISK_STAGED     (1u << 16)
#define LIMIT_DISK_FILES      (1u << 20)

/* Hyper-parameters of a model: refused with SERVERD_CORRUPT. */
#define LIMIT_LAYERS      1024u
#define LIMIT_EMBD        65536u
#define LIMIT_SCORES      1024u /* of a model that judges pairs */
#define LIMIT_FF          262144u
#define LIMIT_HEADS       1024u
#define LIMIT_HEAD_DIM    1024u
#define LIMIT_VOCAB       (1u << 22)
#define LIMIT_CONTEXT     (1u << 24)
#define LIMIT_TOKEN_BYTES 65536u
#define LIMIT_GRAPH_ITEMS (1u << 20) /* tensors, values, nodes, operands of a graph */

/* A tokenizer's tables: the model is refused. Probes of its hash tables, of which at most half of
 * the slots are taken (texts that were made to collide); a special token's bytes, all of which may
 * be looked at from each byte of a text. Text of one choice that is held back by a stop string. */
#define LIMIT_TOKENIZER_BYTES (2 * GIB)
#define LIMIT_HASH_PROBES     1024u
#define LIMIT_SPECIAL_BYTES   1024u
#define LIMIT_PENDING_TEXT    (1 * MIB)

/* Chat templates: the rendering ends with an error. */
#define LIMIT_TEMPLATE_SOURCE    (256 * KIB)
#define LIMIT_TEMPLATE_STEPS     1000000u
#define LIMIT_TEMPLATE_RECURSION 64u
#define LIMIT_TEMPLATE_RANGE     100000u
#define LIMIT_TEMPLATE_NESTING   400u   /* of the syntax tree */
#define LIMIT_TEMPLATE_DEPTH     1000u  /* of the evaluator; bounds its stack */
#define LIMIT_TEMPLATE_COMPARED  65536u /* elements, in one comparison of two values */
#define LIMIT_TEMPLATE_OUTPUT    (16 * MIB)
#define LIMIT_TEMPLATE_MEMORY    (256 * MIB)

/* JSON bodies: 400. */
#define LIMIT_JSON_DEPTH        64u
#define LIMIT_JSON_VALUES       1000000u
#define LIMIT_JSON_NUMBER_BYTES 512u

/* Generation programs: their own errors. A pattern of string.find and its like; what json.encode
 * writes and json.decode reads; values of such a text; time to compile all patterns of a program's
 * type specs. */
#define LIMIT_DSL_PATTERN_BYTES (8 * KIB)
#define LIMIT_DSL_JSON_BYTES    (4 * MIB)
#define LIMIT_DSL_JSON_VALUES   250000u
#define LIMIT_DSL_PATTERNS_NS   250000000u

/* Prefixes that handles hold at once; then one gives way. */
#define LIMIT_PREFIX_HANDLES 16384u

/* One request: 400 with the field's name. */
#define LIMIT_FILL_FILES            1024u /* beside the file of an infill; over it: 400 */
#define LIMIT_RESPONSE_FIELDS       64u   /* that a request may choose; over it: 400 */
#define LIMIT_PROMPTS               2048u
#define LIMIT_MESSAGES              4096u
#define LIMIT_CHOICES               128u
#define LIMIT_TOOLS                 256u
#define LIMIT_TOOL_CALLS            128u /* in one reply; the rest is content */
#define LIMIT_TOOL_NAME             256u
#define LIMIT_TOOL_ARGUMENTS        (4 * MIB) /* of one call; beyond: content */
#define LIMIT_LABELS                64u       /* tokens whose probability a score is */
#define LIMIT_STORED_RESPONSES      4096u     /* the oldest go, and those that expire */
#define LIMIT_STORED_RESPONSE_BYTES (256 * MIB)
#define LIMIT_BACKGROUND            64u /* responses made while nobody waits; more get 429 */
#define LIMIT_FOLLOWERS             8u  /* streams of one of them; more get 429 */
/* Generation programs: 507 for more that are uploaded or lie in the folder; runs whose events need
 * more are ended, of a job or of all; results of a batch beyond are errors; of ended runs the
 * oldest go; 503 for more texts that wait to be read. */
#define LIMIT_DSL_PROGRAMS        1024u
#define LIMIT_DSL_EVENT_BYTES     (64 * MIB)
#define LIMIT_DSL_ALL_EVENT_BYTES (1 * GIB)
#define LIMIT_DSL_RESULTS_BYTES   (128 * MIB)
#define LIMIT_DSL_ENDED_BYTES     (256 * MIB)
#define LIMIT_DSL_ERRANDS         1024u
/* Of --data-path: 507, or 400 with the field's name. Ages in seconds: files of batches, and of
 * batches that have ended, go when they are so old, as with OpenAI. */
#define LIMIT_STORED_FILES   100000u
#define LIMIT_FILES_LISTED   10000u
#define LIMIT_BATCHES_LISTED 100u
#define LIMIT_FILE_NAME      255u       /* bytes */
#define LIMIT_FORM_BYTES     (64 * KIB) /* of an upload, beside its file */
#define LIMIT_FORM_FIELD     256u
#define LIMIT_LEAST_FILE_AGE 3600u
#define LIMIT_FILE_AGE       2592000u
#define LIMIT_BATCH_AGE      2592000u
/* Batches: 429 for more that have not ended, of a key and of all; so many of them take turns, the
 * others wait. Of one: its validation fails with these errors, and no more than so many. */
#define LIMIT_OPEN_BATCHES        4096u
#define LIMIT_OPEN_BATCHES_KEY    256u
#define LIMIT_ACTIVE_BATCHES      64u
#define LIMIT_BATCH_RUNNING       1024u /* lines at once, whatever --batch-running says */
#define LIMIT_BATCH_LINES         50000u
#define LIMIT_BATCH_ERRORS        100u
#define LIMIT_CUSTOM_ID           512u /* bytes */
#define LIMIT_METADATA_PAIRS      16u
#define LIMIT_METADATA_KEY        64u
#define LIMIT_METADATA_VALUE      512u
#define LIMIT_KEPT_GRAMMARS       256u /* compiled, for requests that ask for the same */
#define LIMIT_STOPS               16u
#define LIMIT_STOP_BYTES          1024u
#define LIMIT_STOP_PATTERNS       4u
#define LIMIT_STOP_PATTERN_BYTES  1024u
#define LIMIT_STOP_PATTERN_STATES 1024u /* as many steps a byte of output may take */
#define LIMIT_STOP_PATTERN_MS     50u   /* of processor time to compile it, on an HTTP thread */
#define LIMIT_STOP_TOKEN_IDS      64u
#define LIMIT_LOGIT_BIAS          1024u
#define LIMIT_TOP_LOGPROBS        20u
#define LIMIT_NEXT_TOKENS         256u /* whose log probabilities behind the prompt are wanted */
#define LIMIT_REQUEST_ID_BYTES    128u
#define LIMIT_REQUEST_BYTES       (128 * MIB) /* its arena: prompt ids, stops, biases */

/* Of its sampling; a bad word's tokens, a breaker's bytes. */
#define LIMIT_BAD_WORDS         1024u
#define LIMIT_BAD_WORD_TOKENS   64u
#define LIMIT_DRY_BREAKERS      64u
#define LIMIT_DRY_BREAKER_BYTES 64u

/* Compiling a grammar: ends as too complex. Of one automaton: states, and table cells; of a
 * pattern: its text, its nesting, the nodes of its tree and of the automaton made from it. */
#define LIMIT_GRAMMAR_STATES   (1u << 20)
#define LIMIT_GRAMMAR_CELLS    ((size_t)1 << 24)
#define LIMIT_GRAMMAR_SCRATCH  (256 * MIB) /* of one operation */
#define LIMIT_REGEX_BYTES      (64 * KIB)
#define LIMIT_REGEX_DEPTH      200u
#define LIMIT_REGEX_NODES      (1u << 17)
#define LIMIT_REGEX_LOOKS      32u    /* look-aheads and look-behinds of one pattern */
#define LIMIT_GRAMMAR_MULTIPLE 20000u /* multipleOf 86400 counts 864: trailing zeros are free */
#define LIMIT_NUMBER_PARTS     64u    /* multiples that a set of numbers leaves out */
#define LIMIT_NUMBER_DIGITS    800u   /* of a number that is produced */

/* Looks into a running engine: more at once are refused, the rest is cut to fit. */
#define LIMIT_INSPECTIONS      4u
#define LIMIT_INSPECT_NODES    10000u
#define LIMIT_INSPECT_TOKENS   (1u << 20)
#define LIMIT_INSPECT_STEPS    10000u
#define LIMIT_INSPECT_SECONDS  60u
#define LIMIT_INSPECT_REQUESTS 4096u

/* Events that a trace keeps: the oldest give way, and are counted. Of one worker; of all workers of
 * a trace that is asked for. */
#define LIMIT_TRACE_EVENTS     (1u << 20)
#define LIMIT_TRACE_ALL_EVENTS (1u << 18)

/* Models of one server: more are refused, and names that are longer, the end's byte too. */
#define LIMIT_MODELS     256u
#define LIMIT_MODEL_NAME 128u

/* Jobs of the server's own thread that wait or run, such as adapters that are loaded: 503. */
#define LIMIT_SERVER_JOBS 16u
/* Those of the thread that has files and batches: short ones. */
#define LIMIT_DATA_JOBS 256u

/* HTTP: 414, 431, drop; see server/request_policy.h. */
#define LIMIT_TARGET_BYTES      2048u
#define LIMIT_HEADERS           64u
#define LIMIT_HEAD_BYTES        (8 * KIB)
#define LIMIT_CONNECTION_POOL   (16 * KIB) /* a head, what is noted of 64 headers, a reply's head */
#define LIMIT_TLS_FILE          (1 * MIB)  /* of a certificate or its key: refused */
#define LIMIT_KEY_NAME_BYTES    32u        /* of an API key, in its file and the log */
#define LIMIT_STREAM_RING_BYTES (256 * KIB) /* a slow reader's request is paused at the bound */

/* Log: a line that finds the ring full is dropped and counted; a longer text is cut. */
#define LIMIT_LOG_RING_BYTES (4 * MIB)
#define LIMIT_LOG_TEXT_BYTES (4 * KIB)

/* Options and their file: refused with the option's or the file's name. */
#define LIMIT_OPTION_BYTES (4 * KIB)
#define LIMIT_CONFIG_BYTES (1 * MIB)

/* serverd-compile diff: a file of ids is refused; so many rows of a sequence have logits. */
#define LIMIT_DIFF_FILE       (64 * MIB)
#define LIMIT_DIFF_SEQUENCES  256u
#define LIMIT_DIFF_TOKENS     4096u
#define LIMIT_DIFF_LOGIT_ROWS 64u

/* Quantising: a policy's rules and the tokens that are calibrated on are refused beyond, or cut. */
#define LIMIT_QUANTISE_RULES     1024u
#define LIMIT_CALIBRATION_TOKENS (1u << 20)
#define LIMIT_CALIBRATION_BYTES  (256 * MIB)

/* Structured output: grammar_too_complex. Bytes of a text; of what is made from it; time. Levels of
 * a schema's text; references from one to the next; subschemas, and combinations of them that one
 * value must satisfy; schemas that are looked at one inside the other; alternatives of one value;
 * sets in a union; looks ahead for a value that cannot be; counts of `contains` at once; classes of
 * names by patterns; names of a class that are spelled out; values of items that differ, which are
 * infinitely many from there on; states of a text that masks look ahead in; instructions; rules of
 * a grammar, repetitions, and bytes of the regular expression that a part of it becomes. */
#define LIMIT_GRAMMAR_TEXT       (1 * MIB)
#define LIMIT_GRAMMAR_BYTES      (64 * MIB)
#define LIMIT_GRAMMAR_TIME_NS    250000000u
#define LIMIT_GRAMMAR_TOOL_NS    2500000u /* for each tool in addition */
#define LIMIT_GRAMMAR_NESTING    256u
#define LIMIT_GRAMMAR_REFERENCES 64u
#define LIMIT_GRAMMAR_GOALS      (1u << 16)
#define LIMIT_GRAMMAR_DEPTH      400u
#define LIMIT_GRAMMAR_PARTS      1024u
#define LIMIT_GRAMMAR_UNION      4096u
#define LIMIT_GRAMMAR_LOOKS      8u
#define LIMIT_GRAMMAR_COUNTS     (1u << 20)
#define LIMIT_GRAMMAR_CLASSES    256u
#define LIMIT_GRAMMAR_NAMES      64u
#define LIMIT_GRAMMAR_UNIQUE     (1u << 24)
#define LIMIT_GRAMMAR_REACH      4096u
#define LIMIT_GRAMMAR_CODE       (1u << 18)
#define LIMIT_GRAMMAR_RULES      4096u
#define LIMIT_GRAMMAR_REPEAT     100000u
#define LIMIT_GRAMMAR_INLINE     (64 * KIB)

/* A matcher of structured output: its sequence ends with an error. Frames of its stacks; stacks at
 * once; bytes read; white space between two tokens of JSON; a name that is looked for; bytes
 * that stacks are led over for one mask; steps that can be taken back. */
#define LIMIT_GRAMMAR_FRAMES     (1u << 20)
#define LIMIT_GRAMMAR_TOPS       4096u
#define LIMIT_GRAMMAR_OUTPUT     (64 * MIB)
#define LIMIT_GRAMMAR_SPACES     16u
#define LIMIT_GRAMMAR_NAME_DEPTH 256u
#define LIMIT_GRAMMAR_MASK_STEPS (1u << 22)
#define LIMIT_GRAMMAR_ROLLBACK   256u

/* Metrics: further series of a family count under the label value "other". */
#define LIMIT_METRIC_SERIES 256u
#define LIMIT_METRICS_BYTES (32 * MIB) /* rendered, of all models: 500 */

/* Runs of generation programs. Depth of branches, tasks at a time: branch_limit. Text of one
 * literal, of a rendered conversation: context_length_exceeded, template_error. Rows of a trace:
 * the rest is left out. Choices whose unconditional likelihood is kept, of a model: a later one
 * takes the place. */
#define LIMIT_DSL_DEPTH      256u
#define LIMIT_DSL_TASKS      4096u
#define LIMIT_DSL_OPEN_BYTES (16 * MIB)
#define LIMIT_DSL_TRACE      16384u
#define LIMIT_SCORE_MEMO     4096u

#endif
