/* A schema document: which draft it is written in, what its $id and $anchor name, and where its
 * references lead. Nothing outside the document is ever looked for. One thread; everything lies in
 * the budget's arena. */
#ifndef GRAMMAR_SCHEMA_DOCUMENT_H
#define GRAMMAR_SCHEMA_DOCUMENT_H

#include "grammar/budget.h"
#include "grammar/json_tree.h"

/* Drafts in the order of their age. */
enum schema_draft {
    DRAFT_4,
    DRAFT_6,
    DRAFT_7,
    DRAFT_2019,
    DRAFT_2020,
    DRAFT_UNSAID /* no $schema: 2020-12, and the older spellings that mean nothing else there */
};

struct schema_document;

/* SERVERD_INVALID: two anchors of one name; SERVERD_UNSUPPORTED: an unknown $schema. Of several
 * schemas with one $id the first is meant. */
serverd_status schema_document_create(struct grammar_budget *budget, const struct json_value *root,
                                      struct schema_document **out, serverd_error *err);

/* The draft that a schema of the document is written in. */
enum schema_draft schema_draft_of(const struct schema_document *document,
                                  const struct json_value *schema);

/* Where the reference of `keyword` ("$ref", "$dynamicRef", "$recursiveRef") in `schema` leads.
 * SERVERD_UNSUPPORTED: outside of the document, or a dynamic one with several targets. */
serverd_status schema_resolve(struct schema_document *document, const struct json_value *schema,
                              const char *keyword, const struct json_value **out,
                              serverd_error *err);

#endif
