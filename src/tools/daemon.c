#include "tools/daemon.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "tools/commit.h"
#include "tools/model.h"
#include "tools/model_list.h"
#include "tools/notify.h"
#include "tools/trace_file.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#define TICK_MS       250u
#define DRAIN_TICK_MS 20u
#define RESERVE_FILES 128u

enum { N_SIGNALS = 3 };

struct daemon {
    const struct options *options;
    struct log *log;
    struct metrics *metrics;
    struct server *server;
    struct trace_file *trace; /* NULL: none is wanted */

    uv_loop_t loop;
    uv_timer_t tick;
    uv_poll_t hangups;
    uv_signal_t signals[N_SIGNALS];

    struct model_list models;
    /* The first load: written by the thread that loads, read by the loop after it is woken. */
    uv_async_t first_load;
    serverd_error load_error;
    atomic_bool has_tried; /* it has ended */
    bool is_started;       /* and the loop knows */

    bool is_draining;
    uint64_t drain_until_ns;
    uint64_t watchdog_ms, last_watchdog_ns;
    int exit_code;
};

static uint64_t now_ns(void)
{
    return clock_now_ns(&system_clock);
}

/* ---- the end -----------------------------------------------------------------------------------
 */

static void stop(struct daemon *daemon)
{
    uv_stop(&daemon->loop);
}

static void begin_drain(struct daemon *daemon, const char *why)
{
    daemon->is_draining = true;
    daemon->drain_until_ns = now_ns() + (uint64_t)(daemon->options->drain_timeout * 1e9);
    log_info(daemon->log, "daemon", "%s: %u requests are running, waiting for them up to %g s", why,
             server_n_active(daemon->server), daemon->options->drain_timeout);
    notify_manager("STOPPING=1");
    server_drain(daemon->server);
    (void)uv_timer_set_repeat(&daemon->tick, DRAIN_TICK_MS);
    (void)uv_timer_again(&daemon->tick);
}

/* What is new in the folder, and what is gone. */
static void reload_models(struct daemon *daemon)
{
    struct model_list *list = &daemon->models;
    const uint32_t n = list->n;
    uint32_t n_new = 0;
    serverd_error err;
    if (model_list_rescan(list, daemon->options, daemon->metrics, &err))
        log_error(daemon->log, "daemon", "SIGHUP: models: %s", err.text);
    for (uint32_t i = n; i < list->n; i++) {
        if (server_add_model(daemon->server, &list->items[i], &err) == SERVERD_OK)
            n_new++;
        else /* its name is another one's alias, say: that is no reason to do without the rest */
            log_error(daemon->log, "daemon", "SIGHUP: models: %s", err.text);
    }
    for (uint32_t i = 0; i < list->n; i++)
        server_mark_model(daemon->server, list->items[i].name,
                          access(list->items[i].path, F_OK) == 0);
    log_info(daemon->log, "daemon", "SIGHUP: %u models are new", n_new);
}

static void reload(struct daemon *daemon)
{
    serverd_error err;
    if (daemon->options->models_path)
        reload_models(daemon);
    if (server_reload_keys(daemon->server, &err) == SERVERD_OK)
        log_info(daemon->log, "daemon", "SIGHUP: %u API keys are in use",
                 server_n_keys(daemon->server));
    else
        log_error(daemon->log, "daemon", "SIGHUP: the keys stay as they were: %s", err.text);
    if (!server_has_tls(daemon->server))
        return;
    if (server_reload_certificate(daemon->server, &err) == SERVERD_OK)
        log_info(daemon->log, "daemon", "SIGHUP: the certificate was read again");
    else
        log_error(daemon->log, "daemon", "SIGHUP: the certificate stays as it was: %s", err.text);
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct daemon *daemon = signal->data;
    if (number == SIGHUP) {
        reload(daemon);
        return;
    }
    const char *name = number == SIGINT ? "SIGINT" : "SIGTERM";
    if (daemon->is_draining || !daemon->is_started) {
        log_info(daemon->log, "daemon", "%s: ending now", name);
        stop(daemon);
    } else {
        begin_drain(daemon, name);
    }
}

/* ---- time ---------------------------------------------------------------------------------------
 */

static void feed_watchdog(struct daemon *daemon, uint64_t now)
{
    if (daemon->watchdog_ms == 0 ||
        now - daemon->last_watchdog_ns < daemon->watchdog_ms * UINT64_C(1000000) / 3)
        return;
    if (daemon->is_started && !server_is_healthy(daemon->server))
        return; /* the manager restarts what does not move */
    daemon->last_watchdog_ns = now;
    notify_manager("WATCHDOG=1");
}

