/* Text and source files without meaning, of common words. */
#include "tools/bench/workload.h"

#include "base/hash.h"

#include <stdio.h>

static const char *const words[] = {
    "able",      "above",  "acre",    "after",    "again",   "amber",   "answer",  "apple",
    "arrow",     "autumn", "baker",   "balance",  "bark",    "basket",  "beacon",  "before",
    "bell",      "birch",  "bottle",  "bright",   "bring",   "broad",   "build",   "butter",
    "calm",      "candle", "canvas",  "carry",    "castle",  "cedar",   "chair",   "change",
    "chapter",   "cheese", "circle",  "clear",    "climb",   "cloud",   "coast",   "coffee",
    "colour",    "copper", "corner",  "cotton",   "count",   "cross",   "current", "dance",
    "deep",      "desk",   "distant", "door",     "drawer",  "dream",   "early",   "east",
    "echo",      "edge",   "eight",   "elbow",    "empty",   "enter",   "even",    "fabric",
    "famous",    "farm",   "fence",   "field",    "finger",  "first",   "flag",    "floor",
    "flower",    "follow", "forest",  "fresh",    "garden",  "gather",  "gentle",  "glass",
    "gold",      "grain",  "green",   "ground",   "hammer",  "harbour", "harvest", "hill",
    "hold",      "honey",  "horse",   "hour",     "iron",    "island",  "journey", "keeper",
    "kettle",    "ladder", "lamp",    "large",    "learn",   "letter",  "light",   "listen",
    "little",    "long",   "lower",   "maple",    "market",  "meadow",  "measure", "middle",
    "mirror",    "moment", "morning", "mountain", "narrow",  "needle",  "never",   "night",
    "north",     "number", "ocean",   "often",    "olive",   "open",    "orange",  "order",
    "paper",     "pencil", "people",  "pepper",   "picture", "plain",   "plant",   "pocket",
    "portrait",  "quiet",  "rain",    "rather",   "reach",   "ribbon",  "river",   "road",
    "rope",      "round",  "salt",    "sand",     "season",  "second",  "seven",   "shadow",
    "sharp",     "shore",  "silver",  "simple",   "slow",    "small",   "smoke",   "south",
    "spring",    "square", "stable",  "stone",    "story",   "street",  "summer",  "table",
    "thread",    "timber", "travel",  "under",    "valley",  "village", "voice",   "wander",
    "water",     "west",   "wheat",   "wheel",    "window",  "winter",  "wooden",  "yellow",
    "yesterday", "young"};

#define N_WORDS (sizeof words / sizeof *words)

static uint64_t next(uint64_t *state)
{
    return hash_mix(*state += UINT64_C(0x9e3779b97f4a7c15));
}

void workload_text(struct buffer *out, uint64_t *state, uint32_t n_words)
{
    uint32_t left = 0; /* in the sentence */
    for (uint32_t i = 0; i < n_words; i++) {
        const char *word = words[next(state) % N_WORDS];
        bool is_first = left == 0;
        if (is_first)
            left = 6 + (uint32_t)(next(state) % 9);
        if (i > 0)
            buffer_append_char(out, ' ');
        buffer_append_char(out, is_first ? (char)(word[0] - 'a' + 'A') : word[0]);
        buffer_append_str(out, word + 1);
        if (--left == 0 || i + 1 == n_words)
            buffer_append_char(out, '.');
    }
}

static const char *word(uint64_t *state)
{
    return words[next(state) % N_WORDS];
}

static void append_function(struct buffer *out, uint64_t *state, const char *name,
                            const char *called)
{
    char line[128];
    const char *a = word(state), *b = word(state), *c = word(state);
    unsigned n = (unsigned)(next(state) % 90) + 2, m = (unsigned)(next(state) % 900) + 2;
    (void)snprintf(line, sizeof line, "def %s(%s, %s):\n", name, a, b);
    buffer_append_str(out, line);
    (void)snprintf(line, sizeof line, "    \"\"\"Return the %s of %s and %s.\"\"\"\n", c, a, b);
    buffer_append_str(out, line);
    (void)snprintf(line, sizeof line, "    %s = %s * %u + %s\n", c, a, n, b);
    buffer_append_str(out, line);
    (void)snprintf(line, sizeof line, "    if %s > %u:\n        %s -= %u\n", c, m, c, m);
    buffer_append_str(out, line);
    (void)snprintf(line, sizeof line, "    return %s(%s, %u)\n\n\n", called, c, n);
    buffer_append_str(out, line);
}

void workload_source(struct buffer *out, uint64_t *state, uint32_t n_functions,
                     char first[SOURCE_NAME_BYTES])
{
    char name[SOURCE_NAME_BYTES], called[SOURCE_NAME_BYTES] = "max";
    for (uint32_t i = 0; i < n_functions; i++) {
        (void)snprintf(name, sizeof name, "%s_%s", word(state), word(state));
        if (i == 0)
            (void)snprintf(first, SOURCE_NAME_BYTES, "%s", name);
        append_function(out, state, name, i + 1 == n_functions ? first : called);
        (void)snprintf(called, sizeof called, "%s", name);
    }
}
