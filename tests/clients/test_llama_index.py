import pytest
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def llm(base_url):
    return OpenAILike(model="default", api_base=base_url, api_key="none", is_chat_model=True, max_retries=0,
                      is_function_calling_model=True, temperature=0, max_tokens=100, context_window=4096)


def test_chat_and_stream(llm):
    messages = [ChatMessage(role="user", content="What is the capital of France?")]
    whole = llm.chat(messages)
    assert "Paris" in whole.message.content
    assert "".join(c.delta or "" for c in llm.stream_chat(messages)) == whole.message.content


def test_structured(llm):
    person = llm.as_structured_llm(Person).chat([ChatMessage(role="user", content="Tom is 42 years old.")])
    assert isinstance(person.raw, Person)