static void on_tick(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    uint64_t now = now_ns();
    server_tick(daemon->server);
    (void)trace_file_write(daemon->trace, daemon->log);
    feed_watchdog(daemon, now);
    if (daemon->is_draining &&
        (server_n_active(daemon->server) == 0 || now >= daemon->drain_until_ns))
        stop(daemon);
}

static void on_hangup(uv_poll_t *poll, int status, int events)
{
    struct daemon *daemon = poll->data;
    (void)status, (void)events;
    server_check_hangups(daemon->server);
}

/* ---- loading
 * ------------------------------------------------------------------------------------- */

/* The default model of --model-path has to be there; of a folder's, the others are served without.
 */
static bool is_needed(const struct daemon *daemon)
{
    return daemon->options->model_path || daemon->models.n == 1;
}

static void start_trace(struct daemon *daemon, const struct served_model *served)
{
    serverd_error err;
    if (daemon->trace && trace_file_start(daemon->trace, served->engine, served->name,
                                          (uint32_t)daemon->options->trace_steps, &err))
        log_error(daemon->log, "daemon", "%s", err.text);
}

static serverd_status open_model(void *context, const struct model_config *config,
                                 struct model_load *load, void **model,
                                 const struct served_model **served, serverd_error *err)
{
    struct daemon *daemon = context;
    const bool is_default = config->path == daemon->models.items[0].path;
    const struct model_setup setup = {.options = daemon->options,
                                      .clock = &system_clock,
                                      .log = daemon->log,
                                      .metrics = daemon->metrics,
                                      .sink = daemon->trace ? trace_file_sink(daemon->trace)
                                                            : server_event_sink(daemon->server),
                                      .config = config,
                                      .load = load,
                                      .is_default = is_default};
    struct model *opened;
    serverd_status status = model_open(&setup, &opened, err);
    if (status != SERVERD_OK)
        return status;
    *model = opened;
    *served = model_served(opened);
    if (is_default)
        start_trace(daemon, *served);
    return SERVERD_OK;
}

static void close_model(void *context, void *model)
{
    (void)context;
    model_close(model);
}

/* Only the first load is news for the loop. */
static void has_loaded(void *context, const struct model_config *config,
                       const struct served_model *served, const serverd_error *err)
{
    struct daemon *daemon = context;
    (void)config;
    if (atomic_load(&daemon->has_tried))
        return;
    if (!served)
        daemon->load_error = *err;
    atomic_store(&daemon->has_tried, true);
    (void)uv_async_send(&daemon->first_load);
}

static void on_first_load(uv_async_t *async)
{
    struct daemon *daemon = async->data;
    const bool has_failed = daemon->load_error.code != SERVERD_OK;
    if (daemon->is_started || !atomic_load(&daemon->has_tried))
        return;
    daemon->is_started = true;
    if (has_failed && is_needed(daemon)) {
        daemon->exit_code = EXIT_BAD_MODEL;
        server_set_failed(daemon->server);
        stop(daemon);
        return;
    }
    log_info(daemon->log, "daemon", "ready");
    notify_manager("READY=1\nSTATUS=serving");
}

/* ---- start --------------------------------------------------------------------------------------
 */

static void raise_file_limit(int64_t connections)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)connections + RESERVE_FILES;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit); /* fewer connections then */
}

static void announce(struct daemon *daemon)
{
    const char *host = daemon->options->host;
    bool is_v6 = strchr(host, ':') != NULL;
    log_info(daemon->log, "daemon", "serverd %s listens on %s://%s%s%s:%u", PROJECT_VERSION,
             server_has_tls(daemon->server) ? "https" : "http", is_v6 ? "[" : "", host,
             is_v6 ? "]" : "", server_port(daemon->server));
}

static void start_loop(struct daemon *daemon)
{
    static const int numbers[N_SIGNALS] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < N_SIGNALS; i++) {
        (void)uv_signal_init(&daemon->loop, &daemon->signals[i]);
        daemon->signals[i].data = daemon;
        (void)uv_signal_start(&daemon->signals[i], on_signal, numbers[i]);
    }
    (void)uv_timer_init(&daemon->loop, &daemon->tick);
    daemon->tick.data = daemon;
    (void)uv_timer_start(&daemon->tick, on_tick, TICK_MS, TICK_MS);
    (void)uv_poll_init(&daemon->loop, &daemon->hangups, server_hangup_fd(daemon->server));
    daemon->hangups.data = daemon;
    (void)uv_poll_start(&daemon->hangups, UV_READABLE, on_hangup);
    (void)uv_async_init(&daemon->loop, &daemon->first_load, on_first_load);
    daemon->first_load.data = daemon;
}

