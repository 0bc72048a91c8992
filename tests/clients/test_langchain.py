import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


@pytest.fixture
def chat(base_url):
    return ChatOpenAI(base_url=base_url, api_key="none", model="default", temperature=0, max_tokens=60, max_retries=0)


def test_invoke_and_stream(chat):
    messages = [SystemMessage("Be short."), HumanMessage("What is the capital of France?")]
    whole = chat.invoke(messages)
    assert "Paris" in whole.content and whole.usage_metadata["output_tokens"] > 0
    assert "".join(c.content for c in chat.stream(messages)) == whole.content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat, method):
    person = chat.with_structured_output(Person, method=method).invoke("Tom is 42 years old.")
    assert isinstance(person, Person)


def test_tools(chat):
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    reply = chat.bind_tools([add], tool_choice="required").invoke("What is 2 plus 3?")
    assert reply.tool_calls[0]["name"] == "add" and set(reply.tool_calls[0]["args"]) == {"a", "b"}
