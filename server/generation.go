package server

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"sestina"
	"sestina/batch"
	"sestina/engine"
	"sestina/sampler"
)

// generation is one request on its way: submitted prompts and the choices that
// come back. Streamed and whole replies are made from the same pieces, so their
// texts are equal by construction.
type generation struct {
	req     *request
	llm     *sestina.LLM
	id      string
	created int64
	prompts [][]int32
	handles []*engine.Handle // one for each prompt
	choices []*choice        // prompts × n
	open    int              // choices that have not ended
	failed  error            // why a choice ended before its time
}

// choice is one answer being written.
type choice struct {
	index  int // in the reply
	prompt int
	text   *sestina.Text
	begun  bool
	ended  bool
	offset int // characters of the token texts so far
	output int // tokens so far
}

// piece is what one step, or several that the client was too slow for, added to a choice.
type piece struct {
	choice     *choice
	text       string
	tokens     []sampler.Sample
	offset     int // of the first token
	first      bool
	finish     string // stop | length, in the last piece
	stopReason any
}

// submit hands every prompt to the engine; all are admitted or none.
func (g *generation) submit(ctx context.Context, tenant, salt string) error {
	r := g.req
	for p, ids := range g.prompts {
		req := engine.Request{Prompt: ids, N: r.n, MaxTokens: r.maxTokens, Sampling: r.sampling, Tenant: tenant, Salt: salt, Priority: r.priority}
		if len(r.text.Stop) > 0 {
			req.Stop = func(int) batch.StopChecker { return g.llm.NewText(r.text) }
		}
		h, err := g.llm.Engine.Submit(ctx, req)
		if err != nil {
			g.cancel()
			return err
		}
		g.handles = append(g.handles, h)
		for range r.n {
			g.choices = append(g.choices, &choice{index: len(g.choices), prompt: p, text: g.llm.NewText(r.text)})
		}
	}
	g.open = len(g.choices)
	return nil
}

func (g *generation) cancel() {
	for _, h := range g.handles {
		h.Cancel()
	}
}

