package server

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"sestina/engine"
)

// T14: what is streamed is what is replied whole, and that is what the tokens
// say, cut at the first stop string. The oracle knows the scripts as bytes and
// nothing of the code under test.

var hardTexts = []string{
	"The quick brown fox jumps over the lazy dog. END of story.",
	"日本語のテキストは、三バイトの文字でできています。終わり。",
	"emoji 😀👍🏽 and families 👨‍👩‍👧‍👦 joined by ZWJ; flags 🇯🇵🇩🇪.",
	"한국어와 العربية و עברית, naïve café — “quotes”… and �?",
	"STOPS TO STOP: STO STOP ST STOPSTOP; aaab aab aaaab",
}

// expect is the oracle: tokens are bytes, generation ends with the token that
// completes a stop string, the text is cut where the earliest one begins.
func expect(s script, stops []string, include bool) (text, finish string) {
	all := ""
	for _, token := range s {
		all += token
		whole := all
		for len(whole) > 0 && !utf8.ValidString(whole) {
			whole = whole[:len(whole)-1]
		}
		cut, stop := -1, ""
		for _, st := range stops {
			if i := strings.Index(whole, st); i >= 0 && (cut < 0 || i < cut) {
				cut, stop = i, st
			}
		}
		if cut >= 0 {
			if include {
				cut += len(stop)
			}
			return whole[:cut], "stop"
		}
	}
	return all, "stop"
}

// someStops are pieces of the text, and things that almost occur in it.
func someStops(r *rand.Rand, text string) []string {
	runes := []rune(text)
	var stops []string
	for range 1 + r.IntN(3) {
		from := r.IntN(len(runes))
		to := min(len(runes), from+1+r.IntN(6))
		s := string(runes[from:to])
		if r.IntN(3) == 0 {
			s += "☃"
		}
		stops = append(stops, s)
	}
	return stops
}

func TestStreamIsFinalIsTokens(t *testing.T) {
	compared, differ, replaced := 0, 0, 0
	for seed := range uint64(4) {
		scripts := cut(seed, hardTexts...)
		h := start(t, open(t, scriptModel(t, scripts...), engine.Options{}), Config{})
		r := rand.New(rand.NewPCG(seed, 1))
		for i, s := range scripts {
			for round := range 8 {
				var stops []string
				if round > 0 {
					stops = someStops(r, hardTexts[i])
				}
				include := round%2 == 1
				list, _ := json.Marshal(stops)
				want, finish := expect(s, stops, include)
				rest := fmt.Sprintf(`"stop":%s,"include_stop_str_in_output":%v,"seed":1`, list, include)
				whole := h.post("/v1/completions", fmt.Sprintf(`{"prompt":"say %s",%s}`, cue(i), rest))
				stream := h.stream("/v1/completions", fmt.Sprintf(`{"prompt":"say %s",%s,"stream":true}`, cue(i), rest))
				chat := fmt.Sprintf(`{"messages":[{"role":"user","content":"say"}],"chat_template_kwargs":{"suffix":"%s"},%s`, cue(i), rest)
				chatWhole := h.post("/v1/chat/completions", chat+"}")
				chatStream := h.stream("/v1/chat/completions", chat+`,"stream":true}`)
				for _, got := range []struct{ what, text, finish string }{
					{"whole", whole.text(), *whole.Choices[0].FinishReason}, {"stream", stream.texts[0], stream.finish[0]},
					{"chat", chatWhole.text(), *chatWhole.Choices[0].FinishReason}, {"chat stream", chatStream.texts[0], chatStream.finish[0]},
				} {
					compared++
					replaced += strings.Count(got.text, "\uFFFD") - strings.Count(want, "\uFFFD")
					if got.text != want || got.finish != finish {
						differ++
						t.Errorf("seed %d text %d stops %q include %v, %s:\n got %q (%s)\nwant %q (%s)", seed, i, stops, include, got.what, got.text, got.finish, want, finish)
					}
				}
			}
		}
	}
	t.Logf("T14 answers compared %d, differences %d, U+FFFD not in the tokens %d", compared, differ, replaced)
}

// TestTokensOfStreams: ids and logprobs of a stream are those of the whole
// reply, one for each token that is paid for, whatever the text did.
func TestTokensOfStreams(t *testing.T) {
	h := start(t, open(t, randomModel(t), engine.Options{MaxModelLen: 512}), Config{})
	for i, extra := range []string{`"max_tokens":40`, `"max_tokens":64,"stop":["a","e"]`, `"max_tokens":5,"n":3`, `"stop_token_ids":[65,66,67,97]`, `"max_tokens":30,"min_p":0.1,"top_k":20`} {
		body := fmt.Sprintf(`{"prompt":"number %d","seed":%d,"logprobs":2,"return_token_ids":true,%s`, i, i, extra)
		whole := h.post("/v1/completions", body+"}")
		stream := h.stream("/v1/completions", body+`,"stream":true,"stream_options":{"include_usage":true}}`)
		tokens := 0
		for _, c := range whole.Choices {
			var lp textLogprobs
			if err := json.Unmarshal(c.Logprobs, &lp); err != nil {
				t.Fatal(err)
			}
			tokens += len(c.TokenIDs)
			if fmt.Sprint(c.TokenIDs) != fmt.Sprint(stream.ids[c.Index]) || c.Text != stream.texts[c.Index] || len(lp.Tokens) != len(c.TokenIDs) || len(lp.TextOffset) != len(lp.TopLogprobs) {
				t.Errorf("%s: choice %d: ids %v and %v, %d logprobs", extra, c.Index, c.TokenIDs, stream.ids[c.Index], len(lp.Tokens))
			}
		}
		if tokens != whole.Usage.CompletionTokens || *whole.Usage != *stream.usage && whole.Usage.PromptDetails == stream.usage.PromptDetails {
			t.Errorf("%s: %d tokens, usage %+v and %+v", extra, tokens, whole.Usage, stream.usage)
		}
	}
}

// TestStopReasons: which stop string, which stop id, and nothing for the model's own end.
func TestStopReasons(t *testing.T) {
	scripts := []script{{"one", " two", " three"}}
	h := start(t, open(t, scriptModel(t, scripts...), engine.Options{}), Config{})
	id, ok := h.llm.Tokenizer.ID(spell(" two"))
	if !ok {
		t.Fatal("the token is missing")
	}
	for _, c := range []struct {
		extra  string
		text   string
		reason any
	}{
		{``, "one two three", nil},
		{`,"stop":"tw"`, "one ", "tw"},
		{`,"stop":["zz","e t"],"include_stop_str_in_output":true`, "one t", "e t"},
		{fmt.Sprintf(`,"stop_token_ids":[%d]`, id), "one", float64(id)},
		{fmt.Sprintf(`,"stop_token_ids":[%d],"include_stop_str_in_output":true`, id), "one two", float64(id)},
		{`,"skip_special_tokens":false`, "one two three", nil},
		{`,"skip_special_tokens":false,"include_stop_str_in_output":true`, "one two three" + imEnd, nil},
	} {
		a := h.post("/v1/completions", `{"prompt":"①"`+c.extra+`}`)
		if a.text() != c.text || a.Choices[0].StopReason != c.reason {
			t.Errorf("%s: %q, %v; want %q, %v", c.extra, a.text(), a.Choices[0].StopReason, c.text, c.reason)
		}
	}
}
