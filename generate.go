package sestina

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"time"

	"sestina/batch"
	"sestina/chat"
	"sestina/engine"
	"sestina/sampler"
	"sestina/tokenizer"
)

// GenerateOptions say what is wanted of one generation. The zero value is the
// model's own sampling, until it ends or the context does.
type GenerateOptions struct {
	Sampling  *batch.SamplingParams // nil = the model's defaults with a random seed
	MaxTokens int                   // 0 = what the context has left
	Stop      []string              // text that ends the generation; it is not part of the answer
	Special   bool                  // show special tokens in the text
}

// Delta is what was generated since the last one. The last delta has Result.
type Delta struct {
	Text   string
	Tokens []sampler.Sample
	Result *Result // set once, at the end
}

// Result sums up a finished generation.
type Result struct {
	FinishReason string // stop | length | abort
	PromptTokens int
	OutputTokens int
	CachedTokens int // of the prompt, taken from the prefix cache
	Seed         uint64
	PromptTime   time.Duration // submission to first token: TTFT
	OutputTime   time.Duration // first to last token
	Drafted      int           // draft tokens verified
	Accepted     int           // of them; the others were computed in vain
}

// TPOT is the mean time per output token after the first; 0 with fewer than two.
func (r *Result) TPOT() time.Duration {
	if r.OutputTokens < 2 {
		return 0
	}
	return r.OutputTime / time.Duration(r.OutputTokens-1)
}

// Generate continues a text. Special tokens written in it count as such.
func (l *LLM) Generate(ctx context.Context, prompt string, opt GenerateOptions) iter.Seq2[Delta, error] {
	ids, err := l.Encode(prompt)
	if err != nil {
		return failed(err)
	}
	return l.GenerateIDs(ctx, ids, opt)
}

// Chat answers a conversation.
func (l *LLM) Chat(ctx context.Context, messages []chat.Message, opt GenerateOptions) iter.Seq2[Delta, error] {
	ids, err := l.ChatIDs(chat.Input{Messages: messages, AddGenerationPrompt: true})
	if err != nil {
		return failed(err)
	}
	return l.GenerateIDs(ctx, ids, opt)
}

func failed(err error) iter.Seq2[Delta, error] {
	return func(yield func(Delta, error) bool) { yield(Delta{}, err) }
}

// ErrNoTokenizer is returned where text is asked of a checkpoint without a tokenizer.
var ErrNoTokenizer = errors.New("this checkpoint has no tokenizer: pass token ids (--ids) or use a file that has one")

// Encode returns the ids of a prompt, with the special tokens that the model's
// file says come first.
func (l *LLM) Encode(text string) ([]int32, error) {
	if l.Tokenizer == nil {
		return nil, ErrNoTokenizer
	}
	return l.Tokenizer.Encode(text, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true}), nil
}

// ErrNoTemplate is returned where a chat is asked of a model without a template.
var ErrNoTemplate = errors.New("this model has no chat template: use Generate (run --raw) to continue a text")

// ChatIDs renders a conversation through the model's chat template and encodes it. Message text never becomes control tokens.
func (l *LLM) ChatIDs(in chat.Input) ([]int32, error) {
	if l.Tokenizer == nil {
		return nil, ErrNoTokenizer
	}
	if l.Template == nil {
		return nil, ErrNoTemplate
	}
	in.BOSToken, in.EOSToken = l.bos, l.eos
	segments, err := l.Template.Render(in)
	if err != nil {
		return nil, err
	}
	parts := make([]tokenizer.Segment, len(segments))
	for i, s := range segments {
		parts[i] = tokenizer.Segment(s)
	}
	// Templates write their own BOS; adding another is a classic mistake.
	return l.Tokenizer.EncodeSegments(parts, tokenizer.EncodeOptions{ParseSpecial: true}), nil
}

// GenerateIDs continues a sequence of token ids. Breaking out of the loop, or
// ending ctx, cancels the request; a cancelled context ends it with FinishReason "abort".
func (l *LLM) GenerateIDs(ctx context.Context, ids []int32, opt GenerateOptions) iter.Seq2[Delta, error] {
	return func(yield func(Delta, error) bool) {
		req := engine.Request{Prompt: ids, MaxTokens: opt.MaxTokens, Sampling: l.sampling(opt.Sampling)}
		text := l.newText(opt)
		if len(opt.Stop) > 0 {
			if l.Tokenizer == nil {
				yield(Delta{}, ErrNoTokenizer)
				return
			}
			req.Stop = func(int) batch.StopChecker { return l.newText(opt) }
		}
		h, err := l.Engine.Submit(ctx, req)
		if err != nil {
			yield(Delta{}, err)
			return
		}
		defer h.Cancel()
		count, finish := 0, batch.FinishAbort
		for outs, ok := h.Next(ctx); ok; outs, ok = h.Next(ctx) {
			for _, o := range outs {
				count += len(o.Tokens)
				d := Delta{Tokens: o.Tokens, Text: text.push(o.Tokens)}
				if o.Finish != batch.NotFinished {
					finish = o.Finish
					d.Text += text.Flush()
				}
				if o.Err != nil {
					yield(d, o.Err)
					return
				}
				if (d.Text != "" || len(d.Tokens) > 0) && !yield(d, nil) {
					return
				}
			}
		}
		t := h.Timings()
		yield(Delta{Result: &Result{
			FinishReason: finish.String(), PromptTokens: len(ids), OutputTokens: count, CachedTokens: t.Cached, Seed: req.Sampling.Seed,
			PromptTime: sub(t.FirstToken, t.Submitted), OutputTime: sub(t.Last, t.FirstToken),
			Drafted: t.Drafted, Accepted: t.Accepted,
		}}, nil)
	}
}

// sampling is the request's parameters, or the model's with a random seed.
func (l *LLM) sampling(p *batch.SamplingParams) batch.SamplingParams {
	if p != nil {
		return *p
	}
	d := l.Defaults
	d.Seed = rand.Uint64()
	return d
}

func sub(a, b time.Time) time.Duration {
	if a.IsZero() || b.IsZero() {
		return 0
	}
	return a.Sub(b)
}
