// Package server speaks OpenAI's HTTP API for one loaded model. It is the only
// package that knows the shapes of JSON.
//
// # The way of a request
//
//	wrap (request id, Host, origin, key) → route → readBody → readFields → encode → Submit → pieces → events or one reply
//
// A body is checked once (json.go), read field by field through one table
// (fields.go), rendered and tokenised in a few places at a time, and handed to the
// engine. From there on each request has one goroutine: it takes what a step
// brought, turns ids into text, writes all of it and flushes once (stream.go).
//
// # Invariants
//
//   - A stream's text is the whole reply's text is the tokens' text, cut at the
//     first stop string: both are made of the same pieces (generation.go).
//     TestStreamIsFinalIsTokens holds that to an oracle on bytes.
//   - Every answer ends with a finish_reason, or with an error that says so; an
//     answer that was cut never looks finished. TestShutdownCutsWithAnError.
//   - What a client sends can harm its own request only. Every number has a range,
//     every list and every depth a cap, and nothing is fetched or opened for a
//     request. TestBadRequestsHarmOnlyThemselves, FuzzBody.
//   - A reader that leaves or stands still ends its request: a closed connection
//     cancels at once, and every flush has a deadline. Meanwhile its output waits
//     in the engine's handle, as ids: 32 bytes a token. TestDisconnectFrees, TestSlowReaders.
//   - Every path needs the key but three probes that say nothing else than up or
//     down. TestRoutesNeedTheKey walks the route table.
//   - Errors say what the client can do and nothing about the machine; the log has
//     the rest under the request id, and never a prompt. TestPromptsAreNotLogged.
//
// Figures of these tests are printed by the command in docs/reliability.md.
package server
