// Speaks to a server as OpenAI's Node library does: SESTINA_URL, SESTINA_KEY.
// The model is the test's script model: what ends in the cue is answered by "Hello, wörld! 👍".
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const answer = 'Hello, wörld! 👍';
const options = { baseURL: process.env.SESTINA_URL + '/v1', apiKey: process.env.SESTINA_KEY, maxRetries: 0 };
const client = new OpenAI(options);
const ask = { model: 'tiny', messages: [{ role: 'user', content: 'hi' }], chat_template_kwargs: { suffix: '①' } };

const models = [];
for await (const m of client.models.list()) models.push(m.id);
assert.deepEqual(models, ['tiny']);

const whole = await client.chat.completions.create({ ...ask, temperature: 0, seed: 1, n: 2, logprobs: true, top_logprobs: 2 });
for (const choice of whole.choices) {
  assert.equal(choice.message.content, answer);
  assert.equal(choice.finish_reason, 'stop');
  assert.equal(choice.logprobs.content.length * 2, whole.usage.completion_tokens);
}

let text = '';
let usage;
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true }, stop: '!' })) {
  for (const c of chunk.choices) text += c.delta.content ?? '';
  usage = chunk.usage ?? usage;
}
assert.equal(text, answer.split('!')[0]);
assert.ok(usage.completion_tokens > 0);

const final = await client.chat.completions.stream(ask).finalContent();
assert.equal(final, answer);

const old = await client.completions.create({ model: 'tiny', prompt: '①', echo: true });
assert.equal(old.choices[0].text, '①' + answer);

await assert.rejects(client.chat.completions.create({ ...ask, temperature: -1 }), (e) => e instanceof OpenAI.BadRequestError && e.param === 'temperature');
await assert.rejects(client.chat.completions.create({ ...ask, model: 'other' }), OpenAI.NotFoundError);
await assert.rejects(new OpenAI({ ...options, apiKey: 'wrong' }).models.list(), OpenAI.AuthenticationError);

// Leaving a stream in the middle closes the connection; the server goes on.
for await (const chunk of await client.completions.create({ model: 'tiny', prompt: 'x', ignore_eos: true, stream: true, max_tokens: 5000 })) {
  if (chunk.choices[0]?.text) break;
}
assert.equal((await client.chat.completions.create(ask)).choices[0].message.content, answer);
console.log('openai-node ok');
