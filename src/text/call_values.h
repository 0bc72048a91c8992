/* Arguments that models write in other forms than JSON, as JSON. */
#ifndef TEXT_CALL_VALUES_H
#define TEXT_CALL_VALUES_H

#include "text/call_reader.h"

/* A tagged parameter's text: one line break at each end and a CDATA frame go; then it is itself as
 * a string, or the JSON value that it is, or else a string. */
void call_value_to_json(const char *text, size_t n, bool is_string, struct buffer *out);

/* [f(a=1, b="x"), g()] with Python's literals. False: it is none. */
bool call_python_parse(const char *text, size_t n, struct tool_call_list *out);

/* {key:<|"|>text<|"|>,other:[1,true]} with bare keys. False: it is none. */
bool call_object_to_json(const char *text, size_t n, struct buffer *out);

#endif
