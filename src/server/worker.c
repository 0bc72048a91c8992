/* The thread that serves HTTP: it waits for sockets and for the engine's events at once, so that a
 * step's events take one wake, and all its connections go on in the same round. */
#include "base/error.h"
#include "server/server_internal.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define LONGEST_WAIT_MS 60000

void worker_init(struct http_worker *worker, struct server *server)
{
    worker->server = server;
    worker->listen_fd = worker->wake_fd = -1;
    (void)pthread_mutex_init(&worker->dispatch_lock, NULL);
    (void)pthread_mutex_init(&worker->mailbox_lock, NULL);
}

void worker_deinit(struct http_worker *worker)
{
    worker_dispatch(worker); /* ENDs give their references back */
    event_queue_deinit(&worker->mailbox);
    event_queue_deinit(&worker->dispatched);
    if (worker->wake_fd >= 0)
        (void)close(worker->wake_fd);
    (void)pthread_mutex_destroy(&worker->dispatch_lock);
    (void)pthread_mutex_destroy(&worker->mailbox_lock);
}

/* ---- events ------------------------------------------------------------------------------------
 */

bool worker_post(struct http_worker *worker, const struct event *event)
{
    (void)pthread_mutex_lock(&worker->mailbox_lock);
    bool is_there = event_queue_push(&worker->mailbox, event);
    (void)pthread_mutex_unlock(&worker->mailbox_lock);
    if (is_there)
        atomic_store_explicit(&worker->has_mail, true, memory_order_relaxed); /* for worker_wake */
    return is_there;
}

void worker_ring(struct http_worker *worker)
{
    const uint64_t one = 1;
    (void)!write(worker->wake_fd, &one, sizeof one); /* full means that it rings already */
}

void worker_wake(struct http_worker *worker)
{
    if (atomic_exchange_explicit(&worker->has_mail, false, memory_order_relaxed))
        worker_ring(worker);
}

void worker_dispatch(struct http_worker *worker)
{
    (void)pthread_mutex_lock(&worker->dispatch_lock);
    (void)pthread_mutex_lock(&worker->mailbox_lock);
    struct event_queue events = worker->mailbox;
    worker->mailbox = worker->dispatched;
    (void)pthread_mutex_unlock(&worker->mailbox_lock);
    for (size_t i = events.first; i < events.n; i++)
        exchange_deliver(events.items[i].user, &events.items[i]);
    events.first = events.n = 0;
    worker->dispatched = events; /* its memory serves the next round */
    (void)pthread_mutex_unlock(&worker->dispatch_lock);
}

/* ---- exchanges without a connection ------------------------------------------------------------
 */

void worker_put_ready(struct http_worker *worker, struct exchange *x)
{
    (void)pthread_mutex_lock(&worker->mailbox_lock);
    x->next_ready = NULL;
    if (worker->last_ready)
        worker->last_ready->next_ready = x;
    else
        worker->first_ready = x;
    worker->last_ready = x;
    (void)pthread_mutex_unlock(&worker->mailbox_lock);
}

/* Those that are ready now: others may never stop coming. */
static void attend_detached(struct http_worker *worker)
{
    (void)pthread_mutex_lock(&worker->mailbox_lock);
    struct exchange *x = worker->first_ready;
    worker->first_ready = worker->last_ready = NULL;
    (void)pthread_mutex_unlock(&worker->mailbox_lock);
    while (x) {
        struct exchange *next = x->next_ready;
        detached_attend(x);
        x = next;
    }
}

/* ---- the thread --------------------------------------------------------------------------------
 */

/* Until the thread has something to do of its own accord. */
static int wait_ms(struct http_worker *worker)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (!worker->daemon || MHD_get_timeout(worker->daemon, &ms) != MHD_YES || ms > LONGEST_WAIT_MS)
        return LONGEST_WAIT_MS;
    return (int)ms;
}

/* On the thread that runs the library: another one could remove the socket from the library's epoll
 * set while this one does the same, which the library takes for a fault of its own and ends the
 * process. */
static void quiesce(struct http_worker *worker)
{
    worker->listen_fd = MHD_quiesce_daemon(worker->daemon);
    /* those who connect now are refused at once instead of waiting for nobody */
    if (worker->listen_fd >= 0)
        (void)shutdown(worker->listen_fd, SHUT_RD);
}

static void *serve(void *context)
{
    struct http_worker *worker = context;
    const union MHD_DaemonInfo *info =
        worker->daemon ? MHD_get_daemon_info(worker->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    struct pollfd fds[] = {{.fd = worker->wake_fd, .events = POLLIN},
                           {.fd = info ? info->epoll_fd : -1, .events = POLLIN}};
    while (!atomic_load(&worker->is_stopping)) {
        if (poll(fds, 2, wait_ms(worker)) > 0 && fds[0].revents) {
            uint64_t count;
            (void)!read(worker->wake_fd, &count, sizeof count);
            worker_dispatch(worker); /* resumes connections, which the library then looks at */
        }
        if (atomic_exchange(&worker->asks_quiesce, false))
            quiesce(worker);
        if (worker->daemon)
            (void)MHD_run(worker->daemon);
        else
            attend_detached(worker);
    }
    return NULL;
}

void worker_quiesce(struct http_worker *worker)
{
    atomic_store(&worker->asks_quiesce, true);
    worker_ring(worker);
}

serverd_status worker_start(struct http_worker *worker, serverd_error *err)
{
    worker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->wake_fd < 0)
        return fail(err, SERVERD_INTERNAL, "server: eventfd: %m");
    int code = pthread_create(&worker->thread, NULL, serve, worker);
    if (code != 0) {
        errno = code;
        return fail(err, SERVERD_INTERNAL, "server: thread: %m");
    }
    worker->has_thread = true;
    (void)pthread_setname_np(worker->thread, worker->daemon ? "http" : "detached");
    return SERVERD_OK;
}

void worker_stop(struct http_worker *worker)
{
    if (!worker->has_thread)
        return;
    atomic_store(&worker->is_stopping, true);
    worker_ring(worker);
    (void)pthread_join(worker->thread, NULL);
    worker->has_thread = false;
}
