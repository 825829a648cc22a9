"""Speaks to a server as OpenAI's Python library does: SESTINA_URL, SESTINA_KEY.

The model is the test's script model: what ends in the cue is answered by "Hello, wörld! 👍".
"""
import asyncio
import os

import openai

ANSWER = "Hello, wörld! 👍"
options = {"base_url": os.environ["SESTINA_URL"] + "/v1", "api_key": os.environ["SESTINA_KEY"], "max_retries": 0}
ask = {"model": "tiny", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
       "extra_body": {"chat_template_kwargs": {"suffix": "①"}}}
client = openai.OpenAI(**options)

assert [m.id for m in client.models.list()] == ["tiny"]
assert client.models.retrieve("tiny").id == "tiny"

whole = client.chat.completions.create(**ask, temperature=0, seed=1, n=2, logprobs=True, top_logprobs=3, logit_bias={"5": -100},
                                       presence_penalty=0, frequency_penalty=0, top_p=1, max_completion_tokens=50, user="someone")
for choice in whole.choices:
    assert choice.message.content == ANSWER and choice.message.role == "assistant" and choice.finish_reason == "stop", choice
    assert len(choice.logprobs.content) * 2 == whole.usage.completion_tokens
    spelled = b"".join(bytes(t.bytes) for t in choice.logprobs.content[:-1])
    assert spelled.decode() == ANSWER, spelled
    assert all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in choice.logprobs.content)
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

text, usage = "", None
for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}, stop=["!"]):
    text += "".join(c.delta.content or "" for c in chunk.choices)
    usage = chunk.usage or usage
assert text == ANSWER.split("!")[0] and usage.completion_tokens > 0, text

with client.chat.completions.stream(**ask) as events:
    assert [e for e in events][-1] is not None
    assert events.get_final_completion().choices[0].message.content == ANSWER

old = client.completions.create(model="tiny", prompt=["a ①", "b ①"], echo=True, max_tokens=2)
assert [c.text[:3] for c in old.choices] == ["a ①", "b ①"] and old.choices[0].finish_reason == "length"
assert "".join(c.choices[0].text for c in client.completions.create(model="tiny", prompt="①", stream=True)) == ANSWER

for error, change in [(openai.BadRequestError, {"temperature": -1}), (openai.BadRequestError, {"n": 100}), (openai.NotFoundError, {"model": "other"}),
                      (openai.BadRequestError, {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]})]:
    try:
        client.chat.completions.create(**{**ask, **change})
    except error as e:
        assert e.body["code"] == e.status_code and e.body["message"] and e.response.headers["x-request-id"], e.body
    else:
        raise AssertionError(f"{change} was accepted")
try:
    openai.OpenAI(**{**options, "api_key": "wrong"}).models.list()
except openai.AuthenticationError:
    pass
else:
    raise AssertionError("a wrong key was accepted")


async def together():
    client = openai.AsyncOpenAI(**options)

    async def one():
        stream = await client.chat.completions.create(**ask, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    return await asyncio.gather(*[one() for _ in range(20)])


assert set(asyncio.run(together())) == {ANSWER}
print("openai-python", openai.__version__, "ok")
