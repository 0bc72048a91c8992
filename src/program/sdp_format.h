/* The records of a program file (.sdp), version 1.1, and nothing else: what lies on the disk.
 *
 * Little-endian, natural alignment, offsets from the start of the file, reserved bytes 0. Every
 * record is used where it lies in the mapped file. A record never changes: what needs another one
 * gets a new section version, op version or layout version, and readers refuse by name what they
 * do not know. tests/program/test_sdp_format.c and the golden files in tests/data/sdp hold them.
 *
 *   header 256 | sections, each on its alignment, gaps 0 | section table
 *
 * docs/PROGRAM_FILE.md explains what the sections are for. */
#ifndef PROGRAM_SDP_FORMAT_H
#define PROGRAM_SDP_FORMAT_H

#include <stdint.h>

/* The line ends show a file that went through a text-mode transfer. */
#define SDP_MAGIC "SDP\r\n\x1a\n"
enum { SDP_MAJOR = 1, SDP_MINOR = 1 };

enum { SDP_KIND_PROGRAM = 1, SDP_KIND_ADAPTER = 2, SDP_KIND_WEIGHTS = 3 };

/* Bits of sdp_header.required. Only what is in use is set. */
enum {
    SDP_NEEDS_EXTERNAL_WEIGHTS = 1u << 0,
    SDP_NEEDS_CODEBOOKS = 1u << 1,
    SDP_NEEDS_FP8 = 1u << 2, /* or MXFP4 */
    SDP_NEEDS_EXPERTS = 1u << 3,
    SDP_NEEDS_WINDOWS = 1u << 4,
    SDP_NEEDS_ENCODER = 1u << 5,
    SDP_NEEDS_KV_SCALES = 1u << 6,
    SDP_NEEDS_PIPELINE_CUT = 1u << 7,
    SDP_NEEDS_TENSOR_SHARDS = 1u << 8,
    SDP_NEEDS_CUSTOM_OPS = 1u << 9,
    SDP_NEEDS_ADAPTER = 1u << 10
};

struct sdp_header {
    uint8_t magic[8];
    uint16_t major, minor;
    uint32_t header_bytes;
    uint64_t file_bytes;
    uint64_t required, optional;
    uint64_t table_offset; /* on 64 */
    uint32_t n_sections, section_bytes;
    uint32_t kind, segment_alignment; /* of WGHT and BLOB, 4 KiB .. 2 MiB */
    uint8_t program_id[32];           /* SHA-256 of the IDENTITY sections' hashes, in table order */
    uint8_t file_root[32];    /* SHA-256 of header bytes 0..95 and 128..247 and the section table */
    uint8_t source_hash[32];  /* of the files it was made from */
    uint8_t options_hash[32]; /* of how */
    char producer[32];
    uint8_t reserved[24];
    uint64_t checksum; /* XXH3-64 of bytes 0..247 and the section table */
};

#define SDP_TYPE(a, b, c, d)                                                                       \
    ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
enum {
    SDP_CONF = SDP_TYPE('C', 'O', 'N', 'F'), /* sdp_config, then sdp_kv_layer[n_kv_layers] */
    SDP_STRS = SDP_TYPE('S', 'T', 'R', 'S'), /* NUL-terminated UTF-8, referred to by offset */
    SDP_TENS = SDP_TYPE('T', 'E', 'N', 'S'), /* sdp_tensor[] */
    SDP_GRPH = SDP_TYPE('G', 'R', 'P', 'H'), /* sdp_graph, values, nodes, operands, attributes */
    SDP_TARG = SDP_TYPE('T', 'A', 'R', 'G'), /* sdp_target[], by preference */
    SDP_FORM = SDP_TYPE('F', 'O', 'R', 'M'), /* sdp_form[], by tensor, then layout */
    SDP_PLAN = SDP_TYPE('P', 'L', 'A', 'N'), /* sdp_plan, partitions */
    SDP_WGHT = SDP_TYPE('W', 'G', 'H', 'T'), /* bytes of forms, each on 64 */
    SDP_TOKN = SDP_TYPE('T', 'O', 'K', 'N'), /* the tokenizer's image, program/tokenizer_image.h */
    SDP_CHAT = SDP_TYPE('C', 'H', 'A', 'T'), /* sdp_chat, sdp_template[], their bytes */
    SDP_TEST = SDP_TYPE('T', 'E', 'S', 'T'), /* sdp_test, cases */
    SDP_SITE = SDP_TYPE('S', 'I', 'T', 'E'), /* sdp_site[], by name; of adapters */
    SDP_META = SDP_TYPE('M', 'E', 'T', 'A'), /* JSON: facts about the model and its making */
    SDP_REPT = SDP_TYPE('R', 'E', 'P', 'T'), /* JSON: what quantising cost */
    SDP_DEBG = SDP_TYPE('D', 'E', 'B', 'G')  /* JSON: passes; which node stems from which tensor */
};

