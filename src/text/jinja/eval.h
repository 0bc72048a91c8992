/* One rendering: the state that all parts of the evaluator share. Functions that return a value
 * return NULL after having filled ev->err; the first error wins. */
#ifndef TEXT_JINJA_EVAL_H
#define TEXT_JINJA_EVAL_H

#include "base/buffer.h"
#include "base/clock.h"
#include "text/chat_template.h"
#include "text/jinja/ast.h"

struct scope {
    struct scope *parent;
    struct template_value *names; /* map */
};

struct macro {
    const struct node *node;
    struct scope *scope; /* where it was defined */
};

struct loop_state {
    const struct node *node; /* of a recursive loop */
    struct scope *scope;     /* around the loop */
    struct template_value *items, *last_changed;
    size_t index;
    int64_t depth;
};

struct eval {
    struct arena *arena;
    const struct template_value *globals;
    const struct template_budget *budget;
    const struct clock *clock;
    struct buffer *out; /* of the innermost capture */
    struct scope *scope;
    const struct node *at; /* for error positions */
    uint64_t deadline_ns;  /* of processor_clock */
    uint32_t steps;
    unsigned depth;
    serverd_status status;
    serverd_error *err;
};

struct arguments {
    struct template_value **items; /* positional */
    size_t n;
    struct template_value *keywords; /* map, never NULL */
};

typedef struct template_value *jinja_function(struct eval *ev, struct template_value *self,
                                              const struct arguments *args);

struct jinja_entry {
    const char *name;
    jinja_function *call;
    size_t max_args;
};

/* NULL always. */
struct template_value *eval_fail(struct eval *ev, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool eval_step(struct eval *ev, size_t cost);

/* Wrap what an allocation returned: NULL becomes an error. */
struct template_value *eval_got(struct eval *ev, struct template_value *v);
struct template_value *eval_string(struct eval *ev, const char *s, size_t n);
struct template_value *eval_take(struct eval *ev, struct buffer *b); /* ends b */
struct template_value *eval_bool(struct eval *ev, bool b);
struct template_value *eval_int(struct eval *ev, int64_t i);
bool eval_add(struct eval *ev, struct template_value *list, struct template_value *item);
void eval_buffer(struct eval *ev, struct buffer *b); /* init with the output's bound */

struct template_value *eval_node(struct eval *ev, const struct node *n);
bool eval_body(struct eval *ev, const struct node *first, int *leave);
struct template_value *eval_capture(struct eval *ev, const struct node *body);
struct template_value *eval_call(struct eval *ev, struct template_value *f,
                                 const struct arguments *args);
struct template_value *eval_call_macro(struct eval *ev, const struct macro *m,
                                       const struct arguments *args);
struct template_value *eval_call_loop(struct eval *ev, struct loop_state *loop,
                                      struct template_value *items);
struct template_value *eval_attribute(struct eval *ev, struct template_value *v, struct text name);
struct template_value *eval_item(struct eval *ev, struct template_value *v,
                                 struct template_value *key);
struct template_value *eval_binary(struct eval *ev, int op, struct template_value *a,
                                   struct template_value *b);
int eval_compare(struct eval *ev, int op, struct template_value *a, struct template_value *b);
struct template_value *eval_list_of(struct eval *ev, struct template_value *v); /* iterate */
bool eval_assign(struct eval *ev, const struct node *target, struct template_value *v);
struct template_value *eval_method(struct eval *ev, struct template_value *self, struct text name,
                                   const struct arguments *args);
bool jinja_has_method(const struct template_value *v, struct text name);
struct template_value *eval_function(struct eval *ev, struct text name,
                                     const struct arguments *args);
bool jinja_has_function(struct text name);
bool jinja_has_filter(struct text name);
struct template_value *eval_filter(struct eval *ev, struct text name, struct template_value *v,
                                   const struct arguments *args);
int eval_test(struct eval *ev, struct text name, struct template_value *v,
              const struct arguments *args); /* -1: error */

/* Argument i, or the keyword; NULL if absent. */
struct template_value *argument(const struct arguments *args, size_t i, const char *name);

/* format.c */
bool format_str(struct eval *ev, struct buffer *b, const struct template_value *v);
bool format_repr(struct eval *ev, struct buffer *b, const struct template_value *v);
void format_float(struct buffer *b, double d);
struct template_value *format_text(struct eval *ev, struct template_value *v); /* str() */
struct template_value *format_json(struct eval *ev, struct template_value *v,
                                   const struct arguments *args);
struct template_value *format_percent(struct eval *ev, struct template_value *format,
                                      const struct arguments *args);
struct template_value *format_braces(struct eval *ev, struct template_value *format,
                                     const struct arguments *args);
size_t text_length(struct text t);           /* code points */
bool text_is_space(const char *s, size_t n); /* one character, as Python's isspace */
size_t text_offset(struct text t, size_t index);
struct text text_strip(struct text t, const struct template_value *chars,
                       int sides); /* 1 left, 2 right */

#endif
