"""lm-evaluation-harness: log likelihoods of a local task through the completions, tokenised by the server."""
import pathlib

import lm_eval
import pytest

DATA = pathlib.Path(__file__).parent / "data" / "multiple_choice.jsonl"

TASK = {"task": "local_choices", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(DATA)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}", "metric_list": [{"metric": "acc"}]}


@pytest.mark.parametrize("tokenized", [False, True])
def test_log_likelihoods(base_url, tokenized):
    results = lm_eval.simple_evaluate(model="local-completions", tasks=[dict(TASK)], model_args={
        "base_url": base_url + "/completions", "model": "default", "tokenizer_backend": "remote",
        "tokenized_requests": tokenized, "num_concurrent": 2, "max_retries": 1})
    assert results["results"]["local_choices"]["acc,none"] == 1.0