enum {
    SDP_REQUIRED = 1, /* a reader that does not know the type must refuse the file */
    SDP_IDENTITY = 2, /* decides what the program computes */
    SDP_IN_PLACE = 4,
    SDP_ZSTD = 8,
    SDP_LAZY = 16 /* too large to be checked at open; each form has a checksum of its own */
};

#define SDP_ANY_TARGET UINT32_MAX

struct sdp_section {
    uint32_t type; /* SDP_TYPE */
    uint16_t version, flags;
    uint32_t target;    /* index of TARG, or SDP_ANY_TARGET */
    uint32_t alignment; /* log2, 6..21 */
    uint64_t offset, stored_bytes, raw_bytes;
    uint64_t checksum; /* XXH3-64 of the stored bytes */
    uint8_t hash[32];  /* tree of SHA-256 over the raw bytes (base/hash.h) */
    uint64_t n_items, reserved;
};

struct sdp_config {
    char architecture[32], name[128], quantisation[16];
    uint32_t n_layers, n_embd, n_vocab, context_length;
    uint32_t is_encoder, pooling; /* serverd_pooling */
    uint32_t page_tokens, n_kv_layers;
    uint64_t n_parameters, weight_bytes;
    uint32_t n_scores;
    uint8_t reserved[284];
};

struct sdp_kv_layer {
    uint32_t n_kv_heads, k_dim, v_dim, window;
    uint8_t reserved[48];
};

#define SDP_NO_TENSOR UINT32_MAX

struct sdp_tensor {
    uint32_t name, flags; /* serverd_tensor.flags */
    uint16_t dtype;
    uint8_t rank, role;
    uint32_t group;
    uint64_t dims[4]; /* outermost first */
    uint64_t bytes;   /* of the rows as the source has them */
    uint32_t alias_of, source;
    uint8_t hash[32]; /* SHA-256 tree of these bytes */
    uint16_t scale_type, zero_type;
    uint8_t reserved[28];
};

struct sdp_graph {
    uint32_t n_values, n_nodes, n_operands, output;
    uint64_t attribute_bytes;
    uint64_t reserved;
};

struct sdp_value {
    uint8_t kind, dtype, rank, flags; /* serverd_value_kind */
    uint32_t name;                    /* 0: none */
    uint32_t tensor, producer;
    int64_t dims[4]; /* SERVERD_DIM_* */
};

struct sdp_node {
    uint16_t op, op_version;
    uint32_t first_operand;
    uint16_t n_inputs, n_outputs;
    uint32_t first_attribute, attribute_bytes; /* exactly what the op has */
    uint32_t layer, site, debug;
};

/* sdp_target.isa: what an x86-64 processor must have. */
enum {
    SDP_ISA_AVX2 = 1u << 0,
    SDP_ISA_FMA = 1u << 1,
    SDP_ISA_F16C = 1u << 2,
    SDP_ISA_AVX512 = 1u << 3, /* F, BW, VL and DQ */
    SDP_ISA_AVX512_VNNI = 1u << 4
};

struct sdp_target {
    char name[24], delegate[16];
    uint32_t least_abi, contract;
    uint64_t isa; /* SDP_ISA_*; 0: any */
    uint64_t reserved;
};

struct sdp_form {
    uint32_t tensor;
    uint16_t layout, layout_version; /* serverd_form.layout, low and high half */
    uint32_t section;                /* index in the section table, a WGHT */
    uint16_t shard, n_shards;
    uint64_t offset, bytes, checksum; /* XXH3-64 */
    uint32_t first_row, n_rows, padded_rows, padded_k;
    uint64_t auxiliary_offset;
};

