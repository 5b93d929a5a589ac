#!/usr/bin/env python3
"""Use a running server through litellm and langchain-openai and check what comes back.

    pip install litellm langchain-openai
    frameworks.py --url http://127.0.0.1:8080 [--key KEY] [--model NAME]
"""
import argparse
import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks for one on the net
import litellm
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
                   "required": ["city"], "additionalProperties": False}}}


class Person(BaseModel):
    """A person."""
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=99)


def by_litellm(a):
    ask = {"model": f"openai/{a.model}", "api_base": a.url + "/v1", "api_key": a.key,
           "messages": [{"role": "user", "content": "Name a colour."}], "temperature": 0,
           "max_tokens": 16, "num_retries": 0}
    whole = litellm.completion(**ask)
    text = whole.choices[0].message.content
    assert text and whole.usage.completion_tokens > 0
    pieces = litellm.completion(stream=True, **ask)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == text
    print("ok      litellm: chat and stream")

    ask["max_tokens"] = 200
    call = litellm.completion(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, **ask)
    call = call.choices[0].message.tool_calls[0].function
    assert call.name == "get_weather" and json.loads(call.arguments)["city"]
    print("ok      litellm: tools")

    try:
        litellm.completion(**{**ask, "temperature": -1})
    except litellm.BadRequestError as e:
        assert "temperature" in str(e)
    else:
        raise AssertionError("a negative temperature was not refused")
    print("ok      litellm: refusals")


def by_langchain(a):
    model = ChatOpenAI(model=a.model, base_url=a.url + "/v1", api_key=a.key, temperature=0,
                       max_tokens=200, max_retries=0)
    ask = [SystemMessage("Be brief."), HumanMessage("Name a colour.")]
    whole = model.invoke(ask)
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    assert "".join(piece.content for piece in model.stream(ask)) == whole.content
    assert len(model.batch([ask] * 3)) == 3
    print("ok      langchain: chat, stream and batch")

    call = model.bind_tools([TOOL], tool_choice="get_weather").invoke(ask).tool_calls[0]
    assert call["name"] == "get_weather" and call["args"]["city"]
    person = model.with_structured_output(Person, method="json_schema").invoke("Invent a person.")
    assert isinstance(person, Person)
    print("ok      langchain: tools and structured output")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--url", default="http://127.0.0.1:8080")
    p.add_argument("--key", default="none")
    p.add_argument("--model", default="default")
    a = p.parse_args()
    by_litellm(a)
    by_langchain(a)


main()
