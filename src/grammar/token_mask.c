#include "grammar/token_mask.h"

#include "base/hash.h"
#include "base/limits.h"
#include "grammar/matcher_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- kept masks ------------------------------------------------------------------------------ */

/* The tokens that a text takes whole from a state, and where it may be over inside of them. */
struct kept_mask {
    uint64_t grammar; /* 0: of all grammars, for texts that may be anything */
    struct dfa_run run;
    uint32_t text;
    uint64_t used; /* the cache's clock */
    uint64_t *bits;
    uint64_t *exits; /* a bit per node of the trie of pieces; NULL: they were not looked for */
};

struct mask_cache {
    const struct token_trie *trie;
    struct kept_mask *kept; /* a hash table with one place per slot and its neighbours */
    uint32_t n_slots;
    uint64_t clock;
    struct frame_set sets[TOKEN_PIECE_MAX + 2]; /* by depth of a walk */
    struct dfa_run runs[TOKEN_PIECE_MAX + 2];
};

#define NEIGHBOURS 8u

static size_t exit_words(const struct token_trie *trie)
{
    return ((size_t)trie->pieces.n_nodes + 63) / 64;
}

struct mask_cache *mask_cache_create(const struct token_trie *trie, size_t limit_bytes)
{
    struct mask_cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return NULL;
    cache->trie = trie;
    cache->n_slots = NEIGHBOURS;
    size_t bytes =
        (token_mask_words(trie) + exit_words(trie)) * sizeof(uint64_t) + sizeof *cache->kept;
    while ((size_t)cache->n_slots * 2 * bytes <= limit_bytes)
        cache->n_slots *= 2;
    cache->kept = calloc(cache->n_slots, sizeof *cache->kept);
    if (!cache->kept) {
        mask_cache_destroy(cache);
        return NULL;
    }
    return cache;
}

void mask_cache_destroy(struct mask_cache *cache)
{
    if (!cache)
        return;
    for (uint32_t i = 0; i < cache->n_slots && cache->kept; i++) {
        free(cache->kept[i].bits);
        free(cache->kept[i].exits);
    }
    for (size_t i = 0; i < sizeof cache->sets / sizeof *cache->sets; i++)
        frame_set_deinit(&cache->sets[i]);
    free(cache->kept);
    free(cache);
}

static void set_bit(uint64_t *bits, uint32_t id)
{
    bits[id / 64] |= UINT64_C(1) << (id % 64);
}

static void set_items(const struct token_trie *trie, const struct trie_node *node, uint64_t *bits)
{
    uint32_t from = node->first_item, to = from;
    const struct trie_node *next = node + 1;
    /* a node's items are those up to its first child's, or to whoever comes next */
    to = next->first_item;
    for (uint32_t i = from; i < to; i++)
        set_bit(bits, trie->ids[i]);
}

/* Beyond this a run's count makes no difference within one token. */
static struct dfa_run canonical(const struct mask_cache *cache, const struct dfa *dfa,
                                struct dfa_run run)
{
    bool is_far = !dfa->least ||
                  (run.count >= dfa->min &&
                   (dfa->max == UINT32_MAX || (uint64_t)dfa->max - run.count >
                                                  (uint64_t)cache->trie->longest + dfa->n_states));
    if (is_far)
        run.count = dfa->least && dfa->max != UINT32_MAX ? UINT32_MAX : 0;
    return run;
}

static bool make_room(const struct mask_cache *cache, struct kept_mask *kept, bool wants_exits)
{
    size_t n = exit_words(cache->trie);
    if (!kept->bits)
        kept->bits = malloc(token_mask_words(cache->trie) * sizeof *kept->bits);
    if (wants_exits && !kept->exits)
        kept->exits = malloc(n * sizeof *kept->exits);
    if (kept->exits && wants_exits)
        memset(kept->exits, 0, n * sizeof *kept->exits);
    if (!wants_exits) {
        free(kept->exits);
        kept->exits = NULL;
    }
    return kept->bits && (!wants_exits || kept->exits);
}