/* How the values of a step share memory, for the limits the file was made with; for all targets,
 * whose plans are the same. Partitions follow each other: sdp_plan_partition, then
 *   u32 use[n_nodes]                     when each node runs (serverd_plan), to a multiple of 8
 *   sdp_buffer[n_buffers]                ascending first_use */
struct sdp_plan {
    uint32_t max_rows, max_logit_rows, max_seqs, max_context;
    uint32_t n_partitions;
    uint8_t reserved[44];
};

struct sdp_plan_partition {
    uint32_t first_node, n_nodes, n_buffers, reserved;
    uint64_t arena_bytes;
    char delegate[16];
    uint8_t reserved2[24];
};

/* serverd_buffer, which is used in place. */
struct sdp_buffer {
    uint32_t value;
    uint16_t form, place;
    uint64_t offset, fixed_bytes, row_bytes;
    uint32_t first_use, last_use;
};

enum {
    SDP_HAS_TEMPERATURE = 1,
    SDP_HAS_TOP_K = 2,
    SDP_HAS_TOP_P = 4,
    SDP_HAS_MIN_P = 8,
    SDP_HAS_REPETITION_PENALTY = 16
};

struct sdp_chat {
    uint32_t n_templates, flags; /* SDP_HAS_* */
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
    uint8_t reserved[36];
};

/* Offsets from the start of the section. Both texts are followed by a NUL. */
struct sdp_template {
    uint32_t name, name_bytes;
    uint32_t source, source_bytes;
};

/* What the model is known to answer. Cases follow each other: sdp_test_case, then
 *   u64 checksum[n_positions]            XXH3-64 of the f32 logits there; of an encoder one, of its
 * output i32 token[n_tokens] i32 greedy[n_greedy]                 what comes behind, always the
 * likeliest token u32 position[n_positions]            ascending i32 top[n_positions][n_top] in
 * exact f32: the likeliest next tokens, and f32 log_p[n_positions][n_top]        their log
 * probabilities, descending f32 value[n_values]                  of an encoder, instead: its output
 * in exact f32 */
struct sdp_test {
    uint32_t n_cases, n_top;
    uint32_t kv_dtype; /* of the keys and values that checksums and greedy tokens come from */
    uint32_t contract; /* whose they are: sdp_target.contract */
    float kl_limit;    /* nats, mean of a case */
    float cosine_limit;
    uint8_t reserved[40];
};

struct sdp_test_case {
    uint32_t n_tokens, n_greedy, n_positions, n_values;
    uint64_t reserved[2];
};

/* CONF of an adapter file, whose sections are CONF, STRS, SITE and WGHT. */
struct sdp_adapter {
    char architecture[32], name[128];
    uint8_t shape_id[32]; /* of the base (program/adapter.h) */
    uint32_t n_sites, max_rank;
    uint8_t reserved[56];
};

/* y += scale * B (A x) for the matrix of that name, [n_out][n_in]. */
struct sdp_site {
    uint32_t tensor, flags; /* flags: none are known */
    uint32_t rank, n_in, n_out;
    float scale;
    uint64_t a_offset, b_offset; /* in WGHT, on 64: f32 [rank][n_in], [n_out][rank] */
    uint64_t reserved[3];
};

#define SDP_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), #type " is frozen")
SDP_SIZE(sdp_header, 256);
SDP_SIZE(sdp_section, 96);
SDP_SIZE(sdp_config, 512);
SDP_SIZE(sdp_kv_layer, 64);
SDP_SIZE(sdp_tensor, 128);
SDP_SIZE(sdp_graph, 32);
SDP_SIZE(sdp_value, 48);
SDP_SIZE(sdp_node, 32);
SDP_SIZE(sdp_target, 64);
SDP_SIZE(sdp_form, 64);
SDP_SIZE(sdp_plan, 64);
SDP_SIZE(sdp_plan_partition, 64);
SDP_SIZE(sdp_buffer, 40);
SDP_SIZE(sdp_chat, 64);
SDP_SIZE(sdp_template, 16);
SDP_SIZE(sdp_test, 64);
SDP_SIZE(sdp_test_case, 32);
SDP_SIZE(sdp_adapter, 256);
SDP_SIZE(sdp_site, 64);

#endif
