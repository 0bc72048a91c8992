from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

import pytest


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
def test_text_and_output_type(base_url, kind):
    model = kind("default", provider=OpenAIProvider(base_url=base_url, api_key="none"))
    settings = {"temperature": 0, "max_tokens": 100}
    text = Agent(model, model_settings=settings).run_sync("What is the capital of France?")
    assert "Paris" in text.output
    person = Agent(model, output_type=Person, model_settings=settings).run_sync("Tom is 42 years old.")
    assert isinstance(person.output, Person)
