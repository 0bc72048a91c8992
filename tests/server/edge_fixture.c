#include "edge_fixture.h"

#include "compiler/compile.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "support/synthetic_model.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define TICK_MS   20
#define WAIT_MS   10000
#define STEP_MS   5
#define SECOND_NS UINT64_C(1000000000)

static void must(serverd_status status, const serverd_error *err)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err->text);
}

/* ---- the clock ------------------------------------------------------------------------------ */

static uint64_t now_ns(void *context)
{
    struct edge *edge = context;
    return clock_now_ns(&system_clock) + atomic_load(&edge->ahead_ns);
}

static int64_t wall_seconds(void *context)
{
    (void)context;
    return 1700000000;
}

void edge_advance(struct edge *edge, unsigned seconds)
{
    atomic_fetch_add(&edge->ahead_ns, seconds * SECOND_NS);
}

/* ---- the loop ------------------------------------------------------------------------------- */

static void *run_loop(void *context)
{
    struct edge *edge = context;
    struct pollfd hangup = {.fd = server_hangup_fd(edge->server), .events = POLLIN};
    while (!atomic_load(&edge->stops)) {
        if (poll(&hangup, 1, TICK_MS) > 0)
            server_check_hangups(edge->server);
        else
            server_tick(edge->server);
    }
    return NULL;
}

void edge_stop_loop(struct edge *edge)
{
    if (atomic_exchange(&edge->stops, true))
        return;
    (void)pthread_join(edge->loop, NULL);
}

/* ---- the model ------------------------------------------------------------------------------ */

static void compile_synthetic(struct edge *edge)
{
    struct buffer bytes;
    serverd_error err;
    char path[64];
    buffer_init(&bytes, 64 * MIB);
    must(synthetic_model("llama", "F32", &bytes, &err), &err);
    int fd = memfd_create("model", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes.data, bytes.len), (ssize_t)bytes.len);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const struct compile_options options = {.path = path};
    must(compile_model(&options, &edge->program, &err), &err);
    (void)close(fd);
    buffer_deinit(&bytes);
}

static void open_runtime(struct edge *edge, const char *device)
{
    serverd_error err;
    const struct runtime_options options = {
        .delegates = builtin_delegates,
        .n_delegates = n_builtin_delegates,
        .device = device ? device : "null:min_token=10",
        .pool = edge->workers,
        .clock = &system_clock,
        .limits = {.struct_bytes = sizeof(serverd_limits),
                   .max_rows = 64 + EDGE_MAX_RUNNING,
                   .max_logit_rows = EDGE_MAX_RUNNING + 16,
                   .max_seqs = EDGE_MAX_RUNNING,
                   .max_context = EDGE_CONTEXT},
        .kv_dtype = DTYPE_F32,
    };
    must(runtime_open(edge->program, &options, &edge->runtime, &err), &err);
}

static void open_model(struct edge *edge, const char *device)
{
    serverd_error err;
    compile_synthetic(edge);
    must(tokenizer_create(&edge->program->vocabulary, &edge->tokenizer, &err), &err);
    must(worker_pool_create(1, &edge->workers, &err), &err);
    open_runtime(edge, device);
    const struct engine_options options = {
        .has_prefix_cache = true,
        .runtime = edge->runtime,
        .tokenizer = edge->tokenizer,
        .clock = &edge->clock,
        .log = edge->log,
        .metrics = edge->metrics,
        .sink = server_event_sink(edge->server),
        .context_size = EDGE_CONTEXT,
        .max_running = EDGE_MAX_RUNNING,
        .prefill_chunk = 64,
        .max_queue = (uint32_t)edge->options.max_queue,
        .max_queue_tokens = 1000000,
        .queue_timeout_ns = 600 * SECOND_NS,
    };
    must(engine_create(&options, &edge->engine, &err), &err);
    must(engine_start(edge->engine, &err), &err);
    edge->model = (struct served_model){.name = "tiny",
                                        .aliases = edge->options.model_alias,
                                        .created = 1600000000,
                                        .program = edge->program,
                                        .tokenizer = edge->tokenizer,
                                        .engine = edge->engine,
                                        .context_size = EDGE_CONTEXT,
                                        .device = "null",
                                        .fingerprint = "fp_test"};
}

