package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"sestina"
	"sestina/chat"
	"sestina/tokenizer"
)

func (s *Server) chatCompletions(w http.ResponseWriter, r *http.Request, c *call) *apiError {
	return s.generate(w, r, c, chatEndpoint)
}

func (s *Server) completions(w http.ResponseWriter, r *http.Request, c *call) *apiError {
	return s.generate(w, r, c, textEndpoint)
}

// generate is a generation from body to last byte. An error it returns has not
// been answered yet.
func (s *Server) generate(w http.ResponseWriter, r *http.Request, c *call, e endpoint) *apiError {
	if err := s.unavailable(); err != nil {
		return err
	}
	g, err := s.prepare(w, r, c, e)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	if err := g.submit(ctx, s.keys.owner(c.tenant), s.keys.salt(c.tenant, g.req.cacheSalt)); err != nil {
		return s.fault(c, err)
	}
	defer context.AfterFunc(ctx, g.cancel)() // at once, even while a write waits for the reader
	var failed error
	if g.req.stream {
		events := newEvents(w, s.cfg.WriteTimeout, s.cfg.KeepAlive)
		defer events.close()
		if failed = g.stream(ctx, events); failed != nil && events.begun() {
			if r.Context().Err() != nil {
				failed = errLeft
			}
			c.err = s.fault(c, failed)
			events.fail(c.err)
			failed = nil
		}
	} else {
		failed = g.whole(ctx, w, s.cfg.WriteTimeout)
	}
	u, t := g.usage(), g.handles[0].Timings()
	c.note(slog.Int("prompt_tokens", u.PromptTokens), slog.Int("cached_tokens", u.PromptDetails.CachedTokens),
		slog.String("cache_stop", t.Match.Stop.String()), slog.Int("cache_stop_at", t.Match.At),
		slog.Int("completion_tokens", u.CompletionTokens), slog.Float64("ttft_ms", ms(t.TTFT())))
	if failed == nil {
		return nil
	}
	if r.Context().Err() != nil {
		failed = errLeft
	}
	return s.fault(c, failed)
}

// fault translates an error; the log hears what the client does not.
func (s *Server) fault(c *call, err error) *apiError {
	out := translate(err)
	if out == errFull || out == errShare || out == errLate {
		busy := *out
		busy.RetryAfter = s.retryAfter()
		out = &busy
	}
	if out == errInternal && !errors.Is(err, context.Canceled) {
		s.log.Error("request failed", "request_id", c.id, "err", err)
	}
	return out
}

// retryAfter is how long the queue lately took, in seconds from 1 to 60.
func (s *Server) retryAfter() int {
	wait := s.llm.Engine.Stats().QueueWait
	return int(min(max(wait.Round(time.Second)/time.Second, 1), 60))
}

// admits refuses a request that the queue would refuse anyway.
func (s *Server) admits(c *call) *apiError {
	if err := s.llm.Engine.Admits(s.keys.owner(c.tenant)); err != nil {
		return s.fault(c, err)
	}
	return nil
}

// prepare reads the request and turns its prompts into ids. Whether the queue has
// a place is asked before the body is read, and again when it is this request's
// turn to be tokenised: under overload a refusal costs a header, not a prompt.
func (s *Server) prepare(w http.ResponseWriter, r *http.Request, c *call, e endpoint) (*generation, *apiError) {
	if err := s.admits(c); err != nil {
		return nil, err
	}
	body, release, err := s.readBody(w, r)
	if err != nil {
		return nil, err
	}
	defer release()
	req := newRequest(e, s.llm.Defaults)
	if err := readFields(req, body, s.logUnknown); err != nil {
		return nil, err
	}
	if err := req.finish(); err != nil {
		return nil, err
	}
	if req.model, err = s.served(req.model); err != nil {
		return nil, err
	}
	if len(req.text.Stop) > 0 && s.llm.Tokenizer == nil {
		return nil, badRequest("stop", "this model has no tokenizer, so stop strings cannot be found; use stop_token_ids")
	}
	g := &generation{req: req, llm: s.llm, id: "cmpl-" + requestID(req.id), created: time.Now().Unix()}
	if e == chatEndpoint {
		g.id = "chat" + g.id
	}
	leave, err := s.textPlace(r.Context())
	if err != nil {
		return nil, err
	}
	defer leave()
	if err = s.admits(c); err != nil {
		return nil, err
	}
	if g.prompts, err = s.encode(r.Context(), req); err != nil {
		return nil, err
	}
	return g, nil
}

// served finds a model by the name a request gives; without a name it is the first.
func (s *Server) served(name string) (string, *apiError) {
	if name == "" {
		return s.names[0], nil
	}
	if !slices.Contains(s.names, name) {
		return "", &apiError{Status: http.StatusNotFound, Param: "model", Message: "the model " + quoteName(name) + " is not served here; GET /v1/models lists what is"}
	}
	return name, nil
}

// textPlace waits for one of the few places for rendering and tokenising, which
// cost CPU that the step loop needs.
func (s *Server) textPlace(ctx context.Context) (leave func(), err *apiError) {
	select {
	case s.text <- struct{}{}:
		return func() { <-s.text }, nil
	case <-ctx.Done():
		return nil, errLeft
	}
}

// encode renders and tokenises; the caller has a place for it.
func (s *Server) encode(ctx context.Context, req *request) ([][]int32, *apiError) {
	if req.sampling.DRY.Multiplier > 0 && s.llm.Tokenizer != nil {
		if req.breakers == nil {
			req.sampling.DRY.Breakers = s.breakers()
		} else {
			req.sampling.DRY.Breakers = s.breakerIDs(req.breakers)
		}
	}
	if req.endpoint == chatEndpoint {
		ids, err := s.llm.ChatIDs(chat.Input{Messages: req.messages, AddGenerationPrompt: req.addGeneration, Vars: req.vars})
		if err != nil {
			return nil, translate(err)
		}
		return [][]int32{ids}, nil
	}
	var out [][]int32
	for _, p := range req.prompts {
		ids := p.ids
		if p.text != nil {
			if s.llm.Tokenizer == nil {
				return nil, translate(sestina.ErrNoTokenizer)
			}
			ids = s.llm.Tokenizer.Encode(*p.text, tokenizer.EncodeOptions{AddSpecial: req.addSpecial, ParseSpecial: true})
		}
		out = append(out, ids)
		if ctx.Err() != nil {
			return nil, errLeft
		}
	}
	return out, nil
}

// defaultBreakers are llama.cpp's.
var defaultBreakers = []string{"\n", ":", "\"", "*"}

// breakerIDs are the ids whose text holds one of the strings.
func (s *Server) breakerIDs(breakers []string) []int32 {
	const most = 8192 // the sampler's limit; beyond it the strings are in everything
	var ids []int32
	for id := range int32(s.llm.Tokenizer.VocabSize()) {
		text := s.llm.Tokenizer.Bytes(id)
		if slices.ContainsFunc(breakers, func(b string) bool { return bytes.Contains(text, []byte(b)) }) && len(ids) < most {
			ids = append(ids, id)
		}
	}
	return ids
}
