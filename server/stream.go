package server

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"sestina/engine"
)

// events writes server-sent events: collected by send, written and flushed
// together, once a step. Every flush has a deadline; a reader that does not read
// breaks the connection, which ends the request and frees its blocks. Until the
// first flush nothing is sent, so an early failure still has its HTTP status.
//
// While nothing is generated (a long prompt, a long queue) a comment goes out at
// intervals, so that proxies and clients do not take silence for death.
type events struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	deadline time.Duration
	interval time.Duration

	mu      sync.Mutex
	buf     bytes.Buffer
	enc     *json.Encoder
	started bool
	closed  bool
	err     error
	idle    *time.Timer
}

func newEvents(w http.ResponseWriter, deadline, interval time.Duration) *events {
	e := &events{w: w, control: http.NewResponseController(w), deadline: deadline, interval: interval}
	e.enc = json.NewEncoder(&e.buf)
	e.enc.SetEscapeHTML(false)
	if interval > 0 {
		e.mu.Lock()
		e.idle = time.AfterFunc(interval, e.keepAlive)
		e.mu.Unlock()
	}
	return e
}

// send adds an event to what the next flush writes.
func (e *events) send(v any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.buf.WriteString("data: ")
	if err := e.enc.Encode(v); err != nil { // see writeJSON
		panic(err)
	}
	e.buf.WriteByte('\n')
}

// flush writes what was sent. Its error, always errLeft, is the connection's end.
func (e *events) flush() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.write(); e.err != nil {
		return errLeft
	}
	return nil
}

// write is flush under the lock.
func (e *events) write() {
	if e.buf.Len() == 0 || e.err != nil || e.closed {
		return
	}
	if !e.started {
		e.started = true
		h := e.w.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no") // nginx would hold the tokens back
	}
	e.control.SetWriteDeadline(time.Now().Add(e.deadline)) // not every test's writer has deadlines
	if _, e.err = e.w.Write(e.buf.Bytes()); e.err == nil {
		e.err = e.control.Flush()
	}
	const keep = 64 << 10
	if e.buf.Reset(); e.buf.Cap() > keep {
		e.buf = bytes.Buffer{}
	}
	if e.idle != nil {
		e.idle.Reset(e.interval)
	}
}

func (e *events) keepAlive() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.buf.Len() == 0 {
		e.buf.WriteString(": keep-alive\n\n")
	}
	e.write()
}

// begun reports whether the client has its status already.
func (e *events) begun() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.started
}

// fail ends a stream that has begun: an error event, then the end mark.
func (e *events) fail(err *apiError) {
	e.send(errorBody{err})
	e.done()
	e.flush()
}

func (e *events) done() {
	e.mu.Lock()
	e.buf.WriteString("data: [DONE]\n\n")
	e.mu.Unlock()
}

// close stops the keep-alive comments; nothing is written after it.
func (e *events) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.idle != nil {
		e.idle.Stop()
	}
	e.control.SetWriteDeadline(time.Time{})
}

// stream replies event by event.
func (g *generation) stream(ctx context.Context, e *events) error {
	object := "chat.completion.chunk"
	if g.req.endpoint == textEndpoint {
		object = "text_completion"
	}
	err := g.outputs(ctx, func(handle int, out []engine.Output) error {
		ps, err := g.pieces(handle, out)
		for i, p := range ps {
			last := g.open == 0 && i == len(ps)-1
			g.sendPiece(e, object, p, last)
		}
		if err != nil {
			return err
		}
		return e.flush()
	})
	if err != nil {
		return err
	}
	if g.req.includeUsage {
		r := g.reply(object)
		g.close(r, true)
		e.send(r)
	}
	e.done()
	return e.flush()
}

// sendPiece sends a chunk, and before a chat choice's first one its role. A
// piece without news (its text is held back) is not sent.
func (g *generation) sendPiece(e *events, object string, p piece, last bool) {
	if p.first && g.req.endpoint == chatEndpoint {
		empty := ""
		r := g.reply(object, chatChoice{Index: p.choice.index, Delta: &chatDelta{Role: "assistant", Content: &empty}})
		if g.req.returnIDs {
			r.PromptTokenIDs = g.prompts[0]
		}
		e.send(r)
	}
	if p.text == "" && p.finish == "" && !g.req.logprobs && !g.req.returnIDs {
		return
	}
	r := g.reply(object, g.choiceJSON(p, false))
	if g.req.continuousUsage {
		r.Usage = g.usage()
	}
	if last && !g.req.includeUsage {
		g.close(r, g.req.continuousUsage)
	}
	e.send(r)
}
