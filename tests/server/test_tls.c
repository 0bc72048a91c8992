/* HTTPS: a self-signed certificate that the test makes, a client that trusts it alone, and another
 * one that takes its place while connections go on. */
#include "edge_fixture.h"

#include "base/buffer.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define GET    "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
#define SLOW   "null:min_token=10;step_us=3000"
#define STREAM "{\"prompt\":\"x\",\"max_tokens\":40,\"ignore_eos\":true,\"stream\":true}"
#define SHORT  "{\"prompt\":\"x\",\"max_tokens\":4,\"ignore_eos\":true}"

enum { N_CLIENTS = 8, N_ROUNDS = 6 };

static void must(int code)
{
    if (code < 0)
        fail_msg("%s", gnutls_strerror(code));
}

/* ---- certificates --------------------------------------------------------------------------- */

struct pair {
    gnutls_datum_t cert, key; /* PEM */
};

static void make_pair(struct pair *pair, gnutls_pk_algorithm_t algorithm, unsigned bits)
{
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t cert;
    const unsigned char serial[] = {1, (unsigned char)algorithm};
    must(gnutls_x509_privkey_init(&key));
    must(gnutls_x509_privkey_generate(key, algorithm, bits, 0));
    must(gnutls_x509_crt_init(&cert));
    must(gnutls_x509_crt_set_version(cert, 3));
    must(gnutls_x509_crt_set_serial(cert, serial, sizeof serial));
    must(gnutls_x509_crt_set_activation_time(cert, time(NULL) - 3600));
    must(gnutls_x509_crt_set_expiration_time(cert, time(NULL) + 3600));
    must(gnutls_x509_crt_set_dn(cert, "CN=localhost", NULL));
    must(gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_DNSNAME, "localhost", 9, 0));
    must(gnutls_x509_crt_set_key(cert, key));
    must(gnutls_x509_crt_sign2(cert, cert, key, GNUTLS_DIG_SHA256, 0));
    must(gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &pair->cert));
    must(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pair->key));
    gnutls_x509_crt_deinit(cert);
    gnutls_x509_privkey_deinit(key);
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

struct world {
    struct edge *edge;
    char folder[32], cert_path[64], key_path[64], options[2][128];
    struct pair old, new; /* RSA, and the curve that is used most */
};

static void install(struct world *world, const gnutls_datum_t *cert, const gnutls_datum_t *key)
{
    write_file(world->cert_path, cert->data, cert->size);
    write_file(world->key_path, key->data, key->size);
}

static int make_world(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    assert_non_null(world);
    (void)snprintf(world->folder, sizeof world->folder, "/tmp/serverd-tls-XXXXXX");
    assert_non_null(mkdtemp(world->folder));
    (void)snprintf(world->cert_path, sizeof world->cert_path, "%s/cert.pem", world->folder);
    (void)snprintf(world->key_path, sizeof world->key_path, "%s/key.pem", world->folder);
    (void)snprintf(world->options[0], sizeof world->options[0], "tls-cert=%s", world->cert_path);
    (void)snprintf(world->options[1], sizeof world->options[1], "tls-key=%s", world->key_path);
    make_pair(&world->old, GNUTLS_PK_RSA, 2048);
    make_pair(&world->new, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1));
    install(world, &world->old.cert, &world->old.key);
    *state = world;
    return 0;
}

static int start(void **state)
{
    (void)make_world(state);
    struct world *world = *state;
    world->edge = edge_create(&(struct edge_setup){
        .device = SLOW, .options = {world->options[0], world->options[1], "http-threads=2"}});
    return 0;
}

static int stop(void **state)
{
    struct world *world = *state;
    if (world->edge)
        edge_destroy(world->edge);
    (void)unlink(world->cert_path);
    (void)unlink(world->key_path);
    (void)rmdir(world->folder);
    gnutls_free(world->old.cert.data);
    gnutls_free(world->old.key.data);
    gnutls_free(world->new.cert.data);
    gnutls_free(world->new.key.data);
    free(world);
    return 0;
}

/* ---- a client ------------------------------------------------------------------------------- */

struct client {
    int fd;
    gnutls_session_t session;
    gnutls_certificate_credentials_t trust;
};

