/* Formats by examples of their RFCs; production is a part of what is checked. */
#include "grammar/format.h"
#include "regular_fixture.h"

#include <stdio.h>

struct format_case {
    const char *format, *text;
    bool is_valid;
};

static const struct format_case cases[] = {
    {"date", "1963-06-19", true},
    {"date", "2020-02-29", true},
    {"date", "2021-02-29", false},
    {"date", "2000-02-29", true},
    {"date", "1900-02-29", false},
    {"date", "2020-02-30", false},
    {"date", "2020-04-31", false},
    {"date", "2020-13-01", false},
    {"date", "1998-1-20", false},
    {"date", "1963-06-1\xe0\xa7\xaa", false},
    {"date", "20230328", false},
    {"time", "08:30:06Z", true},
    {"time", "08:30:06.283185z", true},
    {"time", "08:30:06", false},
    {"time", "24:00:00Z", false},
    {"time", "08:60:00Z", false},
    {"time", "23:59:60Z", true},
    {"time", "22:59:60Z", false},
    {"time", "23:59:60+00:00", true},
    {"time", "01:29:60+01:30", true},
    {"time", "23:29:60+23:30", true},
    {"time", "15:59:60-08:00", true},
    {"time", "00:29:60-23:30", true},
    {"time", "23:59:60+01:00", false},
    {"time", "23:59:60.5-00:00", true},
    {"time", "12:00:00+24:00", false},
    {"time", "12:00:00.Z", false},
    {"date-time", "1963-06-19T08:30:06.283185Z", true},
    {"date-time", "1963-06-19t08:30:06.283185z", true},
    {"date-time", "1998-12-31T15:59:60.123-08:00", true},
    {"date-time", "1998-12-31T23:58:60Z", false},
    {"date-time", "1963-06-19 08:30:06Z", false},
    {"date-time", "2013-350T01:01:01", false},
    {"date-time", "1990-02-31T15:59:59.123-08:00", false},
    {"date-time", "1990-12-31T15:59:59-24:00", false},
    {"duration", "P4DT12H30M5S", true},
    {"duration", "P4Y", true},
    {"duration", "PT0S", true},
    {"duration", "P2W", true},
    {"duration", "P1YT1M", true},
    {"duration", "P", false},
    {"duration", "P1YT", false},
    {"duration", "PT", false},
    {"duration", "P1", false},
    {"duration", "PT1D", false},
    {"duration", "P1D2H", false},
    {"duration", "P2D1Y", false},
    {"duration", "P1Y2W", false},
    {"duration", "4DT12H30M5S", false},
    {"email", "joe.bloggs@example.com", true},
    {"email", "te~st@example.com", true},
    {"email", "\"joe bloggs\"@example.com", true},
    {"email", "\"joe..bloggs\"@example.com", true},
    {"email", "\"joe@bloggs\"@example.com", true},
    {"email", "joe.bloggs@[127.0.0.1]", true},
    {"email", "joe.bloggs@[127.0.0.300]", false},
    {"email", "joe.bloggs@[IPv6:::1]", true},
    {"email", "2962", false},
    {"email", ".test@example.com", false},
    {"email", "test.@example.com", false},
    {"email", "te..st@example.com", false},
    {"email", "joe.bloggs@invalid=domain.com", false},
    {"email", "joe@a@b.com", false},
    {"hostname", "www.example.com", true},
    {"hostname", "xn--4gbwdl.xn--wgbh1c", true},
    {"hostname", "1host", true},
    {"hostname", "-a-host-name-that-starts-with--", false},
    {"hostname", "not_a_valid_host_name", false},
    {"hostname", "host-", false},
    {"hostname", "", false},
    {"hostname", ".", false},
    {"hostname", "hostname.", false},
    {"hostname", ".hostname", false},
    {"hostname", "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk.com", true},
    {"hostname", "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl.com", false},
    {"ipv4", "192.168.0.1", true},
    {"ipv4", "127.0.0.0.1", false},
    {"ipv4", "256.256.256.256", false},
    {"ipv4", "127.0", false},
    {"ipv4", "0x7f000001", false},
    {"ipv4", "2130706433", false},
    {"ipv4", "087.10.0.1", false},
    {"ipv4", "87.10.0.1", true},
    {"ipv4", "1\xe0\xa7\xa7.0.0.1", false},
    {"ipv6", "::1", true},
    {"ipv6", "::", true},
    {"ipv6", "::abef", true},
    {"ipv6", "12345::", false},
    {"ipv6", "::laptop", false},
    {"ipv6", "1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1", false},
    {"ipv6", "::42:ff:1", true},
    {"ipv6", "d6::", true},
    {"ipv6", ":2:3:4:5:6:7:8", false},
    {"ipv6", "1:2:3:4:5:6:7:", false},
    {"ipv6", "1:d6::42", true},
    {"ipv6", "1::d6::42", false},
    {"ipv6", "1::d6:192.168.0.1", true},
    {"ipv6", "1:2::192.168.0.1", true},
    {"ipv6", "1::2:192.168.256.1", false},
    {"ipv6", "::ffff:192.168.0.1", true},
    {"ipv6", "1:2:3:4:5:::8", false},
    {"ipv6", "1:2:3:4:5:6:7:8", true},
    {"ipv6", "1:2:3:4:5:6:7::", true},
    {"ipv6", "1:2:3:4:5:6:7::8", false},
    {"ipv6", "1:2:3:4:5:6:7", false},
    {"ipv6", "1", false},
    {"ipv6", "127.0.0.1", false},
    {"ipv6", "1:2:3:4:1.2.3", false},
    {"ipv6", "  ::1", false},
    {"ipv6", "fe80::/64", false},
    {"ipv6", "fe80::a%eth1", false},
    {"ipv6", "1000:1000:1000:1000:1000:1000:255.255.255.255", true},
    {"ipv6", "100:100:100:100:100:100:100:255.255.255.255", false},
    {"uri", "http://foo.bar/?baz=qux#quux", true},
    {"uri", "http://foo.com/blah_(wikipedia)_blah#cite-1", true},
    {"uri", "http://foo.bar/?q=Test%20URL-encoded%20stuff", true},
    {"uri", "http://xn--nw2a.xn--j6w193g/", true},
    {"uri", "http://-.~_!$&'()*+,;=:%40:80%2f::::::@example.com", true},
    {"uri", "http://223.255.255.254", true},
    {"uri", "ftp://ftp.is.co.za/rfc/rfc1808.txt", true},
    {"uri", "ldap://[2001:db8::7]/c=GB?objectClass?one", true},
    {"uri", "mailto:John.Doe@example.com", true},
    {"uri", "news:comp.infosystems.www.servers.unix", true},
    {"uri", "tel:+1-816-555-1212", true},
    {"uri", "urn:oasis:names:specification:docbook:dtd:xml:4.1.2", true},
    {"uri", "http://foo.bar:", true},
    {"uri", "//foo.bar/?baz=qux#quux", false},
    {"uri", "/abc", false},
    {"uri", "\\\\WINDOWS\\fileshare", false},
    {"uri", "abc", false},
    {"uri", "http:// shouldfail.com", false},
    {"uri", ":// should fail", false},
    {"uri", "bar,baz:foo", false},
    {"uri", "https://[@example.org/test.txt", false},
    {"uri", "https://example.org/foobar\\.txt", false},
    {"uri", "https://example.org/foobar<>.txt", false},
    {"uri", "https://example.org/foobar{}.txt", false},
    {"uri", "https://example.org/foobar^.txt", false},
    {"uri", "https://example.org/foobar`.txt", false},
    {"uri", "https://example.org/foo bar.txt", false},
    {"uri", "https://example.org/foobar|.txt", false},
    {"uri", "http://a/%zz", false},
    {"uri-reference", "//foo.bar/?baz=qux#quux", true},
    {"uri-reference", "/abc", true},
    {"uri-reference", "abc", true},
    {"uri-reference", "#fragment", true},
    {"uri-reference", "", true},
    {"uri-reference", "#frag\\ment", false},
    {"uri-reference", "\\\\WINDOWS\\fileshare", false},
    {"uri-reference", "1a:b", false},
    {"uri-template", "http://example.com/dictionary/{term:1}/{term}", true},
    {"uri-template", "http://example.com/dictionary/{term:1}/{term", false},
    {"uri-template", "http://example.com/dictionary", true},
    {"uri-template", "dictionary/{term:1}/{term}", true},
    {"uri-template", "{?x,y*,z:12345}", false},
    {"uri-template", "{?x,y*,z:1234}", true},
    {"uri-template", "a b", false},
    {"uuid", "2EB8AA08-AA98-11EA-B4AA-73B441D16380", true},
    {"uuid", "2eb8aa08-aa98-11ea-b4aa-73b441d16380", true},
    {"uuid", "2eb8aa08-aa98-11ea-b4aa-73b441d1638", false},
    {"uuid", "2eb8aa08aa9811eab4aa73b441d16380", false},
    {"uuid", "2eb8aa08aa98-11ea-b4aa73b441d16380", false},
    {"uuid", "00000000-0000-0000-0000-000000000000", true},
    {"byte", "", true},
    {"byte", "Zm9vYg==", true},
    {"byte", "Zm9vYmE=", true},
    {"byte", "Zm9vYmE", false},
    {"byte", "Zm9v Yg==", false},
};

