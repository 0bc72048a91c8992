/* The handlers that routes.def names. */
#ifndef SERVER_ENDPOINTS_H
#define SERVER_ENDPOINTS_H

struct exchange;

/* models.c */
void endpoint_models_list(struct exchange *x);
void endpoint_models_get(struct exchange *x);
void endpoint_load_model(struct exchange *x);
void endpoint_unload_model(struct exchange *x);
/* openai_chat.c */
void endpoint_chat_completions(struct exchange *x);
void endpoint_apply_template(struct exchange *x);
/* openai_completions.c */
void endpoint_completions(struct exchange *x);
/* responses.c */
void endpoint_responses(struct exchange *x);
void endpoint_responses_input_tokens(struct exchange *x);
void endpoint_chat_input_tokens(struct exchange *x);
void endpoint_responses_get(struct exchange *x);
void endpoint_responses_cancel(struct exchange *x);
void endpoint_responses_delete(struct exchange *x);
/* anthropic.c */
void endpoint_messages(struct exchange *x);
void endpoint_count_tokens(struct exchange *x);
/* sglang.c */
void endpoint_generate(struct exchange *x);
void endpoint_abort_request(struct exchange *x);
/* llama.c */
void endpoint_llama_completion(struct exchange *x);
void endpoint_infill(struct exchange *x);
/* embeddings.c */
void endpoint_embeddings(struct exchange *x);
/* rerank.c */
void endpoint_rerank(struct exchange *x);
void endpoint_rerank_v2(struct exchange *x);
/* score.c */
void endpoint_score(struct exchange *x);
/* files.c */
void endpoint_files_create(struct exchange *x);
void endpoint_files_list(struct exchange *x);
void endpoint_files_get(struct exchange *x);
void endpoint_files_delete(struct exchange *x);
/* batches.c */
void endpoint_batches_create(struct exchange *x);
void endpoint_batches_list(struct exchange *x);
void endpoint_batches_get(struct exchange *x);
void endpoint_batches_cancel(struct exchange *x);
/* programs/program_routes.c */
void endpoint_programs_list(struct exchange *x);
void endpoint_programs_get(struct exchange *x);
void endpoint_programs_put(struct exchange *x);
void endpoint_programs_delete(struct exchange *x);
void endpoint_programs_run(struct exchange *x);
void endpoint_programs_inline(struct exchange *x);
/* programs/run_routes.c */
void endpoint_program_runs_get(struct exchange *x);
void endpoint_program_runs_delete(struct exchange *x);
void endpoint_program_runs_post(struct exchange *x);
/* tokenize.c */
void endpoint_tokenize(struct exchange *x);
void endpoint_detokenize(struct exchange *x);
/* adapters.c */
void endpoint_load_adapter(struct exchange *x);
void endpoint_unload_adapter(struct exchange *x);
/* debug.c */
void endpoint_debug_kvcache(struct exchange *x);
void endpoint_debug_trace(struct exchange *x);
/* operation.c */
void endpoint_drain(struct exchange *x);
void endpoint_undrain(struct exchange *x);
void endpoint_flush_cache(struct exchange *x);
void endpoint_loads(struct exchange *x);
void endpoint_server_info(struct exchange *x);
void endpoint_slots(struct exchange *x);
/* model_info.c */
void endpoint_model_info(struct exchange *x);
void endpoint_props(struct exchange *x);
void endpoint_tokenizer_info(struct exchange *x);
/* health_generate.c */
void endpoint_health_generate(struct exchange *x);
/* health.c */
void endpoint_health(struct exchange *x);
void endpoint_live(struct exchange *x);
void endpoint_ready(struct exchange *x);
void endpoint_version(struct exchange *x);
void endpoint_metrics(struct exchange *x);
void endpoint_root(struct exchange *x);

#endif