/* Trusts that certificate alone. The handshake's result is returned. */
static int client_open(struct client *client, const struct world *world, const gnutls_datum_t *cert,
                       const char *priorities)
{
    client->fd = client_connect(world->edge);
    assert_true(client->fd >= 0);
    must(gnutls_certificate_allocate_credentials(&client->trust));
    must(gnutls_certificate_set_x509_trust_mem(client->trust, cert, GNUTLS_X509_FMT_PEM));
    must(gnutls_init(&client->session, GNUTLS_CLIENT));
    must(gnutls_priority_set_direct(client->session, priorities, NULL));
    must(gnutls_credentials_set(client->session, GNUTLS_CRD_CERTIFICATE, client->trust));
    must(gnutls_server_name_set(client->session, GNUTLS_NAME_DNS, "localhost", 9));
    gnutls_session_set_verify_cert(client->session, "localhost", 0);
    gnutls_transport_set_int(client->session, client->fd);
    gnutls_handshake_set_timeout(client->session, 10000);
    int code;
    do
        code = gnutls_handshake(client->session);
    while (code < 0 && !gnutls_error_is_fatal(code));
    return code;
}

static void client_close(struct client *client)
{
    (void)gnutls_bye(client->session, GNUTLS_SHUT_WR);
    gnutls_deinit(client->session);
    gnutls_certificate_free_credentials(client->trust);
    (void)close(client->fd);
}

static void tls_send(struct client *client, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t sent = gnutls_record_send(client->session, bytes, n);
        assert_true(sent > 0);
        bytes += sent;
        n -= (size_t)sent;
    }
}

static void tls_post(struct client *client, const char *body)
{
    char head[256];
    int n = snprintf(head, sizeof head,
                     "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: "
                     "application/json\r\nContent-Length: %zu\r\n\r\n",
                     strlen(body));
    tls_send(client, head, (size_t)n);
    tls_send(client, body, strlen(body));
}

/* Until the text has come. */
static bool tls_wait_for(struct client *client, const char *text)
{
    struct buffer got;
    buffer_init(&got, 16 * 1024 * 1024);
    bool is_there = false;
    while (!is_there) {
        char block[4096];
        ssize_t n = gnutls_record_recv(client->session, block, sizeof block);
        if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
            continue;
        if (n <= 0)
            break;
        buffer_append(&got, block, (size_t)n);
        is_there = strstr(buffer_str(&got), text) != NULL;
    }
    buffer_deinit(&got);
    return is_there;
}

static void check_health(struct client *client)
{
    tls_send(client, GET, strlen(GET));
    assert_true(tls_wait_for(client, "{\"status\":\"ok\"}"));
}

/* ---- facts ---------------------------------------------------------------------------------- */

static void requests_and_streams_go_over_tls(void **state)
{
    struct world *world = *state;
    static const char *const versions[] = {"NORMAL:-VERS-ALL:+VERS-TLS1.3",
                                           "NORMAL:-VERS-ALL:+VERS-TLS1.2"};
    assert_true(server_has_tls(world->edge->server));
    for (size_t i = 0; i < 2; i++) {
        struct client client;
        must(client_open(&client, world, &world->old.cert, versions[i]));
        for (int round = 0; round < 3; round++) {
            check_health(&client);
            tls_post(&client, STREAM);
            assert_true(tls_wait_for(&client, "data: [DONE]\n\n"));
            tls_post(&client, SHORT);
            assert_true(tls_wait_for(&client, "\"usage\""));
        }
        client_close(&client);
    }
    edge_wait_idle(world->edge);
}

static void old_versions_and_plain_text_are_refused(void **state)
{
    struct world *world = *state;
    struct client client;
    assert_true(client_open(&client, world, &world->old.cert, "NORMAL:-VERS-ALL:+VERS-TLS1.1") < 0);
    client_close(&client);
    char *reply = client_talk(world->edge, GET, strlen(GET));
    assert_null(strstr(reply, "HTTP/1.1 200"));
    free(reply);
    must(client_open(&client, world, &world->old.cert, "NORMAL"));
    check_health(&client);
    client_close(&client);
}

static void a_client_that_leaves_is_noticed(void **state)
{
    struct world *world = *state;
    struct client client;
    must(client_open(&client, world, &world->old.cert, "NORMAL"));
    tls_post(&client, "{\"prompt\":\"x\",\"max_tokens\":500,\"ignore_eos\":true}");
    assert_true(edge_waits_for_running(world->edge, 1));
    client_close(&client);
    edge_wait_idle(world->edge);
    assert_true(edge_metric(world->edge, "outcome=\"cancelled\"} ") == 1);
}

static void a_handshake_that_takes_too_long_is_ended(void **state)
{
    struct world *world = *state;
    int fd = client_connect(world->edge);
    client_send(fd, "\x16\x03\x01", 3); /* the begin of a record */
    assert_false(client_is_closed(fd, 100));
    edge_advance(world->edge, 11);
    assert_true(client_is_closed(fd, 5000));
    (void)close(fd);
}

