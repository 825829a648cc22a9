package server

import (
	"errors"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"sestina/engine"
)

// TestOfficialGoClient speaks to the server as OpenAI's own Go library does.
func TestOfficialGoClient(t *testing.T) {
	llm := open(t, scriptModel(t, script{"Hello", ", ", "wor", "ld!"}), engine.Options{})
	h := start(t, llm, Config{APIKeys: []string{"sk-test"}, ServedModelNames: []string{"tiny"}})
	client := openai.NewClient(option.WithBaseURL(h.url+"/v1"), option.WithAPIKey("sk-test"), option.WithMaxRetries(0))
	ctx := t.Context()
	ask := openai.ChatCompletionNewParams{Model: "tiny", Messages: []openai.ChatCompletionMessageParamUnion{openai.SystemMessage("be brief"), openai.UserMessage("①")},
		Seed: openai.Int(7), Temperature: openai.Float(0), MaxCompletionTokens: openai.Int(16)}
	ask.SetExtraFields(map[string]any{"chat_template_kwargs": map[string]any{"suffix": "①"}})

	whole, err := client.Chat.Completions.New(ctx, ask)
	if err != nil {
		t.Fatal(err)
	}
	if c := whole.Choices[0]; c.Message.Content != "Hello, world!" || c.FinishReason != "stop" || c.Message.Role != "assistant" || whole.Usage.CompletionTokens != 5 {
		t.Errorf("chat: %s", whole.RawJSON())
	}

	ask.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
	ask.Logprobs, ask.TopLogprobs, ask.N = openai.Bool(true), openai.Int(2), openai.Int(2)
	stream := client.Chat.Completions.NewStreaming(ctx, ask)
	var sum openai.ChatCompletionAccumulator
	var text [2]strings.Builder
	logprobs := 0
	for stream.Next() {
		chunk := stream.Current()
		if !sum.AddChunk(chunk) {
			t.Errorf("the accumulator refuses %s", chunk.RawJSON())
		}
		for _, c := range chunk.Choices {
			text[c.Index].WriteString(c.Delta.Content)
			for _, lp := range c.Logprobs.Content {
				if logprobs++; len(lp.TopLogprobs) != 2 || lp.Logprob > 0 || math.IsNaN(lp.Logprob) || len(lp.Bytes) == 0 {
					t.Errorf("logprob %s", lp.RawJSON())
				}
			}
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if text[0].String() != "Hello, world!" || text[1].String() != text[0].String() || sum.Usage.CompletionTokens != 10 || logprobs != 10 {
		t.Errorf("stream: %q %q, usage %+v, %d logprobs", text[0].String(), text[1].String(), sum.Usage, logprobs)
	}

	old, err := client.Completions.New(ctx, openai.CompletionNewParams{Model: "tiny", Prompt: openai.CompletionNewParamsPromptUnion{OfArrayOfStrings: []string{"a ①", "b ①"}},
		Stop: openai.CompletionNewParamsStopUnion{OfString: openai.String("wor")}, Echo: openai.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	if len(old.Choices) != 2 || old.Choices[1].Text != "b ①Hello, " {
		t.Errorf("completions: %s", old.RawJSON())
	}

	models, err := client.Models.List(ctx)
	if err != nil || len(models.Data) != 1 || models.Data[0].ID != "tiny" {
		t.Errorf("models: %+v, %v", models, err)
	}
	ask.Temperature = openai.Float(-1)
	_, err = client.Chat.Completions.New(ctx, ask)
	var refused *openai.Error
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusBadRequest || refused.Param != "temperature" || refused.Type != "invalid_request_error" {
		t.Errorf("a bad temperature: %v", err)
	}
	stranger := openai.NewClient(option.WithBaseURL(h.url+"/v1"), option.WithAPIKey("sk-other"), option.WithMaxRetries(0))
	if _, err = stranger.Models.List(ctx); !errors.As(err, &refused) || refused.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong key: %v", err)
	}
}
