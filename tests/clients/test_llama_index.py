import pytest
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

@pytest.fixture
def llm(base_url):
    return OpenAILike(model="default", api_base=base_url, api_key="none", is_chat_model=True, max_retries=0,
                      is_function_calling_model=True, temperature=0, max_tokens=100, context_window=4096)


def test_chat_and_stream(llm):
    messages = [ChatMessage(role="user", content="What is the capital of France?")]
    whole = llm.chat(messages)
    assert "Paris" in whole.message.content
    assert "".join(c.delta or "" for c in llm.stream_chat(messages)) == whole.message.content


def test_complete(llm):
    plain = OpenAILike(model="default", api_base=llm.api_base, api_key="none", is_chat_model=False, temperature=0,
                       max_tokens=8, max_retries=0, context_window=4096)
    assert "Paris" in plain.complete("The capital of France is").text
