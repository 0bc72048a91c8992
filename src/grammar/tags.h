/* Structural tags: free text in which some strings announce text of a given form.
 *
 *   {"structures": [{"begin": ..., "schema": {...}, "end": ...}], "triggers": [...]}
 *   {"format": {...}} with a `type`:
 *     const_string {value}            json_schema {json_schema}     regex {pattern}
 *     grammar {grammar}               any_text                      sequence, or {elements}
 *     tag {begin, content, end}
 *     triggered_tags {triggers, tags, at_least_one, stop_after_first}
 *     tags_with_separator {tags, separator, at_least_one, stop_after_first}
 *
 * and, of which calls of tools are made:
 *     token {token}                     that control token of the vocabulary
 *     string {schema, stop, is_framed}  a string of the schema as it is, without `stop` in it;
 *                                       framed: nor what readers of tagged values take off
 *     members {members: [{content, is_required}], separator}   in order
 *     repeat {content, separator, min, max}                    separator: a text or a format
 *     interleaved {triggers, parts: [{begin, content, is_last}]}
 *                                       free text with parts in it; triggers only begin parts
 *     text_unless {unless}              any text that begins with none of these, white space apart
 *
 * Free text goes on to the first trigger in it; then one of the tags that begin with that trigger
 * has to follow. With at_least_one the text may not be over before a tag. As the content of a tag
 * any_text goes on to the first `end`. */
#ifndef GRAMMAR_TAGS_H
#define GRAMMAR_TAGS_H

#include "grammar/machine_build.h"

/* Appends the code of `tags`, which runs into what is appended next. *code: see grammar_compile. */
serverd_status tags_compile(struct machine_builder *builder, const struct json_value *tags,
                            const char **code, serverd_error *err);

#endif