static void a_new_certificate_is_for_new_connections(void **state)
{
    struct world *world = *state;
    struct client before, after, wrong;
    serverd_error err;
    must(client_open(&before, world, &world->old.cert, "NORMAL"));
    tls_post(&before, STREAM);
    install(world, &world->new.cert, &world->new.key);
    assert_int_equal(server_reload_certificate(world->edge->server, &err), SERVERD_OK);
    must(client_open(&after, world, &world->new.cert, "NORMAL"));
    check_health(&after);
    assert_true(tls_wait_for(&before, "data: [DONE]\n\n"));
    check_health(&before);
    client_close(&before);
    assert_true(client_open(&wrong, world, &world->old.cert, "NORMAL") < 0);
    client_close(&wrong);
    client_close(&after);
}

static void a_broken_pair_changes_nothing(void **state)
{
    struct world *world = *state;
    serverd_error err;
    const gnutls_datum_t text = {(unsigned char *)"no certificate", 14},
                         empty = {(unsigned char *)"", 0};
    const gnutls_datum_t *const pairs[][2] = {{&world->new.cert, &world->old.key},
                                              {&world->old.cert, &world->new.key},
                                              {&text, &world->old.key},
                                              {&world->old.cert, &text},
                                              {&world->old.cert, &world->old.cert},
                                              {&empty, &empty}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        install(world, pairs[i][0], pairs[i][1]);
        assert_int_equal(server_reload_certificate(world->edge->server, &err), SERVERD_INVALID);
        assert_non_null(strstr(err.text, world->key_path));
    }
    (void)unlink(world->key_path);
    assert_int_not_equal(server_reload_certificate(world->edge->server, &err), SERVERD_OK);
    assert_non_null(strstr(err.text, "tls-key"));
    struct client client;
    must(client_open(&client, world, &world->old.cert, "NORMAL"));
    check_health(&client);
    client_close(&client);
}

static void one_file_without_the_other_is_refused(void **state)
{
    struct world *world = *state;
    struct options options;
    serverd_error err;
    struct server *server = NULL;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(options_init(&options, &err), SERVERD_OK);
        assert_int_equal(options_set(&options, i ? "tls-key" : "tls-cert",
                                     i ? world->key_path : world->cert_path, OPTION_COMMAND_LINE,
                                     &err),
                         SERVERD_OK);
        const struct server_options setup = {
            .context = {.options = &options, .clock = &system_clock}};
        assert_int_equal(server_create(&setup, &server, &err), SERVERD_INVALID);
        assert_non_null(strstr(err.text, i ? "tls-cert is missing" : "tls-key is missing"));
        options_deinit(&options);
    }
}

/* ---- many ----------------------------------------------------------------------------------- */

static void *ask_often(void *context)
{
    struct world *world = context;
    /* either is fine: which one a connection gets depends on when it comes */
    gnutls_datum_t both;
    both.size = world->old.cert.size + world->new.cert.size;
    both.data = malloc(both.size);
    assert_non_null(both.data);
    memcpy(both.data, world->old.cert.data, world->old.cert.size);
    memcpy(both.data + world->old.cert.size, world->new.cert.data, world->new.cert.size);
    for (int round = 0; round < N_ROUNDS; round++) {
        struct client client;
        must(client_open(&client, world, &both, "NORMAL"));
        tls_post(&client, SHORT);
        assert_true(tls_wait_for(&client, "\"usage\""));
        tls_post(&client, STREAM);
        if (round % 3 != 2) /* else it leaves in the midst of it */
            assert_true(tls_wait_for(&client, "data: [DONE]\n\n"));
        client_close(&client);
    }
    free(both.data);
    return NULL;
}

static void certificates_change_under_load(void **state)
{
    struct world *world = *state;
    pthread_t threads[N_CLIENTS];
    serverd_error err;
    for (int i = 0; i < N_CLIENTS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_often, world), 0);
    for (int i = 0; i < 40; i++) {
        const struct pair *pair = i % 2 ? &world->old : &world->new;
        install(world, &pair->cert, &pair->key);
        assert_int_equal(server_reload_certificate(world->edge->server, &err), SERVERD_OK);
        (void)usleep(20000);
    }
    for (int i = 0; i < N_CLIENTS; i++)
        (void)pthread_join(threads[i], NULL);
    edge_wait_idle(world->edge);
}

#define FACT(f) cmocka_unit_test_setup_teardown(f, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FACT(requests_and_streams_go_over_tls),
        FACT(old_versions_and_plain_text_are_refused),
        FACT(a_client_that_leaves_is_noticed),
        FACT(a_handshake_that_takes_too_long_is_ended),
        FACT(a_new_certificate_is_for_new_connections),
        FACT(a_broken_pair_changes_nothing),
        cmocka_unit_test_setup_teardown(one_file_without_the_other_is_refused, make_world, stop),
        FACT(certificates_change_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
