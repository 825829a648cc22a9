package server

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"sestina/sampler"
)

// The shapes of replies. One struct serves both endpoints, whole replies and
// chunks; what differs is the choice inside.

type reply struct {
	ID             string   `json:"id"`
	Object         string   `json:"object"`
	Created        int64    `json:"created"`
	Model          string   `json:"model"`
	Fingerprint    string   `json:"system_fingerprint"`
	Choices        []any    `json:"choices"`
	Usage          *usage   `json:"usage,omitempty"`
	PromptTokenIDs []int32  `json:"prompt_token_ids,omitempty"`
	Seed           *uint64  `json:"seed,omitempty"` // of the draws: sent again, it gives the same answer
	Timings        *timings `json:"timings,omitempty"`
	Metrics        *metrics `json:"metrics,omitempty"`
}

type chatChoice struct {
	Index        int           `json:"index"`
	Message      *chatMessage  `json:"message,omitempty"`
	Delta        *chatDelta    `json:"delta,omitempty"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
	StopReason   any           `json:"stop_reason,omitempty"` // the stop string, or the stop id
	TokenIDs     []int32       `json:"token_ids,omitempty"`
}

type chatMessage struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

type chatDelta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

type chatLogprobs struct {
	Content []tokenLogprob `json:"content"`
}

type tokenLogprob struct {
	topLogprob
	Top []topLogprob `json:"top_logprobs"`
}

type topLogprob struct {
	Token   string  `json:"token"`
	Logprob float32 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

type textChoice struct {
	Index          int           `json:"index"`
	Text           string        `json:"text"`
	Logprobs       *textLogprobs `json:"logprobs"`
	FinishReason   *string       `json:"finish_reason"`
	StopReason     any           `json:"stop_reason,omitempty"`
	TokenIDs       []int32       `json:"token_ids,omitempty"`
	PromptTokenIDs []int32       `json:"prompt_token_ids,omitempty"`
}

type textLogprobs struct {
	TextOffset    []int                `json:"text_offset"` // in characters
	TokenLogprobs []float32            `json:"token_logprobs"`
	Tokens        []string             `json:"tokens"`
	TopLogprobs   []map[string]float32 `json:"top_logprobs"`
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	PromptDetails    struct {
		CachedTokens int    `json:"cached_tokens"`
		Stop         string `json:"cache_stop,omitempty"` // of the first prompt: why the prefix cache had no more
		StopAt       int    `json:"cache_stop_at"`        // the first token that it did not have
	} `json:"prompt_tokens_details"`
}

// timings are in the words of llama.cpp's server.
type timings struct {
	CacheN             int     `json:"cache_n"`
	PromptN            int     `json:"prompt_n"` // computed, not from the cache
	PromptMS           float64 `json:"prompt_ms"`
	PromptPerSecond    float64 `json:"prompt_per_second"`
	PredictedN         int     `json:"predicted_n"`
	PredictedMS        float64 `json:"predicted_ms"`
	PredictedPerSecond float64 `json:"predicted_per_second"`
}

// metrics are in the words of vLLM's.
type metrics struct {
	TTFT            float64 `json:"time_to_first_token_ms"`
	GenerationTime  float64 `json:"generation_time_ms"`
	QueueTime       float64 `json:"queue_time_ms"`
	MeanITL         float64 `json:"mean_itl_ms"`
	TokensPerSecond float64 `json:"tokens_per_second"`

	Speculative *speculative `json:"speculative_decoding,omitempty"` // left out where nothing was drafted
}

// speculative is what drafting did for a request, over all choices.
type speculative struct {
	DraftTokens    int     `json:"num_draft_tokens"`
	AcceptedTokens int     `json:"num_accepted_tokens"`
	AcceptanceRate float64 `json:"acceptance_rate"` // 0 to 1
}

// minLogprob stands for minus infinity, which JSON cannot say.
const minLogprob = -9999

func finite(logprob float32) float32 { return max(logprob, minLogprob) }

// chatLogprobs is the chat form: for each token its text, its bytes and the likeliest ones.
func (g *generation) chatLogprobs(tokens []sampler.Sample) *chatLogprobs {
	if !g.req.logprobs {
		return nil
	}
	out := &chatLogprobs{Content: make([]tokenLogprob, len(tokens))}
	for i, t := range tokens {
		top := make([]topLogprob, len(t.Top))
		for j, u := range t.Top {
			top[j] = g.topLogprob(u.Token, u.Logprob)
		}
		out.Content[i] = tokenLogprob{g.topLogprob(t.Token, t.Logprob), top}
	}
	return out
}

func (g *generation) topLogprob(id int32, logprob float32) topLogprob {
	raw := g.tokenBytes(id)
	bytes := make([]int, len(raw))
	for i, b := range raw {
		bytes[i] = int(b)
	}
	return topLogprob{g.tokenName(id, raw, strings.ToValidUTF8(string(raw), "\uFFFD")), finite(logprob), bytes}
}

// textLogprobs is the older form. offset is where the first token's text begins.
func (g *generation) textLogprobs(tokens []sampler.Sample, offset int) *textLogprobs {
	if !g.req.logprobs {
		return nil
	}
	out := &textLogprobs{TextOffset: []int{}, TokenLogprobs: []float32{}, Tokens: []string{}, TopLogprobs: []map[string]float32{}}
	for _, t := range tokens {
		out.TextOffset = append(out.TextOffset, offset)
		out.TokenLogprobs = append(out.TokenLogprobs, finite(t.Logprob))
		out.Tokens = append(out.Tokens, g.textToken(t.Token))
		top := map[string]float32{g.textToken(t.Token): finite(t.Logprob)}
		for _, u := range t.Top {
			top[g.textToken(u.Token)] = finite(u.Logprob)
		}
		out.TopLogprobs = append(out.TopLogprobs, top)
		offset += g.tokenLength(t.Token)
	}
	return out
}

// textToken names a token: its text, or its bytes where they are no whole characters.
func (g *generation) textToken(id int32) string {
	raw := g.tokenBytes(id)
	if utf8.Valid(raw) {
		return g.tokenName(id, raw, string(raw))
	}
	var b strings.Builder
	b.WriteString("bytes:")
	for _, c := range raw {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return g.tokenName(id, raw, b.String())
}

// tokenName is text unless the client wants ids, or there is no text.
func (g *generation) tokenName(id int32, raw []byte, text string) string {
	if g.req.namesAsIDs || len(raw) == 0 && g.llm.Tokenizer == nil {
		return fmt.Sprintf("token_id:%d", id)
	}
	return text
}

func (g *generation) tokenBytes(id int32) []byte {
	if g.llm.Tokenizer == nil {
		return nil
	}
	return g.llm.Tokenizer.Bytes(id)
}

// tokenLength is what a token adds to the text in characters; a character cut
// in two counts with its first byte.
func (g *generation) tokenLength(id int32) (n int) {
	if g.llm.Tokenizer != nil && g.llm.Tokenizer.IsSpecial(id) && !g.req.text.Special {
		return 0
	}
	for _, b := range g.tokenBytes(id) {
		if utf8.RuneStart(b) {
			n++
		}
	}
	return n
}

// choiceJSON is a piece in the shape of the endpoint: the whole answer or a chunk of it.
func (g *generation) choiceJSON(p piece, whole bool) any {
	var finish *string
	if p.finish != "" {
		finish = &p.finish
	}
	var ids []int32
	if g.req.returnIDs {
		for _, t := range p.tokens {
			ids = append(ids, t.Token)
		}
	}
	c := p.choice
	if g.req.endpoint == textEndpoint {
		out := textChoice{Index: c.index, Text: p.text, Logprobs: g.textLogprobs(p.tokens, p.offset), FinishReason: finish,
			StopReason: p.stopReason, TokenIDs: ids}
		if g.req.returnIDs && (whole || p.first) {
			out.PromptTokenIDs = g.prompts[c.prompt]
		}
		return out
	}
	out := chatChoice{Index: c.index, Logprobs: g.chatLogprobs(p.tokens), FinishReason: finish, StopReason: p.stopReason, TokenIDs: ids}
	if whole {
		out.Message = &chatMessage{Role: "assistant", Content: p.text}
	} else {
		out.Delta = &chatDelta{Content: &p.text}
		if len(p.tokens) == 0 {
			out.Logprobs = nil
		}
	}
	return out
}
