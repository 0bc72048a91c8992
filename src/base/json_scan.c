#include "base/json_scan.h"

#include "base/limits.h"

#include <stdbool.h>

const char *json_scan(const char *text, size_t n, size_t max_values)
{
    size_t depth = 0, n_values = 1, number = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
            continue;
        }
        bool is_number =
            (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
        number = is_number ? number + 1 : 0;
        in_string = c == '"';
        depth += c == '{' || c == '[';
        n_values += c == '{' || c == '[' || c == ',' || c == ':';
        if (depth > LIMIT_JSON_DEPTH)
            return "is nested too deeply";
        if (n_values > max_values)
            return "holds too many values";
        if (number > LIMIT_JSON_NUMBER_BYTES)
            return "holds a number that is too long";
        if ((c == '}' || c == ']') && depth > 0)
            depth--;
    }
    return NULL;
}
