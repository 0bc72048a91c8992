/* The mailbox of a run: what other threads say to it. */
#include "base/numeric.h"
#include "frontend_dsl/run_internal.h"

#include <stdlib.h>

void run_wake(struct dsl_run *run)
{
    if (run->is_woken)
        return;
    run->is_woken = true; /* until the mail is taken */
    if (run->setup.host.wake)
        run->setup.host.wake(run->setup.host.context);
}

static bool add_mail(struct dsl_mail *mail, const struct event *event)
{
    if (mail->n == mail->cap) {
        const uint32_t cap = (uint32_t)max_size(16, (size_t)mail->cap * 2);
        struct event *bigger = realloc(mail->event, cap * sizeof *bigger);
        if (!bigger)
            return false;
        mail->event = bigger;
        mail->cap = cap;
    }
    mail->event[mail->n++] = *event;
    return true;
}

void dsl_run_post(const struct event *event)
{
    struct dsl_op *op = event->user;
    struct dsl_run *run = op->run;
    struct op_request *r = &op->requests[event->user_index];
    (void)pthread_mutex_lock(&run->lock);
    if (event->kind == EVENT_END) {
        r->end = *event;
        r->next_ended = run->ended;
        run->ended = r;
        run_wake(run);
    } else if (!add_mail(&run->mail, event)) {
        run->lost_mail = true;
        free(event->logprobs);
        free(event->next_logprobs);
        free(event->embedding);
    } else if (run->setup.wants_deltas) {
        run_wake(run);
    }
    (void)pthread_mutex_unlock(&run->lock);
}

void dsl_run_stop(struct dsl_run *run, const char *code)
{
    (void)pthread_mutex_lock(&run->lock);
    if (!run->stop_code)
        run->stop_code = code;
    sandbox_stop(run->sandbox, run->stop_code);
    run_wake(run);
    (void)pthread_mutex_unlock(&run->lock);
}

/* Requests in the order in which they ended. */
static struct op_request *in_order(struct op_request *last_first)
{
    struct op_request *list = NULL;
    for (struct op_request *r = last_first, *next; r; r = next) {
        next = r->next_ended;
        r->next_ended = list;
        list = r;
    }
    return list;
}

void run_take_mail(struct dsl_run *run)
{
    (void)pthread_mutex_lock(&run->lock);
    struct dsl_mail mail = run->mail;
    struct op_request *ended = in_order(run->ended);
    const bool is_lost = run->lost_mail;
    const char *stop_code = run->stop_code;
    run->mail = (struct dsl_mail){0};
    run->ended = NULL;
    run->is_woken = false;
    (void)pthread_mutex_unlock(&run->lock);
    for (uint32_t i = 0; i < mail.n; i++)
        op_on_event(mail.event[i].user, &mail.event[i]);
    free(mail.event);
    for (struct op_request *next; ended; ended = next) {
        next = ended->next_ended; /* the end may free it */
        op_on_end(ended);
    }
    struct dsl_error error;
    dsl_error_init(&error);
    if (stop_code)
        dsl_error_set(&error, stop_code, "%s", sandbox_stop_message(stop_code));
    else if (is_lost)
        dsl_error_set(&error, "memory_limit", "no memory for the model's output");
    if (error.code[0])
        run_fail(run, &error);
}

void run_drop_mail(struct dsl_run *run)
{
    struct dsl_mail *mail = &run->mail;
    for (uint32_t i = 0; i < mail->n; i++) {
        free(mail->event[i].logprobs);
        free(mail->event[i].next_logprobs);
        free(mail->event[i].embedding);
    }
    free(mail->event);
    *mail = (struct dsl_mail){0};
}
