"""lm-evaluation-harness: log likelihoods of a local task through the completions, tokenised by the server, and
generated answers through completions and chats."""
import pathlib

import lm_eval
import pytest

DATA = pathlib.Path(__file__).parent / "data"

TASK = {"task": "local_choices", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(DATA / "multiple_choice.jsonl")}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}", "metric_list": [{"metric": "acc"}]}


@pytest.mark.parametrize("tokenized", [False, True])
def test_log_likelihoods(base_url, tokenized):
    results = lm_eval.simple_evaluate(model="local-completions", tasks=[dict(TASK)], model_args={
        "base_url": base_url + "/completions", "model": "default", "tokenizer_backend": "remote",
        "tokenized_requests": tokenized, "num_concurrent": 2, "max_retries": 1})
    assert results["results"]["local_choices"]["acc,none"] == 1.0


GENERATION = {"task": "local_answers", "dataset_path": "json", "test_split": "test", "output_type": "generate_until",
              "dataset_kwargs": {"data_files": {"test": str(DATA / "generation.jsonl")}},
              "doc_to_text": "{{q}}", "doc_to_target": "{{a}}",
              "generation_kwargs": {"until": ["\n\n", "<|im_end|>"], "max_gen_toks": 24, "do_sample": False, "temperature": 0},
              "filter_list": [{"name": "words", "filter": [
                  {"function": "regex", "regex_pattern": "(?i)(paris|hello|banana)"}, {"function": "take_first"}]}],
              "metric_list": [{"metric": "exact_match", "ignore_case": True}]}


@pytest.mark.parametrize("n_concurrent", [1, 3])
def test_chat_answers(base_url, n_concurrent):
    results = lm_eval.simple_evaluate(model="local-chat-completions", tasks=[dict(GENERATION)], apply_chat_template=True,
                                      system_instruction="Be short.", model_args={
                                          "base_url": base_url + "/chat/completions", "model": "default",
                                          "num_concurrent": n_concurrent, "max_retries": 1})
    assert results["results"]["local_answers"]["exact_match,words"] >= 2 / 3
    assert all(isinstance(sample["resps"][0][0], str) for sample in results["samples"]["local_answers"])


def test_completed_answers(base_url):
    results = lm_eval.simple_evaluate(model="local-completions", tasks=[dict(GENERATION)], model_args={
        "base_url": base_url + "/completions", "model": "default", "tokenizer_backend": "remote", "num_concurrent": 2,
        "max_retries": 1})
    assert len(results["samples"]["local_answers"]) == 3
