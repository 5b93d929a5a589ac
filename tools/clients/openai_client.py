#!/usr/bin/env python3
"""Use a running server through the official OpenAI client and check what comes back.

    pip install openai
    openai_client.py --url http://127.0.0.1:8080 [--key KEY] [--model NAME]

Prints one line for each check and exits with 1 if any failed.
"""
import argparse
import json
import sys
import traceback

import openai

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def ask(client, a, **more):
    settings = {"max_tokens": 16, "temperature": 0}
    settings.update(more)
    return client.chat.completions.create(
        model=a.model, messages=[{"role": "user", "content": "Name a colour."}], **settings)


@check
def models(client, a):
    listed = [model.id for model in client.models.list()]
    assert listed, "no models"
    assert client.models.retrieve(listed[0]).id == listed[0]


@check
def chat(client, a):
    r = ask(client, a)
    assert r.choices[0].message.role == "assistant" and r.choices[0].message.content
    assert r.choices[0].finish_reason in ("stop", "length")
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens


@check
def stream(client, a):
    whole = ask(client, a).choices[0].message.content
    text, usage = "", None
    for chunk in ask(client, a, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
    assert text == whole, (text, whole)
    assert usage.completion_tokens > 0


@check
def a_conversation_goes_on(client, a):
    first = ask(client, a).choices[0].message
    messages = [{"role": "user", "content": "Name a colour."}, first.model_dump(),
                {"role": "user", "content": [{"type": "text", "text": "Another."}]}]
    r = client.chat.completions.create(model=a.model, messages=messages, max_tokens=8)
    assert r.choices[0].message.role == "assistant"


@check
def several_choices(client, a):
    r = ask(client, a, n=3, temperature=1.5, seed=5)
    assert [choice.index for choice in r.choices] == [0, 1, 2]
    again = ask(client, a, n=3, temperature=1.5, seed=5)
    assert [c.message.content for c in r.choices] == [c.message.content for c in again.choices]


@check
def stop(client, a):
    text = ask(client, a).choices[0].message.content
    word = text[2:5]
    r = ask(client, a, stop=[word])
    assert r.choices[0].finish_reason == "stop" and word not in r.choices[0].message.content


@check
def logprobs(client, a):
    r = ask(client, a, logprobs=True, top_logprobs=4)
    content = r.choices[0].logprobs.content
    assert len(content[0].top_logprobs) == 4
    assert content[0].logprob == max(top.logprob for top in content[0].top_logprobs)


@check
def logit_bias(client, a):
    r = ask(client, a, logprobs=True, top_logprobs=1, max_tokens=1)
    tokens = client.post("/../tokenize", body={"content": r.choices[0].logprobs.content[0].token,
                                              "add_special": False}, cast_to=object)["tokens"]
    other = ask(client, a, max_tokens=1, logit_bias={str(tokens[0]): -100})
    assert other.choices[0].message.content != r.choices[0].message.content


@check
def completions(client, a):
    r = client.completions.create(model=a.model, prompt=["One, two,", "Red, green,"], max_tokens=4,
                                  temperature=0, logprobs=2, echo=True)
    assert len(r.choices) == 2 and r.choices[0].text.startswith("One, two,")
    assert len(r.choices[0].logprobs.tokens) == len(r.choices[0].logprobs.token_logprobs)
    text = ""
    for chunk in client.completions.create(model=a.model, prompt="One, two,", max_tokens=4,
                                           temperature=0, stream=True):
        text += chunk.choices[0].text
    assert r.choices[0].text == "One, two," + text


@check
def log_likelihoods_as_lm_eval_asks_for_them(client, a):
    """lm-eval's local-completions: token ids in, `[context:-1]` of the log-probabilities out."""
    base = client.post("/../tokenize", body={"content": "The sky is"}, cast_to=object)["tokens"]
    whole = client.post("/../tokenize", body={"content": "The sky is blue"}, cast_to=object)["tokens"]
    r = client.completions.create(model=a.model, prompt=[whole], max_tokens=1, temperature=0,
                                  logprobs=1, seed=1234, echo=True)
    got = r.choices[0].logprobs.token_logprobs[len(base):-1]
    assert len(got) == len(whole) - len(base) and all(x < 0 for x in got), got
    top = r.choices[0].logprobs.top_logprobs[len(base):-1]
    assert all(isinstance(entry, dict) for entry in top)


def refused(error, param, call):
    try:
        call()
    except error as e:
        assert param is None or e.param == param, (e.param, param)
        assert e.message
        return
    raise AssertionError(f"not refused: {param}")


@check
def refusals(client, a):
    bad = openai.BadRequestError
    refused(bad, "temperature", lambda: ask(client, a, temperature=-1))
    refused(bad, "bogus", lambda: ask(client, a, extra_body={"bogus": 1}))
    refused(bad, None, lambda: ask(client, a, max_tokens=10_000_000))
    refused(bad, "model", lambda: client.embeddings.create(model=a.model, input="x"))
    refused(openai.NotFoundError, "model", lambda: client.chat.completions.create(
        model="no-such-model", messages=[{"role": "user", "content": "x"}]))


WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
                   "required": ["city"], "additionalProperties": False}}}


@check
def a_required_call(client, a):
    r = ask(client, a, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False,
            max_tokens=200)
    call = r.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    assert r.choices[0].finish_reason == "tool_calls"
    name = arguments = ""
    for chunk in ask(client, a, tools=[WEATHER], tool_choice="required", stream=True,
                     parallel_tool_calls=False, max_tokens=200):
        for part in chunk.choices[0].delta.tool_calls or []:
            name += part.function.name or ""
            arguments += part.function.arguments or ""
    assert (name, arguments) == (call.function.name, call.function.arguments)
    messages = [{"role": "user", "content": "The weather in Oslo?"},
                r.choices[0].message.model_dump(),
                {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    client.chat.completions.create(model=a.model, messages=messages, tools=[WEATHER], max_tokens=8)


@check
def structured_output(client, a):
    schema = {"type": "object", "required": ["name", "age"], "additionalProperties": False,
              "properties": {"name": {"type": "string", "maxLength": 20},
                             "age": {"type": "integer", "minimum": 0, "maximum": 99}}}
    r = ask(client, a, max_tokens=200, response_format={
        "type": "json_schema", "json_schema": {"name": "p", "schema": schema, "strict": True}})
    person = json.loads(r.choices[0].message.content)
    assert set(person) == {"name", "age"} and 0 <= person["age"] <= 99


@check
def responses(client, a):
    r = client.responses.create(model=a.model, input="Name a colour.", max_output_tokens=16,
                                temperature=0)
    assert r.output_text
    text = ""
    with client.responses.stream(model=a.model, input="Name a colour.", max_output_tokens=16,
                                 temperature=0) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
    assert text == r.output_text


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--url", default="http://127.0.0.1:8080")
    p.add_argument("--key", default="none")
    p.add_argument("--model", default="default")
    a = p.parse_args()
    client = openai.OpenAI(base_url=a.url + "/v1", api_key=a.key, max_retries=0, timeout=120)
    failed = 0
    for function in CHECKS:
        try:
            function(client, a)
            print(f"ok      {function.__name__}")
        except Exception:
            failed += 1
            print(f"FAILED  {function.__name__}")
            traceback.print_exc()
    sys.exit(1 if failed else 0)


main()
