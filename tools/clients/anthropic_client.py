#!/usr/bin/env python3
"""Use a running server through the official Anthropic client and check what comes back.

    pip install anthropic
    anthropic_client.py --url http://127.0.0.1:8080 [--key KEY] [--model NAME]
"""
import argparse

import anthropic

TOOL = {"name": "get_weather", "description": "The weather in a city",
        "input_schema": {"type": "object", "required": ["city"], "additionalProperties": False,
                         "properties": {"city": {"type": "string", "maxLength": 20}}}}


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--url", default="http://127.0.0.1:8080")
    p.add_argument("--key", default="none")
    p.add_argument("--model", default="default")
    a = p.parse_args()
    client = anthropic.Anthropic(base_url=a.url, api_key=a.key, max_retries=0, timeout=120)
    ask = {"model": a.model, "max_tokens": 16, "extra_body": {"temperature": 0},
           "system": "Be brief.",
           "messages": [{"role": "user", "content": "Name a colour."}]}

    whole = client.messages.create(**ask)
    assert whole.content[0].text and whole.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(**ask) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    counted = client.messages.count_tokens(model=a.model, system=ask["system"],
                                           messages=ask["messages"])
    usage = whole.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    print("ok      messages, streamed, counted")

    ask.update(max_tokens=200, tools=[TOOL],
               tool_choice={"type": "tool", "name": "get_weather"})
    call = client.messages.create(**ask)
    block = call.content[0]
    assert call.stop_reason == "tool_use" and block.name == "get_weather" and block.input["city"]
    with client.messages.stream(**ask) as stream:
        assert stream.get_final_message().content[0].input == block.input
    ask["messages"] += [{"role": "assistant", "content": [block.model_dump()]},
                        {"role": "user", "content": [{"type": "tool_result",
                                                      "tool_use_id": block.id,
                                                      "content": "rain"}]}]
    ask["tool_choice"] = {"type": "none"}
    assert client.messages.create(**ask).content
    print("ok      tools")

    for bad, error in [({"extra_body": {"temperature": -1}}, anthropic.BadRequestError),
                       ({"max_tokens": 10_000_000}, anthropic.BadRequestError),
                       ({"model": "no-such-model"}, anthropic.NotFoundError)]:
        try:
            client.messages.create(**{**ask, **bad})
        except error as e:
            assert e.body["type"] == "error" and e.body["error"]["message"], e.body
        else:
            raise AssertionError(f"not refused: {bad}")
    print("ok      refusals")


main()
