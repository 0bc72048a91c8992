import agents
import pytest
from openai import AsyncOpenAI


@pytest.mark.parametrize("kind", [agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel])
def test_a_run_with_a_tool(base_url, kind):
    agents.set_tracing_disabled(True)
    asked = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """Current weather of a city."""
        asked.append(city)
        return "sunny"

    model = kind("default", AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0))
    agent = agents.Agent("helper", instructions="Be short.", model=model, tools=[get_weather],
                         model_settings=agents.ModelSettings(temperature=0, max_tokens=60, tool_choice="required",
                                                               parallel_tool_calls=False))
    result = agents.Runner.run_sync(agent, "What is the weather in Paris?", max_turns=4)
    assert asked and isinstance(result.final_output, str)
