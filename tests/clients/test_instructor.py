import instructor
import openai
import pytest
from pydantic import BaseModel, Field


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def test_extraction(base_url, mode):
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as c:
        client = instructor.from_openai(c, mode=mode)
        person = client.chat.completions.create(model="default", response_model=Person, max_retries=0, temperature=0,
                                                max_tokens=100,
                                                messages=[{"role": "user", "content": "Tom is 42 years old."}])
        assert isinstance(person, Person)