static void set_template(struct edge *edge, const char *source)
{
    serverd_error err;
    if (!source)
        return;
    must(chat_template_compile(source, strlen(source), &edge->chat_template, &err), &err);
    must(output_formats_init(&edge->model.output, edge->tokenizer, source, NULL, NULL, &err), &err);
    edge->model.chat_template = edge->chat_template;
    edge->model.chat_template_source = source;
}

void edge_publish(struct edge *edge)
{
    server_publish(edge->server, &edge->model);
}

/* ---- life ----------------------------------------------------------------------------------- */

void edge_write_keys(struct edge *edge, const char *text)
{
    int fd = open(edge->key_path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
}

static void set_option(struct edge *edge, const char *assignment)
{
    serverd_error err;
    char name[64];
    size_t n = strcspn(assignment, "=");
    assert_true(n < sizeof name && assignment[n] == '=');
    (void)snprintf(name, sizeof name, "%.*s", (int)n, assignment);
    must(options_set(&edge->options, name, assignment + n + 1, OPTION_COMMAND_LINE, &err), &err);
}

static void set_options(struct edge *edge, const struct edge_setup *setup)
{
    serverd_error err;
    must(options_init(&edge->options, &err), &err);
    set_option(edge, "port=0");
    for (size_t i = 0; i < sizeof setup->options / sizeof *setup->options; i++)
        if (setup->options[i])
            set_option(edge, setup->options[i]);
    if (!setup->keys)
        return;
    char assignment[96];
    (void)snprintf(edge->key_path, sizeof edge->key_path, "/tmp/serverd-keys-XXXXXX");
    int fd = mkstemp(edge->key_path);
    assert_true(fd >= 0);
    (void)close(fd);
    edge_write_keys(edge, setup->keys);
    (void)snprintf(assignment, sizeof assignment, "api-key-file=%s", edge->key_path);
    set_option(edge, assignment);
}

struct edge *edge_create(const struct edge_setup *setup)
{
    serverd_error err;
    struct edge *edge = calloc(1, sizeof *edge);
    assert_non_null(edge);
    (void)signal(SIGPIPE, SIG_IGN);
    edge->clock = (struct clock){.now_ns = now_ns, .wall_seconds = wall_seconds, .context = edge};
    set_options(edge, setup);
    must(log_create(setup->log_fd ? setup->log_fd : STDERR_FILENO,
                    setup->log_fd ? LOG_INFO : LOG_OFF, LOG_JSON, &edge->log, &err),
         &err);
    edge->metrics = metrics_create();
    assert_non_null(edge->metrics);
    const struct server_options options = {.context = {.options = &edge->options,
                                                       .clock = &edge->clock,
                                                       .log = edge->log,
                                                       .metrics = edge->metrics},
                                           .models = setup->models,
                                           .n_models = setup->n_models,
                                           .opener = setup->opener};
    must(server_create(&options, &edge->server, &err), &err);
    open_model(edge, setup->device);
    set_template(edge, setup->chat_template);
    if (!setup->is_loading)
        edge_publish(edge);
    assert_int_equal(pthread_create(&edge->loop, NULL, run_loop, edge), 0);
    return edge;
}

void edge_destroy(struct edge *edge)
{
    server_drain(edge->server);
    engine_drain(edge->engine);
    edge_stop_loop(edge);
    engine_stop(edge->engine);
    assert_true(server_stop_models(edge->server));
    server_destroy(edge->server);
    engine_destroy(edge->engine);
    runtime_close(edge->runtime);
    worker_pool_destroy(edge->workers);
    output_formats_deinit(&edge->model.output);
    if (edge->chat_template)
        chat_template_destroy(edge->chat_template);
    tokenizer_destroy(edge->tokenizer);
    program_unref(edge->program);
    metrics_destroy(edge->metrics);
    log_destroy(edge->log);
    options_deinit(&edge->options);
    if (edge->key_path[0])
        (void)unlink(edge->key_path);
    free(edge);
}

bool edge_waits_for_running(struct edge *edge, uint32_t n_running)
{
    struct engine_status status = {0};
    for (int ms = 0; ms < WAIT_MS; ms += STEP_MS) {
        engine_status(edge->engine, &status);
        if (status.n_running == n_running)
            return true;
        (void)usleep(STEP_MS * 1000);
    }
    return false;
}

void edge_wait_idle(struct edge *edge)
{
    struct engine_status status = {0};
    for (int ms = 0; ms < WAIT_MS; ms += STEP_MS) {
        engine_status(edge->engine, &status);
        if (status.n_running == 0 && status.n_waiting == 0 &&
            status.n_free_pages == status.n_pages && server_n_active(edge->server) == 0)
            return;
        (void)usleep(STEP_MS * 1000);
    }
    fail_msg("%u run, %u wait, %u of %u pages are free, %u requests are open", status.n_running,
             status.n_waiting, status.n_free_pages, status.n_pages, server_n_active(edge->server));
}

double edge_metric(struct edge *edge, const char *line)
{
    struct buffer text;
    buffer_init(&text, 4 * MIB);
    metrics_render(edge->metrics, &text);
    const char *at = strstr(buffer_str(&text), line);
    double value = at ? strtod(at + strlen(line), NULL) : 0.0;
    buffer_deinit(&text);
    return value;
}

/* ---- a client ------------------------------------------------------------------------------- */

int client_connect(const struct edge *edge)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(server_port(edge->server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval patience = {.tv_sec = WAIT_MS / 1000};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return fd;
    (void)close(fd);
    return -1;
}

/* A server that has closed already is no failure: what it said is still to be read. */
void client_send(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        bytes += sent;
        n -= (size_t)sent;
    }
}

void client_send_text(int fd, const char *text)
{
    client_send(fd, text, strlen(text));
}

void client_post(int fd, const char *path, const char *headers, const char *body)
{
    struct buffer b;
    buffer_init(&b, 64 * MIB);
    buffer_printf(&b,
                  "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s"
                  "Content-Length: %zu\r\n\r\n",
                  path, headers, strlen(body));
    buffer_append_str(&b, body);
    client_send(fd, b.data, b.len);
    buffer_deinit(&b);
}

static ssize_t receive(int fd, struct buffer *to)
{
    char block[16384];
    ssize_t n = recv(fd, block, sizeof block, 0);
    if (n > 0)
        buffer_append(to, block, (size_t)n);
    return n;
}

static char *take(struct buffer *b)
{
    char *text = strdup(buffer_str(b));
    buffer_deinit(b);
    assert_non_null(text);
    return text;
}

char *client_read_all(int fd)
{
    struct buffer b;
    buffer_init(&b, 64 * MIB);
    while (receive(fd, &b) > 0) {
    }
    return take(&b);
}

static bool is_whole(const struct buffer *b, bool has_body)
{
    const char *text = buffer_str(b), *body = strstr(text, "\r\n\r\n");
    if (!body)
        return false;
    body += 4;
    const char *length = strcasestr(text, "\r\nContent-Length: ");
    if (!has_body)
        return true;
    if (length && length < body)
        return strlen(body) >= strtoul(length + 18, NULL, 10);
    return strstr(body, "\r\n0\r\n\r\n") || strncmp(body, "0\r\n\r\n", 5) == 0;
}

char *client_read_reply(int fd, bool has_body)
{
    struct buffer b;
    buffer_init(&b, 64 * MIB);
    while (!is_whole(&b, has_body)) {
        if (receive(fd, &b) > 0)
            continue;
        buffer_deinit(&b);
        return NULL;
    }
    return take(&b);
}

bool client_wait_for(int fd, const char *text)
{
    struct buffer b;
    buffer_init(&b, 64 * MIB);
    while (!strstr(buffer_str(&b), text) && receive(fd, &b) > 0) {
    }
    bool has_come = strstr(buffer_str(&b), text) != NULL;
    buffer_deinit(&b);
    return has_come;
}

bool client_is_closed(int fd, int wait_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char block[16384];
    while (poll(&p, 1, wait_ms) > 0)
        if (recv(fd, block, sizeof block, MSG_DONTWAIT) <= 0)
            return true;
    return false;
}

int reply_status(const char *reply)
{
    return reply && strncmp(reply, "HTTP/1.1 ", 9) == 0 ? (int)strtol(reply + 9, NULL, 10) : 0;
}

char *client_talk(const struct edge *edge, const char *bytes, size_t n)
{
    int fd = client_connect(edge);
    assert_true(fd >= 0);
    client_send(fd, bytes, n);
    (void)shutdown(fd, SHUT_WR);
    char *reply = client_read_all(fd);
    (void)close(fd);
    return reply;
}

int client_status(const struct edge *edge, const char *text)
{
    char *reply = client_talk(edge, text, strlen(text));
    int status = reply_status(reply);
    free(reply);
    return status;
}