// outputs calls f with what each step brings, until every choice has ended, f
// returns an error, or the context is done; f runs on the caller's goroutine.
func (g *generation) outputs(ctx context.Context, f func(handle int, out []engine.Output) error) error {
	defer g.cancel()
	if len(g.handles) == 1 {
		for out, ok := g.handles[0].Next(ctx); ok; out, ok = g.handles[0].Next(ctx) {
			if err := f(0, out); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	return g.merged(ctx, f)
}

// merged reads several handles. What waits for f waits in the handles, as ids.
func (g *generation) merged(ctx context.Context, f func(int, []engine.Output) error) error {
	ctx, stop := context.WithCancel(ctx)
	type batchOf struct {
		handle int
		out    []engine.Output
	}
	ready := make(chan batchOf)
	var readers sync.WaitGroup
	for i, h := range g.handles {
		readers.Go(func() {
			for out, ok := h.Next(ctx); ok; out, ok = h.Next(ctx) {
				select {
				case ready <- batchOf{i, out}:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	go func() { readers.Wait(); close(ready) }()
	defer func() {
		stop()
		for range ready {
		}
	}()
	for b := range ready {
		if err := f(b.handle, b.out); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// pieces turns engine outputs into what the client sees of them. The error is a
// choice's that failed; the pieces before it are good.
func (g *generation) pieces(handle int, outs []engine.Output) ([]piece, error) {
	var ps []piece
	for _, o := range outs {
		if o.Choice < 0 {
			if g.failed == nil {
				g.failed = failure(o)
			}
			return ps, g.failed
		}
		p := g.choices[handle*g.req.n+o.Choice].add(g, o)
		ps = append(ps, p)
		if o.Finish != batch.NotFinished {
			p.choice.ended = true
			g.open--
		}
		if o.Err != nil || o.Finish == batch.FinishAbort {
			g.failed = failure(o)
			return ps[:len(ps)-1], g.failed
		}
	}
	return ps, nil
}

// add decodes an output's tokens.
func (c *choice) add(g *generation, o engine.Output) piece {
	p := piece{choice: c, tokens: o.Tokens, offset: c.offset, first: !c.begun}
	var b strings.Builder
	if !c.begun && g.req.echo {
		echo := g.promptText(c.prompt)
		b.WriteString(echo)
		c.offset = utf8.RuneCountInString(echo)
		p.offset = c.offset
	}
	c.begun = true
	if o.Finish != batch.NotFinished {
		p.finish = o.Finish.String()
	}
	for i, t := range o.Tokens {
		c.output++
		c.offset += g.tokenLength(t.Token)
		if o.Finish == batch.FinishStop && i == len(o.Tokens)-1 && g.endsBy(t.Token) {
			if slices.Contains(g.req.sampling.StopIDs, t.Token) {
				p.stopReason = t.Token
			}
			if !g.req.text.IncludeStop {
				continue // the token that ended it is no part of the text
			}
		}
		b.WriteString(c.text.Push(t.Token))
	}
	if p.finish != "" {
		b.WriteString(c.text.Flush())
		if stop, ok := c.text.Stopped(); ok {
			p.stopReason = stop
		}
	}
	p.text = b.String()
	return p
}

// endsBy reports whether a token that ended a choice did so by itself, and not by its text.
func (g *generation) endsBy(id int32) bool {
	s := &g.req.sampling
	return slices.Contains(s.StopIDs, id) || !s.IgnoreEOS && slices.Contains(g.llm.Engine.Options().EOG, id)
}

func (g *generation) promptText(i int) string {
	if p := g.req.prompts[i]; p.text != nil {
		return *p.text
	}
	if g.llm.Tokenizer == nil {
		return ""
	}
	return g.llm.Tokenizer.Decode(g.prompts[i], false)
}

// failure is the error of an output that is no answer.
func failure(o engine.Output) error {
	if o.Err != nil {
		return o.Err
	}
	return errDraining // aborted, and not by the client: it would not be here
}

// usage sums over prompts and choices.
func (g *generation) usage() *usage {
	u := &usage{}
	for i, h := range g.handles {
		u.PromptTokens += len(g.prompts[i])
		t := h.Timings()
		u.PromptDetails.CachedTokens += t.Cached
		if i == 0 && t.Match.Stop != batch.StopNone {
			u.PromptDetails.Stop, u.PromptDetails.StopAt = t.Match.Stop.Public().String(), t.Match.At
		}
	}
	for _, c := range g.choices {
		u.CompletionTokens += c.output
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

// measures are the times of the whole request: its first prompt's beginning to
// its last one's end.
func (g *generation) measures() (*timings, *metrics) {
	u := g.usage()
	first, end := g.handles[0].Timings(), time.Time{}
	var sp speculative
	for _, h := range g.handles {
		t := h.Timings()
		if t.Last.After(end) {
			end = t.Last
		}
		sp.DraftTokens += t.Drafted
		sp.AcceptedTokens += t.Accepted
	}
	t := &timings{CacheN: u.PromptDetails.CachedTokens, PredictedN: u.CompletionTokens}
	t.PromptN = u.PromptTokens - t.CacheN
	t.PromptMS, t.PredictedMS = ms(first.Prefill()), ms(span(first.FirstToken, end))
	t.PromptPerSecond = rate(t.PromptN, t.PromptMS)
	t.PredictedPerSecond = rate(t.PredictedN-len(g.choices), t.PredictedMS) // the first tokens come with the prompt
	m := &metrics{TTFT: ms(first.TTFT()), QueueTime: ms(first.Queue()), GenerationTime: ms(span(first.Submitted, end)), TokensPerSecond: t.PredictedPerSecond}
	if n := t.PredictedN - len(g.choices); n > 0 {
		m.MeanITL = t.PredictedMS * float64(len(g.choices)) / float64(n)
	}
	if sp.DraftTokens > 0 {
		sp.AcceptanceRate = float64(sp.AcceptedTokens) / float64(sp.DraftTokens)
		m.Speculative = &sp
	}
	return t, m
}

func span(a, b time.Time) time.Duration {
	if a.IsZero() || b.Before(a) {
		return 0
	}
	return b.Sub(a)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func rate(n int, ms float64) float64 {
	if n <= 0 || ms <= 0 {
		return 0
	}
	return float64(n) * 1000 / ms
}

// reply is the frame of every reply and chunk.
func (g *generation) reply(object string, choices ...any) *reply {
	if choices == nil {
		choices = []any{}
	}
	return &reply{ID: g.id, Object: object, Created: g.created, Model: g.req.model, Fingerprint: fingerprint, Choices: choices}
}

// close puts usage and measures into the last thing that is sent.
func (g *generation) close(r *reply, withUsage bool) {
	if withUsage {
		r.Usage = g.usage()
	}
	r.Timings, r.Metrics = g.measures()
	r.Seed = &g.req.sampling.Seed
}

// whole collects every choice and replies once.
func (g *generation) whole(ctx context.Context, w http.ResponseWriter, deadline time.Duration) error {
	answers := make([]piece, len(g.choices))
	texts := make([]strings.Builder, len(g.choices))
	err := g.outputs(ctx, func(handle int, out []engine.Output) error {
		ps, err := g.pieces(handle, out)
		for _, p := range ps {
			i := p.choice.index
			a := &answers[i]
			if a.choice == nil {
				*a = p
				a.tokens = nil
			}
			texts[i].WriteString(p.text)
			if g.req.logprobs || g.req.returnIDs {
				a.tokens = append(a.tokens, p.tokens...)
			}
			a.finish, a.stopReason = p.finish, p.stopReason
		}
		return err
	})
	if err != nil {
		return err
	}
	choices := make([]any, len(answers))
	for i, a := range answers {
		a.text = texts[i].String()
		choices[i] = g.choiceJSON(a, true)
	}
	object := "chat.completion"
	if g.req.endpoint == textEndpoint {
		object = "text_completion"
	}
	r := g.reply(object, choices...)
	if g.req.returnIDs && g.req.endpoint == chatEndpoint {
		r.PromptTokenIDs = g.prompts[0]
	}
	g.close(r, true)
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(deadline))
	writeJSON(w, http.StatusOK, r)
	return nil
}