static void texts_are_judged_by_their_rfc(void **state)
{
    const char *before = "";
    struct string_set set = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *name = cases[i].format;
        if (strcmp(name, before) != 0) {
            begin();
            uint64_t start = clock_now_ns(&system_clock);
            if (format_set(&budget, name, strlen(name), FORMAT_CHECK, &set, &err) != SERVERD_OK)
                fail_msg("%s: %s", name, err.text);
            print_message("%s: %u states, %u us\n", name, set.automaton->n_states,
                          (unsigned)((clock_now_ns(&system_clock) - start) / 1000));
            before = name;
        }
        if (has(&set, cases[i].text) != cases[i].is_valid)
            fail_msg("%s '%s'", name, cases[i].text);
    }
    end();
}

static void what_is_produced_is_valid(void **state)
{
    static const char *const names[] = {"date-time",    "date", "time", "duration", "email",
                                        "hostname",     "ipv4", "ipv6", "uri",      "uri-reference",
                                        "uri-template", "uuid", "byte"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct string_set checked, produced;
        bool is_part;
        begin();
        size_t n = strlen(names[i]);
        assert_true(format_is_known(names[i], n));
        assert_int_equal(format_set(&budget, names[i], n, FORMAT_CHECK, &checked, &err),
                         SERVERD_OK);
        assert_int_equal(format_set(&budget, names[i], n, FORMAT_PRODUCE, &produced, &err),
                         SERVERD_OK);
        assert_false(string_set_is_empty(&produced));
        assert_true(checked.min == produced.min && checked.max == produced.max);
        assert_int_equal(
            automaton_includes(&budget, checked.automaton, produced.automaton, &is_part, &err),
            SERVERD_OK);
        assert_true(is_part);
        const struct dfa *dfa = spelled(&produced, SPELLING_JSON);
        print_message("%s: %u states, %u classes of bytes, %zu bytes\n", names[i], dfa->n_states,
                      dfa->n_classes, dfa_bytes(dfa));
    }
    assert_false(format_is_known("iri", 3));
    assert_false(format_is_known("dat", 3));
    end();
}

static void long_host_names_end_at_253(void **state)
{
    struct string_set set;
    char name[300];
    begin();
    assert_int_equal(format_set(&budget, "hostname", 8, FORMAT_CHECK, &set, &err), SERVERD_OK);
    for (size_t i = 0; i < sizeof name; i++)
        name[i] = i % 50 == 49 ? '.' : 'a';
    assert_true(string_set_has(&set, name, 253));
    assert_false(string_set_has(&set, name, 254));
    const struct dfa *dfa = spelled(&set, SPELLING_JSON);
    assert_true(dfa_accepts(dfa, name, 253));
    assert_false(dfa_accepts(dfa, name, 254));
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_judged_by_their_rfc),
        cmocka_unit_test(what_is_produced_is_valid),
        cmocka_unit_test(long_host_names_end_at_253),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
