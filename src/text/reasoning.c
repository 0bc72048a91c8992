#include "text/reasoning.h"

#include "text/tokenizer.h"

#include <string.h>

/* ---- marks ---- */

/* Whether the tokens' texts end with the mark: a tokenizer may put a space in front. */
static bool say_the_mark(const struct tokenizer *tokenizer, const struct token_list *ids,
                         const struct mark *mark)
{
    size_t n_left = mark->n;
    for (uint32_t i = ids->n; i-- > 0 && n_left > 0;) {
        uint32_t n;
        const char *bytes = tokenizer_piece(tokenizer, ids->id[i], &n);
        size_t n_same = n < n_left ? n : n_left;
        if (memcmp(bytes + n - n_same, mark->text + n_left - n_same, n_same) != 0)
            return false;
        n_left -= n_same;
    }
    return n_left == 0;
}

static serverd_status cut_close(struct reasoning_marks *marks, const struct tokenizer *tokenizer,
                                serverd_error *err)
{
    struct token_list ids;
    token_list_init(&ids, MARK_BYTES);
    serverd_status status = tokenizer_encode(tokenizer, marks->close.text, marks->close.n,
                                             TOKENIZER_PARSE_SPECIAL, &ids, err);
    if (status == SERVERD_OK && say_the_mark(tokenizer, &ids, &marks->close)) {
        memcpy(marks->close_tokens, ids.id, ids.n * sizeof *ids.id);
        marks->n_close_tokens = ids.n;
    }
    token_list_deinit(&ids);
    return status;
}

serverd_status reasoning_marks_init(struct reasoning_marks *marks,
                                    const struct tokenizer *tokenizer,
                                    const struct reasoning_format *format, serverd_error *err)
{
    *marks = (struct reasoning_marks){.open_token = -1};
    if (!format)
        return SERVERD_OK;
    struct reasoning_marks made = {
        .open = mark_make(tokenizer, format->open, strlen(format->open)),
        .close = mark_make(tokenizer, format->close, strlen(format->close)),
        .open_token = tokenizer_find(tokenizer, format->open, strlen(format->open)),
    };
    serverd_status status = cut_close(&made, tokenizer, err);
    if (status == SERVERD_OK)
        *marks = made;
    return status;
}

/* ---- the way of one text ---- */

void reasoning_track_begin(struct reasoning_track *track, bool is_open)
{
    *track = (struct reasoning_track){.is_open = is_open, .is_at_start = true};
}

static void remember(struct reasoning_track *track, char byte, bool is_control)
{
    if (track->n_recent == MARK_BYTES) {
        memmove(track->recent, track->recent + 1, --track->n_recent);
        memmove(track->number, track->number + 1, track->n_recent * sizeof *track->number);
    }
    track->number[track->n_recent] = track->n_pushed;
    track->recent[track->n_recent++] = byte;
    track->control = track->control << 1 | is_control;
}

static bool ends_with(const struct reasoning_track *track, const struct mark *mark)
{
    if (mark->n == 0 || track->n_recent < mark->n ||
        memcmp(track->recent + track->n_recent - mark->n, mark->text, mark->n) != 0)
        return false;
    for (uint32_t i = 0; i < mark->n; i++)
        if (mark->control >> i & 1 && !(track->control >> (mark->n - 1 - i) & 1))
            return false;
    return true;
}

/* Whether what was said lately is white space and the beginning of the mark. */
static bool may_open(const struct reasoning_track *track, const struct mark *open)
{
    for (uint32_t i = 0, n = track->n_recent;; i++) {
        if (n - i <= open->n && memcmp(track->recent + i, open->text, n - i) == 0)
            return true;
        if (!memchr(" \t\r\n", track->recent[i], 4))
            return false;
    }
}

static void cross(struct reasoning_track *track, bool is_open)
{
    track->is_open = is_open;
    track->n_recent = 0;
    track->control = 0;
}

void reasoning_track_push(struct reasoning_track *track, const struct reasoning_marks *marks,
                          const char *bytes, size_t n, bool is_control)
{
    bool was_open = track->is_open, has_crossed = false;
    for (size_t i = 0; i < n; i++) {
        remember(track, bytes[i], is_control);
        if (track->is_open) {
            if (ends_with(track, &marks->close)) {
                cross(track, false);
                has_crossed = true;
            }
            continue;
        }
        /* text that is no control token opens a block only where a message begins */
        if ((marks->open.control || track->is_at_start) && ends_with(track, &marks->open)) {
            track->n_before = track->n_pushed - track->number[track->n_recent - marks->open.n];
            cross(track, true);
            has_crossed = true;
        } else if (track->is_at_start && !is_control)
            track->is_at_start = may_open(track, &marks->open);
    }
    /* what is left of the token behind a mark counts as the next one's: nobody else sees it */
    track->n_pushed += !has_crossed;
    track->n_tokens += was_open && track->is_open;
}