static void close_handle(uv_handle_t *handle, void *context)
{
    (void)context;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* Nothing stops a load but the end of the process. */
static void end_process_while_loading(struct daemon *daemon)
{
    server_end_requests(daemon->server);
    log_info(daemon->log, "daemon", "ends with %d while a model is being loaded",
             daemon->exit_code);
    log_destroy(daemon->log);
    _exit(daemon->exit_code);
}

static void run_server(struct daemon *daemon)
{
    serverd_error err;
    announce(daemon);
    start_loop(daemon);
    if (server_start_models(daemon->server, &err) == SERVERD_OK) {
        (void)uv_run(&daemon->loop, UV_RUN_DEFAULT);
    } else {
        log_error(daemon->log, "daemon", "%s", err.text);
        daemon->exit_code = EXIT_BAD_MODEL;
    }
    server_drain(daemon->server);
    if (!server_stop_models(daemon->server))
        end_process_while_loading(daemon);
    (void)trace_file_write(daemon->trace, daemon->log);
    uv_walk(&daemon->loop, close_handle, NULL);
    (void)uv_run(&daemon->loop, UV_RUN_DEFAULT);
}

/* Where files and batches lie; NULL: nowhere. */
static const char *data_folder(const char *wanted, char *out, size_t size)
{
    const char *systemd = getenv("STATE_DIRECTORY"), *xdg = getenv("XDG_STATE_HOME"),
               *home = getenv("HOME");
    int n = -1;
    if (wanted)
        n = strcmp(wanted, "off") == 0 ? -1 : snprintf(out, size, "%s", wanted);
    else if (systemd && *systemd)
        n = snprintf(out, size, "%.*s/data", (int)strcspn(systemd, ":"), systemd);
    else if (xdg && *xdg == '/')
        n = snprintf(out, size, "%s/serverd/data", xdg);
    else if (home && *home == '/')
        n = snprintf(out, size, "%s/.local/state/serverd/data", home);
    return n > 0 && (size_t)n < size ? out : NULL;
}

static int run_with_log(struct daemon *daemon)
{
    serverd_error err;
    struct server *server = NULL;
    char data[4096];
    const struct server_options setup = {
        .data_folder = data_folder(daemon->options->data_path, data, sizeof data),
        .context = {.options = daemon->options,
                    .clock = &system_clock,
                    .log = daemon->log,
                    .metrics = daemon->metrics},
        .models = daemon->models.items,
        .n_models = daemon->models.n,
        .commit = PROJECT_COMMIT,
        .opener = {
            .open = open_model, .close = close_model, .has_loaded = has_loaded, .context = daemon}};
    if (server_create(&setup, &server, &err) != SERVERD_OK) {
        (void)fprintf(stderr, "serverd: %s\n", err.text);
        uv_walk(&daemon->loop, close_handle, NULL);
        (void)uv_run(&daemon->loop, UV_RUN_DEFAULT);
        return EXIT_BAD_OPTION;
    }
    daemon->server = server;
    if (daemon->options->trace &&
        trace_file_create(daemon->options->trace, server_event_sink(server), &daemon->trace, &err))
        log_error(daemon->log, "daemon", "%s", err.text);
    run_server(daemon);
    server_destroy(server);
    trace_file_destroy(daemon->trace);
    return daemon->exit_code;
}

int daemon_run(const struct options *options)
{
    struct daemon daemon = {.options = options, .watchdog_ms = notify_watchdog_ms()};
    serverd_error err;
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its write */
    raise_file_limit(options->max_connections);
    if (log_create(STDERR_FILENO, (enum log_level)options->log_level,
                   (enum log_format)options->log_format, &daemon.log, &err) != SERVERD_OK) {
        (void)fprintf(stderr, "serverd: %s\n", err.text);
        return EXIT_BAD_MODEL;
    }
    daemon.metrics = metrics_create();
    int code = EXIT_BAD_MODEL;
    if (daemon.metrics && model_list_create(options, daemon.metrics, &daemon.models, &err)) {
        (void)fprintf(stderr, "serverd: %s\n", err.text);
        code = EXIT_BAD_OPTION;
    } else if (!daemon.metrics || uv_loop_init(&daemon.loop) != 0) {
        (void)fprintf(stderr, "serverd: no memory\n");
    } else {
        code = run_with_log(&daemon);
        (void)uv_loop_close(&daemon.loop);
    }
    log_info(daemon.log, "daemon", "ends with %d", code);
    model_list_destroy(&daemon.models);
    metrics_destroy(daemon.metrics);
    log_destroy(daemon.log);
    return code;
}