/* Walks all pieces over the automaton alone. */
static void walk_counted(struct mask_cache *cache, const struct dfa *dfa, struct dfa_run run,
                         uint8_t n_skipped, struct kept_mask *kept)
{
    const struct trie *pieces = &cache->trie->pieces;
    cache->runs[0] = run;
    for (uint32_t i = 1; i < pieces->n_nodes;) {
        const struct trie_node *node = &pieces->nodes[i];
        struct dfa_run next = cache->runs[node->depth - 1];
        if (node->ordinary <= n_skipped || !dfa_step(dfa, &next, node->byte)) {
            i = node->end;
            continue;
        }
        cache->runs[node->depth] = next;
        set_items(cache->trie, node, kept->bits);
        if (kept->exits && node->end > i + 1 && dfa_is_accepting(dfa, next))
            set_bit(kept->exits, i);
        i++;
    }
}

/* The same without lengths, where the state is all there is. This is the longest that a mask takes.
 */
static void walk_uncounted(struct mask_cache *cache, const struct machine_text *text,
                           uint32_t start, uint8_t n_skipped, struct kept_mask *kept)
{
    const struct trie_node *nodes = cache->trie->pieces.nodes;
    const struct dfa *dfa = text->dfa;
    uint32_t states[TOKEN_PIECE_MAX + 1], n_nodes = cache->trie->pieces.n_nodes;
    states[0] = start;
    for (uint32_t i = 1; i < n_nodes;) {
        const struct trie_node *node = &nodes[i];
        uint32_t state = node->ordinary <= n_skipped
                             ? DFA_DEAD
                             : dfa_next(dfa, states[node->depth - 1], node->byte);
        if (state == DFA_DEAD) {
            i = node->end;
            continue;
        }
        uint8_t reach = text->reach && !kept->exits ? text->reach[state] & REACH_COUNT : 0;
        bool is_free = node->ordinary <= reach; /* and so is all that hangs below */
        uint32_t next = is_free ? node->end : i + 1;
        for (uint32_t item = node->first_item; item < nodes[next].first_item; item++)
            set_bit(kept->bits, cache->trie->ids[item]);
        if (kept->exits && node->end > i + 1 && (dfa->flags[state] & DFA_ACCEPTS))
            set_bit(kept->exits, i);
        states[node->depth] = state;
        i = next;
    }
}

static void fill_kept(struct mask_cache *cache, const struct machine_text *text, struct dfa_run run,
                      struct kept_mask *kept)
{
    const struct dfa *dfa = text->dfa;
    size_t n_words = token_mask_words(cache->trie);
    uint8_t reach = text->reach && !kept->exits ? text_reach_of(dfa, text->reach, run) : 0;
    /* tokens of ordinary characters that need no look, and below which nothing needs one */
    uint8_t n_free = reach & REACH_COUNT, n_skipped = reach & REACH_EXACT ? REACH_MAX : n_free;
    memcpy(kept->bits, cache->trie->short_tokens + n_free * n_words, n_words * sizeof *kept->bits);
    if (dfa->least)
        walk_counted(cache, dfa, run, n_skipped, kept);
    else
        walk_uncounted(cache, text, run.state, n_skipped, kept);
}

static const struct kept_mask *find_kept(struct mask_cache *cache, const struct grammar *grammar,
                                         uint32_t text, struct dfa_run run, bool wants_exits)
{
    const struct machine_text *row = &grammar->machine.texts[text];
    struct kept_mask key = {.grammar = grammar->id, .text = text};
    key.run = canonical(cache, row->dfa, run);
    if (row->is_anything) {
        key.grammar = 0;
        key.text = row->is_plain;
    }
    uint64_t hash = hash_mix(hash_mix(hash_mix(key.grammar) ^ key.text) ^
                             ((uint64_t)key.run.state << 32 | key.run.count));
    struct kept_mask *oldest = NULL;
    cache->clock++;
    for (uint32_t i = 0; i < NEIGHBOURS; i++) {
        struct kept_mask *kept = &cache->kept[(hash + i) & (cache->n_slots - 1)];
        bool is_it = kept->used && kept->grammar == key.grammar && kept->text == key.text &&
                     kept->run.state == key.run.state && kept->run.count == key.run.count &&
                     (!wants_exits || kept->exits);
        if (is_it) {
            kept->used = cache->clock;
            return kept;
        }
        if (!oldest || kept->used < oldest->used)
            oldest = kept;
    }
    if (!make_room(cache, oldest, wants_exits))
        return NULL;
    fill_kept(cache, row, run, oldest);
    oldest->grammar = key.grammar;
    oldest->text = key.text;
    oldest->run = key.run;
    oldest->used = cache->clock;
    return oldest;
}

/* ---- walking with the machine ---------------------------------------------------------------- */

struct walk {
    struct matcher *matcher;
    struct mask_cache *cache;
    uint64_t *mask;
    uint32_t n_frames;
    size_t n_bytes;
    uint64_t n_steps; /* of single tops */
};

static void put_back(struct walk *walk)
{
    frame_pool_release(&walk->matcher->run.pool, walk->n_frames);
    walk->matcher->run.bytes.len = walk->n_bytes;
}

/* One byte from the tops at depth - 1 to those at `depth`. */
static bool walk_byte(struct walk *walk, uint32_t depth, uint8_t byte)
{
    struct run *run = &walk->matcher->run;
    struct mask_cache *cache = walk->cache;
    walk->n_steps += cache->sets[depth - 1].n;
    if (walk->n_steps > LIMIT_GRAMMAR_MASK_STEPS)
        run->is_failed = true; /* instead of an engine that stands still */
    run->bytes.len = walk->n_bytes + depth - 1;
    run_step(run, &cache->sets[depth - 1], byte, &cache->sets[depth]);
    return cache->sets[depth].n > 0;
}

/* The tokens below node `root` of the pieces: cache->sets[its depth] are the tops there. */
static void walk_pieces(struct walk *walk, uint32_t root)
{
    const struct token_trie *trie = walk->cache->trie;
    const struct trie_node *nodes = trie->pieces.nodes;
    uint32_t frames[TOKEN_PIECE_MAX + 2];
    frames[nodes[root].depth] = walk->matcher->run.pool.n;
    for (uint32_t i = root + 1; i < nodes[root].end;) {
        uint32_t depth = nodes[i].depth;
        frame_pool_release(&walk->matcher->run.pool, frames[depth - 1]);
        if (!walk_byte(walk, depth, nodes[i].byte)) {
            i = nodes[i].end;
            continue;
        }
        frames[depth] = walk->matcher->run.pool.n;
        set_items(trie, &nodes[i], walk->mask);
        i++;
    }
    put_back(walk);
}

/* ---- texts ----------------------------------------------------------------------------------- */

static void add_kept(const struct walk *walk, const struct kept_mask *kept)
{
    size_t n = token_mask_words(walk->cache->trie);
    for (size_t i = 0; i < n; i++)
        walk->mask[i] |= kept->bits[i];
}

/* The text of `top` may be over at a node of the pieces: what comes behind it there. */
static void walk_exit(struct walk *walk, const struct frame *top, uint32_t index)
{
    struct run *run = &walk->matcher->run;
    const struct token_trie *trie = walk->cache->trie;
    const struct trie_node *node = &trie->pieces.nodes[index];
    uint32_t depth = node->depth;
    struct text_of_token text = token_trie_text(trie, trie->ids[node->first_item]);
    struct frame_set *set = &walk->cache->sets[depth];
    buffer_append(&run->bytes, text.bytes, depth); /* the way there */
    set->n = 0;
    run->at = (uint32_t)walk->n_bytes + depth;
    run_resume(run, top->parent, run->at, set);
    walk_pieces(walk, index);
}

/* The bytes that may follow if the text of `top` is over, but not here: some of it comes before. */
static void find_behind(struct walk *walk, const struct frame *top, bool behind[256])
{
    struct run *run = &walk->matcher->run;
    struct frame_set *first = &walk->cache->sets[0], *next = &walk->cache->sets[1];
    first->n = 0;
    run->at = (uint32_t)walk->n_bytes + 1;
    buffer_append_char(&run->bytes, '\0');
    run_resume(run, top->parent, run->at, first);
    uint32_t n_frames = run->pool.n;
    for (unsigned byte = 0; byte < 256 && first->n > 0; byte++) {
        run->bytes.len = run->at;
        run_step(run, first, (uint8_t)byte, next);
        behind[byte] = next->n > 0;
        frame_pool_release(&run->pool, n_frames);
    }
    put_back(walk);
}

static bool goes_on_with(const struct trie_node *nodes, uint32_t index, const bool bytes[256])
{
    for (uint32_t child = index + 1; child < nodes[index].end; child = nodes[child].end)
        if (bytes[nodes[child].byte])
            return true;
    return false;
}

/* A plain text: tokens that stay inside; then, wherever it may be over within a token, what comes
 * behind it. What comes behind it if it is over already is a top of its own. */
static bool add_text(struct walk *walk, const struct frame *top)
{
    struct run *run = &walk->matcher->run;
    const struct frame *below = &run->pool.frame[top->parent];
    bool leaves = below->kind != FRAME_END;
    const struct kept_mask *kept =
        find_kept(walk->cache, walk->matcher->grammar, top->text.text, top->text.run, leaves);
    if (!kept)
        return false;
    add_kept(walk, kept);
    bool behind[256] = {false};
    if (leaves)
        find_behind(walk, top, behind);
    for (size_t word = 0; leaves && word < exit_words(walk->cache->trie); word++) {
        for (uint64_t bits = kept->exits[word]; bits; bits &= bits - 1) {
            uint32_t node = (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(bits);
            if (goes_on_with(walk->cache->trie->pieces.nodes, node, behind))
                walk_exit(walk, top, node);
        }
    }
    return true;
}

/* Tokens that end the string: those with a quote in front of which the string may be over, and
 * behind which the rest is legal. cache->sets[0] are the tops behind the quote. */
static void add_rests(struct walk *walk, const struct dfa *dfa, struct dfa_run run,
                      bool (*is_legal)(struct walk *walk, const struct quoted_token *token,
                                       const void *context),
                      const void *context)
{
    const struct token_trie *trie = walk->cache->trie;
    const struct trie_node *nodes = trie->rests.nodes;
    uint32_t frames[TOKEN_PIECE_MAX + 2];
    frames[0] = walk->matcher->run.pool.n;
    size_t n_bytes = walk->n_bytes;
    for (uint32_t i = 0; i < trie->rests.n_nodes;) {
        uint32_t depth = nodes[i].depth;
        if (depth > 0) {
            frame_pool_release(&walk->matcher->run.pool, frames[depth - 1]);
            walk->n_bytes = n_bytes + 1; /* behind the quote */
            bool is_possible = walk_byte(walk, depth, nodes[i].byte);
            walk->n_bytes = n_bytes;
            if (!is_possible) {
                i = nodes[i].end;
                continue;
            }
            frames[depth] = walk->matcher->run.pool.n;
        }
        for (uint32_t j = nodes[i].first_item; j < nodes[i + 1].first_item; j++) {
            const struct quoted_token *token = &trie->quoted[j];
            struct text_of_token text = token_trie_text(trie, token->id);
            struct dfa_run at = run;
            uint32_t n = 0;
            while (n < token->before && dfa_step(dfa, &at, (uint8_t)text.bytes[n]))
                n++;
            if (n == token->before && dfa_is_accepting(dfa, at) &&
                (!is_legal || is_legal(walk, token, context)))
                set_bit(walk->mask, token->id);
        }
        i++;
    }
}

/* A name, or an item that has to differ: whether it was used already depends on the whole of it. */
struct name_context {
    const struct frame_set *tops; /* the one of the name */
};

static bool is_new_name(struct walk *walk, const struct quoted_token *token, const void *context)
{
    const struct name_context *name = context;
    struct matcher *matcher = walk->matcher;
    struct text_of_token text = token_trie_text(walk->cache->trie, token->id);
    struct frame_set tops = matcher->tops;
    uint32_t n_frames = matcher->run.pool.n;
    size_t n_bytes = matcher->run.bytes.len;
    struct frame_set copy = {0};
    bool is_legal = frame_set_copy(&copy, name->tops);
    matcher->tops = copy;
    matcher->run.bytes.len = walk->n_bytes;
    is_legal = is_legal && matcher_walk(matcher, text.bytes, text.n) == text.n;
    frame_set_deinit(&matcher->tops);
    matcher->tops = tops;
    matcher->run.bytes.len = n_bytes;
    frame_pool_release(&matcher->run.pool, n_frames);
    return is_legal;
}

static bool add_string(struct walk *walk, const struct frame *top)
{
    struct run *run = &walk->matcher->run;
    const struct machine_text *text = &run->machine->texts[top->text.text];
    const struct frame *below = &run->pool.frame[top->parent];
    bool is_unique =
        below->kind == FRAME_ARRAY && run->machine->arrays[below->array.array].is_unique;
    bool differs = is_unique && below->array.seen;
    if (differs && !text->is_inexhaustible)
        return false; /* how much of it is left depends on items that were used */
    const struct kept_mask *kept =
        find_kept(walk->cache, walk->matcher->grammar, top->text.text, top->text.run, false);
    if (!kept)
        return false;
    add_kept(walk, kept);
    struct frame top_item = *top;
    const struct frame_set tops = {.item = &top_item, .n = 1, .cap = 1};
    const struct name_context context = {&tops};
    struct frame_set *first = &walk->cache->sets[0];
    first->n = 0;
    run->at = (uint32_t)walk->n_bytes;
    if (is_unique)
        frame_set_add(first, below); /* not by the item's text, which is not whole here */
    else
        run_resume(run, top->parent, run->at + 1, first);
    buffer_append_char(&run->bytes, '"');
    if (first->n > 0)
        add_rests(walk, text->dfa, top->text.run, differs ? is_new_name : NULL, &context);
    put_back(walk);
    return true;
}

static bool add_name(struct walk *walk, const struct frame *top)
{
    struct run *run = &walk->matcher->run;
    uint32_t text = run_class_text(run, top);
    if (!run_class_is_open(run, top))
        return false; /* how much of it is left depends on names that were used */
    const struct dfa *dfa = run->machine->texts[text].dfa;
    const struct kept_mask *kept =
        find_kept(walk->cache, walk->matcher->grammar, text, top->class.run, false);
    if (!kept)
        return false;
    add_kept(walk, kept);
    struct frame tops_item = *top;
    struct frame_set tops = {.item = &tops_item, .n = 1, .cap = 1};
    const struct name_context context = {&tops};
    struct frame_set *first = &walk->cache->sets[0];
    first->n = 0;
    run_behind_class(run, top, first);
    buffer_append_char(&run->bytes, '"');
    if (first->n > 0)
        add_rests(walk, dfa, top->class.run, is_new_name, &context);
    put_back(walk);
    return true;
}

/* ---- the mask -------------------------------------------------------------------------------- */

void matcher_mask(struct matcher *matcher, struct mask_cache *cache, uint64_t *mask)
{
    const struct token_trie *trie = cache->trie;
    uint32_t n_frames = matcher->run.pool.n;
    struct walk walk = {matcher, cache, mask, n_frames, matcher->run.bytes.len, 0};
    memset(mask, 0, token_mask_words(trie) * sizeof *mask);
    if (matcher->run.is_failed)
        return;
    struct frame_set rest = {0}, all = {0};
    if (!frame_set_copy(&all, run_gather(&matcher->run, &matcher->tops)))
        matcher->run.is_failed = true;
    walk.n_frames = matcher->run.pool.n;
    for (uint32_t i = 0; i < all.n; i++) {
        const struct frame *top = &all.item[i];
        bool is_done = matcher->grammar->machine.produces &&
                       ((top->kind == FRAME_STRING && add_string(&walk, top)) ||
                        (top->kind == FRAME_TEXT && add_text(&walk, top)) ||
                        (top->kind == FRAME_CLASS && add_name(&walk, top)));
        if (!is_done)
            frame_set_add(&rest, top);
    }
    if (rest.n > 0 && frame_set_copy(&cache->sets[0], &rest))
        walk_pieces(&walk, 0);
    matcher->run.is_failed = matcher->run.is_failed || rest.is_failed;
    frame_set_deinit(&rest);
    frame_set_deinit(&all);
    if (matcher_may_end(matcher))
        for (uint32_t i = 0; i < trie->n_end_tokens; i++)
            set_bit(mask, trie->end_tokens[i]);
    frame_pool_release(&matcher->run.pool, n_frames);
    if (matcher->run.is_failed)
        memset(mask, 0, token_mask_words(trie) * sizeof *mask);
}

static bool is_end_token(const struct token_trie *trie, uint32_t id)
{
    for (uint32_t i = 0; i < trie->n_end_tokens; i++)
        if (trie->end_tokens[i] == id)
            return true;
    return false;
}

bool matcher_accept_token(struct matcher *matcher, const struct token_trie *trie, uint32_t id)
{
    if (id >= trie->n_tokens)
        return false;
    struct text_of_token text = token_trie_text(trie, id);
    if (is_end_token(trie, id))
        return matcher_may_end(matcher) && matcher_accept(matcher, "", 0);
    return text.n > 0 && matcher_accept(matcher, text.bytes, text.n);
}

bool matcher_allows_token(struct matcher *matcher, const struct token_trie *trie, uint32_t id)
{
    if (id >= trie->n_tokens)
        return false;
    struct text_of_token text = token_trie_text(trie, id);
    if (is_end_token(trie, id))
        return matcher_may_end(matcher);
    return text.n > 0 && matcher_allows(matcher, text.bytes, text.n);
}
